"""Decoding whatever file comes: one error for what is no radiograph, with reason and remedy, at no cost."""

from __future__ import annotations

import copy
import io
import logging
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import COLOUR, GREY, PLANTED, decode, dicom, encode, luma, refused, stretched
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from featurizers.decode import decode_radiograph
from featurizers.radiograph import DecodeLimits
from featurizers.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# What is no radiograph ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", Reason.EMPTY_FILE, "0 bytes"),
        (b"image,label\nfoo.png,1\n", Reason.NOT_AN_IMAGE, "JPEG, PNG, TIFF, NPY or DICOM"),
        (encode(GREY, "GIF"), Reason.NOT_AN_IMAGE, "a GIF"),
        (b"%PDF-1.7", Reason.NOT_AN_IMAGE, "a PDF"),
        (b"\x08\x00" * 200, Reason.NOT_AN_IMAGE, "something else"),
        (b"\0" * 128 + b"DIC", Reason.NOT_AN_IMAGE, "something else"),
        (encode(GREY[:1, :1]), Reason.TOO_SMALL, "1 × 1"),
        (encode(GREY[:27]), Reason.TOO_SMALL, "64 × 27"),
        (encode(GREY[:27], "JPEG"), Reason.TOO_SMALL, "64 × 27"),
        (dicom(GREY[:27]), Reason.TOO_SMALL, "64 × 27"),
        (dicom(GREY, PixelData=None), Reason.NO_PIXEL_DATA, "no Pixel Data"),
        (dicom(GREY, NumberOfFrames=2), Reason.UNSUPPORTED_DICOM, "several frames"),
        (dicom(GREY, HighBit=5), Reason.CORRUPT_IMAGE, "High Bit"),
        (dicom(GREY, BitsStored=0, HighBit=0), Reason.CORRUPT_IMAGE, "Bits Stored"),
        (dicom(GREY, BitsAllocated=12), Reason.UNSUPPORTED_DICOM, "Bits Allocated"),
        (dicom(GREY, Rows=None), Reason.CORRUPT_IMAGE, "Rows"),
        (dicom(COLOUR, BitsStored=7, HighBit=7), Reason.UNSUPPORTED_DICOM, "High Bit"),
        (dicom(GREY, uid.MPEG2MPML, PixelData=encapsulate([b"\0" * 8])), Reason.UNSUPPORTED_DICOM, "MPEG2"),
        (
            dicom(GREY).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"),
            Reason.UNSUPPORTED_DICOM,
            "private or unknown",
        ),
        (dicom(GREY.astype(np.uint32)), Reason.UNSUPPORTED_DICOM, "16 bits"),
        (dicom(GREY, PhotometricInterpretation="HSV"), Reason.UNSUPPORTED_DICOM, "Photometric"),
        (dicom(GREY, SamplesPerPixel=3), Reason.CORRUPT_IMAGE, "Samples per Pixel"),
        (dicom(GREY, PixelData=b"\0" * 100), Reason.CORRUPT_IMAGE, "ValueError"),
        (dicom(GREY, WindowCenter=100, WindowWidth=0), Reason.CORRUPT_IMAGE, "window"),
        (dicom(GREY, RescaleSlope=0, RescaleIntercept=0), Reason.CORRUPT_IMAGE, "Rescale Slope"),
        (npy(GREY.astype(np.float32)), Reason.UNSUPPORTED_IMAGE, "uint8"),
        (npy(GREY.astype(np.int16)), Reason.UNSUPPORTED_IMAGE, "uint8"),
        (npy(np.dstack([GREY] * 4)), Reason.UNSUPPORTED_IMAGE, "uint8"),
        (npy(COLOUR.astype(np.uint16)), Reason.UNSUPPORTED_IMAGE, "uint8"),
        (npy(np.array([None])), Reason.UNSUPPORTED_IMAGE, "uint8"),
        (npy(GREY)[:-1], Reason.CORRUPT_IMAGE, "more or fewer bytes"),
        (npy(GREY) + b"\0", Reason.CORRUPT_IMAGE, "more or fewer bytes"),
        (npy(GREY)[:60], Reason.CORRUPT_IMAGE, "ValueError"),
        (npy(GREY[:27]), Reason.TOO_SMALL, "64 × 27"),
    ],
)
def test_refusal_names_reason_and_cause(data: bytes, reason: Reason, words: str) -> None:
    error = refused(data)
    assert error.reason is reason
    assert words in error.detail


def test_error_survives_the_way_between_processes() -> None:
    # copy takes the way that a process boundary takes: __reduce__.
    error = copy.copy(refused(b""))
    assert (error.reason, str(error)) == (Reason.EMPTY_FILE, str(refused(b"")))


def test_min_side_and_max_bytes_are_limits_that_can_be_moved() -> None:
    assert decode_radiograph(encode(GREY[:5]), DecodeLimits(min_side=5)).pixels.shape == (5, 64)
    assert refused(encode(GREY), DecodeLimits(max_bytes=50)).reason is Reason.TOO_LARGE
    assert refused(encode(GREY), DecodeLimits(max_pixels=GREY.size - 1)).reason is Reason.TOO_LARGE
    assert decode_radiograph(encode(GREY), DecodeLimits(max_pixels=GREY.size)).pixels.shape == GREY.shape


def png_bomb() -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    data = bytearray(encode(GREY, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


def deflated_bomb(wrong_length: int = 0, preamble: bool = True) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = deflater.compress(b"\0" * 2**26) + deflater.flush()
    whole = dicom(GREY, uid.DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<I", whole, 140)
    meta = whole[132:140] + struct.pack("<I", length + wrong_length) + whole[144 : 144 + length]
    return (whole[:132] if preamble else b"") + meta + body


def tiff_of_absurd_size() -> bytes:
    image = Image.open(io.BytesIO(encode(GREY, "TIFF")))
    data = encode(GREY, "TIFF")
    for side, tag in zip(image.size, (256, 257), strict=True):
        short = struct.pack("<HHIHH", tag, 3, 1, side, 0)
        long = struct.pack("<HHII", tag, 4, 1, side)
        data = data.replace(short, struct.pack("<HHII", tag, 4, 1, 2**31)).replace(
            long, struct.pack("<HHII", tag, 4, 1, 2**31)
        )
    return data


def npy_bomb() -> bytes:
    return npy(GREY).replace(b"(48, 64), }", b"(30000, 30000), }").replace(b"30000), }      ", b"30000), }")


@pytest.mark.parametrize(
    "data",
    [
        png_bomb(),
        jpeg_bomb(),
        dicom(GREY, Rows=30_000, Columns=30_000),
        dicom(GREY, uid.JPEGBaseline8Bit, Rows=30_000, Columns=30_000, PixelData=encapsulate([jpeg_bomb()])),
        deflated_bomb(),
        deflated_bomb(wrong_length=2**31),
        deflated_bomb(preamble=False),
        tiff_of_absurd_size(),
        npy_bomb(),
    ],
    ids=[
        *("png", "jpeg", "dicom", "dicom-jpeg", "dicom-deflated", "dicom-deflated-length", "dicom-deflated-bare"),
        *("tiff", "npy"),
    ],
)
def test_bomb_costs_no_memory(data: bytes) -> None:
    limits = DecodeLimits(max_bytes=2**24)
    deflated = uid.DeflatedExplicitVRLittleEndian.encode() in data
    refused(data, limits)  # imports and tables are paid for
    tracemalloc.start()
    error = refused(data, limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.reason is Reason.TOO_LARGE
    assert peak < (3 * limits.max_bytes if deflated else 5 * 2**20)  # inflating stops at max_bytes


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_identifiers_are_in_no_message_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    broken = [
        dicom(GREY, Rows=27),
        dicom(GREY, PhotometricInterpretation=PLANTED[:16]),
        dicom(GREY, PixelData=PLANTED.encode()),
        dicom(GREY).replace(b"MONOCHROME2 ", b"Doe^Jane1970"),
    ]
    caplog.clear()  # what pydicom said when it wrote them
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for data in broken:
            assert "Doe" not in str(refused(data))
    assert not caplog.records
    assert not seen


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to RLIMIT_AS")
def test_too_little_memory_is_told_as_such() -> None:
    script = """
import resource, sys
from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
data = sys.stdin.buffer.read()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25,) * 2)
try:
    decode_radiograph(data)
except DecodeError as error:
    print(error.reason)
"""
    large = encode(np.zeros((8_000, 8_000), np.uint8))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, input=large, capture_output=True, check=False)
    assert done.stdout.decode().strip() == Reason.TOO_MUCH_MEMORY, done.stderr.decode()


# NPY ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("array", [GREY, np.asfortranarray(GREY), GREY[::-1, ::2], GREY[:28, :28]])
def test_npy_of_8_bits_is_kept_exactly(array: np.ndarray) -> None:
    radiograph = decode_radiograph(npy(array))
    assert np.array_equal(radiograph.pixels, array)
    assert radiograph.pixels.flags.c_contiguous
    assert radiograph.pixels.flags.writeable
    assert (radiograph.bits, radiograph.photometric, radiograph.pixel_spacing) == (8, "MONOCHROME2", None)


@pytest.mark.parametrize("array", [COLOUR, np.asfortranarray(COLOUR)])
def test_npy_of_colour_becomes_luma(array: np.ndarray) -> None:
    radiograph = decode_radiograph(npy(array))
    assert np.abs(radiograph.pixels - luma(COLOUR)).max() <= 1
    assert (radiograph.bits, radiograph.photometric) == (8, "RGB")


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_npy_of_16_bits_is_stretched(dtype: str) -> None:
    values = GREY.astype(np.uint16) * 12 + 20_000
    radiograph = decode_radiograph(npy(values.astype(dtype)))
    assert np.abs(radiograph.pixels - stretched(values)).max() <= 0.5
    assert radiograph.bits == 16


def test_constant_images_are_sound() -> None:
    for black in (np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint16)):
        for data in (npy(black), encode(black), encode(black, "TIFF"), dicom(black)):
            assert (decode(data) == 0).all()
