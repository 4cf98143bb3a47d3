"""The two plainest heads: the majority baseline, and logistic regression."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval

from classifiers.estimator import Head, Labelled, Standardisation, read_tensors, softmax, write_tensors


class MajorityHead(Head):
    """The baseline: every row gets train's class shares as probabilities, so its largest class as decision.

    Args:
        balance: taken so that every head is made alike; the shares are counted, never weighed.
        random_state: taken so that every head is made alike; nothing here is random.

    Attributes:
        class_prior_: float64 (k,), share of train rows per class.
    """

    class_prior_: NDArray[np.float64]

    def __init__(self, *, balance: str = "class_weight", random_state: int = 0) -> None:
        self.balance = balance
        self.random_state = random_state

    def weights_to_bytes(self) -> bytes:
        """Write the class shares."""
        return write_tensors({"class_prior": self.class_prior_})

    def _fit(self, train: Labelled, weights: NDArray[np.float64], val: Labelled | None) -> None:
        self.class_prior_ = np.bincount(train.y) / len(train.y)

    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.tile(self.class_prior_, (len(X), 1))

    def _restore(self, weights: bytes) -> None:
        like = {"class_prior": np.empty(len(self.classes_))}
        self.class_prior_ = read_tensors(weights, like)["class_prior"]

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that this classifier does not look at the features."""
        tags: Tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


class LogisticHead(Head):
    """Standardised features, then multinomial logistic regression with an L2 penalty (scikit-learn, L-BFGS).

    Args:
        C: inverse strength of the penalty. The default suits thousands of correlated features: on 2,025 pixels of
            3,150 radiographs C from 0.001 to 0.01 gave the best AUC, and 1 a clearly lower one.
        max_iter: most L-BFGS iterations.
        tol: largest gradient at which the fit stops.
        balance: `class_weight` (every class adds the same to the loss) or `none`.
        random_state: taken so that every head is made alike; the solver is not random.

    Attributes:
        mean_, scale_: float32 (d,), of the train rows.
        coef_: float32 (k, d), or (1, d) for two classes, on standardised features.
        intercept_: float32 (k,), or (1,).
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
        max_iter: int = 1000,
        tol: float = 1e-4,
        balance: str = "class_weight",
        random_state: int = 0,
    ) -> None:
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.balance = balance
        self.random_state = random_state

    def weights_to_bytes(self) -> bytes:
        """Write the standardisation and the regression."""
        return write_tensors(
            {"mean": self.mean_, "scale": self.scale_, "coef": self.coef_, "intercept": self.intercept_}
        )

    def _fit(self, train: Labelled, weights: NDArray[np.float64], val: Labelled | None) -> None:
        standardise = Standardisation.of(train.X)
        regression = LogisticRegression(C=self.C, max_iter=self.max_iter, tol=self.tol)
        regression.fit(standardise(train.X), train.y, sample_weight=weights)
        self.mean_, self.scale_ = standardise
        self.coef_ = regression.coef_.astype(np.float32)
        self.intercept_ = regression.intercept_.astype(np.float32)
        self.n_iter_ = int(regression.n_iter_.max())

    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        standardised = Standardisation(self.mean_, self.scale_)(X).astype(np.float64)
        scores = standardised @ self.coef_.T.astype(np.float64) + self.intercept_
        if scores.shape[1] == 1:  # two classes share one score: class 1 against a class 0 that scores 0
            scores = np.hstack([np.zeros_like(scores), scores])
        return softmax(scores)

    def _restore(self, weights: bytes) -> None:
        d, k = self.n_features_in_, len(self.classes_)
        rows = 1 if k == 2 else k
        shapes = {"mean": (d,), "scale": (d,), "coef": (rows, d), "intercept": (rows,)}
        tensors = read_tensors(weights, {name: np.empty(shape, np.float32) for name, shape in shapes.items()})
        self.mean_, self.scale_ = tensors["mean"], tensors["scale"]
        self.coef_, self.intercept_ = tensors["coef"], tensors["intercept"]
