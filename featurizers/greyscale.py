"""Values of any range and colour to 8 bits of grey.

A range is mapped linearly to 0…255 and clipped: a range that is given, or else a robust one read from the pixels. What
depends on a pixel's value alone is computed once for each of the 2^8 or 2^16 values, and the pixels are looked up.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.radiograph import Pixels

Values: TypeAlias = npt.NDArray[np.float64]

# Grey values outside this share of the pixels are clipped where a file names no window of its own: wide enough to
# keep a radiograph's histogram, narrow enough to drop burnt-in markers and the unexposed border.
STRETCH_PERCENTILES = (0.5, 99.5)
# The percentiles are read from evenly spaced rows with about this many pixels.
_STRETCH_SAMPLE = 1_000_000
# Pixels that are looked up at a time: NumPy widens their indices to 64 bits, and those stay in the processor's cache.
_LOOK_UP_BLOCK = 2**16
# ITU-R BT.601, 2.5.1: thousandths of red, green and blue in the luma.
_LUMA_WEIGHTS = (299, 587, 114)


def to_luma(image: Image.Image) -> Image.Image:
    """ITU-R 601 luma, mode L, of an 8- or 1-bit image; transparency is laid over black."""
    if image.mode == "L" and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("L")
    if image.mode in ("CMYK", "P"):
        image = image.convert("RGB")
    return image.convert("L")


def to_luma16(samples: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """ITU-R 601 luma of 16-bit samples; transparency is laid over black.

    Args:
        samples: (rows, columns, 2 to 4) uint16: grey and alpha, RGB, or RGB and alpha.

    Returns:
        (rows, columns) uint16.
    """
    channels = samples.shape[2]
    if channels < 3:
        luma = samples[..., 0].astype(np.uint32)
    else:
        luma = np.full(samples.shape[:2], 500, dtype=np.uint32)
        for channel, weight in enumerate(_LUMA_WEIGHTS):
            luma += samples[..., channel] * np.uint32(weight)
        luma //= 1000
    if channels in (2, 4):
        luma = (luma * samples[..., -1] + 32_767) // 65_535  # its largest product just fits 32 bits
    return luma.astype(np.uint16)


def stretch(pixels: npt.NDArray[np.uint16]) -> Pixels:
    """Stretch (rows, columns) 16-bit grey between the `STRETCH_PERCENTILES` of its pixels."""
    values = np.arange(2**16, dtype=np.float64)
    low, high = robust_range(values, histogram(pixels, values.size))
    return look_up(to_uint8(fraction(values, low, high)), pixels)


def look_up(table: Pixels, index: npt.NDArray[np.unsignedinteger]) -> Pixels:
    """`table[index]` for (rows, columns) of indices that all lie within the table."""
    grey = np.empty(index.shape, dtype=np.uint8)
    source, target = index.reshape(-1), grey.reshape(-1)
    for start in range(0, source.size, _LOOK_UP_BLOCK):
        block = slice(start, start + _LOOK_UP_BLOCK)
        np.take(table, source[block], out=target[block])
    return grey


def histogram(index: npt.NDArray[np.unsignedinteger], size: int) -> npt.NDArray[np.intp]:
    """How often each of 0…size-1 occurs in evenly spaced rows of (rows, columns), about `_STRETCH_SAMPLE` pixels."""
    step = -(-index.size // _STRETCH_SAMPLE)
    return np.bincount(index[::step].reshape(-1), minlength=size)


def robust_range(values: Values, counts: npt.NDArray[np.intp]) -> tuple[float, float]:
    """Percentiles of the pixels whose value `values[i]` occurs `counts[i]` times; their extremes if those coincide."""
    occurring = np.flatnonzero(counts)
    order = occurring[np.argsort(values[occurring], kind="stable")]
    cumulative = np.cumsum(counts[order])
    ranks = np.array(STRETCH_PERCENTILES) / 100 * cumulative[-1]
    low, high = values[order[np.searchsorted(cumulative, ranks)]]
    if low == high:
        low, high = values[order[0]], values[order[-1]]
    return float(low), float(high)


def fraction(values: Values, low: float, high: float) -> Values:
    """Map low…high to 0…1 and clip; a range of no width becomes a step, so that a constant image is black."""
    if high == low:
        return (values > low).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)


def to_uint8(fractions: Values) -> Pixels:
    """Grey values 0…255 of fractions 0…1, rounded to the nearest; any shape."""
    return np.rint(fractions * 255).astype(np.uint8)
