"""How well lungs that a method found fit the lungs that a human drew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from featurizers.lungs import LungBox, LungMask

Floats: TypeAlias = npt.NDArray[np.float64]


def dice(found: LungMask, drawn: LungMask, counted: LungMask | None = None) -> float:
    """Dice coefficient of two masks, 0 to 1; 1 where both are empty (Dice 1945, doi:10.2307/1932409).

    Args:
        found, drawn: (rows, columns).
        counted: where a human could tell; None: everywhere.
    """
    both, found_cells, drawn_cells = _areas(found, drawn, counted)
    return 2 * both / (found_cells + drawn_cells) if found_cells + drawn_cells else 1.0


def mask_iou(found: LungMask, drawn: LungMask, counted: LungMask | None = None) -> float:
    """Intersection over union of two masks, 0 to 1; 1 where both are empty. Arguments as in `dice`."""
    both, found_cells, drawn_cells = _areas(found, drawn, counted)
    union = found_cells + drawn_cells - both
    return both / union if union else 1.0


class Rectangle(Protocol):
    """Four edges, in any unit that both rectangles share."""

    @property
    def left(self) -> float: ...  # noqa: D102
    @property
    def top(self) -> float: ...  # noqa: D102
    @property
    def right(self) -> float: ...  # noqa: D102
    @property
    def bottom(self) -> float: ...  # noqa: D102


def box_iou(a: Rectangle, b: Rectangle) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = max(min(a.right, b.right) - max(a.left, b.left), 0.0)
    height = max(min(a.bottom, b.bottom) - max(a.top, b.top), 0.0)
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def lung_lost(drawn: LungMask, kept: LungBox) -> float:
    """Share of a non-empty mask's cells whose centre lies outside the box that is kept, 0 to 1."""
    rows, columns = (np.arange(n) + 0.5 for n in drawn.shape)
    inside_rows = (rows >= kept.top * drawn.shape[0]) & (rows <= kept.bottom * drawn.shape[0])
    inside_columns = (columns >= kept.left * drawn.shape[1]) & (columns <= kept.right * drawn.shape[1])
    return float(1 - drawn[np.ix_(inside_rows, inside_columns)].sum() / drawn.sum())


def _areas(found: LungMask, drawn: LungMask, counted: LungMask | None) -> tuple[int, int, int]:
    """Cells in both, found and drawn."""
    if counted is not None:
        found, drawn = found & counted, drawn & counted
    return int((found & drawn).sum()), int(found.sum()), int(drawn.sum())


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The risk of the best-trusted share of the images, for every share: how well a quality ranks the failures.

    Selective prediction after El-Yaniv and Wiener (JMLR 11, 2010) and Geifman and El-Yaniv (NeurIPS 2017).

    Attributes:
        coverage: (n,) shares of the images, from 1/n to 1.
        risk: (n,) mean loss of the best-trusted images of each share.
        oracle: (n,) the same where the quality ordered the images by their losses: no ordering does better.
    """

    coverage: Floats
    risk: Floats
    oracle: Floats

    @property
    def random(self) -> float:
        """The risk of any share where the quality tells nothing: the mean loss."""
        return float(self.risk[-1])

    @property
    def area(self) -> float:
        """Area under the risk-coverage curve (AURC), as the mean over its n shares."""
        return float(self.risk.mean())

    @property
    def excess_area(self) -> float:
        """AURC less the oracle's; 0 is perfect (Geifman, Uziel and El-Yaniv, ICLR 2019, arXiv:1805.08206)."""
        return self.area - float(self.oracle.mean())


def risk_coverage(quality: Floats, loss: Floats) -> RiskCoverage:
    """Order images by quality, the best trusted first, and take the mean loss of every leading share.

    Images of one quality have no order among themselves: each counts with their mean loss, which is what any random
    order of them gives on average.

    Args:
        quality, loss: (n,), n at least 1.
    """
    order = np.argsort(-quality, kind="stable")
    _, group, sizes = np.unique(-quality[order], return_inverse=True, return_counts=True)
    in_order = (np.bincount(group, weights=loss[order]) / sizes)[group]
    taken = np.arange(1, loss.size + 1)
    return RiskCoverage(taken / loss.size, np.cumsum(in_order) / taken, np.cumsum(np.sort(loss)) / taken)


def rank_correlation(a: Floats, b: Floats) -> float | None:
    """Spearman's rho of two (n,) samples; None where either has one value only."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)
