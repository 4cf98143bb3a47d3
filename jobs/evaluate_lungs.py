"""Compare ways of finding the lungs on radiographs with human lung masks: one HTML page, its figures as CSV and JSON.

Pairs are a folder with images/ and masks/ of the same names; a pairs.csv (columns image, mask, patient, label) beside
them tells patients and classes. Needs neither Spark nor Java.

examples:
  python jobs/evaluate_lungs.py pairs=/data/lung_masks out=/data/reports/lungs
  python jobs/evaluate_lungs.py pairs=/data/adults split=all atlas=/data/lung_masks out=/data/reports/adults
  python jobs/evaluate_lungs.py pairs=/data/lung_masks finders=[projection] margin=0.1 out=/data/reports/projection
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.lung_evaluation import LungEvaluationConfig, evaluate_lungs

if __name__ == "__main__":
    run_job(__file__, __doc__, LungEvaluationConfig, evaluate_lungs)
