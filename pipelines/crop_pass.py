"""A pass of the backbone over stored crops, whatever is made of them: tasks dealt out, their tally, balanced books."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import pyarrow as pa
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from featurizers.reasons import NoVector
from featurizers.stages import Stages
from pipelines.crop_feed import STUDIES_REMEDY
from pipelines.errors import LakeError
from pipelines.executor_embedder import Concatenation, Setup, Workers
from pipelines.extract_worker import Failure, Report
from pipelines.folders import Folder
from pipelines.increment import Pace, SourceFile, matching
from pipelines.job import JobRecord
from pipelines.lease import Lease
from pipelines.row_groups import RowGroup, deal, row_groups
from pipelines.tables import UNEMBEDDED, Table
from pipelines.task_files import WRITTEN, commit_files, unless_committed

#: A task costs Spark some tenths of a second, and the backbone waits while its first batch is read. Tasks of about this
#: many seconds make that little, and are short enough that no executor waits long for the last one of a chunk.
SECONDS_PER_TASK = 60
MOST_TASKS_PER_WORKER = 4
#: Where so many images, all that were tried, have no finite vector, the weights are at fault and not the images.
ALL_NOT_FINITE = 64


@dataclass
class Tally:
    """What executors tell of a whole job.

    Attributes:
        failures, setups, stages: Spark's accumulators, of lists.
    """

    failures: Accumulator[list[Failure]]
    setups: Accumulator[list[Setup]]
    stages: Accumulator[list[Stages]]

    @classmethod
    def of(cls, spark: SparkSession) -> Tally:
        """An empty one."""
        failures, setups, stages = (spark.sparkContext.accumulator([], Concatenation()) for _ in range(3))
        return cls(failures, setups, stages)

    def report(self) -> Report:
        """What executors add to."""
        return Report(self.failures.add, self.setups.add, self.stages.add)

    @property
    def spent(self) -> Stages:
        """Where the time of all tasks went."""
        return sum(self.stages.value, Stages())


class Pass(NamedTuple):
    """A chunk under way.

    Attributes:
        run: that is being made.
        answers: of its tasks, of the schema WRITTEN; they work when it is asked.
        expected: crops, or copies of them, each with what is made of it or a reason for nothing.
    """

    run: Folder
    answers: DataFrame
    expected: int


#: The row groups of each task of a chunk.
Hands: TypeAlias = Sequence[Sequence[RowGroup]]
#: Numbers of tasks, as Spark deals them out, to batches of the schema WRITTEN.
Work: TypeAlias = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def begin_pass(
    spark: SparkSession,
    chunk: Sequence[SourceFile],
    *,
    device: str,
    pace: Pace,
    table: Table,
    make: Callable[[Hands, Folder], Work],
) -> Pass:
    """Deal the crops of a chunk out to tasks, as many as suit the executors there are now.

    Args:
        spark: running.
        chunk: files of studies.
        device: of the backbone.
        pace: of the commits before.
        table: that is filled.
        make: what executors do, given what each task is dealt and the run that is being made.
    """
    # Anew for each chunk: a cluster may have grown meanwhile.
    workers = Workers.of(spark, device)
    expected = sum(file.missing for file in chunk)
    per_worker = min(MOST_TASKS_PER_WORKER, 1 + int(pace.seconds_of(expected) // SECONDS_PER_TASK))
    hands = deal(
        row_groups([file.location for file in chunk], STUDIES_REMEDY),
        workers.number * (per_worker if workers.number > 1 else 1),
    )
    run = table.folder.new_run()
    numbers = spark.range(0, len(hands), 1, len(hands))
    return Pass(
        run, numbers.mapInArrow(make(hands, run), from_arrow_schema(WRITTEN), profile=workers.profile), expected
    )


@dataclass
class CropTarget:
    """A table that is filled from crops, and its quarantine: every crop that was tried is in one of the two.

    Attributes:
        table: that is filled.
        quarantine: of the schema UNEMBEDDED.
        tally: that executors tell of the crops without a vector.
        rows_per_crop: that the table has of each.
        one_per_crop: in SQL, what picks one of them; None: there is one, or readers do not mind.
        remedy: where no image of a chunk has a finite vector.
        failed: those without a vector, so far.
        held: asked before each commit whether the work is still this job's.
    """

    table: Table
    quarantine: Table
    tally: Tally
    rows_per_crop: int = 1
    one_per_crop: str | None = None
    remedy: str = "Use precision=fp32, storage=float32, or other weights."
    failed: list[Failure] = field(default_factory=list, init=False)
    held: Lease | None = field(default=None, init=False)
    _heard: int = field(default=0, init=False)

    @property
    def quarantined(self) -> int:
        """How many crops and copies the quarantine holds."""
        return sum(map(self.quarantine.rows_in, self.quarantine.folder.runs()))

    def done(self, spark: SparkSession) -> DataFrame:
        """See Target."""
        done = matching(self.table.read(spark), self.one_per_crop).select("image_id")
        return done.unionAll(self.quarantine.read(spark).select("image_id")).distinct()

    def commit(self, made: Pass, record: JobRecord) -> None:
        """Have a chunk worked on, and keep what comes of it and the reasons of what has no vector.

        Raises:
            LakeError: if the images had no finite vectors, or there are more or fewer rows than there should be.
        """
        with unless_committed(made.run):
            failures = self._commit(made)
        # A job that ends between the two tries the failed ones again.
        if failures:
            self.quarantine.append_arrow(
                pa.Table.from_pylist(
                    [each._asdict() | {"detail": each.reason.meaning} for each in failures], UNEMBEDDED
                )
            )
        self.failed += failures
        record.runs.append(made.run.uri)
        record.write_beside(self.table.folder)

    def _commit(self, made: Pass) -> list[Failure]:
        answers = made.answers.toArrow()
        heard = self.tally.failures.value
        failures = sorted(set(heard[self._heard :]))
        self._heard = len(heard)

        def check(rows: int) -> None:
            not_finite = sum(each.reason is NoVector.NOT_FINITE for each in failures)
            if not rows and not_finite >= ALL_NOT_FINITE:
                raise LakeError(
                    f"none of {len(failures):,} images has a vector, and {not_finite:,} of them for NaN or infinity: "
                    f"the weights are at fault, not the images. {self.remedy} Nothing of this chunk was kept."
                )
            wanted = (made.expected - len(failures)) * self.rows_per_crop
            if rows != wanted:
                raise LakeError(
                    f"the books do not balance: of {made.expected:,} crops {len(failures):,} have no vector, which "
                    f"leaves {wanted:,} rows, and there are {rows:,}. If studies were ingested or removed meanwhile, "
                    "run the same command again; else this is a fault of Pleura or of the storage: please report it. "
                    "Nothing of this chunk was kept."
                )

        if self.held:
            self.held.check()
        commit_files(made.run, answers, check)
        return failures
