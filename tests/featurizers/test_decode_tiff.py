"""Decoding TIFF: every compression, depth, byte order and layout that is read, and what is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from image_files import COLOUR, GREY, decode, encode, luma, refused, stretched
from PIL import Image

from featurizers.decode import decode_radiograph
from featurizers.reasons import Reason

DEEP = (GREY.astype(np.uint16) * 12 + 20_000).astype(np.uint16)
DEEP_COLOUR = (COLOUR.astype(np.uint16) * 12 + 20_000).astype(np.uint16)

# TIFF 6.0, section 8
NONE, DEFLATE, PACKBITS = 1, 8, 32773
MINISWHITE, MINISBLACK, RGB = 0, 1, 2


def packbits(data: bytes) -> bytes:
    """PackBits (TIFF 6.0, section 9) with literal runs only."""
    runs = [data[at : at + 128] for at in range(0, len(data), 128)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def tiff(
    pixels: np.ndarray,
    photometric: int,
    compression: int = NONE,
    order: str = "<",
    rows_per_strip: int = 11,
    tile: tuple[int, int] | None = None,
    **tags: tuple[int, ...],
) -> bytes:
    """A TIFF as the specification describes it: Pillow writes no 16-bit colour, no big-endian file and no tiles."""
    rows, columns = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    if tile:
        height, width = tile
        padded = np.zeros((-(-rows // height) * height, -(-columns // width) * width, *pixels.shape[2:]), pixels.dtype)
        padded[:rows, :columns] = pixels
        corners = [(r, c) for r in range(0, rows, height) for c in range(0, columns, width)]
        parts = [padded[r : r + height, c : c + width] for r, c in corners]
    else:
        parts = [pixels[r : r + rows_per_strip] for r in range(0, rows, rows_per_strip)]
    raw = [part.astype(pixels.dtype.newbyteorder(order)).tobytes() for part in parts]
    encode_part = {NONE: bytes, DEFLATE: zlib.compress, PACKBITS: packbits}[compression]
    strips = [encode_part(part) for part in raw]
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    layout = {322: (tile[1],), 323: (tile[0],)} if tile else {278: (rows_per_strip,)}
    entries: dict[int, tuple[int, ...]] = {
        256: (columns,),
        257: (rows,),
        258: (8 * pixels.dtype.itemsize,) * samples,
        259: (compression,),
        262: (photometric,),
        277: (samples,),
        (324 if tile else 273): tuple(offsets),
        (325 if tile else 279): tuple(map(len, strips)),
        **layout,
        **{int(name[1:]): values for name, values in tags.items()},
    }
    if not all(len(part) % 2 == 0 for part in strips):
        strips[-1] += b"\0"
    start = 8 + sum(map(len, strips))
    directory, outside = struct.pack(f"{order}H", len(entries)), b""
    for tag in sorted(entries):
        values = struct.pack(f"{order}{len(entries[tag])}I", *entries[tag])
        where = start + 2 + 12 * len(entries) + 4 + len(outside)
        field = values if len(values) == 4 else struct.pack(f"{order}I", where)
        outside += b"" if len(values) == 4 else values
        directory += struct.pack(f"{order}HHI", tag, 4, len(entries[tag])) + field
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", start) + b"".join(strips) + directory + b"\0\0\0\0" + outside


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("compression", [NONE, DEFLATE, PACKBITS])
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("pixels", "photometric", "expected", "told"),
    [
        (GREY, MINISBLACK, GREY, "MONOCHROME2"),
        (GREY, MINISWHITE, 255.0 - GREY, "MONOCHROME1"),
        (DEEP, MINISBLACK, stretched(DEEP), "MONOCHROME2"),
        (DEEP, MINISWHITE, 255 - stretched(DEEP), "MONOCHROME1"),
        (COLOUR, RGB, luma(COLOUR), "RGB"),
        (DEEP_COLOUR, RGB, stretched(luma(DEEP_COLOUR)), "RGB"),
    ],
    ids=["8", "8-miniswhite", "16", "16-miniswhite", "rgb", "rgb-16"],
)
def test_tiff_of_every_layout_becomes_grey(
    pixels: np.ndarray,
    photometric: int,
    expected: np.ndarray,
    told: str,
    tile: tuple[int, int] | None,
    compression: int,
    order: str,
) -> None:
    radiograph = decode_radiograph(tiff(pixels, photometric, compression, order, tile=tile))
    assert np.abs(radiograph.pixels - expected).max() <= 1
    assert np.unique(radiograph.pixels).size > 120
    assert (radiograph.bits, radiograph.photometric) == (8 * pixels.dtype.itemsize, told)
    assert radiograph.pixel_spacing is None


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize(
    ("image", "expected", "bits"),
    [
        (Image.fromarray(GREY), GREY, 8),
        (Image.fromarray(DEEP), stretched(DEEP), 16),
        (Image.fromarray(COLOUR), luma(COLOUR), 8),
        (Image.fromarray(GREY > 99), (GREY > 99) * 255, 1),
        (Image.fromarray(GREY).convert("P"), GREY, 8),
        (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (64, 48), 0)]), 0 * GREY, 8),
        (Image.fromarray(np.dstack([COLOUR, np.full_like(GREY, 255)])), luma(COLOUR), 8),
    ],
    ids=["8", "16", "rgb", "1", "palette", "grey-alpha", "rgba"],
)
def test_tiff_of_pillow_becomes_grey(image: Image.Image, expected: np.ndarray, bits: int, compression: str) -> None:
    # A density, which must not become a pixel spacing.
    radiograph = decode_radiograph(encode(image, "TIFF", compression=compression, dpi=(127, 127)))
    assert np.abs(radiograph.pixels - expected.astype(float)).max() <= 1
    assert (radiograph.bits, radiograph.pixel_spacing) == (bits, None)


def test_transparency_of_16_bit_colour_is_laid_over_black() -> None:
    half = np.dstack([DEEP_COLOUR, np.full_like(DEEP, 32_768)])
    half[:10, :, 3] = 0
    seen = decode(tiff(half, RGB, t338=(2,)))
    assert (seen[:10] == 0).all()
    assert seen[10:].min() > 100


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(GREY, "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]), "several pages"),
        (encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "neither grey"),
        (encode(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "neither grey"),
        (encode(Image.fromarray(GREY).convert("CMYK"), "TIFF"), "neither grey"),
        (encode(GREY, "TIFF", compression="jpeg"), "compression"),
        (encode(Image.fromarray(GREY > 99), "TIFF", compression="group4"), "compression"),
        (encode(GREY, "TIFF", big_tiff=True), "BigTIFF"),
        (tiff(GREY, MINISBLACK, t339=(2,)), "signed"),
        (tiff(GREY, MINISBLACK, t266=(2,)), "reversed bits"),
        (tiff(DEEP_COLOUR, RGB, t284=(2,)), "separate planes"),
        (tiff(np.dstack([DEEP_COLOUR, DEEP]), RGB, t338=(1,)), "alpha"),
    ],
)
def test_tiff_of_a_kind_that_is_not_read_is_told_as_such(data: bytes, words: str) -> None:
    error = refused(data)
    assert error.reason is Reason.UNSUPPORTED_IMAGE
    assert words in error.detail


def shared_values() -> bytes:
    """Three tags whose values are the same 2,000 bytes: a bomb, were they thousands."""
    data = bytearray(tiff(GREY, MINISBLACK, **{f"t{tag}": (0,) for tag in (40_000, 40_001, 40_002)}))
    for tag in (40_000, 40_001, 40_002):
        entry = data.index(struct.pack("<HHI", tag, 4, 1))
        struct.pack_into("<II", data, entry + 4, 500, 8)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (tiff(GREY[:27], MINISBLACK), Reason.TOO_SMALL, "64 × 27"),
        (tiff(GREY, MINISBLACK, t256=(2**31,)), Reason.TOO_LARGE, "more than the limit"),
        (tiff(GREY, MINISBLACK, tile=(16, 32), t322=(2**31,)), Reason.CORRUPT_IMAGE, "tiles are larger"),
        (tiff(GREY, MINISBLACK, t273=(8,) * 5, t279=(2**31,) * 5), Reason.CORRUPT_IMAGE, "beyond the end"),
        (tiff(GREY, MINISBLACK, t273=(8,)), Reason.CORRUPT_IMAGE, "not as many"),
        (shared_values(), Reason.CORRUPT_IMAGE, "tags have more bytes"),
    ],
    ids=["small", "absurd-size", "absurd-tile", "absurd-strip", "strips-without-sizes", "shared-values"],
)
def test_tiff_whose_header_lies_is_refused(data: bytes, reason: Reason, words: str) -> None:
    error = refused(data)
    assert error.reason is reason
    assert words in error.detail


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [GREY, DEEP], ids=["8", "16"])
def test_every_truncation_is_corrupt(pixels: np.ndarray, compression: str) -> None:
    data = encode(pixels, "TIFF", compression=compression)
    for cut in range(8, len(data) - 1, 3):
        assert refused(data[:cut]).reason is Reason.CORRUPT_IMAGE
