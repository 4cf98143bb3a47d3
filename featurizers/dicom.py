"""Bytes of a DICOM file or bare data set to a radiograph, or one `DecodeError` that says why not.

Stored values go through the grayscale pipeline of PS3.3 C.11 and PS3.4 N.2: modality LUT, VOI LUT or window, then
polarity. The stored values themselves come from `dicom_frames`.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi

from featurizers.dicom_frames import PLUGINS, stored_pixels, unsupported
from featurizers.errors import DecodeError
from featurizers.greyscale import Values, fraction, histogram, robust_range, to_uint8
from featurizers.radiograph import PALETTE, DecodeLimits, Pixels, Radiograph, check_size, corrupt
from featurizers.reasons import Reason

DICOM_MAGIC, DICOM_MAGIC_OFFSET = b"DICM", 128

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


def is_bare_dicom(data: bytes) -> bool:
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


def dicom_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a DICOM file or bare data set.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, NO_PIXEL_DATA, UNSUPPORTED_DICOM, CORRUPT_IMAGE; a decoder's own exception
            where it gives up.
    """
    _check_inflated_size(data, limits)
    ds = pydicom.dcmread(BytesIO(data), force=True, specific_tags=list(_DICOM_KEYWORDS))
    if "PixelData" not in ds:
        raise DecodeError(
            Reason.NO_PIXEL_DATA,
            "the DICOM data set has no Pixel Data: it is a report, a directory or a stripped copy; leave it out",
        )
    rows, columns, bits = int(ds.Rows), int(ds.Columns), int(ds.BitsStored)
    check_size(rows, columns, limits)
    photometric = _check_supported(ds)
    stored = stored_pixels(ds)
    if stored.shape[:2] != (rows, columns):
        raise corrupt("the decoded image has another size than Rows × Columns")
    if photometric in _MONOCHROME:
        return Radiograph(_render_monochrome(stored, ds), bits, photometric)
    if photometric == PALETTE:
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
                Reason.TOO_LARGE,
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
    if syntax not in PLUGINS:
        name = syntax.name if syntax in UID_dictionary else "private or unknown"
        raise unsupported(f"the transfer syntax is {name}", "transcode it to JPEG 2000 or to Explicit VR Little Endian")
    if int(ds.get("NumberOfFrames") or 1) != 1:
        raise unsupported("the image has several frames", "export the radiograph as a single frame")
    if int(ds.get("HighBit", ds.BitsStored - 1)) != int(ds.BitsStored) - 1:
        # Older files may keep their pixels elsewhere in the word; pydicom does not shift them.
        raise unsupported("the pixels' High Bit is not Bits Stored - 1", "convert the file to a current pixel layout")
    if int(ds.BitsAllocated) > 16 or int(ds.BitsStored) > 16:
        raise unsupported("the image has more than 16 bits per sample", "export it with 16 bits or fewer")
    photometric = str(ds.PhotometricInterpretation)
    if photometric not in (*_MONOCHROME, *_COLOUR, PALETTE):
        raise unsupported("the Photometric Interpretation is unknown", "export it as MONOCHROME2")
    if int(ds.SamplesPerPixel) != (3 if photometric in _COLOUR else 1):
        raise corrupt("Samples per Pixel contradicts Photometric Interpretation")
    return photometric


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
        fractions = fraction(values, low, high)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        fractions = 1 - fractions
    grey: Pixels = to_uint8(fractions)[index]
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
        return fraction(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
    if function == "LINEAR_EXACT" and width > 0:
        return fraction(values, center - width / 2, center + width / 2)
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    raise corrupt("the window's width or VOI LUT Function is not one that DICOM defines")


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
    counts = histogram(index, values.size)
    padding = domain == ds.get("PixelPaddingValue")
    if counts[~padding].any():
        counts[padding] = 0
    return robust_range(values, counts)
