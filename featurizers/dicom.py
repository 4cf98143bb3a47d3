"""Bytes of a DICOM file or bare data set to a radiograph, or one `DecodeError` that says why not.

What is read and what is refused is decided here, on the elements that describe the pixels. `dicom_frames` gives the
pixels themselves, `dicom_grey` their grey values.
"""

from __future__ import annotations

import math
import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels.processing import apply_color_lut

from featurizers.dicom_frames import PLUGINS, stored_pixels, unsupported
from featurizers.dicom_grey import high_bit, render_monochrome
from featurizers.errors import DecodeError
from featurizers.greyscale import stretch, to_luma, to_luma16
from featurizers.radiograph import PALETTE, DecodeLimits, Pixels, Radiograph, check_size, corrupt
from featurizers.reasons import Reason

DICOM_MAGIC, DICOM_MAGIC_OFFSET = b"DICM", 128

_PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"  # (7FE0,0010), little endian, as all compressed transfer syntaxes are

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

# What decodes pixels as the words that were stored: no codec of its own, RLE.
_WORDS = ("", "pydicom")

_REQUIRED = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)

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
    "PixelPaddingRangeLimit",
    "PixelSpacing",
    "ImagerPixelSpacing",
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


def is_bare_dicom(data: bytes) -> bool:
    """Whether the bytes are a DICOM data set without preamble: its first group is 2 or 8, and it has a SOP class."""
    if data[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    try:
        if _is_deflated(_file_meta(BytesIO(data))):
            return True  # only `dicom_to_radiograph` bounds what it inflates to
        ds = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        sop_class = str(ds.get("SOPClassUID", ""))
    except Exception:
        # pydicom reads anything under `force`; what breaks it here was no DICOM.
        return False
    return sop_class.startswith("1.2.840.10008.5.1.4.") and uid.UID(sop_class).is_valid


def dicom_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a DICOM file or bare data set.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, NO_PIXEL_DATA, UNSUPPORTED_DICOM, CORRUPT_IMAGE; a decoder's own exception
            where it gives up.
    """
    ds = pydicom.dcmread(BytesIO(inflated(data, limits)), force=True, specific_tags=list(_DICOM_KEYWORDS))
    if "PixelData" not in ds:
        if not ds and _PIXEL_DATA_TAG in data:  # pydicom gives nothing where compressed frames break off
            raise corrupt("the DICOM file ends within its Pixel Data: it is truncated")
        raise DecodeError(
            Reason.NO_PIXEL_DATA,
            "the DICOM data set has no Pixel Data: it is a report, a directory or a stripped copy; leave it out",
        )
    if any(ds.get(keyword) in (None, "") for keyword in _REQUIRED):
        raise corrupt("the DICOM data set lacks an element that every image has, such as Rows or Bits Stored")
    rows, columns, bits = int(ds.Rows), int(ds.Columns), int(ds.BitsStored)
    check_size(rows, columns, limits)
    photometric = _check_supported(ds)
    words = stored_pixels(ds)
    if words.shape[:2] != (rows, columns):
        raise corrupt("the decoded image has another size than Rows × Columns")
    pixels = render_monochrome(words, ds) if photometric in _MONOCHROME else _render_colour(words, ds)
    return Radiograph(pixels, bits, photometric, _pixel_spacing(ds))


def _file_meta(stream: BytesIO) -> FileMetaDataset:
    """The file meta information, by the functions that `dcmread` uses; the stream is left at the data set's start."""
    read_preamble(stream, force=True)
    return _read_file_meta_info(stream)


def _is_deflated(meta: FileMetaDataset) -> bool:
    return bool(meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian)


def inflated(data: bytes, limits: DecodeLimits) -> bytes:
    """The file with its data set inflated, if it is deflated: pydicom would do so in one piece, whatever its size.

    Raises:
        DecodeError: TOO_LARGE, CORRUPT_IMAGE; whatever pydicom raises where it can't read the file meta information.
    """
    stream = BytesIO(data)
    if not _is_deflated(_file_meta(stream)):
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(stream.getbuffer()[stream.tell() :], limits.max_bytes + 1)
    if len(body) > limits.max_bytes:
        raise DecodeError(
            Reason.TOO_LARGE,
            f"the deflated data set inflates to more than the limit of {limits.max_bytes} bytes; "
            "raise max_bytes if the file is sound",
        )
    if not inflater.eof:
        raise corrupt("the deflated data set is truncated")
    syntax = uid.DeflatedExplicitVRLittleEndian.encode()
    return data[: stream.tell()].replace(syntax, uid.ExplicitVRLittleEndian.encode().ljust(len(syntax), b"\0")) + body


def _check_supported(ds: pydicom.FileDataset) -> str:
    """Refuse what is no single-frame radiograph of a known encoding; return the photometric interpretation."""
    if "TransferSyntaxUID" not in ds.file_meta:
        # A bare data set: pydicom has told from its bytes how it is encoded.
        implicit, little = ds.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in PLUGINS:
        name = syntax.name if syntax in UID_dictionary else "private or unknown"
        raise unsupported(f"the transfer syntax is {name}", "transcode it to JPEG 2000 or to Explicit VR Little Endian")
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise unsupported("the image has several frames", "export the radiograph as a single frame")
    allocated, stored = int(ds.BitsAllocated), int(ds.BitsStored)
    if allocated > 16 or stored > 16:
        raise unsupported("the image has more than 16 bits per sample", "export it with 16 bits or fewer")
    if allocated not in (1, 8, 16):
        raise unsupported("Bits Allocated is not 1, 8 or 16", "convert the file to a current pixel layout")
    if not 0 < stored <= high_bit(ds) + 1 <= allocated:
        raise corrupt("Bits Stored and High Bit do not fit Bits Allocated")
    if high_bit(ds) != stored - 1 and (PLUGINS[syntax] not in _WORDS or int(ds.SamplesPerPixel) != 1):
        raise unsupported("the compressed or colour pixels' High Bit is not Bits Stored - 1", "decompress the file")
    photometric = str(ds.PhotometricInterpretation)
    if photometric not in (*_MONOCHROME, *_COLOUR, PALETTE):
        raise unsupported("the Photometric Interpretation is unknown", "export it as MONOCHROME2")
    if int(ds.SamplesPerPixel) != (3 if photometric in _COLOUR else 1):
        raise corrupt("Samples per Pixel contradicts Photometric Interpretation")
    return photometric


def _render_colour(samples: npt.NDArray[np.integer], ds: pydicom.FileDataset) -> Pixels:
    """Luma of (rows, columns, 3) samples, or of (rows, columns) indices into the palette."""
    if ds.PhotometricInterpretation == PALETTE:
        samples = apply_color_lut(samples, ds)[..., :3]
        samples = samples >> (samples.dtype.itemsize - 1) * 8  # a palette's colours are a display's: no stretch
    elif int(ds.BitsStored) > 8:
        return stretch(to_luma16(samples.astype(np.uint16, copy=False)))
    return np.array(to_luma(Image.fromarray(samples.astype(np.uint8, copy=False))))


def _pixel_spacing(ds: pydicom.FileDataset) -> tuple[float, float] | None:
    """Millimetres between rows and between columns (PS3.3 10.7.1.3): as calibrated, else at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            rows, columns = (float(number) for number in ds.get(keyword) or ())
        except (TypeError, ValueError):  # absent or ill-written; it is not worth the image
            continue
        if 0 < rows < math.inf and 0 < columns < math.inf:
            return rows, columns
    return None
