"""Curves: ROC and precision-recall as a drawing needs them, and how far probabilities can be taken at their word."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve
from sklearn.metrics import roc_curve as full_roc_curve

from classifiers.evaluation import Curve, Reliability, ReliabilityBin

Floats = NDArray[np.float64]

#: Most points of a curve, and the digits that a drawing can show.
_POINTS, _DIGITS = 200, 5
_BINS: Final = 10


def roc_curve(is_positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> Curve | None:
    """The ROC curve of rows (n,), from (0, 0) to (1, 1); None without a positive or without a negative."""
    if is_positive.all() or not is_positive.any():
        return None
    x, y, _ = full_roc_curve(is_positive, scores)
    return _thinned(x, y)


def pr_curve(is_positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> Curve | None:
    """The precision-recall curve of rows (n,), by growing recall from (0, 1) on; None without a positive."""
    if not is_positive.any():
        return None
    precision, recall, _ = precision_recall_curve(is_positive, scores, drop_intermediate=True)
    return _thinned(recall[::-1], precision[::-1])


def reliability(is_positive: NDArray[np.bool_], probabilities: NDArray[np.floating[Any]]) -> Reliability:
    """How probabilities (n,) compare with what came true, in ten bins of equal width, the last one closed."""
    place = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    n = np.bincount(place, minlength=_BINS)
    held = n > 0
    n, probability, share = (
        n[held],
        *(np.bincount(place, weights=each, minlength=_BINS)[held] / n[held] for each in (probabilities, is_positive)),
    )
    bins = tuple(ReliabilityBin(int(a), float(b), float(c)) for a, b, c in zip(n, probability, share, strict=True))
    return Reliability(bins, float(n @ np.abs(probability - share) / n.sum()) if bins else None)


def _thinned(x: Floats, y: Floats) -> Curve:
    """At most 200 of the curve's points: both ends, and others evenly spread along its length."""
    if len(x) > _POINTS:
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        kept = np.searchsorted(way, np.linspace(0, way[-1], _POINTS)).clip(max=len(x) - 1)
        kept[-1] = len(x) - 1
        kept = np.unique(kept)
        x, y = x[kept], y[kept]
    return Curve(tuple(x.round(_DIGITS).tolist()), tuple(y.round(_DIGITS).tolist()))
