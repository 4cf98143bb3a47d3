"""The tree head: gradient boosting by XGBoost, stored in XGBoost's own format."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval
from xgboost import Booster, XGBClassifier
from xgboost.core import XGBoostError

from classifiers.errors import HeadError
from classifiers.estimator import Head, Labelled


class XGBoostHead(Head):
    """Gradient-boosted trees on histograms (XGBClassifier, tree_method "hist").

    With validation rows, boosting stops once their (unweighted) log loss has not fallen for `early_stopping_rounds`
    rounds, and the trees after the best round are cut off; without, it runs `n_estimators` rounds.

    Args:
        n_estimators: most boosting rounds (trees per class).
        max_depth: of a tree.
        learning_rate: shrinkage of every tree.
        subsample: share of rows drawn per round.
        colsample_bytree: share of features drawn per tree; small, because thousands of correlated features need it
            little, and the time of a fit is proportional to it.
        reg_lambda: L2 penalty on leaf values.
        early_stopping_rounds: rounds without a better validation loss before boosting stops.
        n_jobs: threads; None for all of the machine's.
        balance: `class_weight` (every class adds the same to the loss) or `none`.
        random_state: seed of the draws.

    Attributes:
        booster_: the fitted model, up to its best round.
    """

    booster_: Booster

    weights_file: ClassVar[str] = "model.ubj"
    execution_params: ClassVar[frozenset[str]] = frozenset({"n_jobs"})

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Head._parameter_constraints,
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "max_depth": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "subsample": [Interval(Real, 0, 1, closed="right")],
        "colsample_bytree": [Interval(Real, 0, 1, closed="right")],
        "reg_lambda": [Interval(Real, 0, None, closed="left")],
        "early_stopping_rounds": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        *,
        n_estimators: int = 200,
        max_depth: int = 4,
        learning_rate: float = 0.1,
        subsample: float = 0.8,
        colsample_bytree: float = 0.1,
        reg_lambda: float = 1.0,
        early_stopping_rounds: int = 20,
        n_jobs: int | None = None,
        balance: str = "class_weight",
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.reg_lambda = reg_lambda
        self.early_stopping_rounds = early_stopping_rounds
        self.n_jobs = n_jobs
        self.balance = balance
        self.random_state = random_state

    def weights_to_bytes(self) -> bytes:
        """Write the trees as Universal Binary JSON, XGBoost's stable model format."""
        return bytes(self.booster_.save_raw(raw_format="ubj"))

    def _fit(self, train: Labelled, weights: NDArray[np.float64], val: Labelled | None) -> None:
        classifier = XGBClassifier(
            tree_method="hist",
            n_estimators=self.n_estimators,
            max_depth=self.max_depth,
            learning_rate=self.learning_rate,
            subsample=self.subsample,
            colsample_bytree=self.colsample_bytree,
            reg_lambda=self.reg_lambda,
            early_stopping_rounds=None if val is None else self.early_stopping_rounds,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
        )
        watch = None if val is None else [(val.X, val.y)]
        classifier.fit(train.X, train.y, sample_weight=weights, eval_set=watch, verbose=False)
        booster = classifier.get_booster()
        self.booster_ = booster if val is None else booster[: classifier.best_iteration + 1]

    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        self.booster_.set_param({"nthread": self.n_jobs or 0})
        probabilities = self.booster_.inplace_predict(X).astype(np.float64)
        if probabilities.ndim == 1:  # of class 1, where there are two
            return np.column_stack([1 - probabilities, probabilities])
        # float32 sums are off by 1e-7; rows that sum to 1 are part of the contract.
        return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))

    def _restore(self, weights: bytes) -> None:
        self.booster_ = Booster()
        try:
            self.booster_.load_model(bytearray(weights))
        except XGBoostError as error:
            reason = str(error).splitlines()[0]
            raise HeadError(
                f"the weights are no XGBoost model ({reason}): copy the head anew from where it was made"
            ) from error
        if self.booster_.num_features() != self.n_features_in_:
            raise HeadError(
                f"the XGBoost model takes {self.booster_.num_features()} features, head.json says "
                f"{self.n_features_in_}: they belong to different heads; copy both from where the head was made"
            )
