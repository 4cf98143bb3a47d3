"""Bytes of a JPEG or PNG file to a radiograph: header, integrity, orientation, grey values.

Both formats are checked for what their decoders let pass: truncation, and chunks that fail their checksum.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from featurizers.greyscale import stretch, to_luma
from featurizers.radiograph import PALETTE, DecodeLimits, Pixels, Radiograph, check_size, corrupt

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

# EXIF 2.32, 4.6.4, tag 0x0112: how to turn the stored rows and columns so that they stand upright.
_EXIF_ORIENTATION = 0x0112
_EXIF_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class JpegHeader(NamedTuple):
    """What ITU-T T.81 B.2.2's frame header declares, and where the first scan starts."""

    precision: int
    rows: int
    columns: int
    components: int
    scan_offset: int


def jpeg_header(data: bytes) -> JpegHeader:
    """Read the markers of a JPEG or JPEG-LS stream up to its first scan (ITU-T T.81 B.1.1, ITU-T T.87 C.1.1)."""
    offset = 2
    frame: tuple[int, int, int, int] | None = None
    while True:
        if data[offset] != 0xFF:
            raise corrupt("a JPEG marker is missing")
        marker = data[offset + 1]
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        (length,) = struct.unpack_from(">H", data, offset + 2)
        # SOF0 to SOF15 without DHT, JPG and DAC; F7 is JPEG-LS's.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            frame = struct.unpack_from(">BHHB", data, offset + 4)
        elif marker == 0xDA:
            if frame is None:
                raise corrupt("the JPEG's scan comes before its frame header")
            precision, rows, columns, components = frame
            return JpegHeader(precision, rows, columns, components, offset)
        offset += 2 + length


def check_jpeg_end(data: bytes, scan_offset: int) -> None:
    """Refuse a truncated or zero-filled JPEG, which libjpeg would fill with grey or noise without an error.

    Entropy-coded data never contain FF D9 (T.81 F.1.2.3 stuffs a zero after each FF), so the last one after the first
    scan's start is the end of the image.
    """
    if data.rfind(b"\xff\xd9") < scan_offset:
        raise corrupt("the JPEG has no end-of-image marker: it is truncated")


def jpeg_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a JPEG file, of the bytes from `JPEG_MAGIC` on.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, CORRUPT_IMAGE; a decoder's own exception where it gives up.
    """
    header = jpeg_header(data)
    check_size(header.rows, header.columns, limits)
    check_jpeg_end(data, header.scan_offset)
    # The plugin's class and not `Image.open`, whose own size limit is a global that warns or raises on its own terms.
    with JpegImageFile(BytesIO(data)) as image:
        photometric = "MONOCHROME2" if image.mode == "L" else image.mode
        image.draft("L", None)  # of Y'CbCr, decode the luma alone
        return Radiograph(_to_grey(image), header.precision, photometric)


def check_png(data: bytes) -> None:
    """Check every chunk's CRC-32 and the presence of IEND (PNG specification, 5.3), which Pillow does not.

    Raises:
        DecodeError: CORRUPT_IMAGE.
    """
    offset = len(PNG_MAGIC)
    view = memoryview(data)
    while True:
        if offset + 12 > len(data):
            raise corrupt("the PNG has no IEND chunk: it is truncated")
        (length,) = struct.unpack_from(">I", data, offset)
        end = offset + 8 + length
        if end + 4 > len(data):
            raise corrupt("a PNG chunk is truncated")
        if zlib.crc32(view[offset + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise corrupt("a PNG chunk fails its CRC")
        if data.startswith(b"IEND", offset + 4):
            return
        offset = end + 4


def png_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a PNG file, of the bytes from `PNG_MAGIC` on.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, CORRUPT_IMAGE; a decoder's own exception where it gives up.
    """
    if not data.startswith(b"IHDR", 12):
        raise corrupt("the PNG has no IHDR chunk")
    columns, rows, bits = struct.unpack_from(">IIB", data, 16)
    check_size(rows, columns, limits)
    check_png(data)
    with PngImageFile(BytesIO(data)) as image:
        colour = "RGB" if image.mode.startswith("RGB") else "MONOCHROME2"
        return Radiograph(_to_grey(image), bits, PALETTE if image.mode == "P" else colour)


def _to_grey(image: JpegImageFile | PngImageFile) -> Pixels:
    image.load()
    upright: Image.Image = image
    if "exif" in image.info:
        turn = _EXIF_TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I;16"):
        return stretch(np.asarray(upright, dtype=np.uint16))
    return np.array(to_luma(upright))
