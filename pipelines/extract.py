"""Studies to features: the backbone runs on the executors, over the crops, and copies of them, that have no vector."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
from pydantic import Field
from pyspark import SparkFiles, TaskContext
from pyspark.accumulators import AccumulatorParam
from pyspark.sql import SparkSession

from featurizers.backbones import BACKBONES, Weights
from featurizers.embedder import BATCH_SIZE, Embedded, Embedder, can_compile, check_device
from featurizers.extractor import Extractor, Precision, describe_extractor
from pipelines.acquisition import CAUTION_KEY, HOLD_OUT_KEY, NOBODY, BackbonesHoldOut
from pipelines.augmented_copies import (
    CopiesConfig,
    CopyIncrement,
    CopyPlan,
    CopyRule,
    Key,
    task_of_copies,
)
from pipelines.config import Config, SparkConfig
from pipelines.datasets import crops_of
from pipelines.folders import Folder
from pipelines.increment import Increment, OneTable, SourceFile
from pipelines.job import JobRecord, summary_text
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.progress import clock
from pipelines.session import scratch_folder, spark_session
from pipelines.stored_backbones import DEFAULT_BACKBONE, OpenedBackbone, open_backbone
from pipelines.tables import FEATURES, ORIGINAL, Table

#: Compiling costs about as much time as it saves on this many images of one worker (docs/architecture.md).
COMPILE_PAYS_FROM = 3000
#: How many damaged crops are named; all are counted.
FAILURES_TOLD = 20


class Compile(StrEnum):
    """When the backbone is compiled."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class BackboneConfig(Config):
    """Which network, with which weights."""

    name: str | None = Field(
        None,
        description=f"its architecture: {', '.join(BACKBONES)} or timm:NAME, with options such as resnet50:size=128; "
        f"null: what the weights state, else {DEFAULT_BACKBONE}",
    )
    weights: str = Field(
        "imagenet",
        description="imagenet (torchvision's own), random (untrained, for trials), a file with a state dict, or "
        "lake://backbones/NAME, fine-tuned in this lake",
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
    copies: CopiesConfig = CopiesConfig()


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
        LakeError: if there are no studies, no such fine-tuned backbone, or other copies than those that are asked for.
        WeightsError: if the weights can't be had or do not fit.
        TaskError: if copies are asked for until the classes of a task are equal, and there is no such task.
    """
    lake = Lake.open(config.lake)
    opened = open_backbone(lake, config.backbone.name, config.backbone.weights, config.backbone.seed)
    crops = crops_of(lake)
    extractor = describe_extractor(opened.spec.name, opened.weights, config.precision, crops)
    features = lake.features(extractor.fingerprint)
    plan = None
    if config.copies.task:
        held_out = opened.backbones_hold_out.settings or NOBODY
        plan = CopyPlan.make(lake, features.folder, config.copies, held_out)
    record = JobRecord("extract_features", config)
    record.extra["extractor"] = extractor.fingerprint
    with spark_session("extract_features", config.master, whole_executor_per_task=True) as spark:
        with record.time("plan"):
            work = _Work.find(spark, lake, features, plan)
        missing = work.missing_crops + work.missing_copies
        record.count("images", work.missing_crops)
        if plan:
            record.count("copies", work.missing_copies)
            record.extra["copies"] = {
                "fingerprint": plan.fingerprint,
                "train_images": dict(plan.images),
                "train_rows": dict(plan.rows),
            }
        wanted = worth_compiling(spark, config.compile, missing)
        failures = spark.sparkContext.accumulator([], Concatenation())
        setups = spark.sparkContext.accumulator([], Concatenation())
        check_local_device(spark, config.device)
        if missing:
            card = _card(extractor, opened)
            features.folder.write_json(EXTRACTOR_CARD, card)
            if plan:
                plan.remember(features.folder)
            with record.time("extract"):
                settings = EmbedderSettings(
                    backbone=opened.spec.name,
                    weights_file=ship_weights(spark, opened.weights),
                    weights_source=opened.weights.source,
                    fingerprint=extractor.fingerprint,
                    precision=config.precision,
                    crops=crops,
                    device=config.device,
                    batch_size=config.batch_size,
                    compile=wanted,
                )
                tell = (settings, failures.add, setups.add)
                fill = functools.partial(
                    Increment.fill, spark=spark, verb="extract", chunk_images=config.chunk_images, record=record
                )
                if work.crop_files:
                    fill(work.crops, files=work.crop_files, transform=functools.partial(embed_batches, *tell))
                if plan and work.copies and work.copy_files:
                    draw = functools.partial(embed_copies, *tell, rule=plan.rule)
                    fill(work.copies, files=work.copy_files, transform=draw, unit="copies")
        # Workers set up at the same time: the slowest one is what the job waited for.
        record.timings["model_setup"] = max((setup.seconds for setup in setups.value), default=0.0)
        record.extra["compiled"] = sorted({setup.compiled for setup in setups.value})
        failed: set[Key] = set(failures.value)
        damaged = sorted({image_id for image_id, _ in failed})
        record.count("failed", len(damaged))
        record.extra["failed_image_ids"] = damaged[:FAILURES_TOLD]
        if missing:
            record.write_beside(features.folder)
    record.summary = _summary(record, opened, extractor, features.folder, plan=plan, failed=failed)
    return record


@dataclass(frozen=True)
class _Work:
    """What is missing: vectors of crops, and, where a plan asks for them, of copies."""

    crops: Increment
    crop_files: list[SourceFile]
    copies: CopyIncrement | None
    copy_files: list[SourceFile]

    @classmethod
    def find(cls, spark: SparkSession, lake: Lake, features: Table, plan: CopyPlan | None) -> Self:
        crops = Increment(lake.studies, ("image_id", "crop"), OneTable(features, where=f"variant = {ORIGINAL}"))
        copies = CopyIncrement.find(spark, plan, crops, features) if plan else None
        return cls(crops, crops.missing(spark), copies, copies.missing(spark) if copies else [])

    @property
    def missing_crops(self) -> int:
        return sum(file.missing for file in self.crop_files)

    @property
    def missing_copies(self) -> int:
        return sum(file.missing for file in self.copy_files)


def embed_batches(
    settings: EmbedderSettings,
    tell_failed: Callable[[list[Key]], None],
    tell_setup: Callable[[list[Setup]], None],
    batches: Iterable[pa.RecordBatch],
    count: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    """On an executor: batches of (image_id, crop) to batches of the schema FEATURES.

    Args:
        settings: of the embedder, made once per Python worker and kept for its next tasks.
        tell_failed: told the images, and variants, whose crops give no vector.
        tell_setup: told how long the embedder took to make, nothing if it was kept, and if it is compiled.
        batches: from Spark.
        count: told how many images are done.
    """
    embedder = executor_embedder(settings, tell_setup)
    crops = (
        ((image_id.as_py(), ORIGINAL), crop.as_py())
        for batch in batches
        for image_id, crop in zip(batch.column("image_id"), batch.column("crop"), strict=True)
    )
    yield from _rows(embedder.embed_pngs(crops), tell_failed, count)


def embed_copies(
    settings: EmbedderSettings,
    tell_failed: Callable[[list[Key]], None],
    tell_setup: Callable[[list[Setup]], None],
    batches: Iterable[pa.RecordBatch],
    count: Callable[[int], None],
    *,
    rule: CopyRule,
) -> Iterator[pa.RecordBatch]:
    """On an executor: batches of (image_id, crop, variants) to batches of the schema FEATURES, one row per copy.

    Args:
        settings, tell_failed, tell_setup, batches: as of `embed_batches`.
        count: told how many copies are done.
        rule: how copies are drawn.
    """
    embedder = executor_embedder(settings, tell_setup)
    # Filled by the thread that reads ahead; accumulators are for this one alone.
    damaged: list[Key] = []
    yield from _rows(embedder.embed_crops(rule.copies(batches, damaged)), tell_failed, count)
    if damaged:
        tell_failed(damaged)
        count(len(damaged))


def _rows(
    stream: Iterable[Embedded[Key]], tell_failed: Callable[[list[Key]], None], count: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    for embedded in stream:
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


def _to_arrow(keys: list[Key], features: npt.NDArray[np.float32]) -> pa.RecordBatch:
    rows, width = features.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32))
    vectors = pa.ListArray.from_arrays(offsets, pa.array(features.reshape(-1)))
    image_ids = pa.array([image_id for image_id, _ in keys], pa.string())
    variants = pa.array([variant for _, variant in keys], pa.int32())
    return pa.RecordBatch.from_arrays([image_ids, variants, vectors], schema=FEATURES)


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


def _card(extractor: Extractor, opened: OpenedBackbone) -> dict[str, object]:
    return {
        "fingerprint": extractor.fingerprint,
        **asdict(extractor),
        "weights": opened.weights.source,
        "feature_dim": opened.spec.feature_dim,
        "licence": opened.spec.licence,
        # Heads ask it which images of val the backbone has not learned from.
        HOLD_OUT_KEY: opened.hold_out,
        CAUTION_KEY: opened.caution,
    }


def _summary(
    record: JobRecord,
    opened: OpenedBackbone,
    extractor: Extractor,
    features: Folder,
    *,
    plan: CopyPlan | None,
    failed: set[Key],
) -> str:
    rows: dict[str, object] = {
        "extractor": f"{extractor.backbone} {extractor.precision}, weights {opened.weights.source}",
        "fingerprint": extractor.fingerprint,
    }
    if opened.trained_as:
        rows["trained as"] = f"{opened.trained_as}: the weights are used in another way here than they were trained"
    if earlier := BackbonesHoldOut(caution=opened.caution).earlier:
        rows["caution"] = earlier
    failed_crops = sum(variant == ORIGINAL for _, variant in failed)
    images = record.counts["images"] - failed_crops
    copies = record.counts.get("copies", 0) - (len(failed) - failed_crops)
    rows["new features"] = images if record.counts["images"] else "none: every study has its features already"
    if plan:
        told = ", ".join(f"{name} {n:,} of {plan.images[name]:,}" for name, n in plan.rows.items())
        rows["new copies"] = copies if record.counts["copies"] else "none: they are all there already"
        rows["train with copies"] = f"{told} images{_less(opened)}"
    elif task := task_of_copies(features):
        rows["new copies"] = f"none asked for; those here balance {task} as train was when they were drawn"
    if "extract" in record.timings:
        seconds = record.timings["extract"]
        rows["time"] = f"{clock(seconds)} ({(images + copies) / seconds:,.1f} images/s; {told_setup(record)})"
    if record.counts["failed"]:
        first = ", ".join(record.extra["failed_image_ids"][:3])
        rows["damaged crops"] = f"{record.counts['failed']:,}, no features: {first}; their studies need restoring"
    rows["table"] = features.uri
    text = summary_text("Extracted features", rows)
    if opened.crops not in (None, extractor.crops):
        text += (
            "\n\nwarning: these weights were trained on other crops than this lake's, which costs accuracy\n"
            f"  trained on  {opened.crops}\n  these are   {extractor.crops}"
        )
    return text


def _less(opened: OpenedBackbone) -> str:
    settings = opened.backbones_hold_out.settings or NOBODY
    return "" if settings == NOBODY else f", without those that the backbone held out (hold_out.by={settings})"


def told_setup(record: JobRecord) -> str:
    """How long the backbone took to be ready, in words; `model_setup` and `compiled` of the record tell it."""
    hows = {(True,): "loading and compiling", (False,): "loading, without compiling,", (): "loading"}
    how = hows.get(tuple(record.extra["compiled"]), "loading, and compiling where there is a compiler,")
    return f"{how} the backbone took {record.timings['model_setup']:.0f} s of it"
