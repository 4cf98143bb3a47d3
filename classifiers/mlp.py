"""The neural head: a small multi-layer perceptron, trained with torch on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval
from torch.nn.functional import cross_entropy, linear, relu

from classifiers.errors import HeadError
from classifiers.estimator import Head, Labelled, Standardisation, read_tensors, softmax, write_tensors


class MLPHead(Head):
    """Standardised features, hidden layers with ReLU and dropout, softmax; AdamW on the weighted cross-entropy.

    With validation rows, training stops once their (unweighted) cross-entropy has not fallen for `patience` epochs,
    and the best epoch's weights are kept; without, it runs `max_epochs`. All chance comes from a generator seeded
    with `random_state`: torch's global one is neither read nor moved.

    Args:
        hidden: width of every hidden layer, from the features on; empty for none.
        dropout: share of hidden activations dropped while training.
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        batch_size: rows per step.
        max_epochs: most passes over the train rows.
        patience: epochs without a better validation loss before training stops.
        balance: `class_weight` (every class adds the same to the loss) or `none`.
        random_state: seed of initial weights, row order and dropout.

    Attributes:
        mean_, scale_: float32 (d,), of the train rows.
        coefs_, intercepts_: float32 (out, in) and (out,), per layer.
        n_epochs_: epochs behind the weights that were kept.
    """

    mean_: NDArray[np.float32]
    scale_: NDArray[np.float32]
    coefs_: list[NDArray[np.float32]]
    intercepts_: list[NDArray[np.float32]]
    n_epochs_: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Head._parameter_constraints,
        "hidden": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (256,),
        dropout: float = 0.3,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        max_epochs: int = 50,
        patience: int = 8,
        balance: str = "class_weight",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.balance = balance
        self.random_state = random_state

    def weights_to_bytes(self) -> bytes:
        """Write the standardisation and the layers."""
        layers = {f"coef.{i}": coef for i, coef in enumerate(self.coefs_)}
        layers |= {f"intercept.{i}": intercept for i, intercept in enumerate(self.intercepts_)}
        return write_tensors({"mean": self.mean_, "scale": self.scale_, **layers})

    def _fit(self, train: Labelled, weights: NDArray[np.float64], val: Labelled | None) -> None:
        standardise = Standardisation.of(train.X)
        X, y = torch.from_numpy(standardise(train.X)), torch.from_numpy(train.y)
        weight = torch.from_numpy(weights.astype(np.float32))
        generator = torch.Generator().manual_seed(self.random_state)
        layers = _initial_layers(self._widths(), generator)
        optimizer = torch.optim.AdamW(
            [tensor for layer in layers for tensor in layer], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        watch = None if val is None else (torch.from_numpy(standardise(val.X)), torch.from_numpy(val.y))
        best_loss, best_layers, self.n_epochs_ = math.inf, layers, self.max_epochs
        for epoch in range(1, self.max_epochs + 1):
            for rows in torch.split(torch.randperm(len(y), generator=generator), self.batch_size):
                losses = cross_entropy(self._train_scores(X[rows], layers, generator), y[rows], reduction="none")
                optimizer.zero_grad()
                (losses * weight[rows]).mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if watch is None:
                continue
            with torch.no_grad():
                loss = float(cross_entropy(_scores(watch[0], layers), watch[1]))
            if loss < best_loss:
                best_loss, self.n_epochs_ = loss, epoch
                best_layers = [(coef.detach().clone(), intercept.detach().clone()) for coef, intercept in layers]
            elif epoch - self.n_epochs_ >= self.patience:
                break
        self.mean_, self.scale_ = standardise
        self.coefs_ = [coef.detach().numpy().copy() for coef, _ in best_layers]
        self.intercepts_ = [intercept.detach().numpy().copy() for _, intercept in best_layers]
        if not all(np.isfinite(coef).all() for coef in self.coefs_):
            raise HeadError(
                f"training diverged (weights are not finite) at learning_rate {self.learning_rate}: lower it"
            )

    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        # torch.tensor copies into memory aligned the same way each time, so that a restored head adds up in the same
        # order as the fitted one, and answers the same to the last bit.
        layers = [(torch.tensor(c), torch.tensor(i)) for c, i in zip(self.coefs_, self.intercepts_, strict=True)]
        with torch.no_grad():
            scores = _scores(torch.tensor(Standardisation(self.mean_, self.scale_)(X)), layers)
        return softmax(scores.numpy().astype(np.float64))

    def _restore(self, weights: bytes) -> None:
        widths = self._widths()
        layers = range(len(widths) - 1)
        like = {
            "mean": np.empty(widths[0], np.float32),
            "scale": np.empty(widths[0], np.float32),
            **{f"coef.{i}": np.empty((widths[i + 1], widths[i]), np.float32) for i in layers},
            **{f"intercept.{i}": np.empty(widths[i + 1], np.float32) for i in layers},
        }
        tensors = read_tensors(weights, like)
        self.mean_, self.scale_ = tensors["mean"], tensors["scale"]
        self.coefs_ = [tensors[f"coef.{i}"] for i in layers]
        self.intercepts_ = [tensors[f"intercept.{i}"] for i in layers]

    def _widths(self) -> list[int]:
        hidden: list[Any] = list(self.hidden)
        if not all(isinstance(width, int | np.integer) and width > 0 for width in hidden):
            raise HeadError(f"hidden is {hidden}: give whole numbers above 0, one per hidden layer")
        return [self.n_features_in_, *hidden, len(self.classes_)]

    def _train_scores(self, X: torch.Tensor, layers: _Layers, generator: torch.Generator) -> torch.Tensor:
        keep = 1 - self.dropout
        for coef, intercept in layers[:-1]:
            X = relu(linear(X, coef, intercept))
            # torch's own dropout draws from the global generator; this one scales what it keeps in the same way.
            X = X * (torch.rand(X.shape, generator=generator) < keep) / keep
        return linear(X, *layers[-1])


_Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]


def _scores(X: torch.Tensor, layers: _Layers) -> torch.Tensor:
    for coef, intercept in layers[:-1]:
        X = relu(linear(X, coef, intercept))
    return linear(X, *layers[-1])


def _initial_layers(widths: Sequence[int], generator: torch.Generator) -> _Layers:
    """Draw weights as torch.nn.Linear does: uniform within 1/sqrt(fan-in), for coefficients and intercepts alike."""
    layers = []
    for fan_in, fan_out in pairwise(widths):
        bound = 1 / math.sqrt(fan_in)
        coef = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
        intercept = torch.empty(fan_out).uniform_(-bound, bound, generator=generator)
        layers.append((coef.requires_grad_(), intercept.requires_grad_()))
    return layers
