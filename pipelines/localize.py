"""Heads and crops to places: where in each image a head finds its classes, how well that fits, and a page about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import SparkSession

from featurizers.backbones import Weights, get_backbone
from featurizers.errors import FeaturizerError
from featurizers.extractor import Extractor
from featurizers.pooling import PoolKind
from featurizers.saliency import NO_MAP, OCCLUDED_COPIES, Method
from pipelines.crop_pass import CropTarget, Hands, Pass, Tally, Work, begin_pass
from pipelines.errors import LakeError
from pipelines.executor_embedder import (
    EmbedderSettings,
    Workers,
    check_device_of_workers,
    keep_setups,
    ship_weights,
    told_lack_of_compiler,
    told_setup,
    worth_compiling,
)
from pipelines.extract_summary import as_told
from pipelines.folders import Folder
from pipelines.increment import Increment, Pace, SourceFile, fill
from pipelines.job import JobRecord, summary_text
from pipelines.lake import LOCALIZER_CARD, Lake
from pipelines.lease import lease
from pipelines.live_counts import Teller
from pipelines.localization_reports.truth import BoxFile, annotated
from pipelines.localize_config import ALL, CHUNK_IMAGES, LocalizeConfig
from pipelines.localize_report import LocalizationReport, figure_lines
from pipelines.localize_worker import LocalizeWorker
from pipelines.localizer import Localizer, make_localizer
from pipelines.progress import clock, tell
from pipelines.rebuild import rebuild_extractor
from pipelines.scoring import ScoredHead, ShippedHeads
from pipelines.session import TaskCores, named_jobs, spark_session
from pipelines.stored_heads import load_head

__all__ = ["LocalizeConfig", "localize"]


def localize(config: LocalizeConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there is no such head, no image of the split, or another job localizes the same.
        ConfigError: if the head has no such class, the method is not for it, or tasks can't be given the device.
        HeadError: if the head looks at no feature.
        FeaturizerError: if the backbone has no map that a place could stand on, or the weights can't be had.
        SourceError: if the file of boxes can't be read as such.
    """
    lake = Lake.open(config.lake)
    trained = load_head(lake, config.head)
    localizer = make_localizer(
        trained, trained.fingerprint, classes=config.classes, method=config.method, level=config.level
    )
    file = None if config.boxes is None else BoxFile.read(config.boxes)
    check_device_of_workers(config.device, config.master)
    extractor, weights = rebuild_extractor(lake, trained.extractor, config.backbone)
    if get_backbone(extractor.backbone).pool is PoolKind.OWN and localizer.rules.method is not Method.OCCLUSION:
        raise FeaturizerError(NO_MAP)
    record = JobRecord("localize_findings", config)
    record.extra |= {"localizer": localizer.rules.fingerprint, "head": localizer.rules.head}
    with spark_session("localize_findings", config.master, task_cores=TaskCores.WHOLE_DRIVER) as spark:
        tell("looking for annotated boxes")
        truth = annotated(spark, lake, trained.task, localizer.rules.classes, split=config.only_split, file=file)
        target = _target(spark, lake, localizer)
        with lease(target.table.folder, "localize", "two would both write what is missing") as target.held:
            _Filling(spark, lake, config, localizer, target).run(extractor, weights, record)
        report = LocalizationReport(spark, lake, config, localizer, target.table, truth)
        with record.time("report"):
            outcome = report.write(extractor, weights, record)
        record.write_beside(target.table.folder)
    record.summary = "\n".join(
        [
            summary_text("Localized findings", _rows(config, localizer, target, record)),
            "",
            *figure_lines(outcome),
            "",
            "research use only: a heatmap shows what the head looks at, and is no diagnosis",
            f"table   {target.table.folder.uri}",
            f"report  {outcome.folder.uri}/report.html",
            *told_lack_of_compiler(record),
        ]
    )
    return record


def _target(spark: SparkSession, lake: Lake, localizer: Localizer) -> CropTarget:
    fingerprint = localizer.rules.fingerprint
    return CropTarget(
        lake.localizations(fingerprint),
        lake.unlocalized(fingerprint),
        Tally.of(spark),
        rows_per_crop=len(localizer.rules.classes),
        one_per_crop=f"class = '{localizer.rules.classes[0]}'",
        remedy="Check the weights, or fit a head on features of another precision.",
    )


@dataclass(frozen=True)
class _Filling:
    """Fills the table of a localizer."""

    spark: SparkSession
    lake: Lake
    config: LocalizeConfig
    localizer: Localizer
    target: CropTarget

    def run(self, extractor: Extractor, weights: Weights, record: JobRecord) -> None:
        """Localize what is missing in the split."""
        work = Increment(self.lake.studies, ("image_id", "crop"), self.target, where=self._where)
        with record.time("plan"), named_jobs(self.spark, "localize: what is missing"):
            tell("looking for what is missing")
            files = work.missing(self.spark)
        missing = sum(file.missing for file in files)
        record.count("images", missing)
        if missing:
            self.target.table.folder.write_json(LOCALIZER_CARD, _card(self.config, self.localizer))
            settings = self._settings(extractor, weights, missing, record)
            with record.time("localize"):
                self._fill(work, files, settings, record)
        elif not self._has_images():
            there = ", ".join(f"{name} {n:,}" for (name,), n in sorted(self.lake.studies.count_by("split").items()))
            raise LakeError(
                f"'{self.lake.folder.uri}' has no image of the split {self.config.split}. It has: {there}. Choose "
                "split=…, or split=all."
            )
        keep_setups(record, self.target.tally.setups.value)
        record.extra["stages"] = as_told(self.target.tally.spent)
        record.count("failed", len(self.target.failed))
        record.count("in quarantine", self.target.quarantined)

    def _fill(self, work: Increment, files: list[SourceFile], settings: EmbedderSettings, record: JobRecord) -> None:
        spark, table, rules = self.spark, self.target.table, self.localizer.rules
        head = ShippedHeads.of(spark, [ScoredHead(self.config.head, self.localizer.trained, rules.head)])
        pace = Pace(self.config.chunk_images, least=CHUNK_IMAGES)

        def embed(chunk: Sequence[SourceFile], teller: Teller) -> Pass:
            done = work.done_in(spark, chunk)

            def make(hands: Hands, run: Folder) -> Work:
                report = self.target.tally.report()
                split = self.config.only_split
                return LocalizeWorker(settings, head, rules, hands, split, done, report, teller, run).localize

            return begin_pass(spark, chunk, device=settings.device, pace=pace, table=table, make=make)

        fill(self.target.commit, files, embed, spark=spark, verb="localize", pace=pace, record=record)

    def _settings(self, extractor: Extractor, weights: Weights, images: int, record: JobRecord) -> EmbedderSettings:
        config = self.config
        workers = Workers.of(self.spark, config.device)
        record.extra["workers"] = str(workers)
        return EmbedderSettings(
            backbone=extractor.backbone,
            weights_file=ship_weights(self.spark, weights),
            weights_source=weights.source,
            fingerprint=extractor.fingerprint,
            precision=extractor.precision,
            crops=extractor.crops,
            device=config.device,
            batch_size=config.batch_size,
            memory_mb=None,
            compile=worth_compiling(config.compile, images * self._passes, workers, config.device),
            storage=extractor.storage,
            views=True,
        )

    @property
    def _passes(self) -> int:
        """Of the backbone, for an image."""
        return OCCLUDED_COPIES if self.localizer.rules.method is Method.OCCLUSION else 1

    @property
    def _where(self) -> str | None:
        split = self.config.only_split
        return None if split is None else f"split = '{split}'"

    def _has_images(self) -> bool:
        studies = self.lake.studies.read(self.spark)
        return not (studies if self._where is None else studies.where(self._where)).isEmpty()


def _card(config: LocalizeConfig, localizer: Localizer) -> dict[str, object]:
    rules = localizer.rules
    return {
        "fingerprint": rules.fingerprint,
        "head": rules.head,
        "config_head": config.head,
        "task": localizer.trained.task.name,
        "extractor": localizer.trained.extractor,
        "classes": list(rules.classes),
        "method": str(rules.method),
        "level": rules.level,
        "side": rules.side,
        "format_version": rules.format_version,
    }


def _rows(config: LocalizeConfig, localizer: Localizer, target: CropTarget, record: JobRecord) -> dict[str, object]:
    images = record.counts["images"] - len(target.failed)
    rows: dict[str, object] = {
        "head": f"{config.head}, {localizer.rules.head}",
        "maps": str(localizer.rules.method),
        "localizer": localizer.rules.fingerprint,
        "split": "all images" if config.split == ALL else config.split,
        "new images": images if record.counts["images"] else "none: all are localized already",
    }
    if "localize" in record.timings:
        seconds = record.timings["localize"]
        rows["time"] = f"{clock(seconds)} ({images / seconds:,.1f} images/s; {told_setup(record)})"
        rows["worked as"] = f"{record.extra['workers']}, on {', '.join(record.extra['devices'])}"
    if target.failed:
        counts = Counter(each.reason for each in target.failed)
        rows["no map"] = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.items()))
    if there := record.counts["in quarantine"]:
        rows["quarantine"] = f"{there:,} in all; to try them again, remove {target.quarantine.folder.uri}"
    return rows
