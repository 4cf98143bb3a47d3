"""Where the lungs are: a box around both, found from a radiograph's grey projections, with no learned weights.

Along a row, a frontal chest reads air, wall, lung, mediastinum, lung, wall, air; along a column, shoulder, lung,
abdomen. Both patterns are short templates, measured once on radiographs with human lung masks. Every candidate pair
of edges is scored by the normalised cross-correlation of its stretch of the profile with the template, plus a weak
prior on where a chest usually lies; the best pair wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.lungs import WHOLE_IMAGE, LungBox, Lungs
from featurizers.radiograph import Pixels

Floats: TypeAlias = npt.NDArray[np.float32]

# The image is looked at in this many rows and columns, whatever its aspect: a squashed copy gives the same box.
_SIDE = 128

# Outer lines whose 10th to 90th percentile spans fewer grey values show no anatomy: collimation or padding.
_BORDER_SPAN = 6
# This share of the content's width is given back on each side: saturated air beside the body looks like a border too.
_AIR = 0.03
# An image whose 2nd to 98th percentile spans fewer grey values shows nothing.
_MIN_CONTRAST = 8

# Templates run from 15 % of the box before its first edge to 15 % after its last, in 27 samples.
_REACH = 0.15
_SAMPLES = 27
# Profiles are read at this many points, so that a sample's nearest point is near enough.
_FINE = 4 * _SIDE
# A flat profile must not match by its noise: this standard deviation (grey range 0 to 1) is added in quadrature.
_NOISE = 0.03

# Quality: spread of the scores that still count as a rival fit, and correlations that mean "no chest" and "a chest".
_TEMPERATURE = 0.02
_NO_MATCH, _MATCH = 0.35, 0.65

#: Changes whenever this module would find other boxes.
_VERSION = 1


class _Band(NamedTuple):
    """One profile: which stretches across the box it averages (fractions of the box), its weight and its template."""

    stretches: tuple[tuple[float, float], ...]
    weight: float
    template: tuple[float, ...]


class _Axis(NamedTuple):
    """How the two edges along one axis are sought. Positions are fractions of the image's content."""

    first: tuple[float, float]
    last: tuple[float, float]
    center: tuple[float, float]
    size: tuple[float, float]
    prior_weight: float
    bands: tuple[_Band, ...]


def _mirrored(*half: float) -> tuple[float, ...]:
    return (*half, *half[-2::-1])


# Templates, means and standard deviations: half of 929 frontal radiographs of children with human lung masks (Kermany's
# images, V7 Labs' masks), those of patients whose id has an even CRC-32; grey range 0 to 1.
# Priors are (mean, standard deviation) of the human boxes. Weights were chosen on the same half.
# fmt: off
_ACROSS = _Axis(
    first=(0.0, 0.25),
    last=(0.75, 1.0),
    center=(0.5, 0.022),
    size=(0.77, 0.060),
    prior_weight=0.05,
    bands=(
        _Band(
            ((0.10, 0.40),),
            0.2,
            _mirrored(
                0.21, 0.22, 0.3, 0.43, 0.59, 0.7, 0.68, 0.61, 0.55, 0.55, 0.62, 0.74, 0.84, 0.87,
            ),
        ),
        _Band(
            ((0.40, 0.70),),
            0.4,
            _mirrored(
                0.08, 0.09, 0.2, 0.5, 0.66, 0.57, 0.52, 0.53, 0.59, 0.68, 0.76, 0.84, 0.92, 0.94,
            ),
        ),
        _Band(
            ((0.70, 0.95),),
            0.4,
            _mirrored(
                0.05, 0.05, 0.19, 0.67, 0.51, 0.53, 0.6, 0.68, 0.74, 0.78, 0.81, 0.86, 0.95, 0.96,
            ),
        ),
    ),
)
_DOWN = _Axis(
    first=(0.0, 0.3),
    last=(0.65, 1.0),
    center=(0.51, 0.038),
    size=(0.81, 0.097),
    prior_weight=0.05,
    bands=(
        # through the apices, where lung borders on shoulder
        _Band(
            ((0.20, 0.40), (0.60, 0.80)),
            0.5,
            (
                0.63, 0.65, 0.68, 0.72, 0.7, 0.65, 0.6, 0.58, 0.57, 0.59, 0.6, 0.62, 0.64, 0.67,
                0.69, 0.7, 0.71, 0.7, 0.7, 0.73, 0.79, 0.86, 0.9, 0.92, 0.92, 0.93, 0.92,
            ),
        ),
        # along the outer wall, down to the costophrenic angles
        _Band(
            ((0.04, 0.20), (0.80, 0.96)),
            0.25,
            (
                0.45, 0.48, 0.53, 0.58, 0.63, 0.66, 0.68, 0.68, 0.67, 0.66, 0.64, 0.62, 0.6, 0.58,
                0.56, 0.55, 0.53, 0.51, 0.5, 0.51, 0.55, 0.67, 0.77, 0.82, 0.83, 0.84, 0.84,
            ),
        ),
        # along the spine
        _Band(
            ((0.45, 0.55),),
            0.25,
            (
                0.79, 0.76, 0.77, 0.77, 0.79, 0.81, 0.83, 0.84, 0.86, 0.87, 0.89, 0.91, 0.92, 0.93,
                0.94, 0.95, 0.95, 0.95, 0.95, 0.95, 0.96, 0.97, 0.98, 0.98, 0.98, 0.97, 0.97,
            ),
        ),
    ),
)
# fmt: on
# Rows of the usual box, for the profiles across, before the box's own rows are known.
_USUAL_ROWS = (0.11, 0.91)
_STEP = 0.01


class _Search(NamedTuple):
    """An axis laid out for all K candidate pairs at once."""

    first: npt.NDArray[np.float64]  # (K,)
    last: npt.NDArray[np.float64]  # (K,)
    penalty: Floats  # (K,), what the prior takes off the score
    points: npt.NDArray[np.intp]  # (K, _SAMPLES) into the fine profile
    inside: Floats  # (K, _SAMPLES): the share of each sample in the mean, 0 outside the image
    kernels: Floats  # (bands, K, _SAMPLES): zero-mean templates of unit variance, times `inside`
    weights: Floats  # (bands,)


@cache
def _search(axis: _Axis) -> _Search:
    starts, ends = (np.linspace(low, high, round((high - low) / _STEP) + 1) for low, high in (axis.first, axis.last))
    first, last = (grid.ravel() for grid in np.meshgrid(starts, ends, indexing="ij"))
    positions = first[:, None] + np.linspace(-_REACH, 1 + _REACH, _SAMPLES) * (last - first)[:, None]
    inside = ((positions >= 0) & (positions <= 1)).astype(np.float64)
    inside /= inside.sum(axis=1, keepdims=True)
    templates = np.array([band.template for band in axis.bands])[:, None, :]
    centered = templates - (templates * inside).sum(axis=2, keepdims=True)
    kernels = centered * inside / np.sqrt((centered**2 * inside).sum(axis=2, keepdims=True))
    deviation = ((first + last) / 2 - axis.center[0]) / axis.center[1], (last - first - axis.size[0]) / axis.size[1]
    return _Search(
        first,
        last,
        (axis.prior_weight / 2 * (deviation[0] ** 2 + deviation[1] ** 2)).astype(np.float32),
        np.clip((positions * _FINE).astype(np.intp), 0, _FINE - 1),
        inside.astype(np.float32),
        kernels.astype(np.float32),
        np.array([band.weight for band in axis.bands], dtype=np.float32),
    )


class _Fit(NamedTuple):
    first: float
    last: float
    correlation: float
    certainty: float


@dataclass(frozen=True, slots=True)
class ProjectionFinder:
    """The `LungFinder` of this module: it knows a box, and no mask.

    Its quality tells how much the rival fits agree with the box, damped where the match is poor: it orders boxes by
    how far to trust them, and is no estimate of their IoU.
    """

    name: str = "projection"
    #: Boxes below it overlap with human ones by 0.77 on average, the others by 0.87.
    min_quality: float = 0.2

    @property
    def description(self) -> str:
        """For fingerprints."""
        return f"lungs by projection profiles, version {_VERSION}"

    def find(self, pixels: Pixels) -> Lungs:
        """The box around both lungs of (rows, columns) uint8 greyscale, bone bright."""
        reduced, content = inside_border(pixels)
        small = np.asarray(reduced.resize((_SIDE, _SIDE), Image.Resampling.BOX, box=content), dtype=np.float32)
        low, high = np.percentile(small, (2, 98))
        if high - low < _MIN_CONTRAST:
            return Lungs(WHOLE_IMAGE, 0.0)
        grey = np.clip((small - low) / (high - low), 0, 1, dtype=np.float32)

        across = _fit(_ACROSS, [_profile(grey, _USUAL_ROWS, band) for band in _ACROSS.bands])
        columns = across.first, across.last
        down = _fit(_DOWN, [_profile(grey.T, columns, band) for band in _DOWN.bands])

        match = (min(across.correlation, down.correlation) - _NO_MATCH) / (_MATCH - _NO_MATCH)
        quality = across.certainty * down.certainty * min(max(match, 0.0), 1.0)
        if quality == 0:
            return Lungs(WHOLE_IMAGE, 0.0)
        left, top, right, bottom = content
        width, height = reduced.size
        box = LungBox(
            (left + across.first * (right - left)) / width,
            (top + down.first * (bottom - top)) / height,
            (left + across.last * (right - left)) / width,
            (top + down.last * (bottom - top)) / height,
        )
        return Lungs(box, quality)


def inside_border(pixels: Pixels) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """The image reduced by a whole factor, and the box (left, top, right, bottom; pixels of it) inside its border."""
    image = Image.fromarray(pixels)
    factor = max(min(image.size) // _SIDE, 1)
    reduced = image.reduce(factor) if factor > 1 else image
    grey = np.asarray(reduced)
    top, bottom = _extent(grey)
    left, right = _extent(grey.T)
    air = _AIR * (right - left)
    return reduced, (max(left - air, 0), top, min(right + air, reduced.width), bottom)


def _extent(grey: Pixels) -> tuple[int, int]:
    """First and one past the last line (axis 0) that shows anatomy; all lines where none does."""
    low, high = grey.shape[1] // 10, grey.shape[1] - 1 - grey.shape[1] // 10
    # Two picks of a partition are many times faster than `np.percentile` on bytes.
    ordered = np.partition(grey, (low, high), axis=1)
    shown = np.flatnonzero(ordered[:, high].astype(np.int16) - ordered[:, low] >= _BORDER_SPAN)
    return (int(shown[0]), int(shown[-1]) + 1) if shown.size else (0, grey.shape[0])


def _profile(grey: Floats, span: tuple[float, float], band: _Band) -> Floats:
    """Mean over the band's lines (axis 0) of a box that spans `span`; smoothed, at `_FINE` points."""
    first, size = span[0], span[1] - span[0]
    lines = [
        grey[slice(round((first + low * size) * _SIDE), round((first + high * size) * _SIDE))]
        for low, high in band.stretches
    ]
    mean = np.concatenate(lines).mean(axis=0)
    smooth = np.convolve(np.pad(mean, 2, mode="edge"), np.full(5, 0.2, dtype=np.float32), "valid")
    at = (np.arange(_FINE) + 0.5) * (_SIDE / _FINE)
    fine: Floats = np.interp(at, np.arange(_SIDE) + 0.5, smooth).astype(np.float32)
    return fine


def _fit(axis: _Axis, profiles: list[Floats]) -> _Fit:
    search = _search(axis)
    samples = np.stack(profiles)[:, search.points]
    mean = np.einsum("bks,ks->bk", samples, search.inside)
    variance = np.einsum("bks,ks->bk", samples**2, search.inside) - mean**2
    covariance = np.einsum("bks,bks->bk", samples, search.kernels)
    correlation = search.weights @ (covariance / np.sqrt(np.maximum(variance, 0) + _NOISE**2))
    score = correlation - search.penalty
    best = int(np.argmax(score))

    # The expected overlap (1-D IoU) of the best pair with its rivals, each as likely as its score says.
    likelihood = np.exp((score - score[best]) / _TEMPERATURE)
    first, last = search.first[best], search.last[best]
    intersection = np.minimum(search.last, last) - np.maximum(search.first, first)
    union = np.maximum(search.last, last) - np.minimum(search.first, first)
    certainty = float((likelihood * intersection / union).sum() / likelihood.sum())
    return _Fit(float(first), float(last), float(correlation[best]), certainty)
