"""Studies to features: the backbone runs on the executors, over the crops, and copies of them, that have no vector."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from pyspark.sql import SparkSession

from featurizers.extractor import Extractor, describe_extractor
from pipelines.acquisition import CAUTION_KEY, HOLD_OUT_KEY, NOBODY
from pipelines.augmented_copies import CopyPlan, LackingCopies
from pipelines.crop_pass import Hands, Pass, Tally, Work, begin_pass
from pipelines.datasets import crops_of
from pipelines.errors import LakeError
from pipelines.executor_embedder import (
    Compile,
    EmbedderSettings,
    Workers,
    check_device_of_workers,
    keep_setups,
    ship_weights,
    worth_compiling,
)
from pipelines.extract_config import CHUNK_IMAGES, ExtractConfig
from pipelines.extract_summary import as_told, summarise
from pipelines.extract_target import FeaturesTarget
from pipelines.extract_worker import Copies, Crops, ExtractWorker
from pipelines.folders import Folder
from pipelines.increment import Increment, Pace, SourceFile, fill
from pipelines.job import JobRecord
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.lease import lease
from pipelines.live_counts import Teller
from pipelines.progress import tell
from pipelines.session import TaskCores, named_jobs, spark_session
from pipelines.stored_backbones import OpenedBackbone, open_backbone

__all__ = ["ExtractConfig", "extract"]


def extract(config: ExtractConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there are no studies, no such fine-tuned backbone, or other copies than those that are asked for;
            if another job extracts the same features; or if the weights' file has changed since features were
            extracted with it.
        ConfigError, FeaturizerError: if tasks can't be given the device.
        WeightsError: if the weights can't be had or do not fit.
        TaskError: if copies are asked for until the classes of a task are equal, and there is no such task.
    """
    lake = Lake.open(config.lake)
    check_device_of_workers(config.device, config.master)
    opened = open_backbone(lake, config.backbone.name, config.backbone.weights, config.backbone.seed)
    crops = crops_of(lake)
    extractor = describe_extractor(opened.spec.name, opened.weights, config.precision, crops, config.storage)
    check_weights_file(lake, extractor, opened)
    features = lake.features(extractor.fingerprint).folder
    plan = None
    if config.copies.task:
        held_out = opened.backbones_hold_out.settings or NOBODY
        plan = CopyPlan.make(lake, features, config.copies, held_out)
    record = JobRecord("extract_features", config)
    record.extra["extractor"] = extractor.fingerprint
    with spark_session("extract_features", config.master, task_cores=TaskCores.WHOLE_DRIVER) as spark:
        workers = Workers.of(spark, config.device)
        target = FeaturesTarget(lake, extractor.fingerprint, Tally.of(spark))
        # Before it is known what is missing: another job may be about to commit some of that.
        with lease(features, "extract", "two would both write what is missing") as target.held:
            with record.time("plan"), named_jobs(spark, "extract: what is missing"):
                tell("looking for what is missing")
                work = _Work.find(spark, lake, target, plan)
            record.count("images", work.missing_crops)
            if plan:
                record.count("copies", work.missing_copies)
                record.extra["copies"] = {
                    "fingerprint": plan.fingerprint,
                    "train_images": dict(plan.images),
                    "train_rows": dict(plan.rows),
                }
            if missing := work.missing_crops + work.missing_copies:
                with record.time("extract"):
                    features.write_json(EXTRACTOR_CARD, _card(extractor, opened))
                    if plan:
                        plan.remember(features)
                    wanted = worth_compiling(config.compile, missing, workers, config.device)
                    settings = _settings(config, opened, extractor, ship_weights(spark, opened.weights), wanted)
                    pace = Pace(config.chunk_images, least=CHUNK_IMAGES)
                    _Engine(spark, settings, target, pace, record).run(work, plan)
            keep_setups(record, target.tally.setups.value)
            record.extra["workers"] = str(workers)
            record.extra["stages"] = as_told(target.tally.spent)
            record.count("failed", len(target.failed))
            record.count("in quarantine", target.quarantined)
            if missing:
                record.write_beside(features)
    record.summary = summarise(record, opened, extractor, target, plan)
    return record


def _settings(
    config: ExtractConfig, opened: OpenedBackbone, extractor: Extractor, weights_file: str, wanted: Compile
) -> EmbedderSettings:
    return EmbedderSettings(
        backbone=opened.spec.name,
        weights_file=weights_file,
        weights_source=opened.weights.source,
        fingerprint=extractor.fingerprint,
        precision=config.precision,
        crops=extractor.crops,
        device=config.device,
        batch_size=config.batch_size,
        memory_mb=config.memory_mb,
        compile=wanted,
        storage=config.storage,
    )


def check_weights_file(lake: Lake, extractor: Extractor, opened: OpenedBackbone) -> None:
    """Refuse a file of weights that has changed since this lake's features were extracted with it.

    Another hash is another extractor, so nothing would be mixed; but all features would be extracted once more, in
    silence, and heads would go on taking the old ones.

    Raises:
        LakeError: if it has.
    """
    if opened.file is None:
        return
    for there in lake.extractors():
        card = lake.extractor_card(there)
        same_file = card.get("weights_file") == opened.file and card.get("backbone") == extractor.backbone
        if same_file and card["weights_sha256"] != extractor.weights_sha256:
            raise LakeError(
                f"the weights '{opened.file}' have changed since the features of extractor {there[:12]} were extracted "
                "with them. Restore the file to go on with those features; give the new weights a name of their own to "
                "extract with them too."
            )


@dataclass(frozen=True)
class _Work:
    """What is missing: vectors of crops, and, where a plan asks for them, of copies."""

    crops: Increment
    crop_files: list[SourceFile]
    copies: LackingCopies | None
    copy_files: list[SourceFile]

    @classmethod
    def find(cls, spark: SparkSession, lake: Lake, target: FeaturesTarget, plan: CopyPlan | None) -> Self:
        crops = Increment(lake.studies, ("image_id", "crop"), target)
        copies = LackingCopies.find(spark, plan, lake.studies, target.tried(spark)) if plan else None
        return cls(crops, crops.missing(spark), copies, copies.files() if copies else [])

    @property
    def missing_crops(self) -> int:
        return sum(file.missing for file in self.crop_files)

    @property
    def missing_copies(self) -> int:
        return sum(file.missing for file in self.copy_files)


@dataclass(frozen=True)
class _Engine:
    """Deals row groups out to the executors, chunk by chunk."""

    spark: SparkSession
    settings: EmbedderSettings
    target: FeaturesTarget
    pace: Pace
    record: JobRecord

    def run(self, work: _Work, plan: CopyPlan | None) -> None:
        def crops(chunk: Sequence[SourceFile], tell: Teller) -> Pass:
            return self._embed(chunk, Crops(work.crops.done_in(self.spark, chunk)), tell)

        filled = functools.partial(
            fill, self.target.commit, spark=self.spark, verb="extract", pace=self.pace, record=self.record
        )
        if work.crop_files:
            filled(work.crop_files, crops)
        if plan and (lacking := work.copies) and work.copy_files:

            def copies(chunk: Sequence[SourceFile], tell: Teller) -> Pass:
                return self._embed(chunk, Copies(lacking.variants(chunk), plan.rule), tell)

            filled(work.copy_files, copies, unit="copies")

    def _embed(self, chunk: Sequence[SourceFile], wanted: Crops | Copies, tell: Teller) -> Pass:
        def make(hands: Hands, run: Folder) -> Work:
            return ExtractWorker(self.settings, hands, wanted, self.target.tally.report(), tell, run).embed

        return begin_pass(
            self.spark, chunk, device=self.settings.device, pace=self.pace, table=self.target.table, make=make
        )


def _card(extractor: Extractor, opened: OpenedBackbone) -> dict[str, object]:
    return {
        "fingerprint": extractor.fingerprint,
        **asdict(extractor),
        "weights": opened.weights.source,
        "weights_file": opened.file,
        "feature_dim": opened.spec.feature_dim,
        "licence": opened.spec.licence,
        # Heads ask it which images of val the backbone has not learned from.
        HOLD_OUT_KEY: opened.hold_out,
        CAUTION_KEY: opened.caution,
    }
