"""The neural head: a small multi-layer perceptron, trained with torch on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear

from classifiers.balance import Balance
from classifiers.errors import HeadError
from classifiers.estimator import Head, Labelled
from classifiers.feature_weights import Weighting
from classifiers.layers import ACTIVATIONS, Activation, Layers, gradients_of, logits_of
from classifiers.standardise import Standardisation, as_tensor
from classifiers.tasks import POSITIVE
from classifiers.tensors import read_tensors, write_tensors

# Rows are shuffled by blocks that lie together, then within pools of such blocks: X on a disk is read nearly in order,
# and X in memory gives the same order, so that an answer does not depend on how much memory there is.
_BLOCK: Final = 256
_POOL: Final = 64 * _BLOCK


class MLPHead(Head):
    """Standardised features, hidden layers with dropout, then softmax, or a sigmoid per label; on the log loss.

    With validation rows, training stops once their log loss, its classes balanced as in train, has not fallen for
    `patience` epochs, and the best epoch's weights are kept; without, it runs `max_epochs`. All chance comes from a
    generator seeded with `random_state`: torch's global one is neither read nor moved.

    Args:
        hidden: width of every hidden layer, from the features on; empty for none.
        activation: `relu` or `sigmoid`, of the hidden layers.
        dropout: share of hidden activations dropped while training.
        optimizer: `adamw`, `adam` or `sgd` (plain).
        learning_rate: the optimizer's.
        weight_decay: the optimizer's.
        batch_size: rows per step.
        max_epochs: most passes over the train rows.
        patience: epochs without a better validation loss before training stops.
        focal_gamma: with balance=focal, the exponent that takes weight off what is already right (Lin et al., Focal
            loss for dense object detection, ICCV 2017; 2 is theirs).
        precision: of the products with the features, while training: `bfloat16` (weights, sums and every later layer
            stay float32) or `float32`. Predictions are float32 either way.
        balance: how classes of unequal size are made up for; see `classifiers.balance`.
        random_state: seed of initial weights, row order, dropout and balancing.

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

    stops_early: ClassVar[bool] = True
    balances: ClassVar[frozenset[Balance]] = frozenset(Balance)

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Head._parameter_constraints,
        "hidden": ["array-like"],
        "activation": [StrOptions({"relu", "sigmoid"})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "optimizer": [StrOptions({"adamw", "adam", "sgd"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "focal_gamma": [Interval(Real, 0, None, closed="left")],
        "precision": [StrOptions({"bfloat16", "float32"})],
    }

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (128,),
        activation: str = "relu",
        dropout: float = 0.3,
        optimizer: str = "adamw",
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        max_epochs: int = 50,
        patience: int = 8,
        focal_gamma: float = 2.0,
        precision: str = "bfloat16",
        balance: str = "class_weight",
        random_state: int = 0,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience
        self.focal_gamma = focal_gamma
        self.precision = precision
        self.balance = balance
        self.random_state = random_state

    @property
    def weighting(self) -> Weighting:
        """Gradients, which without a hidden layer are coefficients."""
        return Weighting.GRADIENT if len(self.hidden) else Weighting.LINEAR

    def weights_to_files(self) -> dict[str, bytes]:
        """Write the standardisation and the layers."""
        layers = {f"coef.{i}": coef for i, coef in enumerate(self.coefs_)}
        layers |= {f"intercept.{i}": intercept for i, intercept in enumerate(self.intercepts_)}
        return write_tensors({"mean": self.mean_, "scale": self.scale_, **layers})

    def _fit(self, train: Labelled, val: Labelled | None) -> None:
        standardise = Standardisation.of(train.X, train.repeats)
        generator = torch.Generator().manual_seed(self.random_state)
        layers = _initial_layers(self._widths(), generator)
        optimizer = self._make_optimizer([tensor for layer in layers for tensor in layer])
        batches = _Batches(train, standardise, self.batch_size, generator, _PRECISIONS[self.precision])
        train_losses: list[float] = []
        val_losses: list[float] = []
        best_layers, self.n_epochs_ = layers, self.max_epochs
        for epoch in range(1, self.max_epochs + 1):
            total = 0.0
            for X, rows in batches:
                losses = self._losses(self._train_scores(X, layers, generator), train.y[rows])
                weights = torch.from_numpy(train.weights[rows]).reshape(losses.shape)
                # Entries of unknown labels weigh nothing, and the others no more for it.
                loss = (losses * weights).sum() / len(rows)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += loss.item() * len(rows)
            train_losses.append(total / batches.rows)
            if val is None:
                continue
            val_losses.append(self._val_loss(val, standardise, layers))
            if val_losses[-1] == min(val_losses):
                self.n_epochs_ = epoch
                best_layers = [(coef.detach().clone(), intercept.detach().clone()) for coef, intercept in layers]
            elif epoch - self.n_epochs_ >= self.patience:
                break
        self.mean_, self.scale_ = standardise
        self.coefs_ = [coef.detach().numpy().copy() for coef, _ in best_layers]
        self.intercepts_ = [intercept.detach().numpy().copy() for _, intercept in best_layers]
        self.learning_curves_ = {"train loss": train_losses} | ({"val loss": val_losses} if val else {})
        if not all(np.isfinite(coef).all() for coef in self.coefs_):
            raise HeadError(
                f"training diverged (weights are not finite) at learning_rate {self.learning_rate}: lower it"
            )

    def _make_optimizer(self, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        kinds: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
            "adamw": torch.optim.AdamW,
            "adam": torch.optim.Adam,
            "sgd": torch.optim.SGD,
        }
        return kinds[self.optimizer](parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)

    def _losses(self, scores: torch.Tensor, y: NDArray[np.integer[Any]]) -> torch.Tensor:
        """Log loss (or focal loss) of every row (n,), or of every entry (n, k) of labels."""
        if y.ndim == 2:
            targets = torch.from_numpy(np.asarray(y == POSITIVE, dtype=np.float32))
            losses = binary_cross_entropy_with_logits(scores, targets, reduction="none")
        else:
            losses = cross_entropy(scores, torch.from_numpy(y), reduction="none")
        if self.balance != Balance.FOCAL:
            return losses
        # exp(-loss) is the probability given to what is true. Where it rounds to 1, the slope of a power below 1 has no
        # end, and ends every weight; a clamp's slope is 0.
        rest = (1 - torch.exp(-losses)).clamp_min(torch.finfo(losses.dtype).eps)
        return rest.pow(self.focal_gamma) * losses

    def _val_loss(self, val: Labelled, standardise: Standardisation, layers: Layers) -> float:
        total, start = 0.0, 0
        with torch.no_grad():
            for block in standardise.blocks(val.X):
                rows = slice(start, start + len(block))
                losses = self._losses(logits_of(block, layers, self._activation), val.y[rows])
                total += float((losses * torch.from_numpy(val.weights[rows])).sum())
                start += len(block)
        return total / len(val.y)

    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = logits_of(as_tensor(X), self._folded(), self._activation).numpy()
        return logits

    def _logit_weights(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        gradients: NDArray[np.float32] = gradients_of(as_tensor(X), self._folded(), self._activation).numpy()
        return gradients

    def _folded(self) -> Layers:
        """The layers on features as they are."""
        first = Standardisation(self.mean_, self.scale_).folded(self.coefs_[0], self.intercepts_[0])
        # torch.tensor copies into memory aligned the same way each time, as `folded` does.
        rest = zip(self.coefs_[1:], self.intercepts_[1:], strict=True)
        return [first, *((torch.tensor(coef), torch.tensor(intercept)) for coef, intercept in rest)]

    def _restore(self, files: Mapping[str, bytes]) -> None:
        widths = self._widths()
        layers = range(len(widths) - 1)
        like = {
            "mean": np.empty(widths[0], np.float32),
            "scale": np.empty(widths[0], np.float32),
            **{f"coef.{i}": np.empty((widths[i + 1], widths[i]), np.float32) for i in layers},
            **{f"intercept.{i}": np.empty(widths[i + 1], np.float32) for i in layers},
        }
        tensors = read_tensors(files, like)
        self.mean_, self.scale_ = tensors["mean"], tensors["scale"]
        self.coefs_ = [tensors[f"coef.{i}"] for i in layers]
        self.intercepts_ = [tensors[f"intercept.{i}"] for i in layers]

    def _widths(self) -> list[int]:
        hidden: list[Any] = list(self.hidden)
        if not all(isinstance(width, int | np.integer) and width > 0 for width in hidden):
            raise HeadError(f"hidden is {hidden}: give whole numbers above 0, one per hidden layer")
        return [self.n_features_in_, *hidden, len(self.classes_)]

    @property
    def _activation(self) -> Activation:
        return ACTIVATIONS[self.activation]

    def _train_scores(self, X: torch.Tensor, layers: Layers, generator: torch.Generator) -> torch.Tensor:
        (first, intercept), *rest = layers
        X = linear(X, first.to(X.dtype)).float() + intercept
        for coef, intercept in rest:
            X = self._activation.of(X)
            if self.dropout:
                # torch's own dropout draws from the global generator; this one scales what it keeps in the same way.
                keep = 1 - self.dropout
                X = X * torch.empty(X.shape).bernoulli_(keep, generator=generator).div_(keep)
            X = linear(X, coef, intercept)
        return X


_PRECISIONS: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class _Batches:
    """The train rows, shuffled anew at every pass, a standardised batch at a time."""

    def __init__(
        self,
        train: Labelled,
        standardise: Standardisation,
        batch_size: int,
        generator: torch.Generator,
        precision: torch.dtype,
    ) -> None:
        self._X = as_tensor(train.X)
        self._drawn = torch.from_numpy(np.repeat(np.arange(len(train.y)), train.repeats))
        self._mean = torch.from_numpy(standardise.mean)
        self._factor = torch.from_numpy(1 / standardise.scale)
        self._generator = generator
        # Fresh memory costs more than the arithmetic: every batch is laid into the same.
        self._rows = torch.empty(batch_size, train.X.shape[1])
        self._standardised = torch.empty(batch_size, train.X.shape[1], dtype=precision)

    @property
    def rows(self) -> int:
        """Rows of a pass, those that balancing draws again included."""
        return len(self._drawn)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
        """One pass: (standardised rows, which rows they are)."""
        for rows in torch.split(self._order(), len(self._rows)):
            batch = torch.index_select(self._X, 0, rows, out=self._rows[: len(rows)])
            batch.sub_(self._mean).mul_(self._factor)
            yield self._standardised[: len(rows)].copy_(batch), rows.numpy()

    def _order(self) -> torch.Tensor:
        blocks = torch.split(self._drawn, _BLOCK)
        mixed = [blocks[i] for i in torch.randperm(len(blocks), generator=self._generator).tolist()]
        pools = torch.split(torch.cat(mixed), _POOL)
        return torch.cat([pool[torch.randperm(len(pool), generator=self._generator)] for pool in pools])


def _initial_layers(widths: Sequence[int], generator: torch.Generator) -> Layers:
    """Draw weights as torch.nn.Linear does: uniform within 1/sqrt(fan-in), for coefficients and intercepts alike."""
    layers = []
    for fan_in, fan_out in pairwise(widths):
        bound = 1 / math.sqrt(fan_in)
        coef = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=generator)
        intercept = torch.empty(fan_out).uniform_(-bound, bound, generator=generator)
        layers.append((coef.requires_grad_(), intercept.requires_grad_()))
    return layers
