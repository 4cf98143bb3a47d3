"""What an executor does in ingest: an input's path comes in, a study or a reason goes out."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa

from featurizers.crops import Crop, CropSettings, crop_lungs, encode_png
from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.radiograph import DecodeLimits, Radiograph
from featurizers.reasons import Reason
from pipelines.tables import LABELS, PIXELS

#: Seconds before a failed read is tried again.
RETRY_PAUSES = (0.5, 2.0)


#: What comes of an input: labels and pixels, or a reason.
STAGED = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("image_id", pa.string()),
        *LABELS,
        *PIXELS,
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class StudyReader:
    """Reads inputs of one archive."""

    archive: str
    limits: DecodeLimits
    crop: CropSettings

    def read_all(
        self, batches: Iterable[pa.RecordBatch], count: Callable[[int], None] = lambda _: None
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the schema LISTING to batches of the schema STAGED, row by row.

        Args:
            batches: inputs.
            count: told how many inputs each finished batch held.
        """
        filesystem, root = fsspec.core.url_to_fs(self.archive)
        for batch in batches:
            rows = [self._read(filesystem, root, listed) for listed in batch.to_pylist(maps_as_pydicts=None)]
            count(len(rows))
            yield pa.RecordBatch.from_pylist(rows, STAGED)

    def _read(self, filesystem: fsspec.AbstractFileSystem, root: str, listed: dict[str, Any]) -> dict[str, Any]:
        path = listed.pop("path")
        try:
            content = self._fetch(filesystem, f"{root}/{path}")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return listed | {"reason": Reason.MISSING_FILE, "detail": "no such file in the archive"}
        except OSError as error:
            # The message of the error names the path, which may carry an identifier.
            return listed | {"reason": Reason.UNREADABLE_FILE, "detail": f"reading failed: {type(error).__name__}"}
        listed["image_id"] = hashlib.sha256(content).hexdigest()
        try:
            radiograph = decode_radiograph(content, self.limits)
            return listed | _pixels(radiograph, crop_lungs(radiograph.pixels, self.crop))
        except DecodeError as error:
            return listed | {"reason": error.reason, "detail": error.detail}
        except Exception as error:  # a fault of ours costs this image, not the night's job
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = (
                f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}; please report it with the file"
            )
            return listed | {"reason": Reason.PROCESSING_FAILED, "detail": detail}

    def _fetch(self, filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
        """A file's bytes, but never more than the limit and one: decoding refuses those."""
        for pause in RETRY_PAUSES:
            try:
                return self._fetch_once(filesystem, path)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
                raise
            except OSError:
                # Storage that is busy or away for a moment must not cost a good image its place.
                time.sleep(pause)
        return self._fetch_once(filesystem, path)

    def _fetch_once(self, filesystem: fsspec.AbstractFileSystem, path: str) -> bytes:
        with filesystem.open(path, "rb") as file:
            return bytes(file.read(self.limits.max_bytes + 1))


def _pixels(radiograph: Radiograph, crop: Crop) -> dict[str, Any]:
    height, width = radiograph.pixels.shape
    box = crop.box
    return {
        "crop": encode_png(crop.pixels),
        "lung_box": {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom},
        "lung_quality": crop.quality,
        "cropper": str(crop.cropper),
        "width": width,
        "height": height,
        "bits": radiograph.bits,
        "photometric": radiograph.photometric,
    }
