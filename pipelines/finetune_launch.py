"""Starts the processes that fine-tune: this one, or several through Spark's TorchDistributor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyspark.ml.torch.distributor import TorchDistributor
from torch import distributed

from pipelines.finetune_config import FinetuneConfig, Launcher
from pipelines.finetune_rank import train_rank
from pipelines.session import spark_session


def launch(config: FinetuneConfig, course: str, backbone: str, until: int | None = None) -> None:
    """Train, in as many processes as the config says, until the course has an outcome.

    Args:
        config: of the job.
        course: URI of the folder of its course, with the weights to start from.
        backbone: the architecture.
        until: the epoch after which to pause, leaving a checkpoint and no outcome; None: never.

    Raises:
        TrainingError: as `train_rank`.
    """
    told = config.model_dump_json(by_alias=True)
    if config.launcher is Launcher.LOCAL:
        train_rank(told, course, backbone, until)
        return
    with spark_session("finetune_backbone", config.master) as spark:
        is_local = str(spark.sparkContext.master).startswith("local[")
        distributor = TorchDistributor(
            num_processes=config.processes, local_mode=is_local, use_gpu=config.device != "cpu"
        )
        distributor.run(_join, told, course, backbone, until)


def _join(config: str, course: str, backbone: str, until: int | None) -> None:
    """In each of TorchDistributor's processes."""
    with _process_group():
        train_rank(config, course, backbone, until)


@contextmanager
def _process_group() -> Iterator[None]:
    is_gpu = torch.cuda.is_available()
    if is_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if is_gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
