"""How well found places fit annotated boxes, whether maps can be trusted, and the page that shows it."""
