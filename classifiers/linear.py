"""The two plainest heads: the majority baseline, and logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Final

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval
from torch.nn.functional import log_softmax, softplus

from classifiers.balance import class_counts
from classifiers.errors import HeadError
from classifiers.estimator import Head, Labelled
from classifiers.feature_weights import Weighting
from classifiers.standardise import ROWS, Standardisation, as_tensor
from classifiers.tasks import POSITIVE, UNANSWERED
from classifiers.tensors import read_tensors, write_tensors

# Rows that the curvature of the loss is estimated from, per feature; more estimate it no better than is needed.
_ROWS_PER_FEATURE: Final = 4
# L-BFGS's memory of steps: each costs two vectors of the size of the coefficients.
_STEPS_REMEMBERED: Final = 20


class MajorityHead(Head):
    """The baseline: every row gets train's class shares as probabilities, so its largest class as decision.

    Args:
        balance: taken so that every head is made alike; the shares are counted, never weighed.
        random_state: taken so that every head is made alike; nothing here is random.

    Attributes:
        class_prior_: float64 (k,), share of train rows per class; of labels, share of known entries that are positive.
    """

    class_prior_: NDArray[np.float64]

    def __init__(self, *, balance: str = "none", random_state: int = 0) -> None:
        self.balance = balance
        self.random_state = random_state

    def weights_to_files(self) -> dict[str, bytes]:
        """Write the class shares."""
        return write_tensors({"class_prior": self.class_prior_})

    def _fit(self, train: Labelled, val: Labelled | None) -> None:
        counts = class_counts(train.y, len(self.classes_))
        known = len(train.y) if train.y.ndim == 1 else (train.y != UNANSWERED).sum(axis=0)
        self.class_prior_ = counts / known

    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.tile(self.class_prior_, (len(X), 1))  # to the last bit, which logits would not give

    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        logits = logit(self.class_prior_) if self.multi_label_ else np.log(self.class_prior_)
        return np.tile(logits, (len(X), 1))

    def _logit_weights(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        raise HeadError(
            "majority looks at no feature, so nothing in an image speaks for or against a class: choose logistic, mlp, "
            "xgboost or own_top"
        )

    def _restore(self, files: Mapping[str, bytes]) -> None:
        like = {"class_prior": np.empty(len(self.classes_))}
        self.class_prior_ = read_tensors(files, like)["class_prior"]

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that this classifier does not look at the features."""
        tags: Tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


class LogisticHead(Head):
    """Standardised features, then logistic regression with an L2 penalty: multinomial, or one per label.

    Minimises the sum of weighted log losses plus ||coef||² / (2 C), as scikit-learn's LogisticRegression does, and
    ends at the same optimum. X is passed over a block at a time and never copied, so it may lie on disk; the unknowns
    are turned and scaled by a Cholesky factor of the features' covariance, which makes the curvature of the loss much
    the same in all directions (Newton's idea, with one fixed matrix), so that L-BFGS needs a tenth of the passes.

    Args:
        C: inverse strength of the penalty. The default suits thousands of correlated features: on 2,025 pixels of
            3,150 radiographs C from 0.001 to 0.01 gave the best AUC, and 1 a clearly lower one.
        max_iter: most L-BFGS iterations.
        tol: largest norm of the gradient, in the scaled unknowns and of the mean loss, at which the fit stops; the
            loss, summed over labels, is then within some tol² of its minimum.
        balance: how classes of unequal size are made up for; see `classifiers.balance`.
        random_state: seed of balancing; the solver is not random.

    Attributes:
        mean_, scale_: float32 (d,), of the train rows.
        coef_: float32 (k, d), or (1, d) for two classes, on standardised features.
        intercept_: float32 (k,), or (1,).
        n_iter_: iterations that were needed.
    """

    mean_: NDArray[np.float32]
    scale_: NDArray[np.float32]
    coef_: NDArray[np.float32]
    intercept_: NDArray[np.float32]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Head._parameter_constraints,
        "C": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        C: float = 0.01,
        max_iter: int = 200,
        tol: float = 1e-2,
        balance: str = "class_weight",
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.balance = balance
        self.random_state = random_state

    @property
    def weighting(self) -> Weighting:
        """Coefficients."""
        return Weighting.LINEAR

    def weights_to_files(self) -> dict[str, bytes]:
        """Write the standardisation and the regression."""
        return write_tensors(
            {"mean": self.mean_, "scale": self.scale_, "coef": self.coef_, "intercept": self.intercept_}
        )

    def _fit(self, train: Labelled, val: Labelled | None) -> None:
        standardise = Standardisation.of(train.X, train.repeats)
        objective = _Objective(train, standardise, penalty=1 / (self.C * train.repeats.sum()), rows=self._rows())
        losses: list[float] = []

        def watch(intermediate_result: OptimizeResult) -> None:
            losses.append(float(intermediate_result.fun))
            if objective.gradient_norm <= self.tol:
                raise StopIteration

        # The callback above ends the fit; scipy's own limits only catch a loss that float32 can't lower any more.
        solved = minimize(
            objective,
            np.zeros(objective.size),
            jac=True,
            method="L-BFGS-B",
            callback=watch,
            options={"maxiter": self.max_iter, "maxcor": _STEPS_REMEMBERED, "ftol": 1e-9, "gtol": 0.0},
        )
        if solved.nit >= self.max_iter and objective.gradient_norm > self.tol:
            warnings.warn(
                f"logistic regression was still moving after max_iter={self.max_iter} iterations (gradient "
                f"{objective.gradient_norm:.2g}, tol={self.tol:g}): raise max_iter, or lower C",
                ConvergenceWarning,
                stacklevel=3,
            )
        coef, intercept = objective.coefficients(solved.x)
        self.mean_, self.scale_ = standardise
        self.coef_, self.intercept_ = coef.astype(np.float32), intercept.astype(np.float32)
        self.n_iter_ = int(solved.nit)
        self.learning_curves_ = {"train loss": losses}

    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        coef, intercept = self._folded()
        logits: NDArray[np.float32] = torch.addmm(intercept, as_tensor(X), coef.T).numpy()
        return logits

    def _logit_weights(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        coef: NDArray[np.float32] = self._folded()[0].numpy()
        return coef[None]

    def _folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients and intercepts on features as they are."""
        return Standardisation(self.mean_, self.scale_).folded(self.coef_, self.intercept_)

    def _restore(self, files: Mapping[str, bytes]) -> None:
        d, rows = self.n_features_in_, self._rows()
        shapes = {"mean": (d,), "scale": (d,), "coef": (rows, d), "intercept": (rows,)}
        tensors = read_tensors(files, {name: np.empty(shape, np.float32) for name, shape in shapes.items()})
        self.mean_, self.scale_ = tensors["mean"], tensors["scale"]
        self.coef_, self.intercept_ = tensors["coef"], tensors["intercept"]

    def _rows(self) -> int:
        """Rows of `coef_`: two exclusive classes share one."""
        k = len(self.classes_)
        return 1 if k == 2 and not self.multi_label_ else k


class _Objective:
    """Penalised mean loss and its gradient, in unknowns scaled so that the curvature is near 1 everywhere.

    The unknowns are (rows, d + 1) flattened: V, and the scaled intercepts last. With the covariance G = L Lᵀ - ridge
    and s the mean curvature of a row's loss, coef = L⁻ᵀ V / √s.
    """

    def __init__(self, train: Labelled, standardise: Standardisation, *, penalty: float, rows: int) -> None:
        self.gradient_norm = np.inf
        self._train, self._standardise, self._penalty, self._rows = train, standardise, penalty, rows
        self._weights, self._total = train.total_weights, float(train.repeats.sum())
        positive = self._targets(train.y)
        share = (positive * self._columns(self._weights)).sum(axis=0) / self._columns(self._weights).sum(axis=0)
        mean_weight = self._columns(self._weights).sum(axis=0) / self._total
        curvature = mean_weight * share * (1 - share)
        self._root = np.sqrt(curvature)[:, None]
        covariance = _covariance(train, standardise)
        covariance[np.diag_indices_from(covariance)] += penalty / float(curvature.mean())
        self._factor = scipy.linalg.cholesky(covariance, lower=True)

    @property
    def size(self) -> int:
        """How many unknowns there are."""
        return int(self._rows * (len(self._factor) + 1))

    def coefficients(self, unknowns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give coef (rows, d) and intercept (rows,)."""
        V = unknowns.reshape(self._rows, -1) / self._root
        return scipy.linalg.solve_triangular(self._factor, V[:, :-1].T, lower=True, trans="T").T, V[:, -1]

    def __call__(self, unknowns: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Pass over all rows once."""
        coef, intercept = self.coefficients(unknowns)
        weight, bias = torch.from_numpy(coef.astype(np.float32)), torch.from_numpy(intercept.astype(np.float32))
        loss, by_coef, by_intercept = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
        starts = range(0, len(self._train.X), ROWS)
        for start, block in zip(starts, self._standardise.blocks(self._train.X), strict=True):
            rows = slice(start, start + len(block))
            part, by_score = self._loss(torch.addmm(bias, block, weight.T), rows)
            loss += part
            by_coef.addmm_(by_score.T, block)
            by_intercept += by_score.sum(dim=0)
        loss = loss / self._total + 0.5 * self._penalty * float((coef**2).sum())
        total_by_coef = by_coef.numpy().astype(np.float64) / self._total + self._penalty * coef
        scaled = scipy.linalg.solve_triangular(self._factor, total_by_coef.T, lower=True).T
        total_by_intercept = by_intercept.numpy().astype(np.float64) / self._total
        gradient = np.hstack([scaled, total_by_intercept[:, None]]) / self._root
        self.gradient_norm = float(np.linalg.norm(gradient))
        return loss, gradient.ravel()

    def _loss(self, scores: torch.Tensor, rows: slice) -> tuple[float, torch.Tensor]:
        """Sum of the weighted losses of some rows, and its derivative by their scores."""
        y, weights = self._train.y[rows], torch.from_numpy(self._weights[rows])
        targets, weights = torch.from_numpy(self._targets(y)), weights.reshape(len(scores), -1)
        if y.ndim == 1 and self._rows > 1:
            logs = log_softmax(scores, dim=1)
            return -float((targets * logs * weights).sum()), (logs.exp() - targets) * weights
        # log(1 + exp(s)) - t s, the negative logarithm of the probability of what is true.
        losses = (softplus(scores) - targets * scores) * weights
        return float(losses.sum()), (torch.sigmoid(scores) - targets) * weights

    def _targets(self, y: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Which of the rows' scores should be high: float32 (n, rows)."""
        if y.ndim == 2:
            return np.asarray(y == POSITIVE, dtype=np.float32)
        classes = np.arange(self._rows) if self._rows > 1 else np.array([1])
        return np.asarray(y[:, None] == classes, dtype=np.float32)

    def _columns(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(weights.reshape(len(weights), -1), dtype=np.float64)


def _covariance(train: Labelled, standardise: Standardisation) -> NDArray[np.float64]:
    """Covariance of the standardised features over evenly spaced rows: float64 (d, d)."""
    n, d = train.X.shape
    wanted = min(n, max(_ROWS_PER_FEATURE * d, ROWS))
    rows = np.unique(np.linspace(0, n - 1, wanted).astype(np.intp))
    covariance = torch.zeros(d, d)
    for block in standardise.blocks(train.X[rows]):
        covariance.addmm_(block.T, block)
    return covariance.numpy().astype(np.float64) / len(rows)
