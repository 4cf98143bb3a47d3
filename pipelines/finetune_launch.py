"""Starts the processes that fine-tune: this one, or several through Spark's TorchDistributor."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from pyspark import SparkContext
from pyspark.ml.torch.distributor import TorchDistributor

from pipelines.errors import ConfigError
from pipelines.finetune_config import FinetuneConfig, Launcher
from pipelines.finetune_join import fault_of, forget_faults
from pipelines.finetune_rank import train_rank
from pipelines.lake import Lake
from pipelines.session import PACKAGES_ZIP, TaskCores, scratch_folder, spark_session, zip_packages
from pipelines.shared_paths import ask_executors, check_shared, is_local_master

_CPU = "cpu"


def launch(config: FinetuneConfig, course: str, backbone: str, until: int | None = None) -> None:
    """Train, in as many processes as the config says, until the course has an outcome.

    Args:
        config: of the job.
        course: URI of the folder of its course, with the weights to start from.
        backbone: the architecture.
        until: the epoch after which to pause, leaving a checkpoint and no outcome; None: never.

    Raises:
        TrainingError: as `train_rank`; as is whatever else it raises, be it in a process elsewhere.
        ConfigError: if the processes can't have what they need: a GPU each, and a lake that all of them reach.
    """
    if config.launcher is Launcher.LOCAL:
        train_rank(config.model_dump_json(by_alias=True), course, backbone, until)
        return
    # Executors with several GPUs run a process on each; without GPUs, a process takes all cores that there are.
    task_cores = TaskCores.WHOLE_EXECUTOR if config.device == _CPU else TaskCores.ONE
    with spark_session("finetune_backbone", config.master, task_cores=task_cores) as spark:
        context = spark.sparkContext
        is_local = is_local_master(context)
        _check_gpus(context, config, is_local)
        if not is_local:
            check_shared({course: f"lake={config.lake}"}, ask_executors(context, config.processes))
        # On one machine the processes take the GPUs that torch sees, and Spark need not know of them.
        distributor = TorchDistributor(
            num_processes=config.processes, local_mode=is_local, use_gpu=not is_local and config.device != _CPU
        )
        lake = Lake.at(config.lake).folder.uri
        told = config.model_copy(update={"lake": lake}).model_dump_json(by_alias=True)
        task = Path(config.task).read_bytes() if Path(config.task).suffix else None
        threads = _threads(context, config, is_local)
        forget_faults(course)
        try:
            distributor.run(_shipped(), told, (course, backbone, until), task, threads)
        except Exception as error:
            if fault := fault_of(course):
                raise fault from error
            raise
    if fault := fault_of(course):
        raise fault


def _shipped() -> Callable[..., None]:
    """`join_rank` for a Python process that does not find our packages, as torchrun's may not."""
    packages = zip_packages(scratch_folder()).read_bytes()

    # A nested function is pickled by value wherever it is pickled; one of a module is looked up in that module.
    def join(*arguments: object) -> None:
        with tempfile.TemporaryDirectory(prefix="pleura-") as folder:
            archive = Path(folder) / PACKAGES_ZIP
            archive.write_bytes(packages)
            sys.path.insert(0, str(archive))
            importlib.import_module("pipelines.finetune_join").join_rank(*arguments)

    return join


def _check_gpus(context: SparkContext, config: FinetuneConfig, is_local: bool) -> None:
    """See that every process has a GPU of its own."""
    if config.device == _CPU:
        return
    if config.device != "cuda":
        raise ConfigError(
            f"device={config.device} is one GPU, and launcher=spark gives each process its own. Say device=cuda."
        )
    if is_local:
        there = torch.cuda.device_count()
        if config.processes > there:
            raise ConfigError(
                f"processes={config.processes} need a GPU each, and torch sees {there} on this machine. Say "
                f"{f'processes={there}' if there else 'device=cpu'}, or check the driver and CUDA_VISIBLE_DEVICES."
            )
        return
    amount = context.getConf().get("spark.task.resource.gpu.amount")
    # TorchDistributor starts a process a task, and counts wrongly where a task has several.
    if amount != "1":
        raise ConfigError(
            f"device=cuda needs one GPU a task from Spark, and spark.task.resource.gpu.amount is {amount or 'not set'}."
            " Start it by spark-submit --conf spark.task.resource.gpu.amount=1 --conf "
            "spark.executor.resource.gpu.amount=N --conf spark.executor.resource.gpu.discoveryScript=FILE, N being the "
            "GPUs of an executor and FILE a program that prints their addresses (Spark's docs: getGpusResources.sh)."
        )


def _threads(context: SparkContext, config: FinetuneConfig, is_local: bool) -> int:
    """What a process may compute with: torchrun would give it one."""
    if is_local:
        return max(1, torch.get_num_threads() // config.processes)
    return int(context.getConf().get("spark.task.cpus") or 1)
