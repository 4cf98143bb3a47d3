"""Files that tasks write by themselves, and a run made of those of the tasks that count: exactly once, come what may.

An attempt of a task writes into a place of its own, where no reader looks, and answers with the names of its files.
Spark takes one answer of each task, however often it was tried or raced with a copy of itself, and the driver moves the
files of these answers into the run before it commits it. What a lost attempt wrote, or still writes, stays aside.

Spark's own writer would do the same for rows that are handed back to it. That hand-over and the writing row by row cost
five times what Arrow takes to write columns that it has at hand already (docs/architecture.md).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.folders import SUCCESS, Folder, writing

#: What a task answers.
WRITTEN = pa.schema([("file", pa.string()), ("rows", pa.int64())])
#: Of a run that is being made: what its tasks write. Readers pass over names that begin so.
STAGING = "_tasks"
ROWS_PER_FILE = 16_384
#: In memory, before it is written: 2,048 vectors of 2,048 numbers.
ROW_GROUP_BYTES = 16 * 2**20
_MOVERS = 8
#: zstd at its fastest takes a tenth less room than snappy and no more time; dictionaries halve vectors of few distinct
#: numbers, as bf16 and float16 give, and are given up where there are many (docs/architecture.md).
_COMPRESSION, _LEVEL = "zstd", 1


class Written(NamedTuple):
    """A file in a run's staging place."""

    file: str
    rows: int


class TaskWriter:
    """In a task: a context that writes batches to Parquet files, in a thread of its own.

    Args:
        run: that is being made.
        schema: of the batches.
    """

    def __init__(self, run: Folder, schema: pa.Schema) -> None:
        self._staging, self._schema = run / STAGING, schema
        # Random, so that no two attempts meet, whatever Spark calls them.
        self._name = secrets.token_hex(8)
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._rows_in_file = 0
        self._writer: pq.ParquetWriter | None = None
        self._stack = contextlib.ExitStack()
        self._thread = ThreadPoolExecutor(1, "write")
        self._writing: Future[None] | None = None
        self.written: list[Written] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
                self._wait()
                self._thread.submit(self._close).result()
        finally:
            self._thread.shutdown()
            # After an error the file has no end and nobody asks for it; all that matters is that it is closed.
            with contextlib.suppress(Exception):
                self._stack.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch, soon.

        Raises:
            LakeError: if what came before could not be written.
        """
        if batch.num_rows:
            self._held.append(batch)
            self._held_bytes += batch.nbytes
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            # One row group at a time: more in memory would only hide that the storage is too slow.
            self._wait()
            self._writing = self._thread.submit(self._write, pa.Table.from_batches(self._held))
            self._held, self._held_bytes = [], 0

    def _wait(self) -> None:
        if self._writing:
            self._writing.result()

    def _write(self, rows: pa.Table) -> None:
        with writing(self._staging):
            if self._writer is None:
                self._open()
            assert self._writer is not None
            self._writer.write_table(rows, row_group_size=rows.num_rows)
        self._rows_in_file += rows.num_rows
        if self._rows_in_file >= ROWS_PER_FILE:
            self._close()

    def _open(self) -> None:
        filesystem = self._staging.filesystem
        filesystem.makedirs(self._staging.path, exist_ok=True)
        self._file = f"{self._name}-{len(self.written):05}.parquet"
        sink = self._stack.enter_context(filesystem.open(f"{self._staging.path}/{self._file}", "wb"))
        self._writer = pq.ParquetWriter(
            sink,
            self._schema,
            compression=_COMPRESSION,
            compression_level=_LEVEL,
            # What Hadoop's own checksum files would be for: whoever doubts a disk can have readers verify them.
            write_page_checksum=True,
        )

    def _close(self) -> None:
        if self._writer:
            with writing(self._staging):
                self._writer.close()
                self._stack.close()
            self.written.append(Written(self._file, self._rows_in_file))
            self._writer, self._rows_in_file = None, 0


def write_tasks(
    numbers: Iterable[pa.RecordBatch], run: Folder, schema: pa.Schema, work: Callable[[int, TaskWriter], None]
) -> Iterator[pa.RecordBatch]:
    """On an executor: do tasks by their numbers, as Spark deals them out, and answer for each.

    Args:
        numbers: one column, a number a row.
        run: that is being made.
        schema: of what is written.
        work: does the task of a number, and writes what comes of it.
    """
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            with TaskWriter(run, schema) as writer:
                work(number, writer)
            yield answer(writer.written)


def answer(written: Iterable[Written]) -> pa.RecordBatch:
    """What a task tells of its files: a batch of the schema WRITTEN."""
    return pa.RecordBatch.from_pylist([each._asdict() for each in written], WRITTEN)


def commit_files(run: Folder, answers: pa.Table, check: Callable[[int], None], replaced: Sequence[Folder] = ()) -> int:
    """On the driver: make a run of the files that tasks answered with, and commit it.

    Args:
        run: to be made.
        answers: of the schema WRITTEN, of all tasks.
        check: of how many rows there are; may raise, and nothing is committed.
        replaced: runs that it stands for.

    Returns:
        How many rows it has.
    """
    filesystem, staging = run.filesystem, run / STAGING
    files = answers["file"].to_pylist()
    rows: int = sum(answers["rows"].to_pylist())
    check(rows)
    filesystem.makedirs(run.path, exist_ok=True)
    with writing(run), ThreadPoolExecutor(_MOVERS, "move") as pool:
        moves = [
            pool.submit(filesystem.mv, f"{staging.path}/{file}", f"{run.path}/part-{number:05}.parquet")
            for number, file in enumerate(files)
        ]
        for move in moves:
            move.result()
        if replaced:
            run.replace(replaced)
        run.commit()
    # What attempts that did not count have written; one that still writes may be in the way.
    with contextlib.suppress(OSError):
        staging.remove()
    return rows


@contextlib.contextmanager
def unless_committed(run: Folder) -> Iterator[None]:
    """Where the body fails, what tasks wrote for a run is removed: it would take up room until somebody looks."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if SUCCESS not in run.names():
                run.remove()
        raise
