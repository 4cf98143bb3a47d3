"""Where an extraction's rows go: an extractor's features, and its quarantine of what has no vector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
from pyspark.accumulators import Accumulator
from pyspark.sql import DataFrame, SparkSession

from featurizers.reasons import NoVector
from featurizers.stages import Stages
from pipelines.errors import LakeError
from pipelines.executor_embedder import Concatenation, Setup
from pipelines.extract_worker import Failure, Report
from pipelines.folders import Folder
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.lease import Lease
from pipelines.tables import ORIGINAL, UNEMBEDDED, Table
from pipelines.task_files import commit_files, unless_committed

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


class Embedding(NamedTuple):
    """A chunk under way.

    Attributes:
        run: that is being made.
        answers: of its tasks, of the schema WRITTEN; embeds when it is asked.
        expected: vectors and reasons for none.
    """

    run: Folder
    answers: DataFrame
    expected: int


@dataclass
class FeaturesTarget:
    """The features of one extractor, and its quarantine: every crop that was tried is in one of the two.

    Attributes:
        lake: that holds both.
        extractor: fingerprint.
        tally: that executors tell of the crops without a vector.
        failed: those, so far.
        held: asked before each commit whether the work is still this job's.
    """

    lake: Lake
    extractor: str
    tally: Tally
    failed: list[Failure] = field(default_factory=list, init=False)
    held: Lease | None = field(default=None, init=False)
    _heard: int = field(default=0, init=False)

    @property
    def features(self) -> Table:
        """Of this extractor."""
        return self.lake.features(self.extractor)

    @property
    def quarantine(self) -> Table:
        """Of this extractor."""
        return self.lake.unembedded(self.extractor)

    @property
    def quarantined(self) -> int:
        """How many crops and copies it holds."""
        return sum(map(self.quarantine.rows_in, self.quarantine.folder.runs()))

    def tried(self, spark: SparkSession) -> DataFrame:
        """image_id and variant of whatever has a vector, or a reason for none."""
        tables = (self.features, self.quarantine)
        features, quarantine = (table.read(spark).select("image_id", "variant") for table in tables)
        return features.unionAll(quarantine)

    def done(self, spark: SparkSession) -> DataFrame:
        """See Target; copies are counted by themselves."""
        return self.tried(spark).where(f"variant = {ORIGINAL}").select("image_id").distinct()

    def commit(self, made: Embedding, record: JobRecord) -> None:
        """Embed a chunk, and keep its vectors and the reasons of what has none.

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
        record.write_beside(self.features.folder)

    def _commit(self, made: Embedding) -> list[Failure]:
        answers = made.answers.toArrow()
        heard = self.tally.failures.value
        failures = sorted(set(heard[self._heard :]))
        self._heard = len(heard)

        def check(rows: int) -> None:
            not_finite = sum(each.reason is NoVector.NOT_FINITE for each in failures)
            if not rows and not_finite >= ALL_NOT_FINITE:
                raise LakeError(
                    f"none of {len(failures):,} images has a vector, and {not_finite:,} of them for NaN or infinity: "
                    "the weights are at fault, not the images. Use precision=fp32, storage=float32, or other weights. "
                    "Nothing of this chunk was kept."
                )
            if rows + len(failures) != made.expected:
                raise LakeError(
                    f"the books do not balance: {made.expected:,} vectors were to be made, {rows:,} were, and "
                    f"{len(failures):,} can't be. If studies were ingested or removed meanwhile, run the same command "
                    "again; else this is a fault of Pleura or of the storage: please report it. Nothing of this chunk "
                    "was kept."
                )

        if self.held:
            self.held.check()
        commit_files(made.run, answers, check)
        return failures
