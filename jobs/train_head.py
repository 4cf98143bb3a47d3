"""Train a head on stored features, evaluate it beside the majority baseline, and keep it with its report."""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.train import TrainConfig, train

if __name__ == "__main__":
    run_job(__file__, __doc__, TrainConfig, train)
