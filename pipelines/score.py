"""Scoring: heads answer their tasks for every image that lacks an answer, from stored features or from an archive."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from pipelines.errors import LakeError
from pipelines.executor_embedder import told_setup
from pipelines.folders import Folder
from pipelines.increment import Increment, Pace, SourceFile, fill
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.live_counts import Teller
from pipelines.progress import clock, tell
from pipelines.score_archive import plan_archive, score_archive
from pipelines.score_config import CHUNK_OF_FEATURES, ScoreConfig, ScoreFrom
from pipelines.score_images import INPUTS
from pipelines.score_summary import (
    PREDICTIONS_CSV,
    SUMMARY_CSV,
    summarise,
    summary_csv,
    summary_lines,
    write_predictions_csv,
)
from pipelines.scoring import ANSWERS, ROWS_AT_ONCE, HeadTables, ScoredHead, ShippedHeads, score_batches
from pipelines.session import TaskCores, spark_session
from pipelines.stored_heads import load_head
from pipelines.tables import ORIGINAL, Table

__all__ = ["ScoreConfig", "score"]

CARD = "_head.json"
USE = "research use only: probabilities and decisions are no diagnosis"
#: Inputs of an archive that have no prediction, and why: beside each table.
REFUSED_CSV = "refused.csv"


#: The rows on top of a job's summary, and the lines below them.
Told = tuple[dict[str, object], list[str]]


def score(config: ScoreConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there is no such head, no features, or the books of an archive do not balance.
        HeadError: if the features are of another extractor than a head's.
        ConfigError, SourceError, FeaturizerError: with from=images, before any work starts.
    """
    lake = Lake.open(config.lake)
    heads = _heads(lake, config.heads)
    record = JobRecord("score_studies", config)
    record.extra["heads"] = {head.fingerprint: head.name for head in heads}
    lake.sweep_staging()
    run = _score_images if config.from_ is ScoreFrom.IMAGES else _score_features
    top, lines = run(lake, heads, config, record)
    record.summary = "\n".join([summary_text("Scored studies", top), *lines, "", USE])
    return record


def _heads(lake: Lake, references: Sequence[str]) -> tuple[ScoredHead, ...]:
    """The heads named, each once."""
    heads: dict[str, ScoredHead] = {}
    for reference in references:
        trained = load_head(lake, reference)
        fingerprint = trained.fingerprint
        heads.setdefault(fingerprint, ScoredHead("/".join(reference.split("/")[:2]), trained, fingerprint))
    return tuple(heads.values())


def _by_extractor(lake: Lake, heads: tuple[ScoredHead, ...], wanted: str | None) -> dict[str, tuple[ScoredHead, ...]]:
    groups: dict[str, tuple[ScoredHead, ...]] = {}
    for head in heads:
        extractor = lake.choose_extractor(wanted or head.trained.extractor)
        head.trained.check_extractor(extractor)
        groups[extractor] = (*groups.get(extractor, ()), head)
    return groups


# --- from features ---------------------------------------------------------------------------------------------------


def _score_features(lake: Lake, heads: tuple[ScoredHead, ...], config: ScoreConfig, record: JobRecord) -> Told:
    """One pass over the features of each extractor: its files are read once, whatever the number of heads."""
    groups = _by_extractor(lake, heads, config.extractor)
    lines: list[str] = []
    with spark_session("score_studies", config.master, arrow_batch_rows=ROWS_AT_ONCE) as spark:
        for extractor, group in groups.items():
            # Augmented copies of train images are for training; an image has one answer.
            work = Increment(
                lake.features(extractor),
                ("image_id", "features"),
                tables := HeadTables(lake, group),
                where=f"variant = {ORIGINAL}",
            )
            tell("looking for what is missing")
            files = work.missing(spark)
            record.count("images", sum(file.missing for file in files))
            if files:
                _write_cards(lake, group)
                make = functools.partial(_answers, spark, work, ShippedHeads.of(spark, group))
                pace = Pace(config.chunk_images or CHUNK_OF_FEATURES, least=CHUNK_OF_FEATURES)
                with record.time("score"):
                    fill(tables.commit, files, make, spark=spark, verb="score", pace=pace, record=record)
        studies = lake.studies.read(spark).select("image_id", "dataset", "uri")
        for head in heads:
            table = lake.predictions(head.fingerprint)
            predictions, listed = table.read(spark), None
            # What an earlier job wrote is still true where nothing was added.
            if f"predictions {head.fingerprint}" in record.counts or not _is_told(table):
                number = sum(table.rows_in(run) for run in table.folder.runs())
                listed = _Listed(
                    predictions.join(studies, "image_id", "left"),
                    number,
                    config.csv_images,
                    ("dataset", "uri", "image_id"),
                )
            lines += _report(head, table, predictions, listed, record)
    top: dict[str, object] = {"extractor": ", ".join(groups)}
    if images := record.counts["images"]:
        top |= {"new predictions": _images_by(images, heads), "time": _time(images, record)}
    else:
        top["new predictions"] = "none: every image with features is scored already"
    return top, lines


def _answers(
    spark: SparkSession, work: Increment, shipped: ShippedHeads, chunk: Sequence[SourceFile], tell: Teller
) -> DataFrame:
    transform = functools.partial(score_batches, shipped, count=tell)
    return work.rows(spark, chunk).mapInArrow(transform, from_arrow_schema(ANSWERS))


def _is_told(predictions: Table) -> bool:
    """Whether the newest job told all: one that was killed before it did left rows that no list has."""
    jobs = predictions.folder / "_jobs"
    return any(SUMMARY_CSV in (jobs / job).names() for job in jobs.names()[-1:])


def _score_images(lake: Lake, heads: tuple[ScoredHead, ...], config: ScoreConfig, record: JobRecord) -> Told:
    """One pass over an archive, for heads of one extractor: for others each image would need another backbone too."""
    extractors = {head.trained.extractor: head.name for head in heads}
    if len(extractors) > 1:
        told = "; ".join(f"{name}: {extractor}" for extractor, name in extractors.items())
        raise LakeError(
            f"these heads take features of {len(extractors)} extractors ({told}), and a pass over images has one "
            "backbone. Score the archive once for each."
        )
    (extractor,) = extractors
    if config.extractor and not extractor.startswith(config.extractor):
        heads[0].trained.check_extractor(config.extractor)
    plan = plan_archive(lake, config, extractor)
    tables = HeadTables(lake, heads)
    inputs = lake.new_staging()
    try:
        # The listing holds paths, which may hold names; it passes through Spark's scratch folders.
        with spark_session(
            "score_studies", config.master, task_cores=TaskCores.WHOLE_DRIVER, encrypted_scratch=True
        ) as spark:
            score_archive(spark, plan, tables, record, inputs)
            _write_cards(lake, heads)
            lines = _tell_archive(spark, tables, inputs, config, record)
    finally:
        inputs.remove()
    counts = record.counts
    top: dict[str, object] = {
        "archive": config.archive,
        "files": counts["inputs"],
        "new predictions": _images_by(counts["images"], heads),
        "known before": counts["known"],
        "refused": counts["refused"],
        **{f"  {name.removeprefix('refused: ')}": n for name, n in counts.items() if name.startswith("refused: ")},
        "same bytes": counts["images"] + counts["known"] - counts["distinct"],
        "time": _time(counts["inputs"], record, told_setup(record)),
    }
    return top, lines


def _tell_archive(
    spark: SparkSession, tables: HeadTables, inputs: Folder, config: ScoreConfig, record: JobRecord
) -> list[str]:
    every = spark.read.schema(from_arrow_schema(INPUTS)).parquet(inputs.hadoop_uri)
    answered = every.where("reason is null").select("position", "uri", "image_id")
    ids = answered.select("image_id").distinct()
    record.count("distinct", ids.count())
    number = record.counts["images"] + record.counts["known"]
    refused = _refused_csv(inputs) if record.counts["refused"] else None
    lines: list[str] = []
    for head, table in zip(tables.heads, tables.tables, strict=True):
        predictions = table.read(spark)
        listed = _Listed(
            predictions.join(answered, "image_id"), number, config.csv_images, ("position", "uri", "image_id")
        )
        theirs = predictions.join(ids, "image_id", "left_semi")
        lines += _report(head, table, theirs, listed, record)
        if refused:
            (table.folder / "_jobs" / record.id).write(REFUSED_CSV, refused)
            lines.append(f"  refused        {REFUSED_CSV}, in the same folder")
    return lines


def _refused_csv(inputs: Folder) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["position", "uri", "reason", "detail"])
    for name in inputs.names():
        rows = pq.read_table(f"{inputs.path}/{name}", filesystem=inputs.filesystem)
        for row in rows.filter(pc.is_valid(rows["reason"])).to_pylist():
            writer.writerow([row["position"], row["uri"], row["reason"], row["detail"]])
    return text.getvalue().encode()


class _Listed(NamedTuple):
    """Images with their predictions, for predictions.csv, which holds `most` of them at most."""

    rows: DataFrame
    number: int
    most: int
    order: tuple[str, ...]


def _report(
    head: ScoredHead, table: Table, predictions: DataFrame, listed: _Listed | None, record: JobRecord
) -> list[str]:
    """Say what a head said, and write it beside its table unless `listed` is None; returns lines for the screen."""
    rows = summarise(head, predictions)
    lines = [*summary_lines(head, rows), f"  table          {table.folder.uri}"]
    if listed is None:
        return lines
    record.write_beside(table.folder)
    job = table.folder / "_jobs" / record.id
    job.write(SUMMARY_CSV, summary_csv(rows))
    files = [SUMMARY_CSV]
    if listed.number <= listed.most:
        front = listed.rows.select(*listed.order, "probabilities", "decisions")
        write_predictions_csv(front, head.trained, listed.order, job)
        files.append(PREDICTIONS_CSV)
    lines.append(f"  {' and '.join(files).ljust(13)}  {job.uri}")
    if listed.number > listed.most:
        lines.append(f"  no {PREDICTIONS_CSV}: {listed.number:,} images, more than csv_images={listed.most}")
    return lines


def _write_cards(lake: Lake, heads: Sequence[ScoredHead]) -> None:
    for head in heads:
        card = {
            "head": head.fingerprint,
            "config_head": head.name,
            "task": head.trained.task.name,
            "extractor": head.trained.extractor,
            "calibration": head.trained.calibrator.describe(),
            "thresholds": head.trained.thresholds.describe(),
        }
        lake.predictions(head.fingerprint).folder.write_json(CARD, card)


def _images_by(images: int, heads: Sequence[ScoredHead]) -> object:
    return images if len(heads) == 1 else f"{images:,} images by {len(heads)} heads"


def _time(images: int, record: JobRecord, *more: str) -> str:
    seconds = record.timings["score"]
    return f"{clock(seconds)} ({'; '.join([f'{images / seconds:,.0f} images/s', *more])})"
