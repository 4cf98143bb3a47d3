"""Pixel words of a monochrome DICOM image to 8 bits of grey: the grayscale pipeline of PS3.3 C.11 and PS3.4 N.2.

Stored value, modality LUT or rescale, VOI LUT or window or else a range of its own, polarity: all of it is computed
once for every word that a pixel can hold, and the pixels are looked up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.multival import MultiValue

from featurizers.dicom_frames import LOSSY
from featurizers.greyscale import Values, fraction, histogram, look_up, robust_range, to_uint8
from featurizers.radiograph import Pixels, corrupt


def high_bit(ds: FileDataset) -> int:
    """High Bit: Bits Stored - 1 where the file does not tell, as the standard has long asked for."""
    value = ds.get("HighBit")
    return int(ds.BitsStored) - 1 if value is None else int(value)


def render_monochrome(words: npt.NDArray[np.integer], ds: FileDataset) -> Pixels:
    """Grey values of (rows, columns) pixel words, of 8- or 16-bit integers.

    Polarity: DICOM shows MONOCHROME1's lowest value as white. Without a window that is 2^BitsStored - 1 - x after the
    modality LUT. With one, the windowed output is inverted instead, because window centres are given in modality
    units; the two agree wherever both maps are affine.

    Raises:
        DecodeError: CORRUPT_IMAGE, where a LUT, a rescale or a window is none that DICOM defines.
    """
    unsigned = words.view(f"u{words.dtype.itemsize}")
    stored = _stored_values(2 ** (8 * unsigned.itemsize), ds)
    values = _apply_modality_lut(stored, ds)
    fractions = _apply_voi_lut(values, ds)
    if fractions is None:
        low, high = _own_range(stored, values, unsigned, ds)
        fractions = fraction(values, low, high)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        fractions = 1 - fractions
    return look_up(to_uint8(fractions), unsigned)


def _stored_values(words: int, ds: FileDataset) -> npt.NDArray[np.int64]:
    """The stored value of each word 0…words-1: the Bits Stored bits up to High Bit (PS3.5, 8.1.1).

    What lies beside them is no pixel: older files keep overlays there. Lossy decoders may overshoot what is stored.
    """
    bits = int(ds.BitsStored)
    stored: npt.NDArray[np.int64] = np.arange(words)
    if ds.PixelRepresentation or ds.file_meta.TransferSyntaxUID not in LOSSY:
        stored = (stored >> (high_bit(ds) + 1 - bits)) & (2**bits - 1)
    if ds.PixelRepresentation:  # two's complement
        stored -= (stored >> (bits - 1)) << bits
    np.minimum(stored, 2**bits - 1, out=stored)
    return stored


def _apply_modality_lut(stored: npt.NDArray[np.int64], ds: FileDataset) -> Values:
    """Values after the modality LUT or else the rescale (PS3.3 C.11.1); the stored ones if there is neither."""
    if ds.get("ModalityLUTSequence"):
        return _look_up_entries(stored.astype(np.float64), ds, "ModalityLUTSequence")[0]
    slope, intercept = _first(ds, "RescaleSlope"), _first(ds, "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise corrupt("Rescale Slope is 0, or it or Rescale Intercept is no finite number")
    return stored.astype(np.float64) * slope + intercept


def _apply_voi_lut(values: Values, ds: FileDataset) -> Values | None:
    """Values after the VOI LUT or else the first window, as fractions of the output range; None if there is neither."""
    if ds.get("VOILUTSequence"):
        output, highest = _look_up_entries(values, ds, "VOILUTSequence")
        return output / highest
    center, width = _first(ds, "WindowCenter"), _first(ds, "WindowWidth")
    if center is None or width is None:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR").upper()
    # PS3.3 C.11.2.1.2.1, C.11.2.1.3.2 and C.11.2.1.3.1
    if np.isfinite([center, width]).all():
        if function == "LINEAR" and width >= 1:
            return fraction(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
        if function == "LINEAR_EXACT" and width > 0:
            return fraction(values, center - width / 2, center + width / 2)
        if function == "SIGMOID" and width > 0:
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -500, 500)))
    raise corrupt("the window's width or VOI LUT Function is not one that DICOM defines")


def _look_up_entries(values: Values, ds: FileDataset, sequence: str) -> tuple[Values, int]:
    """Values through the first LUT of a sequence, and the highest output that it can give (PS3.3 C.11.1.1, C.11.2.1.1).

    Values below the first that is mapped take the first entry, those above the last one take the last.
    """
    item = ds[sequence][0]
    count, first_mapped, _ = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16
    data = item.LUTData
    if isinstance(data, bytes):  # of VR OW: words, but some writers pack entries of 8 bits
        order = "<" if ds.original_encoding[1] else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * count else "u1")
    entries = np.atleast_1d(np.asarray(data)).astype(np.int64)[:count] & 0xFFFF
    if not entries.size:
        raise corrupt("a LUT has no entries")
    index = np.clip(np.rint(values) - first_mapped, 0, entries.size - 1).astype(np.intp)
    # Not the descriptor's bits: some writers declare 16 and fill 12, which would be black.
    bits = max(8, int(entries.max()).bit_length())
    return entries[index].astype(np.float64), 2**bits - 1


def _first(ds: FileDataset, keyword: str) -> float | None:
    value = ds.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None else float(value)


def _own_range(
    stored: npt.NDArray[np.int64], values: Values, words: npt.NDArray[np.unsignedinteger], ds: FileDataset
) -> tuple[float, float]:
    """Darkest and brightest value of a file without window: all that 8 bits can hold, or else robust percentiles."""
    if int(ds.BitsStored) <= 8 and "ModalityLUTSequence" not in ds:
        return float(values.min()), float(values.max())
    counts = histogram(words, values.size)
    padding = _is_padding(stored, ds)
    if counts[~padding].any():
        counts[padding] = 0
    return robust_range(values, counts)


def _is_padding(stored: npt.NDArray[np.int64], ds: FileDataset) -> npt.NDArray[np.bool_]:
    """Which stored values are no measurement: Pixel Padding Value, and all up to Range Limit (PS3.3 C.7.5.1.1.2)."""
    value = ds.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=np.bool_)
    limit = ds.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (low <= stored) & (stored <= high)
