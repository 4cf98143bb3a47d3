"""Row groups of Parquet files, which are what tasks are dealt: their places travel, not their rows. Needs no Spark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import fsspec

from pipelines.parquet import open_parquet

#: As many footers at once as hide a far file system's answers.
_READERS = 8


class RowGroup(NamedTuple):
    """Where some rows lie.

    Attributes:
        file: path or URI of a Parquet file.
        group: place in the file.
        rows: how many it has.
    """

    file: str
    group: int
    rows: int


def row_groups(files: Iterable[str], remedy: str) -> list[RowGroup]:
    """The row groups of some files, in order; reads their footers only.

    Args:
        files: paths or URIs.
        remedy: what to do about a damaged one.

    Raises:
        LakeError: if a file can't be read.
    """

    def look(file: str) -> list[RowGroup]:
        filesystem, path = fsspec.core.url_to_fs(file)
        with open_parquet(path, filesystem, remedy=remedy) as parquet:
            metadata = parquet.metadata
            return [RowGroup(file, each, metadata.row_group(each).num_rows) for each in range(metadata.num_row_groups)]

    with ThreadPoolExecutor(_READERS, "look") as pool:
        return [group for groups in pool.map(look, files) for group in groups]


def deal(groups: Sequence[RowGroup], tasks: int) -> list[tuple[RowGroup, ...]]:
    """Row groups for each of at most `tasks` tasks: neighbours, and as equally many rows as whole groups allow."""
    rows = sum(group.rows for group in groups)
    hands: list[list[RowGroup]] = [[] for _ in range(tasks)]
    before = 0
    for group in groups:
        # Where its middle lies decides, so that no task gets more than half a group too many.
        middle = before + group.rows / 2
        hands[min(tasks - 1, int(middle * tasks / max(1, rows)))].append(group)
        before += group.rows
    return [tuple(hand) for hand in hands if hand]
