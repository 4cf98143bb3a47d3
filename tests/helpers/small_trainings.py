"""Fine-tunings that take seconds: their settings, and what they left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.config import merge, model_from
from pipelines.finetune_config import FinetuneConfig

SMALL = "simple_cnn:dense=0,dropout=0,filters=4-8,size=32"


def overrides(lake: Path | str, **settings: Any) -> list[str]:
    """As on the command line."""
    given = {
        "lake": lake,
        "task": "binary",
        "name": "tried",
        "backbone.name": SMALL,
        "backbone.weights": "random",
        "unfreeze.epochs": 2,
        "unfreeze.learning_rate": 0.01,
        "precision": "fp32",
        "batch_size": 16,
        **settings,
    }
    return [f"{key}={value}" for key, value in given.items()]


def config(lake: Path, **settings: Any) -> FinetuneConfig:
    """As the job reads them."""
    texts = {"lake", "name", "task", "backbone.name", "backbone.weights"}
    return model_from(FinetuneConfig, merge(None, overrides(lake, **settings), texts))


def left(lake: Path, name: str = "tried") -> Path:
    """The newest run of a backbone."""
    return sorted((lake / "backbones" / name).glob("run=*"))[-1]


def losses(lake: Path, name: str = "tried") -> list[float]:
    """The training losses of its epochs."""
    return list(pq.read_table(left(lake, name) / "epochs.parquet")["train_loss"].to_pylist())
