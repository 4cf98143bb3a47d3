"""Look at a lake's studies before training: one HTML page of label distributions, correlations, ages, views and crops.

Needs neither Spark nor Java, so it starts in seconds.

examples:
  python jobs/explore_dataset.py lake=/data/lake
  python jobs/explore_dataset.py lake=/data/lake dataset=chexpert out=/data/pages/chexpert examples=16
"""

import _root  # noqa: F401

from pipelines.explore import ExploreConfig, explore
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, ExploreConfig, explore)
