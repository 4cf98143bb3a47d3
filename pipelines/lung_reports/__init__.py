"""How well ways of finding the lungs do on radiographs with human masks: judging, figures, charts, sheets, the page."""
