"""Fills a table from another: only what is missing, in committed chunks, so that a killed job goes on where it was."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it
from pyspark.sql.pandas.types import from_arrow_schema

from pipelines.job import JobRecord
from pipelines.progress import Progress
from pipelines.tables import Table

#: Turns Arrow batches of the source's columns into batches of the target's schema; the second argument is told how many
#: images are done.
Transform = Callable[[Iterable[pa.RecordBatch], Callable[[int], None]], Iterator[pa.RecordBatch]]


class Target(Protocol):
    """What is filled."""

    @property
    def schema(self) -> pa.Schema:
        """Of the rows that it takes."""

    def done(self, spark: SparkSession) -> DataFrame:
        """The `image_id` of every image that lacks nothing, each once."""

    def commit(self, rows: DataFrame, record: JobRecord) -> None:
        """Keep the rows of one chunk for good, and tell the record the runs that they are in."""


@dataclass(frozen=True)
class OneTable:
    """A table that gets the rows as they are."""

    table: Table
    #: Of its rows, in SQL: those that show that an image is done. None: all of them.
    where: str | None = None

    @property
    def schema(self) -> pa.Schema:
        """See Target."""
        return self.table.schema

    def done(self, spark: SparkSession) -> DataFrame:
        """See Target."""
        return matching(self.table.read(spark), self.where).select("image_id").distinct()

    def commit(self, rows: DataFrame, record: JobRecord) -> None:
        """See Target."""
        record.runs.append(self.table.append(rows).uri)
        record.write_beside(self.table.folder)


@dataclass(frozen=True)
class SourceFile:
    """A file of the source table: how many images it holds, and how many of them the target lacks."""

    location: str
    images: int
    missing: int


@dataclass(frozen=True)
class Increment:
    """The work of one job: images of `source` that `target` lacks."""

    source: Table
    columns: tuple[str, ...]
    target: Target
    #: Of the source's rows, in SQL; None: all of them.
    where: str | None = None

    def missing(self, spark: SparkSession) -> list[SourceFile]:
        """The files with missing images, in order; memory grows with the files, not with the images."""
        if not self.source.folder.runs():
            return []
        there = self._wanted(self.source.read(spark)).select("image_id", F.col("_metadata.file_path").alias("location"))
        done = self.target.done(spark).withColumn("done", F.lit(1))
        per_file = (
            there.join(done, "image_id", "left")
            .groupBy("location")
            .agg(F.count(F.lit(1)).alias("images"), F.count("done").alias("done"))
            .where("done < images")
            .orderBy("location")
        )
        return [
            SourceFile(as_path(row["location"]), row["images"], row["images"] - row["done"])
            for row in per_file.toLocalIterator()
        ]

    def fill(
        self,
        spark: SparkSession,
        files: list[SourceFile],
        transform: Transform,
        *,
        verb: str,
        chunk_images: int,
        record: JobRecord,
        unit: str = "images",
    ) -> None:
        """Transform the missing images of `files`, and commit every `chunk_images`; progress calls them by `unit`."""
        counter = spark.sparkContext.accumulator(0)

        def count(number: int) -> None:
            counter.add(number)

        def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return transform(batches, count)

        with Progress(verb, sum(file.missing for file in files), lambda: int(counter.value), unit=unit):
            for chunk in chunks(files, chunk_images):
                rows = self._rows(spark, chunk).mapInArrow(run, from_arrow_schema(self.target.schema))
                self.target.commit(rows, record)

    def _rows(self, spark: SparkSession, chunk: list[SourceFile]) -> DataFrame:
        files = [file.location for file in chunk]
        rows = self._wanted(self.source.read_files(spark, files)).select(*self.columns)
        if any(file.missing < file.images for file in chunk):
            done = self.target.done(spark).join(rows.select("image_id"), "image_id", "left_semi")
            # Broadcast: the chunk's few done ids travel, and no crop is shuffled.
            rows = rows.join(F.broadcast(done), "image_id", "left_anti").select(*self.columns)
        return rows

    def _wanted(self, rows: DataFrame) -> DataFrame:
        return matching(rows, self.where)


def matching(rows: DataFrame, where: str | None) -> DataFrame:
    """The rows for which `where`, in SQL, holds; all of them where it is None."""
    return rows if where is None else rows.where(where)


def as_path(location: str) -> str:
    """A file's location as Spark takes it: it tells them as URIs, and takes them as plain paths."""
    return urllib.parse.unquote(location)


def chunks(files: list[SourceFile], chunk_images: int) -> Iterator[list[SourceFile]]:
    """Consecutive files with at most `chunk_images` missing images together, or one file alone."""
    chunk: list[SourceFile] = []
    for file in files:
        if chunk and sum(each.missing for each in chunk) + file.missing > chunk_images:
            yield chunk
            chunk = []
        chunk.append(file)
    if chunk:
        yield chunk
