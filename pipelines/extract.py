"""Studies to features: the backbone runs on the executors, over the crops that have no vector yet."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import safetensors.torch
from pydantic import Field
from pyspark import SparkFiles, TaskContext
from pyspark.accumulators import AccumulatorParam
from pyspark.sql import SparkSession

from featurizers.backbones import BACKBONES, Weights, get_backbone, load_weights
from featurizers.embedder import BATCH_SIZE, Embedder, can_compile, check_device
from featurizers.extractor import Extractor, Precision, describe_extractor
from pipelines.config import Config, SparkConfig
from pipelines.datasets import crops_of
from pipelines.increment import Increment, OneTable, SourceFile
from pipelines.job import JobRecord, summary_text
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.progress import clock
from pipelines.session import scratch_folder, spark_session
from pipelines.tables import FEATURES

#: Compiling costs about as much time as it saves on this many images of one worker (docs/architecture.md).
COMPILE_PAYS_FROM = 3000
#: Variant 0 is the crop itself.
ORIGINAL = 0
#: How many damaged crops are named; all are counted.
FAILURES_TOLD = 20


class Compile(StrEnum):
    """When the backbone is compiled."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class BackboneConfig(Config):
    """Which network, with which weights."""

    name: str = Field("resnet50", description=f"one of: {', '.join(BACKBONES)}")
    weights: str = Field(
        "imagenet",
        description="imagenet (torchvision's own), random (untrained, for trials), or a file with a state dict",
    )
    seed: int = Field(0, description="of random weights")


class ExtractConfig(SparkConfig):
    """Settings of jobs/extract_features.py."""

    backbone: BackboneConfig = BackboneConfig()
    precision: Precision = Field(Precision.BF16, description="arithmetic of the backbone; part of the fingerprint")
    device: str = Field(
        "cpu", description="cpu or cuda; with Spark's GPU scheduling each task takes the GPU it was given"
    )
    batch_size: int = Field(BATCH_SIZE, gt=0, description="images per forward pass")
    compile: Compile = Field(
        Compile.AUTO,
        description=f"compile the backbone; auto: from {COMPILE_PAYS_FROM:,} images per worker, given a compiler",
    )
    chunk_images: int = Field(4096, gt=0, description="images per commit: what a restart repeats at most")


class Setup(NamedTuple):
    """How an executor's embedder came about."""

    seconds: float
    compiled: bool


@dataclass(frozen=True)
class EmbedderSettings:
    """What an executor needs to make its embedder; the weights travel as a file."""

    backbone: str
    weights_file: str
    weights_source: str
    fingerprint: str
    precision: Precision
    crops: str
    device: str
    batch_size: int
    compile: Compile


def extract(config: ExtractConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there are no studies.
        WeightsError: if the weights can't be had or do not fit.
    """
    lake = Lake.open(config.lake)
    spec = get_backbone(config.backbone.name)
    weights = load_weights(spec, config.backbone.weights, config.backbone.seed)
    crops = crops_of(lake)
    extractor = describe_extractor(spec.name, weights, config.precision, crops)
    features = lake.features(extractor.fingerprint)
    record = JobRecord("extract_features", config)
    record.extra["extractor"] = extractor.fingerprint
    work = Increment(lake.studies, ("image_id", "crop"), OneTable(features))
    with spark_session("extract_features", config.master, whole_executor_per_task=True) as spark:
        with record.time("plan"):
            files = work.missing(spark)
        missing = sum(file.missing for file in files)
        record.count("images", missing)
        wanted = worth_compiling(spark, config.compile, missing)
        failures = spark.sparkContext.accumulator([], Concatenation())
        setups = spark.sparkContext.accumulator([], Concatenation())
        check_local_device(spark, config.device)
        if files:
            features.folder.write_json(EXTRACTOR_CARD, _card(extractor, weights, spec.feature_dim, spec.licence))
            with record.time("extract"):
                weights_file = ship_weights(spark, weights)
                settings = EmbedderSettings(
                    backbone=spec.name,
                    weights_file=weights_file,
                    weights_source=weights.source,
                    fingerprint=extractor.fingerprint,
                    precision=config.precision,
                    crops=crops,
                    device=config.device,
                    batch_size=config.batch_size,
                    compile=wanted,
                )
                transform = functools.partial(embed_batches, settings, failures.add, setups.add)
                work.fill(spark, files, transform, verb="extract", chunk_images=config.chunk_images, record=record)
        # Workers set up at the same time: the slowest one is what the job waited for.
        record.timings["model_setup"] = max((setup.seconds for setup in setups.value), default=0.0)
        record.extra["compiled"] = sorted({setup.compiled for setup in setups.value})
        failed = sorted(set(failures.value))
        record.count("failed", len(failed))
        record.extra["failed_image_ids"] = failed[:FAILURES_TOLD]
        if files:
            record.write_beside(features.folder)
    record.summary = _summary(record, weights, extractor, lake, files)
    return record


def embed_batches(
    settings: EmbedderSettings,
    tell_failed: Callable[[list[str]], None],
    tell_setup: Callable[[list[Setup]], None],
    batches: Iterable[pa.RecordBatch],
    count: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    """On an executor: batches of (image_id, crop) to batches of the schema FEATURES.

    Args:
        settings: of the embedder, made once per Python worker and kept for its next tasks.
        tell_failed: told the ids of crops that give no vector.
        tell_setup: told how long the embedder took to make, nothing if it was kept, and if it is compiled.
        batches: from Spark.
        count: told how many images are done.
    """
    embedder = executor_embedder(settings, tell_setup)
    crops = (
        (image_id.as_py(), crop.as_py())
        for batch in batches
        for image_id, crop in zip(batch.column("image_id"), batch.column("crop"), strict=True)
    )
    for embedded in embedder.embed_pngs(crops):
        if embedded.failed:
            tell_failed(embedded.failed)
        count(len(embedded.keys) + len(embedded.failed))
        yield _to_arrow(embedded.keys, embedded.features)


def executor_embedder(settings: EmbedderSettings, tell_setup: Callable[[list[Setup]], None]) -> Embedder:
    """On an executor: the embedder on the device that the task was given, made once per Python worker.

    Args:
        settings: of the embedder.
        tell_setup: told how long it took to make, nothing if it was kept, and if it is compiled.
    """
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context else None
    device = f"cuda:{gpus.addresses[0]}" if settings.device == "cuda" and gpus else settings.device
    # AUTO was decided by the number of images; whether there is a compiler only this machine knows.
    compiled = settings.compile is Compile.ALWAYS or (settings.compile is Compile.AUTO and can_compile())
    start = time.monotonic()
    embedder = _embedder(settings, device, cores_of_task(), compiled)
    tell_setup([Setup(time.monotonic() - start, compiled)])
    return embedder


def cores_of_task() -> int:
    """On an executor: the cores that the running task was given."""
    context = TaskContext.get()
    return context.cpus() if context else 1


@functools.lru_cache(maxsize=1)
def _embedder(settings: EmbedderSettings, device: str, threads: int, compiled: bool) -> Embedder:
    state = safetensors.torch.load_file(SparkFiles.get(settings.weights_file))
    embedder = Embedder(
        settings.backbone,
        Weights(settings.weights_source, state),
        precision=settings.precision,
        crops=settings.crops,
        device=device,
        threads=threads,
        batch_size=settings.batch_size,
        compiled=compiled,
    )
    if embedder.extractor.fingerprint != settings.fingerprint:
        raise RuntimeError(
            f"this executor's extractor is {embedder.extractor.fingerprint[:12]}, the driver's "
            f"{settings.fingerprint[:12]}: the weights were damaged on the way, or the executors run "
            "another version of Pleura."
        )
    embedder.warm_up()
    return embedder


def _to_arrow(image_ids: list[str], features: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> pa.RecordBatch:
    rows, width = features.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32))
    vectors = pa.ListArray.from_arrays(offsets, pa.array(features.reshape(-1)))
    variants = pa.array(np.full(rows, ORIGINAL, np.int32))
    return pa.RecordBatch.from_arrays([pa.array(image_ids, pa.string()), variants, vectors], schema=FEATURES)


class Concatenation(AccumulatorParam[list[Any]]):
    """Adds up lists."""

    def zero(self, value: list[Any]) -> list[Any]:
        """The empty list."""
        return []

    def addInPlace(self, value1: list[Any], value2: list[Any]) -> list[Any]:  # noqa: N802  Spark's name
        """Both, the second behind the first."""
        return value1 + value2


def worth_compiling(spark: SparkSession, wanted: Compile, images: int) -> Compile:
    """`wanted`; where that is AUTO and there are too few images, NEVER."""
    if wanted is Compile.AUTO and images < COMPILE_PAYS_FROM * parallel_tasks(spark):
        return Compile.NEVER
    return wanted


def check_local_device(spark: SparkSession, device: str) -> None:
    """Raises FeaturizerError where this machine does the work and has no such device; a cluster's executors check
    their own, when they start."""
    if str(spark.sparkContext.master).startswith("local["):
        check_device(device)


def parallel_tasks(spark: SparkSession) -> int:
    """Tasks that run at the same time."""
    task_cpus = int(spark.sparkContext.getConf().get("spark.task.cpus", "1") or 1)
    return max(1, spark.sparkContext.defaultParallelism // task_cpus)


def ship_weights(spark: SparkSession, weights: Weights) -> str:
    """Send the weights to every executor's node once; returns the file's name there."""
    file = scratch_folder() / f"{weights.sha256}.safetensors"
    safetensors.torch.save_file(dict(weights.state), file)
    spark.sparkContext.addFile(str(file))
    return file.name


def _card(extractor: Extractor, weights: Weights, feature_dim: int, licence: str) -> dict[str, object]:
    return {
        "fingerprint": extractor.fingerprint,
        **asdict(extractor),
        "weights": weights.source,
        "feature_dim": feature_dim,
        "licence": licence,
    }


def _summary(record: JobRecord, weights: Weights, extractor: Extractor, lake: Lake, files: list[SourceFile]) -> str:
    rows: dict[str, object] = {
        "extractor": f"{extractor.backbone} {extractor.precision}, weights {weights.source}",
        "fingerprint": extractor.fingerprint,
    }
    if files:
        seconds, images = record.timings["extract"], record.counts["images"] - record.counts["failed"]
        rows["new features"] = images
        rows["time"] = f"{clock(seconds)} ({images / seconds:,.1f} images/s; {told_setup(record)})"
    else:
        rows["new features"] = "none: every study has its features already"
    if record.counts["failed"]:
        first = ", ".join(record.extra["failed_image_ids"][:3])
        rows["damaged crops"] = f"{record.counts['failed']:,}, no features: {first}; their studies need restoring"
    rows["table"] = lake.features(extractor.fingerprint).folder.uri
    return summary_text("Extracted features", rows)


def told_setup(record: JobRecord) -> str:
    """How long the backbone took to be ready, in words; `model_setup` and `compiled` of the record tell it."""
    hows = {(True,): "loading and compiling", (False,): "loading, without compiling,", (): "loading"}
    how = hows.get(tuple(record.extra["compiled"]), "loading, and compiling where there is a compiler,")
    return f"{how} the backbone took {record.timings['model_setup']:.0f} s of it"
