"""From a heatmap to boxes: a threshold on the intensity, the connected parts above it, a box around each.

After Wang et al. 2017 (ChestX-ray8, doi:10.1109/CVPR.2017.369, section 4.2), who normalise intensities to 0..255, put
thresholds at 60 and 180, and draw boxes that "cover the isolated regions".
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

#: The upper one of the paper's two thresholds, as a share of the greatest intensity.
LEVEL: Final = 180 / 255
#: Parts that touch at a corner are one.
_NEIGHBOURS: Final = np.ones((3, 3), bool)


class HeatBox(NamedTuple):
    """A box around a part of a heatmap: edges as fractions of its sides, and the greatest intensity in it, 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    intensity: float


class Hotspot(NamedTuple):
    """Where a heatmap is hot.

    Attributes:
        peak: x and y of the centre of its hottest place, as fractions of its sides; None where it is 0 everywhere.
        boxes: the hottest first; of equally hot ones the larger.
    """

    peak: tuple[float, float] | None
    boxes: tuple[HeatBox, ...]


def hotspot(cells: npt.NDArray[np.float32], picture: npt.NDArray[np.float32], level: float = LEVEL) -> Hotspot:
    """Find the hot parts of one heatmap.

    Args:
        cells: (h, w), the map that the heatmap enlarges. Its hottest cell's centre is the peak: between centres an
            enlargement is nowhere hotter, and beyond the outermost ones it only goes on as it is there.
        picture: (height, width), the heatmap, normalised to 0..1.
        level: a part is where the intensity reaches it; above 0.
    """
    height, width = picture.shape
    if picture.max() <= 0:
        return Hotspot(None, ())
    row, column = np.unravel_index(int(cells.argmax()), cells.shape)
    peak = (float((column + 0.5) / cells.shape[1]), float((row + 0.5) / cells.shape[0]))
    parts, _ = ndimage.label(picture >= level, _NEIGHBOURS)
    boxes = [
        HeatBox(
            columns.start / width,
            rows.start / height,
            columns.stop / width,
            rows.stop / height,
            float(picture[rows, columns][parts[rows, columns] == number].max()),
        )
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1)
    ]
    boxes.sort(key=lambda box: (-box.intensity, -(box.right - box.left) * (box.bottom - box.top), box))
    return Hotspot(peak, tuple(boxes))
