"""DeLong's test: whether two heads' AUCs on the same rows differ by more than chance.

The rows' parts in an AUC come from midranks, in the time of a sort (Sun and Xu, IEEE Signal Processing Letters 21,
2014), and the variance from how they spread (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988): between patients,
with what a patient's positive and negative rows have in common, so that several images of one patient do not count as
independent (Obuchowski, Biometrics 53, 1997). Where every patient has one row the two are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from classifiers.errors import EvaluationError

Floats = NDArray[np.float64]

#: Normal quantile of a two-sided 95 % interval.
_QUANTILE: Final = float(norm.ppf(0.975))
#: Variances below are rounding: one pair in another order, among 10^6 positives and as many negatives, gives 10^-24.
_ROUNDING: Final = 1e-28


@dataclass(frozen=True)
class AUCDifference:
    """Two heads' AUCs and their difference, first minus second.

    Attributes:
        auc_a, auc_b: of either head.
        difference: auc_a - auc_b.
        low, high: its 95 % interval, by the normal distribution.
        p_value: two-sided, of no difference.
    """

    auc_a: float
    auc_b: float
    difference: float
    low: float
    high: float
    p_value: float


def delong(
    is_positive: NDArray[np.bool_],
    scores_a: NDArray[np.floating[Any]],
    scores_b: NDArray[np.floating[Any]],
    patients: NDArray[np.integer[Any]] | None = None,
) -> AUCDifference | None:
    """Compare two heads' scores on the same rows.

    Args:
        is_positive: bool (n,).
        scores_a, scores_b: float (n,), finite; only their order matters.
        patients: int (n,), rows of one number are of one patient. None: every row is a patient of its own.

    Returns:
        None where fewer than two patients have a positive, or fewer than two a negative, and where AUCs differ but
        every row differs alike, which leaves nothing to estimate a variance from. Heads that rank all pairs of
        these rows alike differ by 0: the interval is 0 to 0 and p is 1.

    Raises:
        EvaluationError: on shapes that do not fit, or scores not finite.
    """
    is_positive, a, b = np.asarray(is_positive, bool), np.asarray(scores_a), np.asarray(scores_b)
    owners = np.arange(len(is_positive)) if patients is None else np.asarray(patients)
    if is_positive.ndim != 1 or not is_positive.shape == a.shape == b.shape == owners.shape:
        raise EvaluationError(
            f"targets of shape {is_positive.shape}, scores of {a.shape} and {b.shape} and patients of {owners.shape} "
            "do not fit: give one entry a row to each"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise EvaluationError("some scores are NaN or infinite: look for the fault in the head that gave them")
    owners = np.unique(owners, return_inverse=True)[1]
    if min(len(np.unique(owners[rows])) for rows in (is_positive, ~is_positive)) < 2:
        return None

    parts_a, parts_b = _parts(is_positive, a), _parts(is_positive, b)
    auc_a, auc_b = float(parts_a[is_positive].mean()), float(parts_b[is_positive].mean())
    difference = auc_a - auc_b
    variance = _variance(is_positive, parts_a - parts_b, owners)
    if variance > _ROUNDING:
        error = float(np.sqrt(variance))
        p_value = float(2 * norm.sf(abs(difference) / error))
    elif abs(difference) < np.sqrt(_ROUNDING):
        difference, error, p_value = 0.0, 0.0, 1.0
    else:
        return None
    reach = _QUANTILE * error
    return AUCDifference(auc_a, auc_b, difference, difference - reach, difference + reach, p_value)


def _parts(is_positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> Floats:
    """Of each row (n,), the share of the other kind's rows that it is in order with, a tie counting half.

    The mean over positives, and that over negatives, is the AUC.
    """
    within = np.empty(len(scores))
    for kind in (is_positive, ~is_positive):
        within[kind] = rankdata(scores[kind])
    below = rankdata(scores) - within
    positives = is_positive.sum()
    return np.asarray(np.where(is_positive, below / (len(scores) - positives), 1 - below / positives))


def _variance(is_positive: NDArray[np.bool_], parts: Floats, owners: NDArray[np.intp]) -> float:
    """Obuchowski's variance of an AUC, or, for differences of parts, of a difference of AUCs."""
    count = int(owners.max()) + 1
    residual, shares = [], []
    for kind in (is_positive, ~is_positive):
        each = parts[kind] - parts[kind].mean()
        residual.append(np.bincount(owners[kind], weights=each, minlength=count) / kind.sum())
        patients = len(np.unique(owners[kind]))
        shares.append(patients / (patients - 1))
    positive, negative = residual
    both = count / (count - 1)
    return float(shares[0] * positive @ positive + shares[1] * negative @ negative + 2 * both * positive @ negative)
