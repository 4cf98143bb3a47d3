"""Class balance: what a rare class weighs while a head is fitted. Used on train only, never in an evaluation."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Balance(StrEnum):
    """How a fit makes up for classes of unequal size."""

    CLASS_WEIGHT = "class_weight"
    NONE = "none"


def class_weights(y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weigh every class by n / (k * n_c), so that each adds the same to the loss (scikit-learn's "balanced").

    Args:
        y: int64 (n,), class indices 0..k-1, each of which occurs.

    Returns:
        float64 (k,).
    """
    counts = np.bincount(y)
    return len(y) / (len(counts) * counts)


def sample_weights(y: NDArray[np.int64], balance: Balance) -> NDArray[np.float64]:
    """Spread class weights over the samples.

    Args:
        y: int64 (n,), class indices 0..k-1 of the train split, each of which occurs.
        balance: the rule.

    Returns:
        float64 (n,) with mean 1.
    """
    if balance is Balance.NONE:
        return np.ones(len(y))
    return class_weights(y)[y]
