"""Values of any range and colour to 8 bits of grey.

A range is mapped linearly to 0…255 and clipped: a range that is given, or else a robust one read from the pixels.
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
# The percentiles are read from at most about this many evenly spaced pixels.
_STRETCH_SAMPLE = 4_000_000


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


def stretch(pixels: npt.NDArray[np.uint16]) -> Pixels:
    """Stretch 16-bit grey of any shape between the `STRETCH_PERCENTILES` of its pixels, to uint8 of that shape."""
    values = np.arange(2**16, dtype=np.float64)
    low, high = robust_range(values, histogram(pixels, values.size))
    return to_uint8(fraction(values, low, high))[pixels]


def histogram(index: npt.NDArray[np.unsignedinteger], size: int) -> npt.NDArray[np.intp]:
    """How often each of 0…size-1 occurs among evenly spaced pixels, at most about `_STRETCH_SAMPLE`: (size,)."""
    flat = index.ravel()
    return np.bincount(flat[:: -(-flat.size // _STRETCH_SAMPLE)], minlength=size)


def robust_range(values: Values, counts: npt.NDArray[np.intp]) -> tuple[float, float]:
    """Percentiles of the pixels whose value `values[i]` occurs `counts[i]` times; their extremes if those coincide."""
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = np.array(STRETCH_PERCENTILES) / 100 * cumulative[-1]
    low, high = values[order[np.searchsorted(cumulative, ranks)]]
    if low == high:
        occurring = values[counts > 0]
        low, high = occurring.min(), occurring.max()
    return float(low), float(high)


def fraction(values: Values, low: float, high: float) -> Values:
    """Map low…high to 0…1 and clip; a range of no width becomes a step, so that a constant image is black."""
    if high == low:
        return (values > low).astype(np.float64)
    return np.clip((values - low) / (high - low), 0, 1)


def to_uint8(fractions: Values) -> Pixels:
    """Grey values 0…255 of fractions 0…1, rounded to the nearest; any shape."""
    return np.rint(fractions * 255).astype(np.uint8)
