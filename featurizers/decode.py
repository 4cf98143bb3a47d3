"""Bytes of any supported file to one greyscale radiograph, or one `DecodeError` that says why not.

The format is read from the bytes, never from a name, and its module decodes: `raster` JPEG and PNG, `dicom` DICOM.
They check sizes on the header, before any pixel memory is asked for, so that a decompression bomb costs microseconds.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from featurizers.dicom import DICOM_MAGIC, DICOM_MAGIC_OFFSET, dicom_to_radiograph, is_bare_dicom
from featurizers.errors import DecodeError
from featurizers.radiograph import DecodeLimits, Radiograph
from featurizers.raster import JPEG_MAGIC, PNG_MAGIC, jpeg_to_radiograph, png_to_radiograph
from featurizers.reasons import Reason

# What people put into archives by mistake, so that the message can name it.
_OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"RIFF", "a WebP or other RIFF file"),
    (b"\x00\x00\x00\x0cjP  ", "a bare JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a bare JPEG 2000 codestream"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x5c\x01\x00\x00", "a NIfTI file"),
)

_DEFAULT_LIMITS = DecodeLimits()

#: What decides a radiograph's pixels; changes whenever decoding, here or in the modules that
#: this one calls, would give others for the same bytes.
RULES = (
    "decode version 1: MONOCHROME1 as 2^BitsStored-1-x after the modality LUT, VOI LUT or first window, else 0.5 "
    "to 99.5 percentiles above 8 bits; JPEG 2000 by OpenJPEG"
)


def decode_radiograph(data: bytes, limits: DecodeLimits = _DEFAULT_LIMITS) -> Radiograph:
    """Decode the bytes of one JPEG, PNG or DICOM file.

    8-bit grey values are kept exactly. Colour becomes ITU-R 601 luma. Transparency is laid over black. JPEG and PNG
    are turned as their EXIF orientation says. 16-bit grey PNGs, and DICOM of more than 8 bits with neither VOI LUT nor
    window, are stretched between the `greyscale.STRETCH_PERCENTILES` of their pixels. 16-bit colour PNGs keep their top
    byte.

    Args:
        data: the whole file.
        limits: what the file may cost.

    Raises:
        DecodeError: whatever is wrong with the bytes; no other exception leaves this function because of them.
    """
    if not data:
        raise DecodeError(Reason.EMPTY_FILE, "the file has 0 bytes; copy it again from its source")
    if len(data) > limits.max_bytes:
        raise DecodeError(
            Reason.TOO_LARGE,
            f"the file has {len(data)} bytes, more than the limit of {limits.max_bytes}; "
            "raise max_bytes if the file is sound",
        )
    try:
        with _quiet():
            if data.startswith(JPEG_MAGIC):
                return jpeg_to_radiograph(data, limits)
            if data.startswith(PNG_MAGIC):
                return png_to_radiograph(data, limits)
            if data.startswith(DICOM_MAGIC, DICOM_MAGIC_OFFSET) or is_bare_dicom(data):
                return dicom_to_radiograph(data, limits)
    except DecodeError:
        raise
    except Exception as error:
        # The exception's own text may quote values of the file, a patient's among them: only its class is told.
        raise DecodeError(
            Reason.CORRUPT_IMAGE,
            f"the decoder gave up with {type(error).__name__}; the file is damaged, copy it again from its source",
        ) from None
    found = next((name for magic, name in _OTHER_FORMATS if data.startswith(magic)), "something else")
    raise DecodeError(
        Reason.NOT_AN_IMAGE,
        f"expected JPEG, PNG or DICOM, found {found} (first bytes {data[:4].hex(' ')}); convert it or leave it out",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's and pydicom's warnings, by `warnings` and by `logging`: they may quote the file's values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
