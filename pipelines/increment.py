"""Fills a table from another: only what is missing, in committed chunks, so that a killed job goes on where it was."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from pipelines.job import JobRecord
from pipelines.live_counts import LiveCounts, Teller
from pipelines.progress import Progress
from pipelines.session import named_jobs
from pipelines.tables import Table

#: Where commits keep pace with the work, one is due after so many seconds.
COMMIT_SECONDS = 300
#: What a chunk's tasks are to do travels with each of them; so many images are some hundred KB.
MOST_IMAGES = 2**20

#: What executors make of a chunk, before it is committed.
MadeT = TypeVar("MadeT")


class Target(Protocol):
    """What is filled."""

    def done(self, spark: SparkSession) -> DataFrame:
        """The `image_id` of every image that lacks nothing, each once."""


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

    def rows(self, spark: SparkSession, chunk: Sequence[SourceFile]) -> DataFrame:
        """The missing rows of some files."""
        files = [file.location for file in chunk]
        rows = self._wanted(self.source.read_files(spark, files)).select(*self.columns)
        if any(file.missing < file.images for file in chunk):
            # Broadcast: the chunk's few done ids travel, and nothing heavy is shuffled.
            rows = rows.join(F.broadcast(self._done_in(spark, chunk)), "image_id", "left_anti").select(*self.columns)
        return rows

    def done_in(self, spark: SparkSession, chunk: Sequence[SourceFile]) -> frozenset[str]:
        """The images of some files that lack nothing."""
        partly = [file for file in chunk if file.missing < file.images]
        return frozenset(self._done_in(spark, partly).toArrow()["image_id"].to_pylist()) if partly else frozenset()

    def _done_in(self, spark: SparkSession, chunk: Sequence[SourceFile]) -> DataFrame:
        there = self._wanted(self.source.read_files(spark, [file.location for file in chunk])).select("image_id")
        return self.target.done(spark).join(there, "image_id", "left_semi")

    def _wanted(self, rows: DataFrame) -> DataFrame:
        return matching(rows, self.where)


def matching(rows: DataFrame, where: str | None) -> DataFrame:
    """The rows for which `where`, in SQL, holds; all of them where it is None."""
    return rows if where is None else rows.where(where)


def as_path(location: str) -> str:
    """A file's location as Spark takes it: it tells them as URIs, and takes them as plain paths."""
    return urllib.parse.unquote(location)


@dataclass
class Pace:
    """How many images a commit holds: what a restart repeats at most.

    Args:
        images: as many; or None, as many as `COMMIT_SECONDS` take at the speed of the chunk before, at least `least`.
        least: see above; the first chunk's.
    """

    images: int | None
    least: int
    _per_second: float = field(default=0.0, init=False)

    @property
    def next_chunk(self) -> int:
        """Images of the next chunk."""
        return self.images or min(MOST_IMAGES, max(self.least, int(self._per_second * COMMIT_SECONDS)))

    def seconds_of(self, images: int) -> float:
        """How long so many images will take, by the chunk before; 0 before the first."""
        return images / self._per_second if self._per_second else 0.0

    def took(self, images: int, seconds: float) -> None:
        """A chunk is done."""
        self._per_second = images / seconds


def fill(
    commit: Callable[[MadeT, JobRecord], None],
    files: list[SourceFile],
    make: Callable[[Sequence[SourceFile], Teller], MadeT],
    *,
    spark: SparkSession,
    verb: str,
    pace: Pace,
    record: JobRecord,
    unit: str = "images",
) -> None:
    """Make what is missing in `files`, chunk by chunk, and commit each by itself.

    Args:
        commit: keeps what was made of a chunk for good, and tells the record the runs that it is in.
        files: with what is missing.
        make: what a chunk gives, by executors that tell what they have done; may be lazy, as Spark's tables are.
        spark: running.
        verb: what is done, for progress and for Spark's UI.
        pace: of the commits.
        record: told the runs.
        unit: what progress calls the missing.
    """
    total = sum(file.missing for file in files)
    began = time.monotonic()
    with LiveCounts(spark) as live:

        def read() -> str:
            megabytes = live.done.bytes_read // 2**20
            return f"{megabytes:,} MB read" if megabytes else ""

        with Progress(verb, total, lambda: min(total, live.done.images), unit=unit, note=read):
            for chunk in chunks(files, lambda: pace.next_chunk):
                images = sum(file.missing for file in chunk)
                first = live.committed + 1
                start = time.monotonic()
                with named_jobs(spark, f"{verb}: {unit} {first:,} to {first + images - 1:,} of {total:,}"):
                    commit(make(chunk, live.teller()), record)
                pace.took(images, time.monotonic() - start)
                live.commit(images)
        if live.first_heard:
            record.timings.setdefault("until first images", live.first_heard - began)


def chunks(files: Iterable[SourceFile], chunk_images: Callable[[], int]) -> Iterator[list[SourceFile]]:
    """Consecutive files with at most `chunk_images()` missing images together, or one file alone; asked per chunk."""
    chunk: list[SourceFile] = []
    missing, most = 0, chunk_images()
    for file in files:
        if chunk and missing + file.missing > most:
            yield chunk
            chunk, missing, most = [], 0, chunk_images()
        chunk.append(file)
        missing += file.missing
    if chunk:
        yield chunk
