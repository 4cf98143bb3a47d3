"""Train a head on stored features, evaluate it beside the majority baseline, and keep it with its report.

Starts neither Spark nor Java, unless engine=spark, so it begins in seconds.

examples:
  python jobs/train_head.py lake=/data/lake task=binary head=logistic
  python jobs/train_head.py lake=/data/lake task=three_class head=mlp params.dropout=0.5 name=mlp_dropout
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.train import TrainConfig, train

if __name__ == "__main__":
    run_job(__file__, __doc__, TrainConfig, train)
