"""Small copies of some images' crops, for a page that shows them."""

from __future__ import annotations

from collections.abc import Collection
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from pipelines.tables import Table

#: Rows and columns of a thumbnail at most, pixels: a dozen of them weigh less than the page around them.
THUMBNAIL = 128


def thumbnails(studies: Table, image_ids: Collection[str]) -> dict[str, bytes]:
    """The crops of some images, as small PNGs: image id → bytes.

    Only the row groups that hold one of the images are read; a crop that is no picture is left out.
    """
    wanted = pa.array(sorted(set(image_ids)), pa.string())
    found: dict[str, bytes] = {}
    for path in studies.files():
        parquet = pq.ParquetFile(path, filesystem=studies.folder.filesystem)
        for group in range(parquet.num_row_groups):
            ids = parquet.read_row_group(group, columns=["image_id"])["image_id"]
            rows = pc.indices_nonzero(pc.is_in(ids, value_set=wanted))
            if len(rows):
                crops = parquet.read_row_group(group, columns=["crop"])["crop"].take(rows)
                found |= dict(zip(ids.take(rows).to_pylist(), crops.to_pylist(), strict=True))
    small = {image_id: _shrunk(crop) for image_id, crop in found.items()}
    return {image_id: crop for image_id, crop in small.items() if crop is not None}


def _shrunk(crop: bytes) -> bytes | None:
    try:
        with Image.open(BytesIO(crop)) as image:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            png = BytesIO()
            image.save(png, "PNG", optimize=True)
    except OSError:
        return None
    return png.getvalue()
