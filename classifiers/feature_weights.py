"""What features count for and against a class: words and arithmetic that all heads share.

A class's *score* is what the weights add up to: the log-odds of a label; of classes that exclude each other, the
class's logit less the mean of all classes' logits, for probabilities know no common shift of them. So two classes have
scores of one size and of opposite signs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_Real = TypeVar("_Real", np.float32, np.float64)

# Far beyond every weight of use, and far enough within float32 that no sum of weights leaves it.
_MOST: Final = 1e30


class Weighting(StrEnum):
    """Where a head's weights come from.

    - `linear`: coefficients, the same for all rows (on maps: CAM, Zhou et al., CVPR 2016).
    - `gradient`: of the score at each row (Grad-CAM, Selvaraju et al., ICCV 2017).
    - `shap`: each feature's TreeSHAP contribution to the row's score (Lundberg et al., Nature Machine Intelligence
      2020), divided by the feature.
    """

    LINEAR = "linear"
    GRADIENT = "gradient"
    SHAP = "shap"


def scores_of(logits: NDArray[_Real], *, multi_label: bool) -> NDArray[_Real]:
    """Turn logits into scores, and so what adds up to logits into what adds up to scores.

    Args:
        logits: float (n, k, ...); (n, 1, ...) for two classes that share one logit, of class 1.
        multi_label: whether each class is a question of its own.

    Returns:
        The same, (n, k, ...); over classes that exclude each other it adds up to 0.
    """
    if multi_label:
        return logits
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    mean: NDArray[_Real] = logits.mean(axis=1, keepdims=True)
    return logits - mean


def per_feature(contributions: NDArray[np.float32], X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide contributions by their features, so that weight times feature gives them back.

    Args:
        contributions: float32 (n, k, d).
        X: float32 (n, d).

    Returns:
        float32 (n, k, d): 0 where the feature is 0, or so near to it that the quotient is beyond 1e30: what speaks
        by its absence is nowhere in an image.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = contributions / X[:, None].astype(np.float64)
    return np.where(np.abs(weights) <= _MOST, weights, 0).astype(np.float32)
