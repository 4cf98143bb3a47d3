"""Compact a lake's features: many small runs, such as each night's, become a few large ones with the same vectors.

Each merged run takes the place of those that it holds in the moment that it is committed: killed at any time, the job
leaves every vector where readers find it, once. What was replaced stays a day for those who read it, and goes with a
later compaction. May run while features are extracted, and heads trained.

examples:
  spark-submit jobs/compact_lake.py lake=/data/lake
  spark-submit jobs/compact_lake.py lake=/data/lake extractor=3f2a run_vectors=1000000
"""

import _root  # noqa: F401

from pipelines.compact import CompactConfig, compact
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, CompactConfig, compact)
