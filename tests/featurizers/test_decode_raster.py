"""Decoding JPEG and PNG: every mode, every depth at its full depth, the right way up, and no truncation unseen."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode

import numpy as np
import pytest
from image_files import COLOUR, GREY, TWELVE, decode, encode, luma, refused, stretched
from PIL import Image

from featurizers.decode import decode_radiograph
from featurizers.reasons import Reason


def test_8_bit_grey_is_kept_exactly() -> None:
    low_contrast = GREY // 8 + 60
    radiograph = decode_radiograph(encode(low_contrast))
    assert np.array_equal(radiograph.pixels, low_contrast)
    assert radiograph.pixels.dtype == np.uint8
    assert radiograph.pixels.flags.writeable
    assert (radiograph.bits, radiograph.photometric) == (8, "MONOCHROME2")


def quantized(pixels: np.ndarray) -> np.ndarray:
    return luma(np.asarray(Image.fromarray(pixels).quantize(16).convert("RGB")))


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    alpha = np.full(pixels.shape[:2], 255, dtype=np.uint8)
    alpha[:10] = 0
    return np.dstack([pixels, alpha])


@pytest.mark.parametrize(
    ("data", "expected", "bits", "photometric"),
    [
        (encode(np.dstack([GREY] * 3)), GREY, 8, "RGB"),
        (encode(COLOUR), luma(COLOUR), 8, "RGB"),
        (encode(with_alpha(GREY)), np.where(np.arange(48)[:, None] < 10, 0, GREY), 8, "MONOCHROME2"),
        (encode(with_alpha(COLOUR)), np.where(np.arange(48)[:, None] < 10, 0, luma(COLOUR)), 8, "RGB"),
        (encode(Image.fromarray(GREY > 99)), (GREY > 99) * 255, 1, "MONOCHROME2"),
        (encode(Image.fromarray(GREY).convert("P")), GREY, 8, "PALETTE COLOR"),
        (encode(Image.fromarray(COLOUR).quantize(16)), quantized(COLOUR), 4, "PALETTE COLOR"),
        (encode(Image.fromarray(GREY), transparency=int(GREY[9, 9])), np.where(GREY[9, 9] == GREY, 0, GREY), 8, None),
    ],
    ids=["grey-as-rgb", "rgb", "la", "rgba", "1-bit", "palette", "palette-4-bit", "colour-key"],
)
def test_png_of_every_mode_becomes_grey(data: bytes, expected: np.ndarray, bits: int, photometric: str | None) -> None:
    radiograph = decode_radiograph(data)
    assert np.abs(radiograph.pixels - expected.astype(float)).max() <= 1
    assert radiograph.bits == bits
    assert radiograph.photometric == (photometric or "MONOCHROME2")


@pytest.mark.parametrize(("mode", "photometric"), [("L", "MONOCHROME2"), ("RGB", "RGB"), ("CMYK", "CMYK")])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_every_mode_becomes_grey(mode: str, photometric: str, progressive: bool) -> None:
    image = Image.fromarray(GREY).convert("RGB").convert(mode)
    radiograph = decode_radiograph(encode(image, "JPEG", quality=98, progressive=progressive))
    assert np.abs(radiograph.pixels - GREY.astype(float)).mean() < 1.5
    assert (radiograph.bits, radiograph.photometric) == (8, photometric)


# By libjpeg-turbo 3, of TWELVE in 12 bits at quality 98: nothing else that is installed writes it.
JPEG_12_BIT = b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQIBAQEBAQIBAQECAgICAgICAgIDAwQDAwMDAwICAwQDAwQEBAQEAgMF"
    "BQQEBQQEBAT/wQALDAAwAEABAREA/8QAFwABAQEBAAAAAAAAAAAAAAAACw0KDv/EACcQAAEEAwABAwQDAQAAAAAAAAkAJjVhRFNxAQMEBQIG"
    "ESEHCCJR/9oACAEBAAA/AOT/AMbYSoBo6sHlJAAbYSoBo6sHlJAAbYSoBo6sHlJAAbYSoBo6sHlJAAbYSoBo6sHlJAAbYSoBo6sHlJAAbYSo"
    "Bo6sHlJAAbYSoBo6sHlKT/jbCVANHVg8pIADbCVANHVg8pIADbCVANHVg8pIADbCVANHVg8pIADbCVANHVg8pIADbCVANHVg8pIADbCVANHV"
    "g8pIADbCVANHVg8pSf8AG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5"
    "SQAG2EqAaOrB5Sk/42wlQDR1YPKSAA2wlQDR1YPKSAA2wlQDR1YPKSAA2wlQDR1YPKSAA2wlQDR1YPKSAA2wlQDR1YPKSAA2wlQDR1YPKSAA"
    "2wlQDR1YPKUn/G2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2EqAaOrB5SQAG2Eq"
    "AaOrB5Sk/wCNsJUA0dWDykgANsJUA0dWDykgANsJUA0dWDykgANsJUA0dWDykgANsJUA0dWDykgANsJUA0dWDykgANsJUA0dWDylut/pUKz7"
    "G/ib4f4j5X7r+I9t7f6/R9L0/V9P2Hj0Pp+n3Xq/rx58fn8+P8+L8/8Af148r//Z"
)


def test_12_bit_jpeg_is_stretched_from_all_its_bits() -> None:
    radiograph = decode_radiograph(JPEG_12_BIT)
    assert np.abs(radiograph.pixels - stretched(TWELVE)).max() <= 2
    assert (radiograph.bits, radiograph.photometric) == (12, "MONOCHROME2")


def with_frame(data: bytes, marker: int, precision: int) -> bytes:
    """A JPEG whose frame header declares another process or precision."""
    frame = data.index(b"\xff\xc0")
    return data[: frame + 1] + bytes([marker]) + data[frame + 2 : frame + 4] + bytes([precision]) + data[frame + 5 :]


@pytest.mark.parametrize(
    ("marker", "precision"),
    [(0xC0, 12), (0xC2, 12), (0xC3, 8), (0xC3, 16), (0xC9, 8), (0xF7, 8)],
    ids=["baseline-12", "progressive-12", "lossless-8", "lossless-16", "arithmetic", "jpeg-ls"],
)
def test_jpeg_of_a_kind_that_is_not_read_is_told_as_such(marker: int, precision: int) -> None:
    assert refused(with_frame(encode(GREY, "JPEG"), marker, precision)).reason is Reason.UNSUPPORTED_IMAGE


def cmyk(cyan_magenta_yellow: np.ndarray) -> bytes:
    """Inks without black, as Adobe's programs store them: inverted, with a marker that tells no colour transform."""
    planes = [*cyan_magenta_yellow, np.zeros_like(GREY)]
    return encode(Image.merge("CMYK", [Image.fromarray(plane) for plane in planes]), "JPEG", quality=98)


ADOBE = b"\xff\xee\x00\x0eAdobe"


def test_cmyk_of_adobe_is_inverted_and_other_is_not() -> None:
    adobe = cmyk(np.stack([255 - GREY] * 3))
    assert np.abs(decode(adobe) - GREY.astype(float)).mean() < 1.5
    # Without the marker the same scan means inks of GREY, and black all over.
    marker = adobe.index(ADOBE)
    assert decode(adobe[:marker] + adobe[marker + 16 :]).max() <= 2


def test_ycck_is_read_as_cmyk() -> None:
    """Transform 2 of Adobe's marker: the first three planes are Y'CbCr of 255 minus the stored, inverted inks."""
    neutral = np.full_like(GREY, 127)  # stored as 128
    data = cmyk(np.stack([GREY, neutral, neutral]))
    transform = data.index(ADOBE) + 15
    ycck = data[:transform] + b"\x02" + data[transform + 1 :]
    assert np.abs(decode(ycck) - GREY.astype(float)).mean() < 2.5


TURNS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_orientation_is_applied(orientation: int, file_format: str, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = decode(encode(pixels, file_format))
    assert np.array_equal(decode(encode(pixels, file_format, exif=exif)), TURNS[orientation](plain))


# PNG of 16 bits -------------------------------------------------------------------------------------------------------


def test_16_bit_png_uses_all_bits_and_ignores_outliers() -> None:
    values = (GREY.astype(np.uint16) * 12 + 20_000).astype(np.uint16)  # a span that 8 of 16 bits would make 12 greys
    values[0, :3] = 65_535  # a burnt-in marker
    values[1, :3] = 0
    radiograph = decode_radiograph(encode(values))
    pixels = radiograph.pixels.astype(int)
    assert radiograph.bits == 16
    assert (pixels[0, :3] == 255).all()
    assert (pixels[1, :3] == 0).all()
    assert np.corrcoef(pixels[2:].ravel(), GREY[2:].ravel())[0, 1] > 0.999
    assert np.unique(pixels).size > 200


def test_constant_16_bit_png_is_black() -> None:
    assert (decode_radiograph(encode(np.full((40, 40), 777, dtype=np.uint16))).pixels == 0).all()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def filtered(samples: np.ndarray) -> bytes:
    """Rows of 16-bit samples under the five filters of the PNG specification, 9.2, in turn."""
    rows = samples.astype(">u2").view(np.uint8).reshape(samples.shape[0], -1).astype(int)
    step = rows.shape[1] // samples.shape[1]
    above, out = np.zeros_like(rows[0]), b""
    for number, row in enumerate(rows):
        left, corner = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, above))
        estimate = left + above - corner
        a, b, c = (np.abs(estimate - near) for near in (left, above, corner))
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        predicted = (0 * row, left, above, (left + above) // 2, paeth)[number % 5]
        out += bytes([number % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return out


# PNG specification, 8.2: first row, step of rows, first column, step of columns of Adam7's passes.
ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))


def png16(samples: np.ndarray, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits: Pillow writes no colour, no alpha and no interlacing of such."""
    rows, columns = samples.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    passes = [samples[r::rs, c::cs] for r, rs, c, cs in ADAM7] if interlaced else [samples]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, colour_type, 0, 0, interlaced))
        + extra
        + chunk(b"IDAT", zlib.compress(b"".join(filtered(part) for part in passes)))
        + chunk(b"IEND", b"")
    )


DEEP = (GREY.astype(np.uint16) * 12 + 20_000).astype(np.uint16)  # a span that 8 of 16 bits would make 12 greys
DEEP_COLOUR = (COLOUR.astype(np.uint16) * 12 + 20_000).astype(np.uint16)
HALF = np.full_like(DEEP, 32_768)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("samples", "expected", "photometric"),
    [
        (DEEP, DEEP, "MONOCHROME2"),
        (np.dstack([DEEP, HALF]), DEEP / 2, "MONOCHROME2"),
        (DEEP_COLOUR, luma(DEEP_COLOUR), "RGB"),
        (np.dstack([DEEP_COLOUR, HALF]), luma(DEEP_COLOUR) / 2, "RGB"),
    ],
    ids=["grey", "grey-alpha", "rgb", "rgba"],
)
def test_png_of_16_bits_keeps_its_depth(
    samples: np.ndarray, expected: np.ndarray, photometric: str, interlaced: bool
) -> None:
    radiograph = decode_radiograph(png16(samples, interlaced))
    assert np.abs(radiograph.pixels - stretched(expected)).max() <= 1
    assert np.unique(radiograph.pixels).size > 120
    assert (radiograph.bits, radiograph.photometric) == (16, photometric)


@pytest.mark.parametrize("samples", [np.dstack([DEEP, HALF]), DEEP_COLOUR], ids=["grey-alpha", "rgb"])
def test_png_of_16_bits_is_turned_upright(samples: np.ndarray) -> None:
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    assert np.array_equal(decode(png16(samples, extra=turned)), np.rot90(decode(png16(samples)), -1))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_interlaced_png_is_the_same_picture(bits: int) -> None:
    levels = GREY >> (8 - bits)
    passes = [levels[r::rs, c::cs] for r, rs, c, cs in ADAM7]
    planes = [np.unpackbits(part[..., None], axis=2)[..., -bits:].reshape(part.shape[0], -1) for part in passes]
    body = b"".join(b"\0" + row.tobytes() for plane in planes for row in np.packbits(plane, axis=1))
    header = struct.pack(">IIBBBBB", 64, 48, bits, 0, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    radiograph = decode_radiograph(data)
    assert np.array_equal(radiograph.pixels, levels * (255 // (2**bits - 1)))
    assert radiograph.bits == bits


def test_second_header_of_another_size_is_refused() -> None:
    """Pillow believes the last one, and would ask for its memory."""
    second = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    data = encode(GREY)
    assert "two headers" in refused(data[:33] + second + data[33:]).detail


# Truncation -----------------------------------------------------------------------------------------------------------

SCANS = {
    "jpeg": encode(GREY, "JPEG"),
    "jpeg-exif": encode(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"),
    "jpeg-progressive-rgb": encode(COLOUR, "JPEG", progressive=True),
    "png": encode(GREY),
    "png-16": encode(GREY.astype(np.uint16) * 200),
    "png-palette": encode(Image.fromarray(COLOUR).quantize(16)),
}


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_whose_scan_cannot_hold_its_size_is_corrupt(progressive: bool) -> None:
    data = bytearray(encode(GREY, "JPEG", progressive=progressive))
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 4_000, 4_000)
    assert refused(bytes(data)).reason is Reason.CORRUPT_IMAGE


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_the_fewest_bits_is_sound(progressive: bool) -> None:
    black = np.zeros((2_000, 2_000), np.uint8)
    assert decode(encode(black, "JPEG", quality=1, optimize=True, progressive=progressive)).max() <= 1


@pytest.mark.parametrize("data", SCANS.values(), ids=SCANS)
def test_every_truncation_is_corrupt(data: bytes) -> None:
    for cut in range(33, len(data)):
        assert refused(data[:cut]).reason is Reason.CORRUPT_IMAGE
        if cut < len(data) - 2:  # the same length, but the rest never arrived
            assert refused(data[:cut] + b"\0" * (len(data) - cut)).reason is Reason.CORRUPT_IMAGE
