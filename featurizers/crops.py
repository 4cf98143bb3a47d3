"""The lung region of a radiograph as a small square crop, and that crop's PNG bytes.

Whatever the options, a crop shows one rectangle of the original, its `CropBox`. So a point (x, y) of the crop, in
fractions of its sides, lies in the original at (left + x · (right - left), top + y · (bottom - top)); `CropBox` does
that sum, and its inverse.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from featurizers import decode
from featurizers.errors import FeaturizerError
from featurizers.lungs import WHOLE_IMAGE, LungBox, LungFinder
from featurizers.radiograph import Pixels
from featurizers.raster import check_png

# Radiographs hardly repeat themselves, so that zlib's search for matches costs time and gains no bytes. Measured on
# 224 px crops: run lengths only, 25.5 KB in 1.1 ms; default strategy, 29.8 KB in 1.3 ms at level 1, 25.9 in 4.5 at 9.
_PNG_COMPRESS_TYPE = zlib.Z_RLE
# A `LungMap` says lung from here on, as in `Lungs.mask`.
_LUNG = 0.5

#: (..., 2) float64: x to the right and y down, as fractions of the width and the height.
Points: TypeAlias = npt.NDArray[np.float64]
#: From where to where along one axis, as fractions of the original.
_Span: TypeAlias = tuple[float, float]


class Cropper(StrEnum):
    """How a crop's box came about: by which finder of the lungs, or by none."""

    SEGMENTER = "segmenter"
    ATLAS = "atlas"
    PROJECTION = "projection"
    WHOLE_IMAGE = "whole_image"


class Fit(StrEnum):
    """How a box that is no square becomes a crop that is one."""

    #: Each axis is scaled by itself: the crop shows the box and nothing else.
    STRETCH = "stretch"
    #: The box grows along its shorter side until it is as wide as high in the original's pixels. It stays inside the
    #: image where it can; elsewhere the crop is black.
    SQUARE = "square"
    #: The box keeps its aspect, centred on black.
    PAD = "pad"


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How to crop; all of it changes the output, so all of it belongs in the fingerprint.

    Attributes:
        size: rows and columns of the crop, in pixels.
        margin: added to the lung box on each side, as a fraction of the box's own side. The default is about twice the
            standard deviation of the lower edge, which humans and segmenter place least alike (78 validation images).
        min_quality: below this `Lungs.quality` the whole image is kept; 0 to 1; above 1 nothing is cropped. None: the
            finder's own.
        fit: how the box, or the image that is kept whole, becomes a square.
        mask_out: whether everything but the lungs is black. Not so in a crop that is kept whole for its low quality:
            lungs that can't be trusted for a box can't be for a mask. A lung that does not show at all is in the box
            of the segmenter, mirrored from the other one, and not in the mask.

    Raises:
        ValueError: a size below 1, a margin below 0.
    """

    size: int = 224
    margin: float = 0.08
    min_quality: float | None = None
    fit: Fit = Fit.STRETCH
    mask_out: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or not self.margin >= 0:
            raise ValueError(f"{self} can't be met: give a size of at least 1 pixel and a margin of at least 0")


@dataclass(frozen=True, slots=True)
class CropBox:
    """The rectangle of the original that a whole crop shows: `lung_box` of `studies`.

    Fractions of the original's width (left, right) and height (top, bottom). Unlike a `LungBox` it may reach below 0
    and above 1: a crop may be padded.

    Raises:
        ValueError: unless left < right and top < bottom.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (self.left < self.right and self.top < self.bottom):
            raise ValueError(f"{self} is no rectangle: give left < right and top < bottom")

    def to_original(self, points: npt.ArrayLike) -> Points:
        """Where points of the crop lie in the original.

        Args:
            points: (..., 2) x and y as fractions of the crop's sides; a box is its two corners.

        Returns:
            (..., 2) x and y as fractions of the original's width and height.
        """
        origin, sides = self._frame()
        return origin + np.asarray(points) * sides

    def to_crop(self, points: npt.ArrayLike) -> Points:
        """Where points of the original lie in the crop, or beside it: the inverse of `to_original`."""
        origin, sides = self._frame()
        return (np.asarray(points) - origin) / sides

    def _frame(self) -> tuple[Points, Points]:
        return np.array([self.left, self.top]), np.array([self.right - self.left, self.bottom - self.top])


@dataclass(frozen=True, slots=True)
class Crop:
    """One crop.

    Attributes:
        pixels: (size, size) uint8 greyscale.
        box: what the crop shows of the original: the lung box with its margin, clipped to the image, then made
            square as `fit` says.
        quality: `Lungs.quality` of the lung box, whether it was used or not; None where nobody looked for the lungs
            (0 means that they were not found).
        cropper: the finder whose box was used; WHOLE_IMAGE where its quality was too low, or no finder was given.
    """

    pixels: Pixels
    box: CropBox
    quality: float | None
    cropper: Cropper


def crop_lungs(pixels: Pixels, settings: CropSettings, finder: LungFinder | None) -> Crop:
    """Cut the lung region out of a radiograph and resize it to a square.

    Args:
        pixels: (rows, columns) uint8 greyscale, bone bright.
        settings: what the crop is like, and the quality to trust.
        finder: tells where the lungs are; None: the crop is the whole image.

    Raises:
        FeaturizerError: `mask_out` without a finder that knows more than a box.
    """
    if finder is None:
        if settings.mask_out:
            raise FeaturizerError(_NO_MASK)
        return _whole_image(pixels, settings, None)
    lungs = finder.find(pixels)
    if not lungs.is_trusted(_min_quality(settings, finder)):
        return _whole_image(pixels, settings, lungs.quality)
    window = _window(lungs.box.expanded(settings.margin), pixels.shape, settings)
    crop = window.cut(pixels, Image.Resampling.BICUBIC)
    if settings.mask_out:
        if lungs.map is None:
            raise FeaturizerError(_NO_MASK)
        crop = np.where(window.cut(lungs.map, Image.Resampling.BILINEAR) >= _LUNG, crop, np.uint8(0))
    return Crop(crop, window.box, lungs.quality, Cropper(finder.name))


def _whole_image(pixels: Pixels, settings: CropSettings, quality: float | None) -> Crop:
    window = _window(WHOLE_IMAGE, pixels.shape, settings)
    return Crop(window.cut(pixels, Image.Resampling.BICUBIC), window.box, quality, Cropper.WHOLE_IMAGE)


def describe_crops(settings: CropSettings, finder: LungFinder | None) -> str:
    """Say all that decides a crop's pixels, decoding included: what an extractor's fingerprint has to cover."""
    rules = [decode.RULES]
    if finder is None:
        rules.append("whole images")
    else:
        rules.append(finder.description)
        quality = _min_quality(settings, finder)
        rules.append(f"box + {settings.margin:g} margin, whole image below quality {quality:g}")
    if settings.mask_out:
        rules.append("black outside the lungs")
    if settings.fit is not Fit.STRETCH:
        rules.append(_FITS[settings.fit])
    return "; ".join([*rules, f"bicubic to {settings.size}x{settings.size}"])


_NO_MASK = (
    "mask_out needs a finder that knows the lungs' outline, not just a box: use the segmenter or an atlas, or leave "
    "mask_out out"
)
_FITS = {Fit.SQUARE: "widened to a square", Fit.PAD: "padded to a square"}


def _min_quality(settings: CropSettings, finder: LungFinder) -> float:
    return finder.min_quality if settings.min_quality is None else settings.min_quality


@dataclass(frozen=True, slots=True)
class _Window:
    """What a crop of `size` pixels shows: `shown` of the original on its `rows` and `columns`, and black elsewhere."""

    size: int
    shown: LungBox
    rows: slice
    columns: slice
    box: CropBox

    def cut(self, image: npt.NDArray[Any], resampling: Image.Resampling) -> npt.NDArray[Any]:
        """(size, size) of any picture of the whole original, in its own data type."""
        height, width = image.shape
        shown = Image.fromarray(image).resize(
            (self.columns.stop - self.columns.start, self.rows.stop - self.rows.start),
            # Pillow widens the kernel by the scale, which is the antialiasing.
            resampling,
            box=(
                self.shown.left * width,
                self.shown.top * height,
                self.shown.right * width,
                self.shown.bottom * height,
            ),
        )
        if shown.size == (self.size, self.size):
            return np.asarray(shown)
        crop = np.zeros((self.size, self.size), image.dtype)
        crop[self.rows, self.columns] = shown
        return crop


def _window(box: LungBox, shape: tuple[int, ...], settings: CropSettings) -> _Window:
    across, down = (box.left, box.right), (box.top, box.bottom)
    squares = across, down
    if settings.fit is not Fit.STRETCH:
        rows, columns = shape
        side = max((box.right - box.left) * columns, (box.bottom - box.top) * rows)
        squares = _grown(across, side / columns), _grown(down, side / rows)
    if settings.fit is Fit.SQUARE:
        squares = _moved_inside(squares[0]), _moved_inside(squares[1])
        across, down = (_clipped(square) for square in squares)
    (columns_shown, (left, right)), (rows_shown, (top, bottom)) = (
        _placed(shown, square, settings.size) for shown, square in zip((across, down), squares, strict=True)
    )
    shown = LungBox(across[0], down[0], across[1], down[1])
    return _Window(settings.size, shown, rows_shown, columns_shown, CropBox(left, top, right, bottom))


def _grown(span: _Span, length: float) -> _Span:
    """A span of this length with the same centre."""
    start = (span[0] + span[1] - length) / 2
    return start, start + length


def _moved_inside(span: _Span) -> _Span:
    """The span moved by as little as puts it inside the image, or, where it is the longer one, around the image."""
    length = span[1] - span[0]
    start = min(max(span[0], min(0.0, 1 - length)), max(0.0, 1 - length))
    return start, start + length


def _clipped(span: _Span) -> _Span:
    return max(span[0], 0.0), min(span[1], 1.0)


def _placed(shown: _Span, square: _Span, size: int) -> tuple[slice, _Span]:
    """Which of a crop's pixels hold `shown` when all `size` of them hold `square`, to whole pixels.

    Returns:
        The pixels, and the span that all of the crop then holds: off `square` by the rounding.
    """
    low, high = shown
    scale = size / (square[1] - square[0])
    count = min(max(round((high - low) * scale), 1), size)
    first = min(max(round((low - square[0]) * scale), 0), size - count)
    pixel = (high - low) / count
    return slice(first, first + count), (low - first * pixel, high + (size - first - count) * pixel)


def encode_png(pixels: Pixels) -> bytes:
    """Encode (rows, columns) uint8 greyscale as an 8-bit PNG, losslessly."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_type=_PNG_COMPRESS_TYPE)
    return buffer.getvalue()


def decode_png(data: bytes) -> Pixels:
    """Decode a stored crop to (rows, columns) uint8 greyscale.

    Raises:
        FeaturizerError: the bytes are no 8-bit greyscale PNG, or are damaged.
    """
    try:
        check_png(data)
        with PngImageFile(BytesIO(data)) as image:
            if image.mode == "L":
                return np.array(image)
    except FeaturizerError:
        raise
    except Exception as error:
        raise FeaturizerError(
            f"the stored crop is no readable PNG ({type(error).__name__}): restore it, or ingest anew"
        ) from None
    raise FeaturizerError("the stored crop is no 8-bit greyscale PNG; store what encode_png returns")
