"""Bytes of any supported file to one greyscale radiograph, or one `DecodeError` that says why not.

The format is read from the bytes, never from a name, and its module decodes:

=========  ==============  ==========================================================================
format     module          decoder
=========  ==============  ==========================================================================
JPEG       `raster`        Pillow (libjpeg-turbo); GDCM where it has 12 bits
PNG        `raster`        Pillow (zlib-ng)
TIFF       `tiff`          Pillow (libtiff)
NPY        `npy`           NumPy
DICOM      `dicom`         pydicom; `dicom_frames` lists the decoder of each transfer syntax
=========  ==============  ==========================================================================

All check sizes on the header, before any pixel memory is asked for, so that a decompression bomb costs microseconds.
`raster` and `dicom_frames` run GDCM in a process of its own (`gdcm_process`), because damaged frames make it end the
one that it runs in. Grey values are made by `greyscale`, for DICOM after its own pipeline in `dicom_grey`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from featurizers.dicom import DICOM_MAGIC, DICOM_MAGIC_OFFSET, dicom_to_radiograph, is_bare_dicom
from featurizers.errors import DecodeError
from featurizers.npy import NPY_MAGIC, npy_to_radiograph
from featurizers.radiograph import DecodeLimits, Radiograph
from featurizers.raster import JPEG_MAGIC, PNG_MAGIC, jpeg_to_radiograph, png_to_radiograph
from featurizers.reasons import Reason
from featurizers.tiff import BIG_TIFF_MAGICS, TIFF_MAGICS, tiff_to_radiograph

_Decoder: TypeAlias = Callable[[bytes, DecodeLimits], Radiograph]

_DECODERS: tuple[tuple[bytes, _Decoder], ...] = (
    (JPEG_MAGIC, jpeg_to_radiograph),
    (PNG_MAGIC, png_to_radiograph),
    *((magic, tiff_to_radiograph) for magic in (*TIFF_MAGICS, *BIG_TIFF_MAGICS)),
    (NPY_MAGIC, npy_to_radiograph),
)

# What people put into archives by mistake, so that the message can name it.
_OTHER_FORMATS = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
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
    "decode version 2: MONOCHROME1 as 2^BitsStored-1-x after the modality LUT, VOI LUT or first window, else 0.5 "
    "to 99.5 percentiles above 8 bits, of colour's luma too; bits outside of Bits Stored masked; JPEG 2000 by OpenJPEG"
)


def decode_radiograph(data: bytes, limits: DecodeLimits = _DEFAULT_LIMITS) -> Radiograph:
    """Decode the bytes of one JPEG, PNG, TIFF, NPY or DICOM file.

    8-bit grey values are kept exactly. Colour becomes ITU-R 601 luma. Transparency is laid over black. JPEG, PNG and
    TIFF are turned as their orientation tag says. What has more than 8 bits, grey or colour, is stretched between the
    `greyscale.STRETCH_PERCENTILES` of its pixels, DICOM only where it has neither VOI LUT nor window.

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
            return _decoder_of(data)(data, limits)
    except DecodeError:
        raise
    except MemoryError:
        raise DecodeError(
            Reason.TOO_MUCH_MEMORY,
            "decoding asked for more memory than this process may have; raise its limit if the file is sound",
        ) from None
    except Exception as error:
        # The exception's own text may quote values of the file, a patient's among them: only its class is told.
        raise DecodeError(
            Reason.CORRUPT_IMAGE,
            f"the decoder gave up with {type(error).__name__}; the file is damaged, copy it again from its source",
        ) from None


def _decoder_of(data: bytes) -> _Decoder:
    """The decoder of a file's format, told by its first bytes."""
    if data.startswith(DICOM_MAGIC, DICOM_MAGIC_OFFSET):  # first, as a DICOM preamble may hold a TIFF's header
        return dicom_to_radiograph
    for magic, decoder in _DECODERS:
        if data.startswith(magic):
            return decoder
    if is_bare_dicom(data):
        return dicom_to_radiograph
    found = next((name for magic, name in _OTHER_FORMATS if data.startswith(magic)), "something else")
    raise DecodeError(
        Reason.NOT_AN_IMAGE,
        f"expected JPEG, PNG, TIFF, NPY or DICOM, found {found} (first bytes {data[:4].hex(' ')}); "
        "convert it or leave it out",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's and pydicom's warnings, by `warnings` and by `logging`: they may quote the file's values."""
    logger = logging.getLogger("pydicom")
    # A level would be cheaper to read and dear to set: logging forgets what it knows of all its loggers.
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled
