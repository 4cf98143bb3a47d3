"""The backbone on an executor: shipped by the driver, made once per Python worker, on the device that Spark gave."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import numpy as np
import safetensors.torch
from pydantic import AfterValidator
from pyspark import SparkConf, SparkFiles, TaskContext
from pyspark.accumulators import AccumulatorParam
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from featurizers.backbones import Weights
from featurizers.devices import can_compile, check_device
from featurizers.embedder import Embedder
from featurizers.errors import FeaturizerError
from featurizers.extractor import Precision, Storage
from pipelines.errors import ConfigError
from pipelines.job import JobRecord
from pipelines.session import executor_cores, runs_in_driver, scratch_folder, session_settings

#: Compiling costs about as much time as it saves on this many images of one worker (docs/architecture.md).
COMPILE_PAYS_FROM = 3000
#: On a GPU: not measured. Some 40 s for perhaps a third of 0.2 ms an image.
GPU_COMPILE_PAYS_FROM = 500_000
_GPU = "gpu"
_GPU_AMOUNT = "spark.executor.resource.gpu.amount"


def _is_a_device(device: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError("there is no such device; say cpu, cuda or cuda:N")
    return device


#: Of a config: a device that some machine may have.
DeviceName = Annotated[str, AfterValidator(_is_a_device)]


class Compile(StrEnum):
    """When the backbone is compiled."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Setup(NamedTuple):
    """How an executor's embedder came about.

    Attributes:
        seconds: that it took; next to nothing where it was kept from an earlier task.
        compiled: whether the backbone is.
        lacks_compiler: whether it is not only because the machine lacks a compiler.
        batch_size: images per forward pass.
        device: it works on.
    """

    seconds: float
    compiled: bool
    lacks_compiler: bool
    batch_size: int
    device: str


@dataclass(frozen=True)
class EmbedderSettings:
    """What an executor needs to make its embedder; the weights travel as a file.

    `views`: it is asked for maps, not for vectors alone.
    """

    backbone: str
    weights_file: str
    weights_source: str
    fingerprint: str
    precision: Precision
    crops: str
    device: str
    batch_size: int | None
    memory_mb: int | None
    compile: Compile
    storage: Storage
    views: bool = False


def executor_embedder(settings: EmbedderSettings, tell_setup: Callable[[list[Setup]], None]) -> Embedder:
    """On an executor: the embedder on the device that the task was given, made once per Python worker.

    Args:
        settings: of the embedder.
        tell_setup: told how it came about.
    """
    # AUTO was decided by the number of images; whether there is a compiler only this machine knows.
    lacks_compiler = settings.compile is Compile.AUTO and not can_compile()
    compiled = settings.compile is not Compile.NEVER and not lacks_compiler
    device = task_device(settings.device)
    start = time.monotonic()
    made_for = (settings, device, cores_of_task(), compiled)
    if made_for not in _kept:
        # The one before goes first: two would share the memory, and batches are fitted to what is free.
        _kept.clear()
        _kept[made_for] = _make(*made_for)
    embedder = _kept[made_for]
    tell_setup([Setup(time.monotonic() - start, compiled, lacks_compiler, embedder.batch_size, device)])
    return embedder


def task_device(wanted: str) -> str:
    """On an executor: the device of the running task; with Spark's GPU scheduling, the GPU that it was given."""
    context = TaskContext.get()
    gpus = context.resources().get(_GPU) if context else None
    return f"cuda:{gpus.addresses[0]}" if wanted == "cuda" and gpus else wanted


def cores_of_task() -> int:
    """On an executor: the cores that the running task was given."""
    context = TaskContext.get()
    return context.cpus() if context else 1


#: At most one, of this Python worker's newest task.
_kept: dict[tuple[EmbedderSettings, str, int, bool], Embedder] = {}


def _make(settings: EmbedderSettings, device: str, threads: int, compiled: bool) -> Embedder:
    state = safetensors.torch.load_file(SparkFiles.get(settings.weights_file))
    embedder = Embedder(
        settings.backbone,
        Weights(settings.weights_source, state),
        precision=settings.precision,
        crops=settings.crops,
        device=device,
        threads=threads,
        batch_size=settings.batch_size,
        memory_mb=settings.memory_mb,
        compiled=compiled,
        storage=settings.storage,
    )
    if embedder.extractor.fingerprint != settings.fingerprint:
        raise RuntimeError(
            f"this executor's extractor is {embedder.extractor.fingerprint[:12]}, the driver's "
            f"{settings.fingerprint[:12]}: the weights were damaged on the way, or the executors run "
            "another version of Pleura."
        )
    if not np.isfinite(embedder.warm_up(views=settings.views)).all():
        raise FeaturizerError(
            f"{settings.backbone} with the weights {settings.weights_source} gives no finite vector for a black image: "
            "the weights hold NaN or numbers too large for the arithmetic. Use precision=fp32, or other weights."
        )
    return embedder


class Concatenation(AccumulatorParam[list[Any]]):
    """Adds up lists."""

    def zero(self, value: list[Any]) -> list[Any]:
        """The empty list."""
        return []

    def addInPlace(self, value1: list[Any], value2: list[Any]) -> list[Any]:  # noqa: N802  Spark's name
        """Both, the second behind the first, which is used up: a new list each time would cost the square of them."""
        value1 += value2
        return value1


@dataclass(frozen=True)
class Workers:
    """The tasks that embed at the same time.

    Attributes:
        number: of them, as many as there is room for now.
        cores: threads of each.
        profile: what Spark is to give each; None: what the whole application's tasks get.
    """

    number: int
    cores: int
    profile: ResourceProfile | None

    @classmethod
    def of(cls, spark: SparkSession, device: str) -> Workers:
        """One task per GPU with its share of the executor's cores; without GPUs one per executor with all of them.

        One multi-threaded model per executor rather than one model per core, unless the user set `spark.task.cpus`. On
        a cluster that is asked for by a resource profile of these tasks alone, so that all other work of the
        application may still use every core.

        Args:
            spark: running.
            device: that `check_device_of_workers` let pass.
        """
        conf = spark.sparkContext.getConf()
        cores = max(1, spark.sparkContext.defaultParallelism)
        if runs_in_driver(spark.sparkContext.master):
            task_cores = int(conf.get("spark.task.cpus", "1") or 1)
            # Of a notebook's own session too, whose tasks have one core each: one GPU holds one model.
            return cls(1 if device != "cpu" else max(1, cores // task_cores), task_cores, None)
        share = executor_cores(conf, spark.sparkContext.master)
        requests = TaskResourceRequests()
        if device != "cpu":
            share = max(1, share // _gpus_of_executor(conf))
            requests = requests.resource(_GPU, 1)
        task_cores = int(conf.get("spark.task.cpus", None) or share)
        profile = ResourceProfileBuilder().require(requests.cpus(task_cores)).build
        return cls(max(1, cores // task_cores), task_cores, profile)

    def __str__(self) -> str:
        tasks = "1 task" if self.number == 1 else f"{self.number:,} tasks at a time"
        return f"{tasks} with {self.cores} thread{'s'[: self.cores != 1]}{' each' if self.number > 1 else ''}"


def worth_compiling(wanted: Compile, images: int, workers: Workers, device: str) -> Compile:
    """`wanted`; where that is AUTO and there are too few images, NEVER."""
    pays_from = COMPILE_PAYS_FROM if device == "cpu" else GPU_COMPILE_PAYS_FROM
    if wanted is Compile.AUTO and images < pays_from * workers.number:
        return Compile.NEVER
    return wanted


def check_device_of_workers(device: str, master: str | None) -> None:
    """See that Spark can give its tasks the device, before it starts; a cluster's executors check their own GPU.

    Args:
        device: of the config.
        master: of the config.

    Raises:
        FeaturizerError: if this machine does the work, and has no such device.
        ConfigError: if a cluster does it, and the device is one GPU of one machine, or executors are given none.
    """
    if device == "cpu":
        return
    where = master or session_settings(None).get("spark.master")
    if runs_in_driver(where):
        check_device(device)
    elif device != "cuda":
        raise ConfigError(f"device={device}: on a cluster Spark chooses the GPU of each task. Use device=cuda.")
    elif not _gpus_of_executor(session_settings(master)):
        raise ConfigError(
            f"device=cuda, and {_GPU_AMOUNT} is not set: Spark would give no task a GPU. Submit "
            "with conf/spark/yarn-gpu.conf or k8s-gpu.conf (docs/cluster.md tells more), or use device=cpu."
        )


def _gpus_of_executor(conf: SparkConf) -> int:
    return int(conf.get(_GPU_AMOUNT, "0") or 0)


def ship_weights(spark: SparkSession, weights: Weights) -> str:
    """Send the weights to every executor once; returns the file's name there."""
    file = scratch_folder() / f"{weights.sha256}.safetensors"
    safetensors.torch.save_file(dict(weights.state), file)
    spark.sparkContext.addFile(str(file))
    return file.name


def keep_setups(record: JobRecord, setups: list[Setup]) -> None:
    """Tell the record how the executors' embedders came about."""
    # Workers set up at the same time: the slowest one is what the job waited for.
    record.timings["model_setup"] = max((setup.seconds for setup in setups), default=0.0)
    record.extra["compiled"] = sorted({setup.compiled for setup in setups})
    record.extra["lacks_compiler"] = any(setup.lacks_compiler for setup in setups)
    record.extra["batch_size"] = sorted({setup.batch_size for setup in setups})
    record.extra["devices"] = sorted({setup.device for setup in setups})


def told_setup(record: JobRecord) -> str:
    """How long the backbone took to be ready, in words, once `keep_setups` told the record."""
    hows = {(True,): "loading and compiling", (False,): "loading, without compiling,", (): "loading"}
    how = hows.get(tuple(record.extra["compiled"]), "loading, and compiling where there is a compiler,")
    return f"{how} the backbone took {record.timings['model_setup']:.0f} s of it"


def told_lack_of_compiler(record: JobRecord) -> list[str]:
    """A warning where executors would have compiled and could not."""
    if not record.extra["lacks_compiler"]:
        return []
    return [
        "warning: compiling would have paid, and executors lack a C++ compiler or Python's headers: apt-get install "
        "g++ python3-dev there"
    ]
