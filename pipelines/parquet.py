"""Parquet files of a table, read by pyarrow alone: no Spark."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import LakeError
from pipelines.folders import Folder


def parquet_files(run: Folder) -> Iterator[str]:
    """The paths of a run's Parquet files, inside its file system."""
    return (f"{run.path}/{name}" for name in run.names() if name.endswith(".parquet"))


@contextlib.contextmanager
def open_parquet(
    path: str,
    filesystem: fsspec.AbstractFileSystem,
    metadata: pq.FileMetaData | None = None,
    buffer_size: int = 0,
    *,
    remedy: str,
) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what can't be read in it is told as such.

    Args:
        path: inside its file system.
        filesystem: the one that holds it.
        metadata: the file's, if it is known.
        buffer_size: how much of a column is read at a time, bytes; 0: all that a row group has of it.
        remedy: what to do about a damaged one.

    Raises:
        LakeError: if it can't be opened, or, inside the context, read.
    """
    try:
        with pq.ParquetFile(path, filesystem=filesystem, metadata=metadata, buffer_size=buffer_size) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        raise LakeError(
            f"'{path}' can't be read: {' '.join(str(error).split())}. If it is damaged, {remedy}."
        ) from error
