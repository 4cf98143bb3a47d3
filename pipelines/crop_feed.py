"""How crops get from files to the backbone: row groups, dealt out to tasks and read by whoever embeds them.

Descriptors of row groups travel, not crops: a worker reads them itself, which costs a fraction of having Spark read
them and hand them over (docs/architecture.md). Needs no Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import fsspec

from pipelines.parquet import open_parquet

STUDIES_REMEDY = "remove its run, and ingest its archive again (jobs/audit_lake.py tells which)"
#: Rows that are taken out of a row group at a time.
_ROWS_AT_ONCE = 64
#: As many footers at once as hide a far file system's answers.
_READERS = 8
_IMAGE_ID, _CROP = "image_id", "crop"


class RowGroup(NamedTuple):
    """Where some rows lie.

    Attributes:
        file: path or URI of a Parquet file.
        group: place in the file.
        images: how many rows it has.
    """

    file: str
    group: int
    images: int


def row_groups(files: Iterable[str], remedy: str = STUDIES_REMEDY) -> list[RowGroup]:
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
    """Row groups for each of at most `tasks` tasks: neighbours, and as equally many images as whole groups allow."""
    images = sum(group.images for group in groups)
    hands: list[list[RowGroup]] = [[] for _ in range(tasks)]
    before = 0
    for group in groups:
        # Where its middle lies decides, so that no task gets more than half a group too many.
        middle = before + group.images / 2
        hands[min(tasks - 1, int(middle * tasks / max(1, images)))].append(group)
        before += group.images
    return [tuple(hand) for hand in hands if hand]


class CropReader:
    """Reads the crops of row groups, in order: (image_id, PNG) pairs.

    Attributes:
        bytes_read: of PNGs, so far.
    """

    def __init__(self, groups: Iterable[RowGroup]) -> None:
        self._groups = groups
        self.bytes_read = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for group in self._groups:
            filesystem, path = fsspec.core.url_to_fs(group.file)
            with open_parquet(path, filesystem, remedy=STUDIES_REMEDY) as parquet:
                for batch in parquet.iter_batches(
                    _ROWS_AT_ONCE, [group.group], columns=[_IMAGE_ID, _CROP], use_threads=False
                ):
                    crops = batch.column(_CROP).to_pylist()
                    self.bytes_read += sum(len(crop or b"") for crop in crops)
                    yield from zip(batch.column(_IMAGE_ID).to_pylist(), crops, strict=True)
