"""Dense layers one after the other: what they answer, and what each feature counts in that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch.nn.functional import linear

#: Coefficients (out, in) and intercepts (out,) of every layer, from the features on.
Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Activation(NamedTuple):
    """What hidden units make of their sum, and the slope of that, told from what they made."""

    of: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor], torch.Tensor]


ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "relu": Activation(torch.relu, lambda unit: (unit > 0).to(unit.dtype)),
    "sigmoid": Activation(torch.sigmoid, lambda unit: unit * (1 - unit)),
}


def logits_of(X: torch.Tensor, layers: Layers, activation: Activation) -> torch.Tensor:
    """Give what the last layer answers: float32 (n, k) for rows (n, d)."""
    for coef, intercept in layers[:-1]:
        X = activation.of(linear(X, coef, intercept))
    return linear(X, *layers[-1])


def gradients_of(X: torch.Tensor, layers: Layers, activation: Activation) -> torch.Tensor:
    """Give the logits' derivatives by the features, by the chain rule: float32 (n, k, d) for rows (n, d), or (1, k, d)
    where there is no hidden layer, for then they are the same for all rows.
    """
    slopes = []
    for coef, intercept in layers[:-1]:
        X = activation.of(linear(X, coef, intercept))
        slopes.append(activation.slope(X))
    gradients = layers[-1][0][None]
    for (coef, _), slope in zip(reversed(layers[:-1]), reversed(slopes), strict=True):
        gradients = (gradients * slope[:, None]) @ coef
    return gradients
