"""The words for where the lungs are: a box, a mask, how far to trust them, and what a method of finding them offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.radiograph import Pixels

#: (rows, columns) float32, 0 to 1: how much of each cell of the whole image is lung, or how likely.
LungMap: TypeAlias = npt.NDArray[np.float32]
#: (rows, columns) bool: lung or not.
LungMask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LungBox:
    """A rectangle in fractions of the image's width (left, right) and height (top, bottom).

    Raises:
        ValueError: unless 0 ≤ left < right ≤ 1 and 0 ≤ top < bottom ≤ 1.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise ValueError(
                f"{self} is no box: give fractions of the image with 0 <= left < right <= 1 and 0 <= top < bottom <= 1"
            )

    def expanded(self, margin: float) -> LungBox:
        """Return the box with `margin` of its own side added on each side, clipped to the image."""
        dx, dy = margin * (self.right - self.left), margin * (self.bottom - self.top)
        return LungBox(
            max(self.left - dx, 0.0), max(self.top - dy, 0.0), min(self.right + dx, 1.0), min(self.bottom + dy, 1.0)
        )


WHOLE_IMAGE = LungBox(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """What a `LungFinder` found.

    Attributes:
        box: the smallest box around both lungs, hidden parts included; the whole image where there is no chest.
        quality: 0 (no chest found) to 1: how far to trust the box.
        map: the lungs on the whole image, at the finder's own resolution, parts behind the heart and under disease
            included; None where the finder knows only a box, or found nothing.
    """

    box: LungBox
    quality: float
    map: LungMap | None = None

    def is_trusted(self, min_quality: float) -> bool:
        """Whether to use the box, if this is the quality to ask for; lungs that were not found never are."""
        return self.quality > 0 and self.quality >= min_quality

    def mask(self, rows: int, columns: int) -> LungMask | None:
        """The lungs as a mask of the whole image in this size: where the map, enlarged bilinearly, is at least 0.5."""
        if self.map is None:
            return None
        enlarged = Image.fromarray(self.map).resize((columns, rows), Image.Resampling.BILINEAR)
        return np.asarray(enlarged) >= 0.5


class LungFinder(Protocol):
    """A method of finding the lungs. It can be pickled, and finds the same lungs in every process."""

    @property
    def name(self) -> str:
        """Its word in the `cropper` column."""

    @property
    def min_quality(self) -> float:
        """The quality below which its box had better not be used."""

    @property
    def description(self) -> str:
        """All that decides what it finds, weights and versions included; for fingerprints."""

    def find(self, pixels: Pixels) -> Lungs:
        """Find both lungs of a frontal radiograph.

        Args:
            pixels: (rows, columns) uint8 greyscale, bone bright.
        """


def box_of_mask(mask: LungMask) -> LungBox:
    """The smallest box around a mask's true cells.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        raise ValueError("an empty mask has no box: leave the image out")
    height, width = mask.shape
    left, right = int(columns[0]), int(columns[-1]) + 1
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return LungBox(left / width, top / height, right / width, bottom / height)
