"""Train the lung segmenter on radiographs with lung masks and on phantoms, and judge it on patients left out.

Leaves weights for `crop.weights=` of ingest_studies, a card, and the report of evaluate_lungs. A training that broke
off goes on when it is started again with the same settings.

examples:
  python jobs/train_segmenter.py pairs=/data/lung_masks out=/models/lungs about='our own masks, CC BY 4.0'
  python jobs/train_segmenter.py pairs=/data/lung_masks out=/tmp/try steps=200 phantoms=200
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.segmenter_training import SegmenterTrainingConfig, train_segmenter

if __name__ == "__main__":
    run_job(__file__, __doc__, SegmenterTrainingConfig, train_segmenter)
