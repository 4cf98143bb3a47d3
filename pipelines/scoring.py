"""What scoring does with vectors: heads answer on the executors, and each head's answers go to its own table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from classifiers.trained import TrainedHead
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.stored_features import as_matrix
from pipelines.tables import PREDICTIONS, Table

#: Answers of several heads in one staging table: `head` is the fingerprint of the one that answered.
ANSWERS = pa.schema([pa.field("head", pa.string()), *PREDICTIONS])

#: Rows of 2,048 numbers that a Python task gets at once: 8 MB. Far fewer, and what is done once a batch takes the
#: time; far more, and a batch leaves the processor's cache between two steps.
ROWS_AT_ONCE = 1024

#: So many keys of maps are held, so that they are not made for every batch.
_KEYS_AT_ONCE = 2**18


@dataclass(frozen=True, eq=False)
class ScoredHead:
    """A head that is to answer.

    Attributes:
        name: `task/name`.
        trained: the head.
        fingerprint: the head's, which it takes all its weights to compute.
    """

    name: str
    trained: TrainedHead
    fingerprint: str


@dataclass(frozen=True)
class ShippedHeads:
    """Heads on their way to the executors.

    Attributes:
        fingerprints: in the order in which they answer.
        files: the files of each.
    """

    fingerprints: tuple[str, ...]
    files: Broadcast[list[dict[str, bytes]]] = field(compare=False)

    @classmethod
    def of(cls, spark: SparkSession, heads: Sequence[ScoredHead]) -> ShippedHeads:
        """Send heads to the executors once."""
        files = [head.trained.to_files() for head in heads]
        return cls(tuple(head.fingerprint for head in heads), spark.sparkContext.broadcast(files))

    def open(self) -> tuple[tuple[str, TrainedHead], ...]:
        """The heads with their fingerprints, made once per Python worker and kept for its next tasks."""
        return _open(self)


@functools.lru_cache(maxsize=4)
def _open(shipped: ShippedHeads) -> tuple[tuple[str, TrainedHead], ...]:
    heads = (TrainedHead.from_files(files) for files in shipped.files.value)
    return tuple(zip(shipped.fingerprints, heads, strict=True))


def score_batches(
    shipped: ShippedHeads, batches: Iterable[pa.RecordBatch], count: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """On an executor: batches of (image_id, features) to batches of the schema ANSWERS, one for each head.

    Args:
        shipped: the heads.
        batches: from Spark.
        count: told how many images are done.
    """
    heads = shipped.open()
    for batch in batches:
        if batch.num_rows:
            features = as_matrix(batch.column("features"))
            for fingerprint, trained in heads:
                yield answers(fingerprint, trained, batch.column("image_id"), features)
            count(batch.num_rows)


def answers(
    fingerprint: str, trained: TrainedHead, image_ids: pa.Array, features: npt.NDArray[np.float32]
) -> pa.RecordBatch:
    """What one head says of some images.

    Args:
        fingerprint: the head's.
        trained: the head.
        image_ids: n strings.
        features: float32 (n, d), n at least 1.

    Returns:
        n rows of the schema ANSWERS.
    """
    scores = trained.score(features)
    rows, classes = scores.probabilities.shape
    offsets = pa.array(np.arange(0, (rows + 1) * classes, classes, dtype=np.int32))
    names = _keys(trained.task.classes, rows)
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(fingerprint, rows),
            image_ids,
            pa.repeat(trained.task.name, rows),
            pa.MapArray.from_arrays(offsets, names, pa.array(scores.probabilities.astype(np.float32).reshape(-1))),
            pa.MapArray.from_arrays(offsets, names, pa.array(scores.decisions.reshape(-1))),
        ],
        schema=ANSWERS,
    )


def _keys(classes: tuple[str, ...], rows: int) -> pa.Array:
    """The names of the classes, over and over, for `rows` rows."""
    # Batches of a stream have one size but for the last, so that a power of two holds most of them.
    held = 1 << (rows - 1).bit_length()
    if held * len(classes) > _KEYS_AT_ONCE:
        return _repeated(classes, rows)
    return _held_keys(classes, held).slice(0, rows * len(classes))


@functools.lru_cache(maxsize=8)
def _held_keys(classes: tuple[str, ...], rows: int) -> pa.Array:
    return _repeated(classes, rows)


def _repeated(classes: tuple[str, ...], rows: int) -> pa.Array:
    return pa.array(classes, pa.string()).take(pa.array(np.tile(np.arange(len(classes)), rows)))


@dataclass(frozen=True)
class HeadTables:
    """The predictions of several heads of one extractor; the target of one pass for all of them.

    An image is done when every head has answered for it. What some heads have answered already is computed once more
    with the others, and not kept twice.
    """

    lake: Lake
    heads: tuple[ScoredHead, ...]

    @property
    def tables(self) -> tuple[Table, ...]:
        """Of the heads, in their order."""
        return tuple(self.lake.predictions(head.fingerprint) for head in self.heads)

    def done(self, spark: SparkSession) -> DataFrame:
        """The `image_id` of every image that all heads have answered for, each once."""
        per_table = [table.read(spark).select("image_id").distinct() for table in self.tables]
        return functools.reduce(lambda ours, theirs: ours.join(theirs, "image_id", "left_semi"), per_table)

    def commit(self, rows: DataFrame, record: JobRecord) -> None:
        """Keep rows of the schema ANSWERS."""
        staging = self.lake.new_staging()
        try:
            # Materialised before anything filters on it: in one plan Spark may run a Python function twice
            # (SPARK-47672).
            rows.write.parquet(staging.hadoop_uri)
            self.append(Table(staging, ANSWERS).read_files(rows.sparkSession, [staging.hadoop_uri]), record)
        finally:
            staging.remove()

    def append(self, staged: DataFrame, record: JobRecord) -> None:
        """Give each head's table those of its rows that it lacks: a run a table.

        A job that is killed between two tables leaves the later ones without the chunk; the next one computes it again
        and fills those alone.

        Args:
            staged: materialised rows of the schema ANSWERS, none twice.
            record: told the runs, and the rows of each under `predictions HEAD`.
        """
        for head, table in zip(self.heads, self.tables, strict=True):
            new = staged.where(F.col("head") == head.fingerprint).select(*PREDICTIONS.names)
            if table.folder.runs():
                new = new.join(table.read(staged.sparkSession).select("image_id"), "image_id", "left_anti")
                if new.isEmpty():
                    continue
            run = table.append(new)
            record.runs.append(run.uri)
            record.count(f"predictions {head.fingerprint}", table.rows_in(run))
        self.tell(record)

    def tell(self, record: JobRecord) -> None:
        """Write what the job did so far beside every table."""
        for table in self.tables:
            record.write_beside(table.folder)
