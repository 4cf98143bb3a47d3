"""How crops get from files to the backbone: whoever embeds them reads their row groups.

That costs a fraction of having Spark read them and hand them over (docs/architecture.md). Needs no Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.parquet import open_parquet
from pipelines.row_groups import RowGroup

STUDIES_REMEDY = "remove its run, and ingest its archive again (jobs/audit_lake.py tells which)"
#: Rows that are taken out of a row group at a time.
_ROWS_AT_ONCE = 64
_IMAGE_ID, _CROP = "image_id", "crop"


class CropReader:
    """Reads the crops of row groups, in order: (image_id, PNG) pairs, or batches with other columns beside them.

    Attributes:
        bytes_read: of PNGs, so far.
    """

    def __init__(self, groups: Iterable[RowGroup]) -> None:
        self._groups = groups
        self.bytes_read = 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for batch in self.batches():
            yield from zip(batch[_IMAGE_ID].to_pylist(), batch[_CROP].to_pylist(), strict=True)

    def batches(self, *others: str) -> Iterator[pa.RecordBatch]:
        """Rows with `image_id`, `crop` and other columns of studies, a few at a time."""
        for group in self._groups:
            filesystem, path = fsspec.core.url_to_fs(group.file)
            with open_parquet(path, filesystem, remedy=STUDIES_REMEDY) as parquet:
                for batch in parquet.iter_batches(
                    _ROWS_AT_ONCE, [group.group], columns=[_IMAGE_ID, _CROP, *others], use_threads=False
                ):
                    # Lengths of what is there, not bytes of buffers, which may hold more.
                    self.bytes_read += pc.sum(pc.binary_length(batch[_CROP])).as_py() or 0
                    yield batch
