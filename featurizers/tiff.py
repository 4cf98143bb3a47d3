"""Bytes of a TIFF file to a radiograph: its first directory, what of it is read, grey values.

The first directory is read here before Pillow and libtiff see it: its sizes, its layout, and whether all strips or
tiles lie within the file (TIFF revision 6.0; the numbers of pages are that document's sections).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

from featurizers.greyscale import stretch, to_luma16
from featurizers.radiograph import PALETTE, DecodeLimits, Radiograph, check_size, corrupt, unsupported_image
from featurizers.raster import check_opened, colour16, to_grey

TIFF_MAGICS = (b"II*\x00", b"MM\x00*")
BIG_TIFF_MAGICS = (b"II+\x00", b"MM\x00+")

# Section 8, and Adobe's TIFF Technical Notes for Deflate: none, LZW, Deflate, its older number, PackBits.
_COMPRESSIONS = (1, 5, 8, 32946, 32773)
# Section 2: bytes of BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG, SRATIONAL, FLOAT, DOUBLE.
_TYPE_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8), start=1))
_TYPE_CODES = {1: "B", 3: "H", 4: "I"}

# Tags, section 8.
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _SAMPLES, _PLANAR, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 266, 277, 284, 338, 339
_OFFSETS = ((273, 279), (324, 325))  # of strips and of tiles, each with the byte counts
_TILE_WIDTH, _TILE_LENGTH = 322, 323

# Section 8, PhotometricInterpretation.
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE = range(4)
_PHOTOMETRICS = {_MINISWHITE: "MONOCHROME1", _MINISBLACK: "MONOCHROME2", _RGB: "RGB", _PALETTE: PALETTE}
# Bits and samples of a pixel that are read.
_LAYOUTS = {
    _MINISWHITE: ((1, 1), (8, 1), (16, 1)),
    _MINISBLACK: ((1, 1), (8, 1), (8, 2), (16, 1)),
    _RGB: ((8, 3), (8, 4), (16, 3), (16, 4)),
    _PALETTE: ((4, 1), (8, 1)),
}


@dataclass(frozen=True, slots=True)
class _Directory:
    """The entries of whole numbers: their values, and each one's offset in the file and code in `struct`."""

    order: str
    values: dict[int, tuple[int, ...]]
    fields: dict[int, tuple[int, str]]

    def number(self, tag: int, default: int | None = None) -> int:
        """A tag's first value."""
        values = self.values.get(tag)
        if values:
            return values[0]
        if default is None:
            raise corrupt("the TIFF lacks a tag that every TIFF image has")
        return default


def tiff_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a TIFF file of one page: grey of 1, 8 or 16 bits, RGB of 8 or 16, palette.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, UNSUPPORTED_IMAGE, CORRUPT_IMAGE; a decoder's own exception where it gives
            up.
    """
    if data.startswith(BIG_TIFF_MAGICS):
        raise unsupported_image("the file is a BigTIFF, whose offsets have 64 bits", "save it as a TIFF")
    directory = _read_directory(data)
    rows, columns = directory.number(_LENGTH), directory.number(_WIDTH)
    check_size(rows, columns, limits)
    _check_supported(directory)
    _check_extents(directory, len(data), limits)
    bits, photometric = directory.number(_BITS, 1), directory.number(_PHOTOMETRIC)
    if photometric == _MINISWHITE:
        # Pillow inverts some layouts and not others: it is told the opposite, and all are inverted here.
        data = _as_minisblack(data, directory)

    def open_checked() -> TiffImageFile:
        image = TiffImageFile(BytesIO(data))
        check_opened(image, rows, columns)
        return image

    if (photometric, bits) == (_RGB, 16):
        grey = stretch(to_luma16(colour16(open_checked)))
    else:
        with open_checked() as image:
            grey = to_grey(image)
    if photometric == _MINISWHITE:
        np.subtract(255, grey, out=grey)
    return Radiograph(grey, bits, _PHOTOMETRICS[photometric])


def _read_directory(data: bytes) -> _Directory:
    """Read the first directory (section 2); refuse a second one."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    values: dict[int, tuple[int, ...]] = {}
    fields: dict[int, tuple[int, str]] = {}
    declared = 0
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, entry)
        size = _TYPE_BYTES.get(kind, 1) * length
        declared += size
        if declared > len(data):
            # Pillow copies every value: thousands of entries that share one large value would be a bomb.
            raise corrupt("the TIFF's tags have more bytes than the file")
        field = entry + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, entry + 8)[0]
        if kind in _TYPE_CODES:
            values[tag] = struct.unpack_from(f"{order}{length}{_TYPE_CODES[kind]}", data, field)
            fields[tag] = field, _TYPE_CODES[kind]
    if struct.unpack_from(f"{order}I", data, start + 2 + 12 * count) != (0,):
        raise unsupported_image("the TIFF has several pages", "save the radiograph as a TIFF of one page")
    return _Directory(order, values, fields)


def _check_supported(directory: _Directory) -> None:
    bits, samples = directory.number(_BITS, 1), directory.number(_SAMPLES, 1)
    if directory.number(_COMPRESSION, 1) not in _COMPRESSIONS:
        raise unsupported_image(
            "the TIFF's compression is not none, LZW, Deflate or PackBits", "save it with one of these"
        )
    layouts = _LAYOUTS.get(directory.number(_PHOTOMETRIC), ())
    if (bits, samples) not in layouts or set(directory.values.get(_BITS, (1,))) != {bits}:
        raise unsupported_image(
            "the TIFF is neither grey of 1, 8 or 16 bits, nor RGB of 8 or 16, nor palette",
            "save it as grey of 8 or 16 bits",
        )
    if set(directory.values.get(_SAMPLE_FORMAT, (1,))) != {1} or directory.number(_FILL_ORDER, 1) != 1:
        raise unsupported_image(
            "the TIFF's samples are signed, floating point, or of reversed bits", "save it with unsigned integers"
        )
    unassociated_alpha = directory.number(_EXTRA_SAMPLES, 2) == 2
    if samples in (2, 4) and not unassociated_alpha:
        raise unsupported_image("the TIFF's extra sample is not unassociated alpha", "save it without alpha")
    if samples > 1 and directory.number(_PLANAR, 1) != 1:
        raise unsupported_image("the TIFF keeps its colours in separate planes", "save it with interleaved colours")


def _check_extents(directory: _Directory, file_bytes: int, limits: DecodeLimits) -> None:
    """Refuse strips or tiles that are not within the file, and tiles that are larger than any image may be."""
    offsets, counts = next(
        ((directory.values[o], directory.values.get(c, ())) for o, c in _OFFSETS if o in directory.values), ((), ())
    )
    if not offsets or len(offsets) != len(counts):
        raise corrupt("the TIFF has no strips or tiles, or not as many sizes as offsets of them")
    if max(offset + count for offset, count in zip(offsets, counts, strict=True)) > file_bytes:
        raise corrupt("a strip or tile of the TIFF lies beyond the end of the file: it is truncated")
    if directory.number(_TILE_WIDTH, 0) * directory.number(_TILE_LENGTH, 0) > limits.max_pixels:
        raise corrupt("the TIFF's tiles are larger than any image may be")


def _as_minisblack(data: bytes, directory: _Directory) -> bytes:
    changed = bytearray(data)
    offset, code = directory.fields[_PHOTOMETRIC]
    struct.pack_into(f"{directory.order}{code}", changed, offset, _MINISBLACK)
    return bytes(changed)
