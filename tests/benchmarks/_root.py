"""Puts the clone that a benchmark lies in first on the path, so that it runs where Pleura is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
