"""What the judged radiographs add up to: means with intervals, tails, and how well the quality ranks the failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from featurizers.lung_metrics import Floats, RiskCoverage, rank_correlation, risk_coverage
from featurizers.lungs import LungFinder
from pipelines.lung_reports.judging import Judged

Numbers: TypeAlias = npt.NDArray[np.intp]

#: An image of which more than this share of the lung is outside the crop counts as one that loses lung.
LOSS_LIMIT: Final = 0.01

_RESAMPLES: Final = 2000
_CONFIDENCE: Final = 0.95
_TAIL: Final = 5


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        mean: of the images judged.
        low, high: 95 % interval by bootstrap over patients, whose images stay together (percentile interval, Efron and
            Tibshirani, An Introduction to the Bootstrap, 1993); None with fewer than two patients. A share that nobody
            or everybody has never varies in a resample: its interval is Clopper and Pearson's (1934), over patients.
        tail: the 5th percentile of the images where more is better, the 95th where less is; None for a share.
    """

    mean: float
    low: float | None
    high: float | None
    tail: float | None


@dataclass(frozen=True)
class Figures:
    """One finder on some images.

    Attributes:
        images, patients: how many.
        dice, mask_iou: None where the finder knows no masks.
        box_iou: of the box with the human mask's.
        lost: share of lung outside the crop, whole images kept below the quality to trust.
        losing: share of images that lose more than `LOSS_LIMIT`.
        losing_untrusted: the same if every box were used, whatever its quality.
        whole: share of images kept whole.
        rho: Spearman's rank correlation of quality and box IoU; None where one of the two never varies.
        milliseconds: median per image to find, decoding left out.
    """

    images: int
    patients: int
    dice: Estimate | None
    mask_iou: Estimate | None
    box_iou: Estimate
    lost: Estimate
    losing: Estimate
    losing_untrusted: Estimate
    whole: Estimate
    rho: float | None
    milliseconds: float

    @classmethod
    def of(cls, rows: Sequence[Judged], seed: int) -> Self:
        """Add up one image or more."""
        _, patients = np.unique([row.pair.patient for row in rows], return_inverse=True)
        box_ious, lost = np.array([row.box_iou for row in rows]), np.array([row.lost for row in rows])
        lost_untrusted = np.array([row.lost_untrusted for row in rows])
        whole = np.array([row.is_whole for row in rows])
        dices = np.array([row.dice for row in rows if row.dice is not None])
        mask_ious = np.array([row.mask_iou for row in rows if row.mask_iou is not None])

        def estimate(values: npt.NDArray[Any], tail: int | None = None) -> Estimate:
            return _estimate(values.astype(np.float64), patients, seed, tail)

        return cls(
            images=len(rows),
            patients=int(patients.max()) + 1,
            dice=estimate(dices, _TAIL) if dices.size else None,
            mask_iou=estimate(mask_ious, _TAIL) if mask_ious.size else None,
            box_iou=estimate(box_ious, _TAIL),
            lost=estimate(lost, 100 - _TAIL),
            losing=estimate(lost > LOSS_LIMIT),
            losing_untrusted=estimate(lost_untrusted > LOSS_LIMIT),
            whole=estimate(whole),
            rho=rank_correlation(np.array([row.quality for row in rows]), box_ious),
            milliseconds=float(np.median([row.milliseconds for row in rows])),
        )


@dataclass(frozen=True)
class Verdict:
    """One finder on all judged images.

    Attributes:
        finder: which.
        min_quality: below it the whole image is kept.
        rows: the images, in one order for all finders.
        figures: of all images.
        by_class: of each class, by name; empty where there is one class or none.
        curve: the risk, 1 - box IoU, of the best-trusted share.
    """

    finder: LungFinder
    min_quality: float
    rows: Sequence[Judged]
    figures: Figures
    by_class: Mapping[str, Figures]
    curve: RiskCoverage

    @classmethod
    def of(cls, finder: LungFinder, min_quality: float, rows: Sequence[Judged], seed: int) -> Self:
        """Add up what `evaluate_finder` gave, at least one image."""
        labels = sorted({row.pair.label for row in rows})
        return cls(
            finder=finder,
            min_quality=min_quality,
            rows=rows,
            figures=Figures.of(rows, seed),
            by_class={label: Figures.of([row for row in rows if row.pair.label == label], seed) for label in labels}
            if len(labels) > 1
            else {},
            curve=risk_coverage(np.array([row.quality for row in rows]), np.array([1 - row.box_iou for row in rows])),
        )

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON, single images left out."""
        return {
            "description": self.finder.description,
            "min_quality": self.min_quality,
            "all": asdict(self.figures),
            "by_class": {label: asdict(figures) for label, figures in self.by_class.items()},
            "risk_coverage": {
                "area": self.curve.area,
                "excess_area": self.curve.excess_area,
                "random": self.curve.random,
            },
        }


def _estimate(values: Floats, patients: Numbers, seed: int, tail: int | None) -> Estimate:
    low, high = _interval(values, patients, seed)
    return Estimate(float(values.mean()), low, high, None if tail is None else float(np.percentile(values, tail)))


def _interval(values: Floats, patients: Numbers, seed: int) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of the mean of values (n,) whose patients are numbered (n,) from 0."""
    n = int(patients.max()) + 1
    if n < 2:
        return None, None
    rest = (1 - _CONFIDENCE) / 2
    if np.ptp(values) == 0 and values[0] in (0, 1):
        never = 1 - rest ** (1 / n)
        return (0.0, never) if values[0] == 0 else (1 - never, 1.0)
    taken = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    means = (taken @ np.bincount(patients, weights=values)) / (taken @ np.bincount(patients))
    low, high = np.quantile(means, (rest, 1 - rest))
    return float(low), float(high)
