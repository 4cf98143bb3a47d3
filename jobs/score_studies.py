"""Answer the task of a head, or of several in one pass, for every image that lacks an answer.

From features of the lake, or from the images of any archive, of which no crops and no features are kept: files are
decoded, cropped and embedded as the lake's own were, and need no labels.

Beside each table of predictions lie summary.csv (a row per class), predictions.csv (a row per image) and, of an
archive, refused.csv (what could not be scored, and why). For research use only.

examples:
  spark-submit jobs/score_studies.py lake=/data/lake heads=three_class/mlp
  spark-submit jobs/score_studies.py lake=/data/lake 'heads=[three_class/mlp,binary/logistic]'
  spark-submit jobs/score_studies.py lake=/data/lake heads=binary/mlp from=images archive=/data/pacs
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.score import score
from pipelines.score_config import ScoreConfig

if __name__ == "__main__":
    run_job(__file__, __doc__, ScoreConfig, score)
