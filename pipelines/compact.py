"""Features in many small runs to the same features in a few large ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import fsspec
import pyarrow as pa
from pydantic import Field
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from pipelines.config import SparkConfig
from pipelines.errors import LakeError
from pipelines.folders import RUN_PREFIX, Folder, run_age
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.lease import Lease, lease
from pipelines.live_counts import LiveCounts, Teller
from pipelines.parquet import open_parquet, parquet_files
from pipelines.progress import Progress
from pipelines.row_groups import RowGroup, deal, row_groups
from pipelines.session import named_jobs, spark_session
from pipelines.tables import FEATURES, Table
from pipelines.task_files import (
    ROWS_PER_FILE,
    STAGING,
    WRITTEN,
    TaskWriter,
    commit_files,
    unless_committed,
    write_tasks,
)

#: Whoever began to read runs before they were replaced is done with them by then.
KEPT = timedelta(days=1)
#: No job takes that long: a run that is not committed by then never will be.
ABANDONED = timedelta(days=7)
_REMEDY = "remove its run, and run jobs/extract_features.py again"


class CompactConfig(SparkConfig):
    """Settings of jobs/compact_lake.py."""

    extractor: str | None = Field(
        None, description="fingerprint (or its start) of the features to compact; null: those of all extractors"
    )
    run_vectors: int = Field(
        262_144, gt=0, description="runs of fewer vectors are merged with their neighbours into runs of about so many"
    )


@dataclass(frozen=True)
class Size:
    """Of the committed runs of a table."""

    runs: int
    files: int
    bytes: int

    @classmethod
    def of(cls, table: Table) -> Size:
        """As it is now."""
        runs = table.folder.runs()
        files = [path for run in runs for path in parquet_files(run)]
        filesystem = table.folder.filesystem
        return cls(len(runs), len(files), sum(filesystem.size(path) or 0 for path in files))

    def __str__(self) -> str:
        runs, files = (f"{n:,} {what}{'s'[: n != 1]}" for n, what in ((self.runs, "run"), (self.files, "file")))
        return f"{runs}, {files}, {self.bytes / 2**20:,.1f} MB"


def compact(config: CompactConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there are no such features, another compaction is at work, or a file is damaged.
    """
    lake = Lake.open(config.lake)
    extractors = [lake.choose_extractor(config.extractor)] if config.extractor else lake.extractors()
    record = JobRecord("compact_lake", config)
    rows: dict[str, object] = {}
    with spark_session("compact_lake", config.master) as spark, record.time("compact"):
        for extractor in extractors:
            table = lake.features(extractor)
            with lease(table.folder, "compact", "two would both replace the same runs") as held:
                swept = sweep(table.folder)
                before = Size.of(table)
                merged = sum(_merge(spark, table, group, held, record) for group in _groups(table, config.run_vectors))
            record.count("vectors", merged)
            record.count("swept runs", swept)
            rows[lake.told_of(extractor)] = (
                f"{before}; now {Size.of(table)}" if merged else f"{before}: nothing to merge"
            )
            if merged:
                record.write_beside(table.folder)
    kept = "what was replaced stays a day for whoever reads it; a compaction after that removes it"
    rows |= {"swept": f"{record.counts.get('swept runs', 0):,} old runs that no reader sees", "kept": kept}
    record.summary = summary_text("Compacted features", rows or {"features": "none"})
    return record


def sweep(table: Folder) -> int:
    """Remove runs that nobody reads any more: replaced a day ago or more, or abandoned by a job that was killed."""
    now = datetime.now(UTC)
    replaced = {name for run in table.runs() if now - run.replaced_at() > KEPT for name in run.replaced()}
    old = [run for run in table.dead_runs() if run.name in replaced or _age(run) > ABANDONED]
    for run in old:
        run.remove()
    for run in table.runs():
        # What an attempt wrote that did not hear of the commit in time.
        if _age(run) > ABANDONED and STAGING in run.names():
            (run / STAGING).remove()
    return len(old)


def _age(run: Folder) -> timedelta:
    return run_age(run.name.removeprefix(RUN_PREFIX))


def _groups(table: Table, run_vectors: int) -> Iterator[list[Folder]]:
    """Neighbouring small runs that are to become one."""
    group: list[Folder] = []
    vectors = 0
    for run in [*table.folder.runs(), None]:
        rows = sum(each.rows for each in _row_groups(run)) if run else run_vectors
        if run and rows < run_vectors:
            group.append(run)
            vectors += rows
        if vectors >= run_vectors or rows >= run_vectors:
            if len(group) > 1:
                yield group
            group, vectors = [], 0


def _merge(spark: SparkSession, table: Table, runs: Sequence[Folder], held: Lease, record: JobRecord) -> int:
    """Write the rows of some runs as one, which takes their place in the moment that it is committed."""
    groups = [group for run in runs for group in _row_groups(run)]
    expected = sum(group.rows for group in groups)
    files = -(-expected // ROWS_PER_FILE)
    hands = deal(groups, min(files, 2 * max(1, spark.sparkContext.defaultParallelism)))
    merged = table.folder.new_run()

    def check(rows: int) -> None:
        if rows != expected:
            raise LakeError(
                f"the books do not balance: {expected:,} vectors lie in the runs of '{table.folder.uri}', and {rows:,} "
                "were written. Nothing was replaced; please report it."
            )

    with (
        unless_committed(merged),
        LiveCounts(spark) as live,
        Progress("compact", expected, lambda: min(expected, live.done.images), unit="vectors"),
        named_jobs(spark, f"compact: {expected:,} vectors of {len(runs):,} runs"),
    ):
        worker = _Worker(tuple(hands), merged, live.teller())
        numbers = spark.range(0, len(hands), 1, len(hands))
        answers = numbers.mapInArrow(worker.merge, from_arrow_schema(WRITTEN)).toArrow()
        live.commit(expected)
        held.check()
        commit_files(merged, answers, check, replaced=runs)
    record.runs.append(merged.uri)
    return expected


def _row_groups(run: Folder) -> list[RowGroup]:
    # URIs with their host: executors have no other way to know it.
    return row_groups([f"{run.uri}/{name}" for name in run.names() if name.endswith(".parquet")], _REMEDY)


@dataclass(frozen=True)
class _Worker:
    """On an executor: copies row groups."""

    hands: tuple[tuple[RowGroup, ...], ...]
    run: Folder
    tell: Teller

    def merge(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return write_tasks(batches, self.run, FEATURES, self._task)

    def _task(self, number: int, writer: TaskWriter) -> None:
        for group in self.hands[number]:
            for rows in _rows_of(group):
                writer.write(rows)
            self.tell(group.rows)


def _rows_of(group: RowGroup) -> list[pa.RecordBatch]:
    filesystem, path = fsspec.core.url_to_fs(group.file)
    with open_parquet(path, filesystem, remedy=_REMEDY) as parquet:
        rows = parquet.read_row_group(group.group, FEATURES.names, use_threads=False)
    return list(rows.cast(FEATURES).to_batches())
