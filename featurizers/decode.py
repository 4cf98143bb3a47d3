"""Bytes of a JPEG, PNG or DICOM file to one greyscale radiograph, or one `DecodeError` that says why not.

The format is read from the bytes, never from a name. Sizes are checked on the header, before any pixel memory is
asked for, so that a decompression bomb costs microseconds. DICOM goes through the grayscale pipeline of PS3.3 C.11
and PS3.4 N.2: stored value, modality LUT, VOI LUT or window, then polarity.

One decoder is pinned per compression, because lossy decoders differ in their last bits:

======================================  ==========================================
JPEG baseline                           Pillow (libjpeg-turbo)
JPEG extended, lossless, JPEG-LS        GDCM
JPEG 2000, HTJ2K                        OpenJPEG, through pylibjpeg-openjpeg
RLE, native, deflated                   pydicom
======================================  ==========================================
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple, TypeAlias

import gdcm  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array

from featurizers.errors import DecodeError, DecodeReason

Pixels: TypeAlias = npt.NDArray[np.uint8]
Values: TypeAlias = npt.NDArray[np.float64]

JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
DICOM_MAGIC, DICOM_MAGIC_OFFSET = b"DICM", 128

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

# Grey values outside this share of the pixels are clipped where a file names no window of its own: wide enough to
# keep a radiograph's histogram, narrow enough to drop burnt-in markers and the unexposed border.
STRETCH_PERCENTILES = (0.5, 99.5)
# The percentiles are read from at most about this many evenly spaced pixels.
_STRETCH_SAMPLE = 4_000_000

_PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
    uid.JPEGLSLossless: "gdcm",
    uid.JPEGLSNearLossless: "gdcm",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
    uid.RLELossless: "pydicom",
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
}
_J2K_PLUGIN = "pylibjpeg"
_J2K_MAGIC = b"\xff\x4f\xff\x51"  # ITU-T T.800: SOC, then SIZ
_JPEG_PLUGINS = ("pillow", "gdcm")

# Far more than GDCM needs for the largest image that the limits let through.
_CHILD_SECONDS = 60

#: What decides a radiograph's pixels; changes whenever this module would give others for the same bytes.
RULES = (
    "decode version 1: MONOCHROME1 as 2^BitsStored-1-x after the modality LUT, VOI LUT or first window, else 0.5 "
    "to 99.5 percentiles above 8 bits; JPEG 2000 by OpenJPEG"
)

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = (
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_PARTIAL_420",
    "YBR_PARTIAL_422",
    "YBR_ICT",
    "YBR_RCT",
)
_PALETTE = "PALETTE COLOR"

# The only elements that are read: what identifies a patient is skipped, not filtered afterwards.
_DICOM_KEYWORDS = (
    "SOPClassUID",
    "PixelData",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "AlphaPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "AlphaPaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "SegmentedAlphaPaletteColorLookupTableData",
)


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a file may cost before it is refused.

    Attributes:
        max_pixels: most rows × columns that a header may declare.
        max_bytes: most bytes of one file, and of a deflated DICOM data set once inflated.
        min_side: fewest pixels of either side.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 2**20
    min_side: int = 32


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded image.

    Attributes:
        pixels: (rows, columns) uint8 greyscale in the sense of MONOCHROME2: dense tissue, such as bone, is bright.
        bits: bits stored per sample in the file (DICOM's Bits Stored): 1, 8, 12, 15, 16, …
        photometric: DICOM's Photometric Interpretation of the file, or its equivalent for JPEG and PNG: MONOCHROME2
            for grey, RGB, CMYK, PALETTE COLOR.
    """

    pixels: Pixels
    bits: int
    photometric: str


def decode_radiograph(data: bytes, limits: DecodeLimits = DecodeLimits()) -> Radiograph:
    """Decode the bytes of one JPEG, PNG or DICOM file.

    8-bit grey values are kept exactly. Colour becomes ITU-R 601 luma. Transparency is laid over black. JPEG and PNG
    are turned as their EXIF orientation says. 16-bit grey PNGs, and DICOM of more than 8 bits with neither VOI LUT nor
    window, are stretched between the `STRETCH_PERCENTILES` of their pixels. 16-bit colour PNGs keep their top byte.

    Args:
        data: the whole file.
        limits: what the file may cost.

    Raises:
        DecodeError: whatever is wrong with the bytes; no other exception leaves this function because of them.
    """
    if not data:
        raise DecodeError(DecodeReason.EMPTY_FILE, "the file has 0 bytes; copy it again from its source")
    if len(data) > limits.max_bytes:
        raise DecodeError(
            DecodeReason.TOO_LARGE,
            f"the file has {len(data)} bytes, more than the limit of {limits.max_bytes}; "
            "raise max_bytes if the file is sound",
        )
    try:
        with _quiet():
            if data.startswith(JPEG_MAGIC):
                return _decode_jpeg(data, limits)
            if data.startswith(PNG_MAGIC):
                return _decode_png(data, limits)
            if data.startswith(DICOM_MAGIC, DICOM_MAGIC_OFFSET) or _is_bare_dicom(data):
                return _decode_dicom(data, limits)
    except DecodeError:
        raise
    except Exception as error:
        # The exception's own text may quote values of the file, a patient's among them: only its class is told.
        raise DecodeError(
            DecodeReason.CORRUPT_IMAGE,
            f"the decoder gave up with {type(error).__name__}; the file is damaged, copy it again from its source",
        ) from None
    found = next((name for magic, name in _OTHER_FORMATS if data.startswith(magic)), "something else")
    raise DecodeError(
        DecodeReason.NOT_AN_IMAGE,
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


def _check_size(rows: int, columns: int, limits: DecodeLimits) -> None:
    if rows * columns > limits.max_pixels:
        raise DecodeError(
            DecodeReason.TOO_LARGE,
            f"the header declares {columns} × {rows} pixels, more than the limit of {limits.max_pixels}; "
            "raise max_pixels if the file is sound",
        )
    if min(rows, columns) < limits.min_side:
        raise DecodeError(
            DecodeReason.TOO_SMALL,
            f"the header declares {columns} × {rows} pixels, fewer than {limits.min_side} on a side; "
            "use the original image, not an icon of it",
        )


def _corrupt(what: str) -> DecodeError:
    return DecodeError(DecodeReason.CORRUPT_IMAGE, f"{what}; copy the file again from its source")


# JPEG ----------------------------------------------------------------------------------------------------------------


class _JpegHeader(NamedTuple):
    """What ITU-T T.81 B.2.2's frame header declares, and where the first scan starts."""

    precision: int
    rows: int
    columns: int
    components: int
    scan_offset: int


def _jpeg_header(data: bytes) -> _JpegHeader:
    """Read the markers of a JPEG or JPEG-LS stream up to its first scan (ITU-T T.81 B.1.1, ITU-T T.87 C.1.1)."""
    offset = 2
    frame: tuple[int, int, int, int] | None = None
    while True:
        if data[offset] != 0xFF:
            raise _corrupt("a JPEG marker is missing")
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
                raise _corrupt("the JPEG's scan comes before its frame header")
            precision, rows, columns, components = frame
            return _JpegHeader(precision, rows, columns, components, offset)
        offset += 2 + length


def _check_jpeg_end(data: bytes, scan_offset: int) -> None:
    """Refuse a truncated or zero-filled JPEG, which libjpeg would fill with grey or noise without an error.

    Entropy-coded data never contain FF D9 (T.81 F.1.2.3 stuffs a zero after each FF), so the last one after the first
    scan's start is the end of the image.
    """
    if data.rfind(b"\xff\xd9") < scan_offset:
        raise _corrupt("the JPEG has no end-of-image marker: it is truncated")


def _decode_jpeg(data: bytes, limits: DecodeLimits) -> Radiograph:
    header = _jpeg_header(data)
    _check_size(header.rows, header.columns, limits)
    _check_jpeg_end(data, header.scan_offset)
    # The plugin's class and not `Image.open`, whose own size limit is a global that warns or raises on its own terms.
    with JpegImageFile(BytesIO(data)) as image:
        photometric = "MONOCHROME2" if image.mode == "L" else image.mode
        image.draft("L", None)  # of Y'CbCr, decode the luma alone
        return Radiograph(_to_grey(image), header.precision, photometric)


# PNG -----------------------------------------------------------------------------------------------------------------


def check_png(data: bytes) -> None:
    """Check every chunk's CRC-32 and the presence of IEND (PNG specification, 5.3), which Pillow does not.

    Raises:
        DecodeError: CORRUPT_IMAGE.
    """
    offset = len(PNG_MAGIC)
    view = memoryview(data)
    while True:
        if offset + 12 > len(data):
            raise _corrupt("the PNG has no IEND chunk: it is truncated")
        (length,) = struct.unpack_from(">I", data, offset)
        end = offset + 8 + length
        if end + 4 > len(data):
            raise _corrupt("a PNG chunk is truncated")
        if zlib.crc32(view[offset + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise _corrupt("a PNG chunk fails its CRC")
        if data.startswith(b"IEND", offset + 4):
            return
        offset = end + 4


def _decode_png(data: bytes, limits: DecodeLimits) -> Radiograph:
    if not data.startswith(b"IHDR", 12):
        raise _corrupt("the PNG has no IHDR chunk")
    columns, rows, bits = struct.unpack_from(">IIB", data, 16)
    _check_size(rows, columns, limits)
    check_png(data)
    with PngImageFile(BytesIO(data)) as image:
        colour = "RGB" if image.mode.startswith("RGB") else "MONOCHROME2"
        return Radiograph(_to_grey(image), bits, _PALETTE if image.mode == "P" else colour)


# Both ----------------------------------------------------------------------------------------------------------------

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


def _to_grey(image: JpegImageFile | PngImageFile) -> Pixels:
    image.load()
    upright: Image.Image = image
    if "exif" in image.info:
        turn = _EXIF_TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
        upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith("I;16"):
        return _stretch(np.asarray(upright, dtype=np.uint16))
    return np.array(_to_luma(upright))


def _to_luma(image: Image.Image) -> Image.Image:
    if image.mode == "L" and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("L")
    if image.mode in ("CMYK", "P"):
        image = image.convert("RGB")
    return image.convert("L")


def _stretch(pixels: npt.NDArray[np.uint16]) -> Pixels:
    values = np.arange(2**16, dtype=np.float64)
    low, high = _robust_range(values, _histogram(pixels, values.size))
    return _to_uint8(_fraction(values, low, high))[pixels]


def _histogram(index: npt.NDArray[np.unsignedinteger], size: int) -> npt.NDArray[np.intp]:
    flat = index.ravel()
    return np.bincount(flat[:: -(-flat.size // _STRETCH_SAMPLE)], minlength=size)


def _robust_range(values: Values, counts: npt.NDArray[np.intp]) -> tuple[float, float]:
    """Percentiles of the pixels whose value `values[i]` occurs `counts[i]` times; their extremes if those coincide."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = np.array(STRETCH_PERCENTILES) / 100 * cumulative[-1]
    low, high = values[order[np.searchsorted(cumulative, ranks)]]
    if low == high:
        occurring = values[counts > 0]
        low, high = occurring.min(), occurring.max()
    return float(low), float(high)


def _fraction(values: Values, low: float, high: float) -> Values:
    """Map low…high to 0…1 and clip; a range of no width becomes a step, so that a constant image is black."""
    if high == low:
        return (values > low).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)


def _to_uint8(fractions: Values) -> Pixels:
    return np.rint(fractions * 255).astype(np.uint8)


# DICOM ---------------------------------------------------------------------------------------------------------------


def _is_bare_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM data set without preamble: its first group is 2 or 8, and it has a SOP class."""
    if data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    try:
        ds = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        sop_class = str(ds.get("SOPClassUID", ""))
    except Exception:
        # pydicom reads anything under `force`; what breaks it here was no DICOM.
        return False
    return sop_class.startswith("1.2.840.10008.5.1.4.") and uid.UID(sop_class).is_valid


def _decode_dicom(data: bytes, limits: DecodeLimits) -> Radiograph:
    _check_inflated_size(data, limits)
    ds = pydicom.dcmread(BytesIO(data), force=True, specific_tags=list(_DICOM_KEYWORDS))
    if "PixelData" not in ds:
        raise DecodeError(
            DecodeReason.NO_PIXEL_DATA,
            "the DICOM data set has no Pixel Data: it is a report, a directory or a stripped copy; leave it out",
        )
    rows, columns, bits = int(ds.Rows), int(ds.Columns), int(ds.BitsStored)
    _check_size(rows, columns, limits)
    photometric = _check_supported(ds)
    stored = _stored_pixels(ds)
    if stored.shape[:2] != (rows, columns):
        raise _corrupt("the decoded image has another size than Rows × Columns")
    if photometric in _MONOCHROME:
        return Radiograph(_render_monochrome(stored, ds), bits, photometric)
    if photometric == _PALETTE:
        rgb = apply_color_lut(stored, ds)[..., :3]
        shift = (rgb.dtype.itemsize - 1) * 8
    else:
        rgb, shift = stored, max(bits - 8, 0)
    return Radiograph(np.array(Image.fromarray((rgb >> shift).astype(np.uint8)).convert("L")), bits, photometric)


def _check_inflated_size(data: bytes, limits: DecodeLimits) -> None:
    """Inflate a deflated data set piece by piece: pydicom would do so in one piece, whatever its size."""
    if uid.DeflatedExplicitVRLittleEndian.encode() not in data[: DICOM_MAGIC_OFFSET + 2048]:
        return
    # (0002,0000) File Meta Information Group Length, UL, comes right after the magic (PS3.10, 7.1).
    (group_length,) = struct.unpack_from("<I", data, DICOM_MAGIC_OFFSET + 12)
    inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = data[DICOM_MAGIC_OFFSET + 16 + group_length :]
    while rest and not inflater.eof:
        total += len(inflater.decompress(rest, 2**20))
        rest = inflater.unconsumed_tail
        if total > limits.max_bytes:
            raise DecodeError(
                DecodeReason.TOO_LARGE,
                f"the deflated data set inflates to more than the limit of {limits.max_bytes} bytes; "
                "raise max_bytes if the file is sound",
            )


def _check_supported(ds: pydicom.FileDataset) -> str:
    """Refuse what is no single-frame radiograph of a known encoding; return the photometric interpretation."""
    if "TransferSyntaxUID" not in ds.file_meta:
        # A bare data set: pydicom has told from its bytes how it is encoded.
        implicit, little = ds.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in _PLUGINS:
        name = syntax.name if syntax in UID_dictionary else "private or unknown"
        raise _unsupported(
            f"the transfer syntax is {name}", "transcode it to JPEG 2000 or to Explicit VR Little Endian"
        )
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise _unsupported("the image has several frames", "export the radiograph as a single frame")
    if int(ds.get("HighBit", ds.BitsStored - 1)) != int(ds.BitsStored) - 1:
        # Older files may keep their pixels elsewhere in the word; pydicom does not shift them.
        raise _unsupported("the pixels' High Bit is not Bits Stored - 1", "convert the file to a current pixel layout")
    if int(ds.BitsAllocated) > 16 or int(ds.BitsStored) > 16:
        raise _unsupported("the image has more than 16 bits per sample", "export it with 16 bits or fewer")
    photometric = str(ds.PhotometricInterpretation)
    if photometric not in (*_MONOCHROME, *_COLOUR, _PALETTE):
        raise _unsupported("the Photometric Interpretation is unknown", "export it as MONOCHROME2")
    if int(ds.SamplesPerPixel) != (3 if photometric in _COLOUR else 1):
        raise _corrupt("Samples per Pixel contradicts Photometric Interpretation")
    return photometric


def _unsupported(what: str, remedy: str) -> DecodeError:
    return DecodeError(DecodeReason.UNSUPPORTED_DICOM, f"{what}; {remedy}")


def _stored_pixels(ds: Dataset) -> npt.NDArray[np.integer]:
    """Stored values, (rows, columns) or (rows, columns, 3), in native byte order and an 8- or 16-bit integer type."""
    syntax = ds.file_meta.TransferSyntaxUID
    plugin = _PLUGINS[syntax]
    if syntax.is_compressed and syntax.is_encapsulated:
        frame = get_frame(ds.PixelData, 0, number_of_frames=1)
        if plugin in _JPEG_PLUGINS:
            header = _jpeg_header(frame)
            _check_jpeg_end(frame, header.scan_offset)
            _check_frame(ds, header.rows, header.columns, header.components, header.precision)
            if plugin == "gdcm":
                twelve = syntax == uid.JPEGExtended12Bit and header.precision > 8
                return _in_child(lambda: _decode_extended(frame, ds) if twelve else _decode_by(plugin, ds))
        elif plugin == _J2K_PLUGIN:
            # Some writers wrap the codestream in JP2 boxes, against PS3.5 8.2.4; pydicom loops on a damaged one.
            frame = frame[max(frame.find(_J2K_MAGIC), 0) :]
            _check_frame(ds, *_j2k_header(frame))
            ds.PixelData = encapsulate([frame])
    return _decode_by(plugin, ds)


def _decode_by(plugin: str, ds: Dataset) -> npt.NDArray[np.integer]:
    pixels: npt.NDArray[np.integer] = pixel_array(ds, index=0, decoding_plugin=plugin)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _in_child(decode: Callable[[], npt.NDArray[np.integer]]) -> npt.NDArray[np.integer]:
    """Run a decoder in a forked process: GDCM ends the process it runs in on some damaged frames.

    The child's standard error is closed, because GDCM writes there what no Python setting silences.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # Its default action ends the child: a decoder that hangs costs one image.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_CHILD_SECONDS)
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.close(reader)
            answer = BytesIO()
            np.save(answer, decode(), allow_pickle=False)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer.getbuffer())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        sent = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        raise _corrupt("GDCM could not decode the compressed frame")
    pixels: npt.NDArray[np.integer] = np.load(BytesIO(sent), allow_pickle=False)
    return pixels


def _check_frame(ds: Dataset, rows: int, columns: int, components: int, precision: int) -> None:
    """Compare the codestream's header with the data set's: the decoders trust the codestream, with their memory."""
    if (rows, columns, components) != (int(ds.Rows), int(ds.Columns), int(ds.SamplesPerPixel)):
        raise _corrupt("the compressed frame has another size than Rows × Columns × Samples per Pixel")
    if not 2 <= precision <= int(ds.BitsAllocated):
        raise _corrupt("the compressed frame has a precision that does not fit Bits Allocated")


def _j2k_header(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and precision of a JPEG 2000 codestream (ITU-T T.800, A.5.1: SIZ follows SOC)."""
    if not frame.startswith(_J2K_MAGIC):
        raise _corrupt("the JPEG 2000 codestream has no SIZ marker")
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    components, depth = struct.unpack_from(">HB", frame, 40)
    return bottom - top, right - left, components, (depth & 0x7F) + 1


def _decode_extended(frame: bytes, ds: Dataset) -> npt.NDArray[np.uint16]:
    """Decode JPEG extended of 12 bits (process 4) by GDCM itself: GDCM does, but pydicom's plugin refuses."""
    if ds.PixelRepresentation != 0 or ds.SamplesPerPixel != 1:
        raise _unsupported("signed or colour JPEG extended of 12 bits is not read", "transcode it to JPEG lossless")
    rows, columns = int(ds.Rows), int(ds.Columns)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM's Python binding hands bytes out as text.
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(buffer, dtype="<u2").astype(np.uint16).reshape(rows, columns)


def _render_monochrome(stored: npt.NDArray[np.integer], ds: Dataset) -> Pixels:
    """Run the grayscale pipeline once for every value that can be stored, then look the pixels up.

    Polarity: DICOM shows MONOCHROME1's lowest value as white. Without a window that is 2^BitsStored - 1 - x after the
    modality LUT. With one, the windowed output is inverted instead, because window centres are given in modality
    units; the two agree wherever both maps are affine.
    """
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    index = stored.view(unsigned)
    # In the order of the unsigned view, so that negative stored values find their place.
    domain = np.arange(2 ** (8 * unsigned.itemsize), dtype=unsigned).view(stored.dtype)
    values = apply_modality_lut(domain, ds).astype(np.float64)
    fractions = _apply_voi_lut(values, ds)
    if fractions is None:
        low, high = _stored_range(domain, values, index, ds)
        fractions = _fraction(values, low, high)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        fractions = 1 - fractions
    grey: Pixels = _to_uint8(fractions)[index]
    return grey


def _apply_voi_lut(values: Values, ds: Dataset) -> Values | None:
    """Values after the VOI LUT or else the first window, as fractions of the output range; None if there is neither."""
    if ds.get("VOILUTSequence"):
        output = apply_voi(np.rint(values).astype(np.int64), ds)
        return output / float(2 ** int(ds.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    center, width = _first(ds, "WindowCenter"), _first(ds, "WindowWidth")
    if center is None or width is None:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR").upper()
    # PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1
    if function == "LINEAR" and width >= 1:
        return _fraction(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
    if function == "LINEAR_EXACT" and width > 0:
        return _fraction(values, center - width / 2, center + width / 2)
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    raise _corrupt("the window's width or VOI LUT Function is not one that DICOM defines")


def _first(ds: Dataset, keyword: str) -> float | None:
    value = ds.get(keyword)
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return None if value is None else float(value)


def _stored_range(
    domain: npt.NDArray[np.integer], values: Values, index: npt.NDArray[np.unsignedinteger], ds: Dataset
) -> tuple[float, float]:
    """Darkest and brightest value of a file without window: all that 8 bits can hold, or else robust percentiles."""
    bits = int(ds.BitsStored)
    if bits <= 8 and "ModalityLUTSequence" not in ds:
        lowest = -(2 ** (bits - 1)) if ds.PixelRepresentation else 0
        held = values[(domain >= lowest) & (domain < lowest + 2**bits)]
        return float(held.min()), float(held.max())
    counts = _histogram(index, values.size)
    padding = domain == ds.get("PixelPaddingValue")
    if counts[~padding].any():
        counts[padding] = 0
    return _robust_range(values, counts)
