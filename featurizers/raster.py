"""Bytes of a JPEG or PNG file to a radiograph: header, integrity, orientation, grey values.

Pillow decodes both, except JPEG of 12 bits, which GDCM does. They are checked for what their decoders let pass:
truncation, chunks that fail their checksum, a second header. What TIFF shares with them is here too.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from featurizers.gdcm_process import decode_extended_jpeg, in_child
from featurizers.greyscale import stretch, to_luma, to_luma16
from featurizers.radiograph import (
    PALETTE,
    DecodeLimits,
    Pixels,
    Radiograph,
    check_size,
    corrupt,
    unsupported_image,
)

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


# ITU-T T.81, table B.1: baseline, extended sequential and progressive DCT with Huffman coding.
_SOF_EXTENDED = 0xC1
_SOF_DCT = (0xC0, _SOF_EXTENDED, 0xC2)

# PNG specification, 11.2.2: colour types of IHDR.
_PNG_COLOUR = 2
_PNG_GREY_ALPHA = 4
_PNG_COLOUR_ALPHA = 6


class JpegHeader(NamedTuple):
    """What ITU-T T.81 B.2.2's frame header declares, its own marker first, and where the first scan starts."""

    process: int
    precision: int
    rows: int
    columns: int
    components: int
    scan_offset: int


def jpeg_header(data: bytes) -> JpegHeader:
    """Read the markers of a JPEG or JPEG-LS stream up to its first scan (ITU-T T.81 B.1.1, ITU-T T.87 C.1.1)."""
    offset = 2
    frame: tuple[int, int, int, int, int] | None = None
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
            frame = (marker, *struct.unpack_from(">BHHB", data, offset + 4))
        elif marker == 0xDA:
            if frame is None:
                raise corrupt("the JPEG's scan comes before its frame header")
            return JpegHeader(*frame, offset)
        offset += 2 + length


def check_jpeg_scan(data: bytes, header: JpegHeader) -> None:
    """Refuse a JPEG whose scan can't hold its image: libjpeg would fill the rest with grey, without an error.

    Raises:
        DecodeError: CORRUPT_IMAGE.
    """
    check_end_marker(data, header.scan_offset)
    # Huffman codes have a bit at least, and of each 8 × 8 block the DC coefficient has one (T.81 F.1.2, G.1.2).
    blocks = -(-header.rows // 8) * -(-header.columns // 8)
    if header.process in _SOF_DCT and 8 * (len(data) - header.scan_offset) < blocks:
        raise corrupt("the JPEG's scan is too short for the size that its header declares")


def check_end_marker(data: bytes, start: int) -> None:
    """Refuse a truncated or zero-filled JPEG, JPEG-LS or JPEG 2000 stream.

    Entropy-coded data never contain FF D9 (T.81 F.1.2.3, T.87 A.1, T.800 A.3), so the last one after the first scan's
    start is the end of the image.
    """
    if data.rfind(b"\xff\xd9") < start:
        raise corrupt("the compressed image has no end marker: it is truncated")


def jpeg_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a JPEG file, of the bytes from `JPEG_MAGIC` on.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, UNSUPPORTED_IMAGE, CORRUPT_IMAGE; a decoder's own exception where it gives
            up.
    """
    header = jpeg_header(data)
    check_size(header.rows, header.columns, limits)
    check_jpeg_scan(data, header)
    if (header.process, header.precision, header.components) == (_SOF_EXTENDED, 12, 1):
        stored = in_child(lambda: decode_extended_jpeg(data, header.rows, header.columns))
        return Radiograph(stretch(stored.astype(np.uint16, copy=False)), header.precision, "MONOCHROME2")
    if header.process not in _SOF_DCT or header.precision != 8:
        raise unsupported_image(
            "the JPEG is lossless, JPEG-LS, arithmetically coded, or of more than 8 bits otherwise than as sequential "
            "grey of 12",
            "convert it to a PNG of 16 bits",
        )
    # The plugin's class and not `Image.open`, whose own size limit is a global that warns or raises on its own terms.
    with JpegImageFile(BytesIO(data)) as image:
        check_opened(image, header.rows, header.columns)
        photometric = "MONOCHROME2" if image.mode == "L" else image.mode
        image.draft("L", None)  # of Y'CbCr, decode the luma alone
        if image.mode == "CMYK" and "adobe" not in image.info:
            # Only Adobe's files hold inks inverted; Pillow takes all for such.
            image.tile = [tile._replace(args=("CMYK", "")) for tile in image.tile]
        return Radiograph(to_grey(image), header.precision, photometric)


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
    columns, rows, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    check_size(rows, columns, limits)
    check_png(data)

    def open_checked() -> PngImageFile:
        image = PngImageFile(BytesIO(data))
        check_opened(image, rows, columns)
        return image

    colour = "RGB" if colour_type in (_PNG_COLOUR, _PNG_COLOUR_ALPHA) else "MONOCHROME2"
    if bits == 16 and colour_type == _PNG_GREY_ALPHA:
        return Radiograph(stretch(to_luma16(_grey_alpha16(open_checked()))), bits, colour)
    if bits == 16 and colour == "RGB":
        return Radiograph(stretch(to_luma16(colour16(open_checked))), bits, colour)
    with open_checked() as image:
        return Radiograph(to_grey(image), bits, PALETTE if image.mode == "P" else colour)


def check_opened(image: ImageFile, rows: int, columns: int) -> None:
    """Refuse a file in which Pillow saw another size than the one that was checked, before it asks for memory."""
    if image.size not in ((columns, rows), (rows, columns)):  # TIFF's plugin tells the size of the upright image
        raise corrupt("the file has two headers of different sizes")


def to_grey(image: ImageFile) -> Pixels:
    """Load an image of at most 8 bits per sample, or of 16-bit grey, turn it upright and make it grey."""
    upright = _upright(image)
    if upright.mode.startswith("I;16"):
        return stretch(np.asarray(upright, dtype=np.uint16))
    return np.array(to_luma(upright))


def _upright(image: ImageFile) -> Image.Image:
    image.load()  # TIFF's plugin turns the image here; PNG's may read EXIF after the pixels
    if "exif" not in image.info:
        return image
    turn = _EXIF_TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


def colour16(open_image: Callable[[], ImageFile]) -> npt.NDArray[np.uint16]:
    """(rows, columns, 3 or 4) samples of 16-bit colour, from two passes: no mode of Pillow's holds more than 8 bits.

    Its raw modes that end in ;16B, ;16L and ;16N (big-endian, little-endian, native) keep the byte that is the high
    one in that order. The opposite order gives the low bytes.
    """
    opposite = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    with open_image() as image:
        high = np.asarray(_upright(image))
    with open_image() as image:
        for index, tile in enumerate(image.tile):
            # PNG's tiles have the raw mode alone; TIFF's have it first.
            raw_mode, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            swapped = f"{str(raw_mode)[:-1]}{opposite[str(raw_mode)[-1]]}"
            image.tile[index] = tile._replace(args=(swapped, *rest) if rest else swapped)
        low = np.asarray(_upright(image))
    samples: npt.NDArray[np.uint16] = high.astype(np.uint16) << 8 | low
    return samples


def _grey_alpha16(image: PngImageFile) -> npt.NDArray[np.uint16]:
    """(rows, columns, 2) samples: a pixel is four bytes, which Pillow reads as those of RGBA."""
    (tile,) = image.tile
    image.tile = [tile._replace(args="RGBA")]
    return np.asarray(_upright(image)).view(">u2").astype(np.uint16)
