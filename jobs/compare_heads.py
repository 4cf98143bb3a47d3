"""Put stored heads side by side on the same rows: figures, differences with intervals, DeLong's test; page and CSV.

Heads of several tasks are compared within each task, always on the same images. Needs neither Spark nor Java.

examples:
  python jobs/compare_heads.py lake=/data/lake 'heads=[binary/logistic,binary/mlp]'
  python jobs/compare_heads.py lake=/data/lake 'heads=[three_class/mlp,three_class/mlp_dropout]' split=val name=dropout
"""

import _root  # noqa: F401

from pipelines.compare import CompareConfig, compare_heads
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, CompareConfig, compare_heads)
