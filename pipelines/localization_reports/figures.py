"""How well what was found fits the annotated boxes: the figures of Wang et al. 2017, the pointing game, with intervals.

For one class, over the images in which somebody drew boxes of it (Wang et al., ChestX-ray8, CVPR 2017, section 4.2):

- accuracy at T: the share of true boxes for which a found one has an IoU (or an IoBB: the intersection over the found
  box's own area) of more than T;
- false positives at T: found boxes per image of which the same holds for no true box;
- pointing game: the share of images whose hottest place lies in a true box (Zhang et al. 2016, Top-down Neural
  Attention by Excitation Backprop, ECCV; they forgive 15 pixels, nothing is forgiven here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from classifiers.evaluation import Figure
from classifiers.resampling import Patients, exact_interval, percentiles
from featurizers.crops import CropBox

#: What a box must exceed to be right.
THRESHOLDS: Final = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Boxes (n, 4): left, top, right, bottom as fractions of the original's sides.
Boxes = npt.NDArray[np.float64]


class Finder(StrEnum):
    """Who finds: the head, and two who never look at the image."""

    HEAD = "head"
    #: The middle of the image, half as wide and half as high.
    CENTRE = "centre box"
    #: All that the crop shows: both lungs and a margin, or the whole image where there is no crop.
    LUNGS = "lung box"


@dataclass(frozen=True, eq=False)
class Case:
    """One class in one image in which somebody drew boxes of it, and where the head finds it.

    Attributes:
        image_id, patient: whose.
        finding: the class.
        probability: of it, by the head.
        truth: (t, 4), the annotated boxes.
        peak: x and y of the hottest place; None where nothing speaks for the class.
        found: (f, 4).
        shown: what the crop shows of the original.
    """

    image_id: str
    patient: str
    finding: str
    probability: float
    truth: Boxes
    peak: tuple[float, float] | None
    found: Boxes
    shown: CropBox

    def by(self, finder: Finder) -> tuple[tuple[float, float] | None, Boxes]:
        """Peak and boxes of a finder."""
        if finder is Finder.HEAD:
            return self.peak, self.found
        box = (0.25, 0.25, 0.75, 0.75)
        if finder is Finder.LUNGS:
            box = tuple(np.clip((self.shown.left, self.shown.top, self.shown.right, self.shown.bottom), 0, 1).tolist())
        return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), np.array([box])

    @property
    def is_pointed_at(self) -> bool:
        """Whether the head's hottest place lies in a true box."""
        return lies_in(self.peak, self.truth)

    @property
    def best_iobb(self) -> float:
        """The greatest IoBB of a found box with a true one; 0 without found boxes."""
        return float(overlaps(self.found, self.truth)[1].max(initial=0.0))


class FinderFigures(NamedTuple):
    """One finder on one class, or the mean over classes.

    Attributes:
        iou_accuracy, iobb_accuracy, iou_false, iobb_false: by T, in the order of `THRESHOLDS`.
        pointing: the pointing game.
    """

    iou_accuracy: tuple[Figure, ...]
    iobb_accuracy: tuple[Figure, ...]
    iou_false: tuple[Figure, ...]
    iobb_false: tuple[Figure, ...]
    pointing: Figure

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            name: asdict(value) if isinstance(value, Figure) else [asdict(each) for each in value]
            for name, value in self._asdict().items()
        }


@dataclass(frozen=True)
class ClassFigures:
    """All finders on one class.

    Attributes:
        images, boxes, patients: that were judged.
        by_finder: their figures.
    """

    images: int
    boxes: int
    patients: int
    by_finder: Mapping[Finder, FinderFigures]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        counts = {"images": self.images, "boxes": self.boxes, "patients": self.patients}
        return counts | {str(finder): figures.as_dict() for finder, figures in self.by_finder.items()}


@dataclass(frozen=True)
class Figures:
    """What the cases say.

    Attributes:
        by_class: every class that has cases.
        mean: of these classes' values, each class counting the same.
    """

    by_class: Mapping[str, ClassFigures]
    mean: Mapping[Finder, FinderFigures]


def overlaps(found: Boxes, truth: Boxes) -> tuple[Boxes, Boxes]:
    """IoU and IoBB of every found box with every true one, (f, t) each."""
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    own, true = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (found, truth))
    return common / (own[:, None] + true[None, :] - common), common / own[:, None]


def lies_in(peak: tuple[float, float] | None, boxes: Boxes) -> bool:
    """Whether a place lies in one of the boxes."""
    if peak is None:
        return False
    x, y = peak
    left, top, right, bottom = boxes.T
    return bool(((left <= x) & (x <= right) & (top <= y) & (y <= bottom)).any())


def figures_of(cases: Sequence[Case], classes: Sequence[str], *, resamples: int, seed: int) -> Figures:
    """Judge all finders.

    Args:
        cases: one per image and class, at least one.
        classes: in the order in which they are told; those without a case are left out.
        resamples: of patients, behind every interval; 0 for none.
        seed: of them.
    """
    there = [name for name in classes if any(case.finding == name for case in cases)]
    patients = Patients(np.array([case.patient for case in cases]), len(cases))
    column = np.array([there.index(case.finding) for case in cases])
    values: dict[Finder, npt.NDArray[np.object_]] = {}
    for finder in Finder:
        counts = np.zeros((len(cases), len(there), _COUNTS))
        counts[np.arange(len(cases)), column] = [_counts(case, finder) for case in cases]
        values[finder] = _with_intervals(patients.sums(counts), there, patients, resamples, seed)
    by_class = {}
    for number, name in enumerate(there):
        own = [case for case in cases if case.finding == name]
        by_class[name] = ClassFigures(
            images=len(own),
            boxes=sum(len(case.truth) for case in own),
            patients=len({case.patient for case in own}),
            by_finder={finder: _figures(values[finder], number) for finder in Finder},
        )
    return Figures(by_class, {finder: _figures(values[finder], len(there)) for finder in Finder})


#: What is counted in an image: true boxes, images, pointed at; then right ones by IoU and by IoBB, false ones likewise.
_COUNTS: Final = 3 + 4 * len(THRESHOLDS)
#: Of the figures the first are shares: the pointing game and both accuracies.
_SHARES: Final = 1 + 2 * len(THRESHOLDS)


def _counts(case: Case, finder: Finder) -> list[float]:
    peak, found = case.by(finder)
    right: list[float] = []
    false: list[float] = []
    for overlap in overlaps(found, case.truth):
        for threshold in THRESHOLDS:
            exceeds = overlap > threshold
            right.append(float(exceeds.any(axis=0).sum()))
            false.append(float((~exceeds.any(axis=1)).sum()))
    return [float(len(case.truth)), 1.0, float(lies_in(peak, case.truth)), *right, *false]


def _ratios(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Counts (..., classes, counts) to figures (..., classes + 1, 1 + 4 T), the mean over classes last; NaN where there
    are no images."""
    with np.errstate(invalid="ignore", divide="ignore"):
        boxes, images, pointed = (sums[..., number : number + 1] for number in range(3))
        half = 3 + 2 * len(THRESHOLDS)
        shares = np.concatenate([pointed / images, sums[..., 3:half] / boxes, sums[..., half:] / images], axis=-1)
        # A resample without any image of a class has a mean over the others: the class is not what varies.
        defined = np.isfinite(shares)
        mean = np.where(defined, shares, 0).sum(axis=-2) / defined.sum(axis=-2)
    return np.concatenate([shares, mean[..., None, :]], axis=-2)


def _with_intervals(
    sums: npt.NDArray[np.float64], classes: Sequence[str], patients: Patients, resamples: int, seed: int
) -> npt.NDArray[np.object_]:
    """Sums (patients, classes, counts) to Figures (classes + 1, figures)."""
    values = _ratios(sums.sum(axis=0))
    drawn = None
    if resamples:
        flat = sums.reshape(patients.count, -1)

        def of_resample(weights: npt.NDArray[np.float64]) -> Mapping[str, npt.NDArray[np.float64]]:
            return {"": _ratios((weights.T @ flat).reshape(-1, len(classes), _COUNTS))}

        drawn = patients.resampled(of_resample, resamples, seed)[""]
    # Of the patients with boxes of a class; the mean has those of all classes.
    counts = [*np.count_nonzero(sums[..., 1], axis=0).tolist(), patients.count]
    figures = np.empty(values.shape, object)
    for row, number in np.ndindex(values.shape):
        value, few = float(values[row, number]), counts[row] < 2
        low, high = None, None
        if drawn is not None and not few:
            is_share = number < _SHARES
            # What all have or nobody has no resample could vary.
            unvaried = is_share and value in (0.0, 1.0)
            low, high = exact_interval(value, counts[row]) if unvaried else percentiles(drawn[:, row, number])
        figures[row, number] = Figure(value, low, high)
    return figures


def _figures(values: npt.NDArray[np.object_], row: int) -> FinderFigures:
    pointing, *others = values[row]
    size = len(THRESHOLDS)
    iou, iobb, iou_false, iobb_false = (tuple(others[start : start + size]) for start in range(0, 4 * size, size))
    return FinderFigures(iou, iobb, iou_false, iobb_false, pointing)
