"""Score every image that has features with a head: probabilities and decisions.

examples:
  spark-submit jobs/score_studies.py lake=/data/lake head=three_class/mlp
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.score import ScoreConfig, score

if __name__ == "__main__":
    run_job(__file__, __doc__, ScoreConfig, score)
