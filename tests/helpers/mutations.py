"""Damaged image files: sound ones of every format, and what mutates them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import gdcm
import numpy as np
from image_files import COLOUR, GREY, TWELVE, dicom, encode, rle
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

PNG_HEAD = 8  # bytes before the first chunk


def png(pixels: np.ndarray, interlaced: bool = False) -> bytes:
    data = encode(pixels)
    if not interlaced:
        return data
    # Rows of no filter read as those of Adam7's passes: some picture, which is all that is asked here.
    header = bytearray(data[8:33])
    header[20] = 1
    header[21:] = struct.pack(">I", zlib.crc32(header[4:21]))
    body = zlib.compress(b"\0" * 2 * (pixels.nbytes + 8 * pixels.shape[0]))
    idat = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    return data[:8] + bytes(header) + idat + data[-12:]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


J2K = {"no_jp2": True, "irreversible": False}
#: Sound files of every format, by name.
SEEDS = {
    "jpeg": encode(GREY, "JPEG"),
    "jpeg-rgb": encode(COLOUR, "JPEG"),
    "jpeg-progressive": encode(COLOUR, "JPEG", progressive=True),
    "jpeg-cmyk": encode(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "png-8": png(GREY),
    "png-16": png(TWELVE),
    "png-rgb": png(COLOUR),
    "png-interlaced": png(GREY, interlaced=True),
    "png-palette": encode(Image.fromarray(COLOUR).quantize(16)),
    "tiff": encode(GREY, "TIFF"),
    "tiff-lzw": encode(COLOUR, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": encode(TWELVE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": encode(GREY, "TIFF", compression="packbits"),
    "npy": npy(GREY),
    "npy-rgb": npy(COLOUR),
    "dicom": dicom(TWELVE, BitsStored=12, WindowCenter=2000, WindowWidth=3000),
    "dicom-deflated": dicom(TWELVE, uid.DeflatedExplicitVRLittleEndian, BitsStored=12),
    "dicom-rle": rle(TWELVE, BitsStored=12),
    "dicom-jpeg": dicom(GREY, uid.JPEGBaseline8Bit, PixelData=encapsulate([encode(GREY, "JPEG")])),
    "dicom-j2k": dicom(GREY, uid.JPEG2000Lossless, PixelData=encapsulate([encode(GREY, "JPEG2000", **J2K)])),
}
#: Formats that GDCM decodes, in a process of its own, which takes its time.
BY_GDCM = {
    "dicom-lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "dicom-jpeg-ls": gdcm.TransferSyntax.JPEGLSLossless,
}

Mutation = Callable[[bytearray, np.random.Generator, bytes], None]


def flip_bits(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    for at in rng.integers(len(data), size=rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))


def flip_bits_of_the_header(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    # The first quarter, DICOM's empty preamble apart.
    start = 128 if data[128:132] == b"DICM" else 0
    for at in rng.integers(start, start + (len(data) - start) // 4 + 1, size=rng.integers(1, 4)):
        data[at] ^= 1 << int(rng.integers(8))


def truncate(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    del data[int(rng.integers(len(data))) :]


def splice(data: bytearray, rng: np.random.Generator, other: bytes) -> None:
    data[int(rng.integers(len(data))) :] = other[int(rng.integers(len(other))) :]


def write_absurd_number(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    number = rng.choice(["7fff", "ffff", "0000", "8000", "7fffffff", "ffffffff", "fffffffe", "00000000", "ffffff7f"])
    at = int(rng.integers(len(data)))
    data[at : at + len(number) // 2] = bytes.fromhex(str(number))


def swap_ranges(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    a, b, c = sorted(int(at) for at in rng.integers(len(data), size=3))
    data[a:c] = data[b:c] + data[a:b]


def zero_a_range(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    start, end = sorted(int(at) for at in rng.integers(len(data), size=2))
    data[start:end] = bytes(end - start)


def double_a_range(data: bytearray, rng: np.random.Generator, _: bytes) -> None:
    start, end = sorted(int(at) for at in rng.integers(len(data), size=2))
    data[start:start] = data[start:end]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits_of_the_header,
    truncate,
    splice,
    write_absurd_number,
    swap_ranges,
    zero_a_range,
    double_a_range,
)


def with_right_crcs(data: bytes) -> bytes:
    """A damaged PNG whose chunks' checksums are right, so that the damage reaches the decoder."""
    out, at = bytearray(data), PNG_HEAD
    while at + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, at)
        end = at + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def mutated(name: str, seeds: dict[str, bytes], rng: np.random.Generator) -> bytes:
    """A damaged copy of one of `seeds`."""
    data, other = bytearray(seeds[name]), seeds[str(rng.choice(sorted(seeds)))]
    for _ in range(rng.integers(1, 3)):
        MUTATIONS[rng.integers(len(MUTATIONS))](data, rng, other)
        data = data or bytearray(b"\0")
    return with_right_crcs(bytes(data)) if name.startswith("png") and rng.random() < 0.7 else bytes(data)
