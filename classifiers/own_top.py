"""The head that a fine-tuned network was trained with, as it stands: what heads fitted on its features are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.balance import Balance
from classifiers.errors import HeadError
from classifiers.estimator import Head, Labelled
from classifiers.feature_weights import Weighting
from classifiers.layers import ACTIVATIONS, Layers, gradients_of, logits_of
from classifiers.standardise import as_tensor
from classifiers.tensors import read_tensors, write_tensors


class OwnTopHead(Head):
    """The layers on a backbone's features that were fine-tuned along with it: its answers are the network's, end to
    end. It is never fitted; `take` gives it its layers.

    Args:
        hidden: width of every hidden layer, each with a ReLU; empty for none.
        balance: `none`: what balance there was, fine-tuning knows.
        random_state: taken so that every head is made alike; nothing here is random.

    Attributes:
        coefs_, intercepts_: float32 (out, in) and (out,), per layer.
    """

    coefs_: list[NDArray[np.float32]]
    intercepts_: list[NDArray[np.float32]]

    balances: ClassVar[frozenset[Balance]] = frozenset({Balance.NONE})

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {**Head._parameter_constraints, "hidden": ["array-like"]}

    def __init__(self, *, hidden: Sequence[int] = (), balance: str = "none", random_state: int = 0) -> None:
        self.hidden = hidden
        self.balance = balance
        self.random_state = random_state

    def take(
        self,
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        counts: NDArray[np.int64],
        *,
        multi_label: bool,
    ) -> Self:
        """Become fitted.

        Args:
            layers: coefficients (out, in) and intercepts (out,), from the features on; as wide as `hidden` says.
            counts: (k,) rows per class (positives per label) that fine-tuning had.
            multi_label: as `multi_label_`.

        Raises:
            HeadError: when they are as wide as something else, or do not follow one another.
        """
        widths = [layers[0][0].shape[1], *(len(intercept) for _, intercept in layers)]
        if widths[1:] != [*self.hidden, len(counts)] or [coef.shape for coef, _ in layers] != [
            (out, features) for features, out in pairwise(widths)
        ]:
            raise HeadError(
                f"layers of the shapes {[coef.shape for coef, _ in layers]} are no top with hidden={list(self.hidden)} "
                f"and {len(counts)} classes: give those that were fine-tuned, and their widths"
            )
        self.coefs_, self.intercepts_ = [coef for coef, _ in layers], [intercept for _, intercept in layers]
        self.balanced_counts_, self.learning_curves_ = counts, {}
        return self.restore(
            self.weights_to_files(),
            n_features=self.coefs_[0].shape[1],
            n_classes=len(counts),
            multi_label=multi_label,
        )

    @property
    def weighting(self) -> Weighting:
        """Gradients, which without a hidden layer are coefficients."""
        return Weighting.GRADIENT if len(self.hidden) else Weighting.LINEAR

    def weights_to_files(self) -> dict[str, bytes]:
        """Write the layers."""
        layers = {f"coef.{i}": coef for i, coef in enumerate(self.coefs_)}
        return write_tensors(layers | {f"intercept.{i}": intercept for i, intercept in enumerate(self.intercepts_)})

    def _fit(self, train: Labelled, val: Labelled | None) -> None:
        raise HeadError(
            "own_top is the top that a backbone was fine-tuned with, and is not fitted: give it its layers (take), or "
            "choose another head to fit one"
        )

    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = logits_of(as_tensor(X), self._layers(), ACTIVATIONS["relu"]).numpy()
        return logits

    def _logit_weights(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        gradients: NDArray[np.float32] = gradients_of(as_tensor(X), self._layers(), ACTIVATIONS["relu"]).numpy()
        return gradients

    def _layers(self) -> Layers:
        # Copies into memory aligned the same way each time: the same bits for the same rows.
        layers = zip(self.coefs_, self.intercepts_, strict=True)
        return [(torch.tensor(coef), torch.tensor(intercept)) for coef, intercept in layers]

    def _restore(self, files: Mapping[str, bytes]) -> None:
        shapes = list(pairwise([self.n_features_in_, *self.hidden, len(self.classes_)]))
        like: dict[str, NDArray[np.float32]] = {}
        for i, (features, out) in enumerate(shapes):
            like[f"coef.{i}"] = np.empty((out, features), np.float32)
            like[f"intercept.{i}"] = np.empty((out,), np.float32)
        tensors = read_tensors(files, like)
        self.coefs_ = [tensors[f"coef.{i}"] for i in range(len(shapes))]
        self.intercepts_ = [tensors[f"intercept.{i}"] for i in range(len(shapes))]
