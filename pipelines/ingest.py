"""Archive to studies: every input ends in `studies` or in `quarantine`, in committed chunks, with balanced books."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it
from pyspark.sql.pandas.types import from_arrow_schema

from featurizers.crops import Cropper, CropSettings, describe_crops
from featurizers.radiograph import DecodeLimits
from featurizers.reasons import Reason
from pipelines.config import Config, SparkConfig
from pipelines.datasets import Dataset, claim
from pipelines.errors import ConfigError, LakeError, SourceError
from pipelines.folders import Folder
from pipelines.ingest_worker import STAGED, StudyReader
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.listing import LISTING, Listing
from pipelines.progress import Progress, clock
from pipelines.pseudonyms import PUBLIC_KEY, Pseudonymizer, secret_key
from pipelines.session import spark_session
from pipelines.sources import KermanySource, ManifestSource, Source
from pipelines.splits import Split, SplitFractions
from pipelines.tables import Table

#: Inputs of one Spark task: seconds of work, so that progress is seen and a lost task costs little.
INPUTS_PER_TASK = 128

_CROP, _LIMITS = CropSettings(), DecodeLimits()


class CropConfig(Config):
    """How the lungs are cropped."""

    size: int = Field(_CROP.size, ge=32, le=2048, description="side of the stored square crop, pixels")
    margin: float = Field(_CROP.margin, ge=0, le=1, description="added on each side, as a fraction of the lung box")
    min_quality: float = Field(
        _CROP.min_quality, ge=0, le=1, description="below this lung_quality the whole image is kept"
    )


class LimitsConfig(Config):
    """What is refused before it costs memory."""

    max_pixels: int = Field(
        _LIMITS.max_pixels, gt=0, description="largest width times height that a header may declare"
    )
    max_bytes: int = Field(_LIMITS.max_bytes, gt=0, description="largest file, bytes")
    min_side: int = Field(_LIMITS.min_side, gt=0, description="smallest width and height, pixels")


class IngestConfig(SparkConfig):
    """Settings of jobs/ingest_studies.py."""

    source: Literal["kermany", "manifest"] = Field(description="the archive's layout")
    archive: str = Field(description="the archive's root: a folder or URI")
    manifest: str | None = Field(
        None,
        description="source=manifest: CSV or Parquet of the images; null: the only one in the archive's top folder",
    )
    dataset: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="name in the dataset column; null: the source's name"
    )
    pseudonym_key_file: str | None = Field(
        None, description="file with the secret key of the pseudonyms; null: the variable PLEURA_PSEUDONYM_KEY"
    )
    val_fraction: float = Field(0.15, ge=0, lt=1, description="part of the patients that is cut off for validation")
    test_fraction: float = Field(
        0.15, ge=0, lt=1, description="part of the patients that is cut off for test where no split is official"
    )
    crop: CropConfig = CropConfig()
    limits: LimitsConfig = LimitsConfig()
    retry: bool = Field(False, description="read quarantined inputs again, for instance when their files were mended")
    chunk_images: int = Field(8192, gt=0, description="images per commit: what a restart repeats at most")


@dataclass(frozen=True)
class Books:
    """The counts of one chunk: its inputs, those that no table knew, and where these are now, read back from there."""

    inputs: int
    fresh: int
    studies: int
    quarantined: dict[str, int]

    def check(self) -> None:
        """Raises LakeError unless every fresh input is in exactly one place."""
        if self.studies + sum(self.quarantined.values()) != self.fresh:
            raise LakeError(
                f"the books do not balance: {self.fresh:,} new inputs, but {self.studies:,} studies "
                f"and {sum(self.quarantined.values()):,} quarantined. This is a fault of Pleura or of the storage: "
                "the chunk is in the lake as far as its runs were committed; please report it."
            )


@dataclass(frozen=True)
class Overview:
    """What a lake holds of one data set: studies by split and cropper, findings, and inputs still in quarantine."""

    splits: dict[str, int]
    croppers: dict[str, int]
    positive: dict[str, int]
    negative: dict[str, int]
    quarantined: int


def ingest(config: IngestConfig) -> JobRecord:
    """Run the job.

    Raises:
        ConfigError, SourceError: before any work starts.
        LakeError: if the books do not balance.
    """
    if config.val_fraction + config.test_fraction >= 1:
        raise ConfigError("val_fraction + test_fraction leave nothing to train on; together they must stay below 1.")
    source = _source(config)
    key = PUBLIC_KEY if source.is_public else secret_key(config.pseudonym_key_file)
    total = source.check()
    lake = Lake.create(config.lake)
    fractions = SplitFractions(config.val_fraction, 0.0 if source.has_official_test else config.test_fraction)
    name = config.dataset or config.source
    pseudonymizer = Pseudonymizer(key, name)
    crops = describe_crops(CropSettings(**config.crop.model_dump()))
    claim(lake, name, Dataset(Folder.at(config.archive).uri, pseudonymizer.key_check, crops))
    lake.sweep_staging()
    listing = Listing(source, pseudonymizer, fractions)
    record = JobRecord("ingest_studies", config)
    with spark_session("ingest_studies", config.master) as spark:
        ingestion = _Ingestion(spark, lake, config, record)
        with record.time("ingest"), Progress("ingest", total, ingestion.done):
            for chunk in listing.chunks(config.chunk_images):
                ingestion.ingest(chunk)
        overview = ingestion.overview()
    record.write_beside(lake.studies.folder)
    record.summary = _summary(lake, record, overview)
    return record


def _source(config: IngestConfig) -> Source:
    archive = Folder.at(config.archive)
    if not archive.exists():
        raise SourceError(f"there is no archive at '{archive.uri}'. Check archive=…")
    if config.source == "kermany":
        return KermanySource(archive)
    return ManifestSource(archive, config.manifest)


class _Ingestion:
    """One ingest on a running Spark."""

    def __init__(self, spark: SparkSession, lake: Lake, config: IngestConfig, record: JobRecord) -> None:
        self._spark, self._lake, self._record = spark, lake, record
        self._dataset = config.dataset or config.source
        self._known = (lake.studies,) if config.retry else (lake.studies, lake.quarantine)
        self._reader = StudyReader(
            Folder.at(config.archive).uri,
            DecodeLimits(**config.limits.model_dump()),
            CropSettings(**config.crop.model_dump()),
        )
        self._finished_before = 0
        self._counter = spark.sparkContext.accumulator(0)

    def done(self) -> int:
        """Inputs that are done."""
        return self._finished_before + int(self._counter.value)

    def ingest(self, chunk: pa.Table) -> None:
        """Read one chunk of a listing and commit what came of it."""
        fresh = self._fresh(chunk).cache()
        number = fresh.count()
        books = Books(chunk.num_rows, number, 0, {})
        if number:
            staging = self._lake.new_staging()
            try:
                with self._record.time("read_and_crop"):
                    self._stage(fresh.repartition(-(-number // INPUTS_PER_TASK)), staging)
                with self._record.time("commit"):
                    staged = Table(staging, STAGED).read_files(self._spark, [staging.hadoop_uri])
                    self._check_splits(staged)
                    books = self._commit(books, staged)
            finally:
                staging.remove()
        fresh.unpersist()
        books.check()
        self._finished_before += books.inputs - books.fresh
        self._record.count("inputs", books.inputs)
        self._record.count("known", books.inputs - books.fresh)
        self._record.count("studies", books.studies)
        for reason, number in sorted(books.quarantined.items()):
            self._record.count(f"quarantine: {reason}", number)
        # After every chunk: a killed job leaves no run that nothing tells about.
        self._record.write_beside(self._lake.studies.folder)

    def _fresh(self, chunk: pa.Table) -> DataFrame:
        """The inputs that the tables do not know."""
        listed = self._spark.createDataFrame(chunk)
        for table in self._known:
            known = table.read(self._spark).where(F.col("dataset") == self._dataset).select("uri")
            listed = listed.join(known, "uri", "left_anti")
        return listed.select(*LISTING.names)

    def _stage(self, listed: DataFrame, staging: Folder) -> None:
        reader, counter = self._reader, self._counter

        def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return reader.read_all(batches, counter.add)

        # Materialised before anything filters on it: in one plan Spark may run a Python function twice (SPARK-47672).
        listed.mapInArrow(read, from_arrow_schema(STAGED)).write.parquet(staging.hadoop_uri)

    def _check_splits(self, staged: DataFrame) -> None:
        """Raises LakeError if a patient would be in two splits: nothing of this chunk is committed then."""
        here = staged.where("reason is null").select("patient_key", "split")
        there = self._lake.studies.read(self._spark).where(F.col("dataset") == self._dataset)
        stored = there.select("patient_key", F.col("split").alias("stored_split")).distinct()
        torn = here.join(stored, "patient_key").where("split <> stored_split").select("patient_key").distinct().count()
        if torn:
            raise LakeError(
                f"{torn:,} patients of these inputs are in another split of the lake already; splits belong to "
                "patients. Ingest with the val_fraction, test_fraction and split column of the first time, or into a "
                "new lake."
            )

    def _commit(self, books: Books, staged: DataFrame) -> Books:
        lake = self._lake
        twins = self._twins(staged).cache()
        has_twins = twins.count() > 0
        # The number finds the input where its uri is a pseudonym.
        position = F.format_string(" (input %d)", F.col("position") + 1)
        rejected = staged.where(F.col("reason").isNotNull()).select(
            "uri", "dataset", "reason", F.concat("detail", position).alias("detail")
        )
        accepted = staged.where(F.col("reason").isNull())
        if has_twins:
            detail = F.concat(F.lit("same bytes as "), "same_as", position)
            duplicates = staged.join(F.broadcast(twins), "position").select(
                "uri", "dataset", F.lit(str(Reason.DUPLICATE)).alias("reason"), detail.alias("detail")
            )
            rejected = rejected.unionByName(duplicates)
            accepted = accepted.join(F.broadcast(twins), "position", "left_anti")
        # Quarantine first: were the job killed in between, the studies of this chunk would be read once more, and
        # nothing would be in two places.
        quarantined, studies = {}, 0
        if not rejected.isEmpty():
            committed = self._append(lake.quarantine, rejected.coalesce(1))
            quarantined = {row["reason"]: row["count"] for row in committed.groupBy("reason").count().collect()}
        if not accepted.isEmpty():
            studies = self._append(lake.studies, accepted).count()
        twins.unpersist()
        return dataclasses.replace(books, studies=studies, quarantined=quarantined)

    def _append(self, table: Table, rows: DataFrame) -> DataFrame:
        """Commit rows as a run; returns what that run holds."""
        run = table.append(rows)
        self._record.runs.append(run.uri)
        return table.read_files(self._spark, [run.hadoop_uri])

    def _twins(self, staged: DataFrame) -> DataFrame:
        """Inputs whose bytes an earlier input or run has already: their `position`, and `same_as` which uri."""
        fresh = staged.where(F.col("reason").isNull()).select("position", "image_id", "uri")
        in_order = Window.partitionBy("image_id").orderBy("position")
        first_uri, rank = F.first("uri").over(in_order), F.row_number().over(in_order)
        here = fresh.select("position", "image_id", first_uri.alias("first_uri"), rank.alias("rank"))
        there = self._lake.studies.read(self._spark).select("image_id", F.col("uri").alias("stored_uri"))
        same_as = F.coalesce("stored_uri", F.when(F.col("rank") > 1, F.col("first_uri")))
        return (
            here.join(there, "image_id", "left")
            .select("position", same_as.alias("same_as"))
            .where("same_as is not null")
        )

    def overview(self) -> Overview:
        """What the lake holds of this data set."""
        studies = self._lake.studies.read(self._spark).where(F.col("dataset") == self._dataset)
        quarantine = self._lake.quarantine.read(self._spark).where(F.col("dataset") == self._dataset)
        told = studies.select(F.explode("findings").alias("finding", "value"))
        return Overview(
            splits=_counts(studies, "split"),
            croppers=_counts(studies, "cropper"),
            positive=_counts(told.where("value = 1"), "finding"),
            negative=_counts(told.where("value = 0"), "finding"),
            quarantined=quarantine.select("uri").distinct().join(studies, "uri", "left_anti").count(),
        )


def _counts(rows: DataFrame, column: str) -> dict[str, int]:
    return {row[column]: row["count"] for row in rows.groupBy(column).count().collect()}


def _summary(lake: Lake, record: JobRecord, overview: Overview) -> str:
    counts, seconds = record.counts, record.timings["ingest"]
    read = counts["inputs"] - counts["known"]
    rows: dict[str, object] = {
        "inputs": counts["inputs"],
        "known from before": counts["known"],
        "new studies": counts["studies"],
        **{name: number for name, number in counts.items() if name.startswith("quarantine: ")},
        "time": f"{clock(seconds)} ({read / seconds:,.1f} images/s)" if read else "nothing new to read",
        "": "",
        "studies of this data set": ", ".join(
            f"{name} {overview.splits[name]:,}" for name in Split if name in overview.splits
        ),
        "lungs not found": f"{overview.croppers.get(Cropper.WHOLE_IMAGE, 0):,} of them, kept as whole images",
        "findings +/-": ", ".join(
            f"{name} {overview.positive.get(name, 0):,}/{overview.negative.get(name, 0):,}"
            for name in sorted({*overview.positive, *overview.negative})
        )
        or "none",
        "in quarantine": f"{overview.quarantined:,}"
        + ("; retry=true reads them again" if overview.quarantined else ""),
        "lake": lake.folder.uri,
    }
    return summary_text("Ingested studies", rows)
