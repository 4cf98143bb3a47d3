"""What a job does before anything else: it puts the clone that it lies in first on the path, so that it runs where
Pleura is not installed, and has Ctrl-C end it in one line, also while the libraries load.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.interruption import leave_when_interrupted

leave_when_interrupted()
