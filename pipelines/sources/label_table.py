"""A table of labels that a user wrote, CSV or Parquet: found in an archive, and streamed as trimmed text."""

from __future__ import annotations

import functools
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import NEGATIVE, POSITIVE, UNCERTAIN

SUFFIXES = (".csv", ".csv.gz", ".parquet")
ROWS_PER_BATCH = 8192
#: What a finding's cell may hold; blank is not mentioned.
FINDING_VALUES = {"1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN, "1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN}
FINDING_RULE = "is taken for a finding, so must be 1, 0, -1 or blank; leave the column out if it is none"
MAX_MISTAKES = 20

#: Which cells of a column are right, and what is wrong with the others.
Rule = tuple[pd.Series, str]


@dataclass(frozen=True)
class LabelTable:
    """One file.

    Attributes:
        file: where it lies.
        name: what messages call it.
    """

    file: Folder
    name: str

    @classmethod
    def find(cls, archive: Folder, name: str | None, key: str) -> LabelTable | None:
        """The table that `name` names, relative to the archive or absolute; else the only one in its top folder.

        Args:
            archive: the archive's root.
            name: what the user gave, if anything.
            key: the config key for it, for messages.

        Returns:
            None if no name was given and the top folder holds no table.

        Raises:
            SourceError: if it is not there, or if several are.
        """
        if name is None:
            candidates = [each for each in archive.names() if each.endswith(SUFFIXES) and not each.startswith(".")]
            if len(candidates) > 1:
                raise SourceError(
                    f"'{archive.uri}' should hold one table of labels ({', '.join(SUFFIXES)}), but it holds "
                    f"{', '.join(candidates)}. Name it: {key}=FILE."
                )
            if not candidates:
                return None
            name = candidates[0]
        is_absolute = "://" in name or posixpath.isabs(name)
        file = Folder(name) if is_absolute else archive / name
        if not file.exists():
            raise SourceError(f"there is no table '{file.uri}'. Check {key}=… (relative to archive=…).")
        return cls(file, name)

    @functools.cached_property
    def columns(self) -> list[str]:
        """The columns' names as they stand there."""
        with self._readable():
            if self.name.endswith(".parquet"):
                return list(pq.read_schema(self.file.path, filesystem=self.file.filesystem).names)
            with self._open_csv() as file:
                header = file.readline().decode("utf-8-sig")
            return list(pacsv.read_csv(pa.BufferReader(header.encode())).schema.names)

    def frames(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """(index of the first row, rows as trimmed text; blank where nothing stands)."""
        start = 0
        for batch in self._batches():
            frame = pd.DataFrame(
                {
                    name: ["" if value is None else str(value).strip() for value in column.to_pylist()]
                    for name, column in zip(batch.schema.names, batch.columns, strict=True)
                },
                dtype=object,
            )
            yield start, frame
            start += len(frame)

    def refuse(self, mistakes: Sequence[str]) -> SourceError:
        """The error for cells that can't be read."""
        listing = "\n".join(f"  {mistake}" for mistake in mistakes[:MAX_MISTAKES])
        return SourceError(
            f"the table '{self.name}' has cells that can't be read (the header is row 1):\n{listing}\n"
            "Mend them (later rows may hold more), or leave a cell blank where nothing is known."
        )

    def check_unique(self, column: str, hashes: npt.NDArray[np.uint64]) -> None:
        """Refuse a value that stands in several rows.

        Args:
            column: its name.
            hashes: of the column's cells, in order: 8 bytes a row, however long the cells are.

        Raises:
            SourceError: telling the rows.
        """
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        if (counts > 1).any():
            rows = np.flatnonzero(hashes == hashes[first[counts > 1][0]]) + 2
            raise SourceError(
                f"{(counts > 1).sum():,} value(s) of '{column}' stand in several rows of the table '{self.name}'; "
                f"each has one row. The first one's rows: {', '.join(map(str, rows[:MAX_MISTAKES]))} (the header is "
                "row 1). Remove the rows that are too many."
            )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with self._readable():
            if self.name.endswith(".parquet"):
                with pq.ParquetFile(self.file.path, filesystem=self.file.filesystem) as table:
                    yield from table.iter_batches(batch_size=ROWS_PER_BATCH)
            else:
                # Text keeps leading zeros of identifiers; numbers are parsed where numbers are meant.
                as_text = pacsv.ConvertOptions(
                    column_types={name: pa.string() for name in self.columns}, strings_can_be_null=True
                )
                with self._open_csv() as file:
                    yield from pacsv.open_csv(file, convert_options=as_text)

    def _open_csv(self) -> IO[bytes]:
        compression = "gzip" if self.name.endswith(".gz") else None
        file: IO[bytes] = self.file.filesystem.open(self.file.path, compression=compression)
        return file

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError, EOFError, zlib.error, OSError) as error:
            raise SourceError(
                f"'{self.name}' can't be read as a table ({type(error).__name__}). "
                "It must be UTF-8 CSV with a header row, or Parquet."
            ) from error


def finding_rule(cells: pd.Series) -> Rule:
    """The rule of a finding's column."""
    return cells.isin(["", *FINDING_VALUES]), FINDING_RULE


def mistakes(rules: dict[str, Rule], start: int) -> Iterator[str]:
    """One line per column with wrong cells, by row and column; never the cell itself, which may hold anything."""
    for name, (is_right, rule) in rules.items():
        wrong = np.flatnonzero(~is_right.to_numpy(dtype=bool)) + start + 2
        if wrong.size:
            more = f" and {wrong.size - 1:,} more" if wrong.size > 1 else ""
            yield f"row {wrong[0]}{more}, column '{name}': {rule}"
