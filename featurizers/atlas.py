"""Where the lungs are, by an atlas: radiographs with human masks are bent onto the image, and their masks with them.

After Candemir et al. 2014, "Lung Segmentation in Chest Radiographs Using Anatomical Atlases With Nonrigid
Registration" (doi:10.1109/TMI.2013.2290491): pairs whose grey profiles look like the image's are registered to it
non-rigidly, and the mean of their warped masks is the model of its lungs. There is no training. What differs: dense
inverse search (Kroeger et al. 2016, doi:10.1007/978-3-319-46493-0_29) stands in for SIFT-flow; it is fast enough to
register more pairs than are needed and to keep those that match best afterwards; and no graph cut ends it, which
made the measured masks worse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.errors import FeaturizerError
from featurizers.lung_metrics import box_iou
from featurizers.lungs import WHOLE_IMAGE, LungBox, LungMap, Lungs
from featurizers.mask_pairs import MaskPair
from featurizers.projection import inside_border
from featurizers.radiograph import Pixels

if TYPE_CHECKING:
    import cv2

Floats: TypeAlias = npt.NDArray[np.float32]

# Images are compared in this many rows and columns, whatever their aspect.
_SIDE = 192
# This many pairs of the most similar profiles are registered, and this many of the best matches are averaged.
_CANDIDATES, _AVERAGED = 20, 8
_FEWEST_PAIRS = 5

# Matches are told by these rows and columns: what is left of a bright border lies outside them.
_INNER = slice(_SIDE // 16, -_SIDE // 16)

# An image whose 2nd to 98th percentile spans fewer grey values shows nothing.
_MIN_CONTRAST = 8
# Contrast-limited adaptive histogram equalisation (Zuiderveld 1994, Graphics Gems IV): clip limit, tiles on each side.
_CLIP, _TILES = 2.0, 4

# The model is enlarged so many times before its box is taken, since a cell is 0.5 % of the image.
_FINE = 4
# A part of the model smaller than this share of its largest one is no lung.
_SPECK = 0.1

# Column and row of every cell, as dense inverse search counts them.
_GRID = np.stack(np.meshgrid(*2 * (np.arange(_SIDE, dtype=np.float32),)), axis=-1)

# Correlations after registration that mean "no chest" and "a chest". Of 113 real chests that were in no atlas none had
# less than 0.80, bordered, turned, cut or clouded none less than 0.70; lying on their side they had at most 0.52, as
# negatives 0.39, noise 0.05.
_NO_MATCH, _MATCH = 0.5, 0.75

#: Changes whenever this module would find other lungs with the same pairs.
_VERSION = 1


class _Fit(NamedTuple):
    """One pair, bent onto the image."""

    similarity: float  # correlation of the bent radiograph with the image, -1 to 1
    mask: Floats  # (_SIDE, _SIDE), 0 to 1


@dataclass(frozen=True, slots=True, eq=False)
class AtlasFinder:
    """The `LungFinder` of this module; make it with `of_pairs`.

    It keeps 74 KB a pair, and holds OpenCV to one thread, in the whole process.

    Attributes:
        images: (pairs, 192, 192) uint8, of even contrast.
        masks: (pairs, 192, 192) uint8: how much of each cell is lung, 0 to 255.

    Raises:
        FeaturizerError: OpenCV is not installed.
    """

    images: Pixels
    masks: Pixels
    name: str = "atlas"
    #: Chosen on the images of `_quality`. Of other patients' images 6 % lie below it, and overlap with human boxes by
    #: 0.83 on average, the others by 0.93.
    min_quality: float = 0.84

    def __post_init__(self) -> None:
        _opencv()

    def __reduce__(self) -> tuple[Callable[..., AtlasFinder], tuple[Pixels, Pixels, str, float]]:
        """Pickled as a call, so that OpenCV is loaded (or missed) where it arrives, before any fork."""
        return AtlasFinder, (self.images, self.masks, self.name, self.min_quality)

    @classmethod
    def of_pairs(cls, pairs: Sequence[MaskPair]) -> Self:
        """Read an atlas; a few dozen pairs that show what the archive shows (ages, diseases, devices) are enough.

        Raises:
            FeaturizerError: OpenCV is not installed, there are fewer than 5 pairs, or one can't be used.
        """
        if len(pairs) < _FEWEST_PAIRS:
            raise FeaturizerError(
                f"an atlas of {len(pairs)} pairs knows too few chests: add radiographs with lung masks "
                f"until there are {_FEWEST_PAIRS} or, better, 40"
            )
        entries = [_entry(pair) for pair in pairs]
        return cls(np.stack([image for image, _ in entries]), np.stack([mask for _, mask in entries]))

    @property
    def description(self) -> str:
        """For fingerprints: the atlas's content, in its order, this code's version and OpenCV's."""
        content = hashlib.sha256(self.images.tobytes() + self.masks.tobytes()).hexdigest()
        versions = f"version {_VERSION}, OpenCV {_opencv().__version__}"
        return f"lungs by an atlas of {len(self.images)} pairs ({content[:16]}), {versions}"

    def find(self, pixels: Pixels) -> Lungs:
        """The lungs of (rows, columns) uint8 greyscale, bone bright; their map has 192 rows and columns."""
        content = _content_box(pixels)
        image = _normalised(pixels, content)
        if image is None:
            return Lungs(WHOLE_IMAGE, 0.0)
        search = _opencv().DISOpticalFlow_create(_opencv().DISOPTICAL_FLOW_PRESET_MEDIUM)
        fits = [_fit(search, self.images[n], self.masks[n], image) for n in self._most_similar(image)]
        best = sorted(fits, key=lambda fit: -fit.similarity)[:_AVERAGED]
        model: LungMap = np.mean([fit.mask for fit in best], axis=0, dtype=np.float32)
        box = _box(model, _FINE)
        if box is None:
            return Lungs(WHOLE_IMAGE, 0.0)
        return Lungs(_placed_box(box, content), _quality(best, box), _placed_map(model, content))

    def _most_similar(self, image: Pixels) -> npt.NDArray[np.intp]:
        """The candidates' indices, by the Bhattacharyya coefficients of both profiles."""
        coefficients = (_root_profiles(self.images) * _root_profiles(image)).sum(axis=-1)
        return np.argsort(-coefficients, kind="stable")[:_CANDIDATES]


@cache
def _opencv() -> ModuleType:
    """OpenCV, held to one thread.

    One, for executors work on one image per core; a forked child would wait for a pool of threads that it has not; and
    dense inverse search cuts an image into as many stripes as there are threads.
    """
    try:
        import cv2  # noqa: PLC0415
    except ImportError:
        raise FeaturizerError(
            "the atlas finder needs OpenCV, which is not installed here: pip install '.[atlas]' in Pleura's folder, or "
            "pip install opencv-python-headless"
        ) from None
    cv2.setNumThreads(1)
    return cv2


def _entry(pair: MaskPair) -> tuple[Pixels, Pixels]:
    """What an atlas keeps of a pair: its radiograph, normalised, and the share of lung in each cell, 0 to 255."""
    pixels, lung, _ = pair.read()
    content = _content_box(pixels)
    image = _normalised(pixels, content)
    if image is None:
        raise FeaturizerError(f"{pair.image.name} shows nothing, it is of one grey: remove the pair from the atlas")
    return image, _reduced(lung.astype(np.uint8) * 255, content)


def _content_box(pixels: Pixels) -> LungBox:
    """The part of the image inside collimation and padding, which registration would take for anatomy."""
    reduced, (left, top, right, bottom) = inside_border(pixels)
    width, height = reduced.size
    return LungBox(left / width, top / height, right / width, bottom / height)


def _reduced(pixels: Pixels, content: LungBox) -> Pixels:
    """The content in (_SIDE, _SIDE) cells."""
    rows, columns = pixels.shape
    edges = (content.left * columns, content.top * rows, content.right * columns, content.bottom * rows)
    # Pillow widens the kernel by the scale, which is the antialiasing; a first, plain reduction is for speed.
    resized = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, edges, reducing_gap=2)
    return np.asarray(resized)


def _normalised(pixels: Pixels, content: LungBox) -> Pixels | None:
    """The content in the size and contrast that are compared; None where it shows nothing."""
    small = _reduced(pixels, content)
    low, high = np.percentile(small, (2, 98))
    if high - low < _MIN_CONTRAST:
        return None
    stretched = np.clip((small - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    equal: Pixels = _opencv().createCLAHE(_CLIP, (_TILES, _TILES)).apply(stretched)
    return equal


def _root_profiles(images: Pixels) -> Floats:
    """Square roots of how darkness spreads over rows and over columns.

    The dot product of two such vectors is the sum of two Bhattacharyya coefficients.

    Args:
        images: (..., rows, columns).

    Returns:
        (..., rows + columns), each part of unit length.
    """
    parts = [255 - images.mean(axis=axis, dtype=np.float32) for axis in (-1, -2)]
    return np.concatenate([np.sqrt(part / part.sum(axis=-1, keepdims=True)) for part in parts], axis=-1)


def _fit(search: cv2.DISOpticalFlow, atlas_image: Pixels, atlas_mask: Pixels, image: Pixels) -> _Fit:
    """Register one pair to the image. All arrays are (_SIDE, _SIDE); `search` is OpenCV's DISOpticalFlow."""
    unmoved = np.zeros_like(_GRID)
    points = _GRID + search.calc(image, atlas_image, unmoved)
    bent, mask = (_bent(array, points) for array in (atlas_image, atlas_mask))
    return _Fit(_correlation(bent[_INNER, _INNER], image[_INNER, _INNER]), mask / np.float32(255))


def _correlation(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Pearson's, -1 to 1; 0 where one of the two is flat."""
    # Plain sums: matrix products of this size start threads.
    a, b = (array - array.mean(dtype=np.float64) for array in (a, b))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def _bent(array: Pixels, points: Floats) -> Floats:
    """The values at points (_SIDE, _SIDE, 2: column, row); beyond the border those of the border."""
    cv2 = _opencv()
    values: Floats = cv2.remap(
        array.astype(np.float32), points, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return values


def _quality(fits: Sequence[_Fit], box: LungBox) -> float:
    """How well the boxes of the averaged masks agree with the model's; less where their radiographs match poorly.

    Where they match, this mean IoU predicts the IoU with a human's box as it is: a straight line through 113 real
    chests that were in no atlas, some also bordered, turned, cut, clouded or upside down, has the slope 1.10 and the
    offset -0.09, which changes nothing above 0.75 by more than 0.02.
    """
    boxes = [_box(fit.mask, 1) for fit in fits]
    agreement = float(np.mean([0.0 if other is None else box_iou(other, box) for other in boxes]))
    similarity = float(np.mean([fit.similarity for fit in fits]))
    return agreement * min(max((similarity - _NO_MATCH) / (_MATCH - _NO_MATCH), 0.0), 1.0)


def _box(model: LungMap, enlargement: int) -> LungBox | None:
    """The box around a map's lungs, to a fraction of a cell if enlarged; None where it has none."""
    cv2 = _opencv()
    side = enlargement * _SIDE
    lung = (cv2.resize(model, (side, side), interpolation=cv2.INTER_LINEAR) >= 0.5).astype(np.uint8)
    parts = cv2.connectedComponentsWithStats(lung)[2][1:]  # the first one is the background
    if not len(parts):
        return None
    areas = parts[:, cv2.CC_STAT_AREA]
    left, top, width, height, _ = parts[areas >= _SPECK * areas.max()].T / side
    return LungBox(float(left.min()), float(top.min()), float((left + width).max()), float((top + height).max()))


def _placed_box(box: LungBox, content: LungBox) -> LungBox:
    """A box in fractions of the content, in fractions of the whole image."""
    width, height = content.right - content.left, content.bottom - content.top
    return LungBox(
        content.left + box.left * width,
        content.top + box.top * height,
        content.left + box.right * width,
        content.top + box.bottom * height,
    )


def _placed_map(model: LungMap, content: LungBox) -> LungMap:
    """A map of the content as a map of the whole image, in as many cells."""
    cv2 = _opencv()
    width, height = content.right - content.left, content.bottom - content.top
    # From a cell of the whole image to the content's, both counted from the middle of the first one.
    matrix = np.array(
        [
            [1 / width, 0, (0.5 - content.left * _SIDE) / width - 0.5],
            [0, 1 / height, (0.5 - content.top * _SIDE) / height - 0.5],
        ]
    )
    placed: LungMap = cv2.warpAffine(model, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return placed
