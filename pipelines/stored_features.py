"""The features of one extractor as they lie in files: whose they are, and how they get into matrices, without Spark."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import LakeError
from pipelines.parquet import open_parquet
from pipelines.progress import Progress
from pipelines.tables import FEATURES, ROW_GROUP_BYTES, ROWS_PER_FILE, Table

_KEYS = pa.schema([FEATURES.field("image_id"), FEATURES.field("variant")])
_LISTS = FEATURES.field("features").type
FLOAT_BYTES = np.dtype(np.float32).itemsize
#: Vectors are decoded in pieces that stay in a core's cache until they are copied.
_BATCH_BYTES = 2**20
#: Other writers make row groups of any size: above the first, they are read through a buffer of the second.
_WHOLE_BYTES, _BUFFER_BYTES = 4 * ROW_GROUP_BYTES, 8 * 2**20
_MOST_READERS = 8
_IDS_TOLD = 3
_REMEDY = "remove its run, and run jobs/extract_features.py again"


@dataclass(frozen=True)
class Part:
    """What one reader reads at a time: row groups of one file that follow each other.

    Attributes:
        run: the name of its run.
        path: its file.
        metadata: the file's.
        groups: their places in the file.
        first: the place of their first row among all rows of the extractor.
        rows: how many rows they have.
    """

    run: str
    path: str
    metadata: pq.FileMetaData
    groups: tuple[int, ...]
    first: int
    rows: int

    @property
    def dims(self) -> set[float]:
        """How many numbers a vector of each row group has on average."""
        return {
            _features_of(self.metadata, group).num_values / self.metadata.row_group(group).num_rows
            for group in self.groups
        }

    @property
    def buffer_size(self) -> int:
        """How much of a column is read from the file at a time, bytes; 0: all that a row group has of it."""
        largest = max(_features_of(self.metadata, group).total_compressed_size for group in self.groups)
        return 0 if largest <= _WHOLE_BYTES else _BUFFER_BYTES


@dataclass(frozen=True)
class StoredFeatures:
    """All features of one extractor; a row is known by its place, run by run, file by file.

    Attributes:
        table: the table of them.
        parts: where they lie, in order.
        keys: image_id and variant of all rows.
        dim: how many numbers a vector has; 0 where there is none.
    """

    table: Table
    parts: tuple[Part, ...]
    keys: pa.Table
    dim: int

    @classmethod
    def open(cls, table: Table) -> StoredFeatures:
        """Read all that is known of the features but themselves.

        Raises:
            LakeError: if a file is damaged, variants are null or negative, or vectors are unlike in length as far as
                files tell.
        """
        filesystem = table.folder.filesystem
        files = [
            (run.name, f"{run.path}/{name}")
            for run in table.folder.runs()
            for name in run.names()
            if name.endswith(".parquet")
        ]

        def look(file: tuple[str, str]) -> tuple[pq.FileMetaData, pa.Table]:
            with open_parquet(file[1], filesystem, remedy=_REMEDY) as parquet:
                return parquet.metadata, parquet.read(_KEYS.names, use_threads=False).cast(_KEYS)

        parts: list[Part] = []
        keys = [_KEYS.empty_table()]
        first = 0
        with ThreadPoolExecutor(_readers(), "look") as pool:
            for (run, path), (metadata, part) in zip(files, pool.map(look, files), strict=True):
                keys.append(part)
                for groups, rows in _groups_together(metadata):
                    parts.append(Part(run, path, metadata, groups, first, rows))
                    first += rows
        dims = set().union(*(part.dims for part in parts))
        if len(dims) > 1 or any(not dim.is_integer() for dim in dims):
            raise _unlike_lengths(f"the features in '{table.folder.uri}'")
        stored = cls(table, tuple(parts), pa.concat_tables(keys), int(next(iter(dims), 0)))
        if odd := int((stored.keys["variant"].fill_null(-1).to_numpy() < 0).sum()):
            raise LakeError(
                f"{odd:,} features in '{table.folder.uri}' tell no variant: write 0 for the crop itself, and from 1 "
                "for its augmented copies."
            )
        return stored

    @property
    def variants(self) -> npt.NDArray[np.int32]:
        """0 for a crop itself, from 1 for its augmented copies: int32 (all,)."""
        return np.asarray(self.keys["variant"].to_numpy())

    def find_in(self, image_ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Where in `image_ids`, which are all different, every feature's own is: int64 (all,).

        Raises:
            LakeError: if one is not there, or if two features are of one image and variant.
        """
        found = pc.index_in(self.keys["image_id"], value_set=image_ids)
        if found.null_count:
            raise LakeError(
                f"{found.null_count:,} features belong to no study: '{self.table.folder.uri}' has them of "
                f"{self._images_told(np.flatnonzero(found.is_null()))}. Were runs of studies removed? Remove the "
                "features of this extractor too and extract them again."
            )
        places = np.asarray(found.to_numpy().astype(np.int64))
        # A variant is 32 bits wide, and places are fewer than 2³¹.
        key = places << 32 | self.variants
        order = np.argsort(key, kind="stable")
        again = order[1:][key[order[1:]] == key[order[:-1]]]
        if again.size:
            firsts = [part.first for part in self.parts]
            newest = self.parts[int(np.searchsorted(firsts, again.max(), side="right")) - 1].run
            raise LakeError(
                f"{again.size:,} features in '{self.table.folder.uri}' have the image_id and variant of another, those "
                f"of {self._images_told(np.sort(again))}. Did two jobs extract at once? Remove {newest} there, and run "
                "jobs/extract_features.py again for what is missing then."
            )
        return places

    def read_into(self, matrices: Sequence[npt.NDArray[np.float32]], places: Sequence[npt.NDArray[np.int64]]) -> None:
        """Decode vectors straight into matrices.

        Args:
            matrices: float32 (n, dim) each, to be filled whole.
            places: of each matrix, the places of its rows, ascending: int64 (n,); no place twice.

        Raises:
            LakeError: if vectors are unlike in length, or are not finite, or a file is damaged.
        """
        goes_to, place = np.full(self.keys.num_rows, -1, np.int8), np.zeros(self.keys.num_rows, np.int64)
        for number, rows in enumerate(places):
            goes_to[rows] = number
            place[rows] = np.arange(rows.size)
        done = _Counter()
        damaged: list[npt.NDArray[np.int64]] = []
        wanted = [part for part in self.parts if (goes_to[part.first : part.first + part.rows] >= 0).any()]
        pool = ThreadPoolExecutor(_readers(), "read")
        try:
            with Progress("read", sum(part.rows for part in wanted), done.value):
                for read in as_completed(
                    [pool.submit(self._read, part, matrices, goes_to, place, done) for part in wanted]
                ):
                    damaged += read.result()
        finally:
            # After an error, what has not begun need not be read.
            pool.shutdown(cancel_futures=True)
        if damaged:
            raise self.not_finite(np.concatenate(damaged))

    def not_finite(self, places: npt.NDArray[np.int64]) -> LakeError:
        """What to say of features that are not numbers, by their places."""
        return LakeError(
            f"{places.size:,} features in '{self.table.folder.uri}' hold NaN or infinite numbers, those of "
            f"{self._images_told(np.sort(places))}. Remove the runs that hold them and extract again; if they come "
            "back, extract with precision=fp32, or look at the backbone's weights."
        )

    def _read(
        self,
        part: Part,
        matrices: Sequence[npt.NDArray[np.float32]],
        goes_to: npt.NDArray[np.int8],
        place: npt.NDArray[np.int64],
        done: _Counter,
    ) -> list[npt.NDArray[np.int64]]:
        """Decode one part; tells the rows that are not finite."""
        damaged = []
        first = part.first
        filesystem = self.table.folder.filesystem
        with open_parquet(part.path, filesystem, part.metadata, part.buffer_size, remedy=_REMEDY) as parquet:
            for batch in parquet.iter_batches(
                batch_size=max(1, _BATCH_BYTES // (self.dim * FLOAT_BYTES)),
                row_groups=part.groups,
                columns=["features"],
                use_threads=False,
            ):
                block = _as_block(batch.column("features").cast(_LISTS))
                if block.shape[1] != self.dim:
                    raise _unlike_lengths(f"the features in '{part.path}'")
                here = goes_to[first : first + len(block)]
                for number, matrix in enumerate(matrices):
                    chosen = np.flatnonzero(here == number)
                    if chosen.size:
                        start = place[first + chosen[0]]
                        rows = matrix[start : start + chosen.size]
                        # Any other mode than "raise" writes without a buffer between; no index is out of range.
                        np.take(block, chosen, axis=0, out=rows, mode="clip")
                        if not (is_finite := np.isfinite(rows)).all():
                            damaged.append(first + chosen[~is_finite.all(axis=1)])
                first += len(block)
                done.add(len(block))
        return damaged

    def _images_told(self, rows: npt.NDArray[np.int64]) -> str:
        ids = pc.unique(self.keys["image_id"].take(pa.array(rows)))
        more = f" and {len(ids) - _IDS_TOLD:,} more" if len(ids) > _IDS_TOLD else ""
        return f"image {', '.join(str(each) for each in ids[:_IDS_TOLD])}{more}"


def _groups_together(metadata: pq.FileMetaData) -> Iterator[tuple[tuple[int, ...], int]]:
    """Row groups that hold any rows, as many together as one file of an extraction has, and how many rows they have."""
    groups: tuple[int, ...] = ()
    rows = 0
    for number in range(metadata.num_row_groups):
        more = metadata.row_group(number).num_rows
        if groups and rows + more > ROWS_PER_FILE:
            yield groups, rows
            groups, rows = (), 0
        if more:
            groups, rows = (*groups, number), rows + more
    if groups:
        yield groups, rows


def _features_of(metadata: pq.FileMetaData, group: int) -> pq.ColumnChunkMetaData:
    """What a file tells of the features in one of its row groups."""
    told = metadata.row_group(group)
    (column,) = (
        told.column(index)
        for index in range(told.num_columns)
        if told.column(index).path_in_schema.startswith("features.")
    )
    return column


def as_matrix(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """A column of lists of one length as float32 (n, d); a read-only view of it where it is one piece.

    Raises:
        LakeError: if lists are unlike in length, or anything is null.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_as_block(chunk) for chunk in chunks if len(chunk)]
    if len({part.shape[1] for part in parts}) > 1:
        raise _unlike_lengths("these features")
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _as_block(lists: pa.ListArray) -> npt.NDArray[np.float32]:
    """At least one list as float32 (n, d), without a copy."""
    lengths = np.diff(lists.offsets.to_numpy())
    values = lists.flatten()
    if lists.null_count or values.null_count or (lengths != lengths[0]).any():
        raise _unlike_lengths("these features")
    return np.asarray(values.to_numpy(zero_copy_only=True).reshape(len(lists), -1))


def _unlike_lengths(which: str) -> LakeError:
    return LakeError(
        f"{which} are not all of one length without nulls, so they are not of one extractor. Remove them and run "
        "jobs/extract_features.py again."
    )


class _Counter:
    """Counts what several threads do."""

    def __init__(self) -> None:
        self._lock, self._value = threading.Lock(), 0

    def add(self, number: int) -> None:
        with self._lock:
            self._value += number

    def value(self) -> int:
        return self._value


def _readers() -> int:
    """How many threads read: one per core that this process may use; more than a few only wait for memory."""
    return min(len(os.sched_getaffinity(0)), _MOST_READERS)
