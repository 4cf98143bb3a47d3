"""Localize findings: where in each image a head sees the evidence for its classes, as heatmaps, peaks and boxes.

Maps are made for whole archives, as features are: killed, the job goes on where it was; run twice, it does nothing
twice. Where somebody drew boxes (ChestX-ray14's come with the archive; boxes= names a file of your own) it tells how
well the places fit, beside a box in the middle and the lungs' own box. The report checks whether the maps show what the
model looks at, and has a gallery. A heatmap is no diagnosis.

examples:
  spark-submit jobs/localize_findings.py lake=/data/lake head=chestxray14/logistic
  spark-submit jobs/localize_findings.py lake=/data/lake head=chestxray14/mlp split=all classes=[Mass,Nodule]
  python jobs/localize_findings.py lake=/data/lake head=binary/xgboost boxes=our_boxes.csv report.per_class=12
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.localize import LocalizeConfig, localize

if __name__ == "__main__":
    run_job(__file__, __doc__, LocalizeConfig, localize)
