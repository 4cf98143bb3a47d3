"""The tree head: gradient boosting by XGBoost, stored in XGBoost's own format."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Final

import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions
from xgboost import Booster, collective
from xgboost.callback import EarlyStopping
from xgboost.core import XGBoostError

from classifiers.errors import HeadError
from classifiers.estimator import BLOCK_ROWS, Head, Labelled
from classifiers.feature_weights import Weighting, per_feature
from classifiers.tasks import POSITIVE

_MODEL_FILE: Final = "model.ubj"
_LABEL_FILE: Final = "label-{:03d}.ubj"

#: What one booster is fitted to: its targets, and what each row counts.
Column = tuple[NDArray[np.float32], NDArray[np.float32]]

#: What was watched while a booster was fitted: "train" and "val", one value per round.
Losses = Mapping[str, list[float]]


class XGBoostHead(Head):
    """Gradient-boosted trees on histograms: one booster for classes that exclude each other, else one per label.

    The histogram bins of the features are made once and shared by all labels' boosters. Features that are mapped from
    a file are binned and boosted out of core (XGBoost's external memory).

    With validation rows, boosting stops once their log loss, classes balanced as in train, has not fallen for
    `early_stopping_rounds` rounds, and the trees after the best round are cut off; without, it runs `n_estimators`
    rounds.

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
        device: `cpu` or `cuda`.
        balance: how classes of unequal size are made up for; see `classifiers.balance`.
        random_state: seed of the draws and of balancing.

    Attributes:
        boosters_: the fitted models, up to their best rounds: one, or one per label.
    """

    boosters_: list[Booster]

    execution_params: ClassVar[frozenset[str]] = frozenset({"n_jobs", "device"})
    stops_early: ClassVar[bool] = True

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
        "device": [StrOptions({"cpu", "cuda"})],
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
        device: str = "cpu",
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
        self.device = device
        self.balance = balance
        self.random_state = random_state

    @property
    def weighting(self) -> Weighting:
        """XGBoost's own TreeSHAP."""
        return Weighting.SHAP

    @property
    def booster_params(self) -> dict[str, Any]:
        """What XGBoost is told, whichever of its interfaces fits the boosters; known once the classes are."""
        k = len(self.classes_)
        is_softmax = k > 2 and not self.multi_label_
        return {
            "objective": "multi:softprob" if is_softmax else "binary:logistic",
            **({"num_class": k} if is_softmax else {}),
            "tree_method": "hist",
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "reg_lambda": self.reg_lambda,
            "nthread": self.n_jobs or 0,
            "device": self.device,
            "seed": self.random_state,
        }

    def weights_to_files(self) -> dict[str, bytes]:
        """Write the trees as Universal Binary JSON, XGBoost's stable model format: one file, or one per label."""
        names = [_LABEL_FILE.format(i) for i in range(len(self.boosters_))] if self.multi_label_ else [_MODEL_FILE]
        return {
            name: bytes(booster.save_raw(raw_format="ubj")) for name, booster in zip(names, self.boosters_, strict=True)
        }

    def _fit(self, train: Labelled, val: Labelled | None) -> None:
        self._check_device()
        with tempfile.TemporaryDirectory(prefix="pleura-xgboost-") as cache:
            matrix = self._binned(train, f"{cache}/train")
            watched = None if val is None else self._binned(val, f"{cache}/val", like=matrix)
            watched_columns: Sequence[Column | None] = (
                [None] * len(self.columns(train)) if val is None else self.columns(val)
            )
            boosted = []
            for column, watched_column in zip(self.columns(train), watched_columns, strict=True):
                _describe(matrix, column)
                evals = [(matrix, "train")]
                # A label that no validation row knows has no loss there, and boosts all its rounds.
                if watched is not None and watched_column is not None and self._is_known(watched_column[1]):
                    _describe(watched, watched_column)
                    evals.append((watched, "val"))
                boosted.append(self._boost(matrix, evals))
            # XGBoost's cache files go with the folder, so its handles on them must be gone before.
            del matrix, watched, evals
        self.keep(boosted)

    def _is_known(self, weights: NDArray[np.float32]) -> bool:
        """Whether a validation row knows the label: any at all where several processes share the rows, for all of them
        must take the same steps. Outside of XGBoost's own cluster this process is the only one.
        """
        return bool(collective.allreduce(np.array([weights.any()], np.int32), collective.Op.MAX)[0])

    def keep(self, boosted: Sequence[tuple[Booster, Losses]]) -> None:
        """Become fitted from boosters, wherever they were fitted, and the losses that were watched meanwhile.

        Args:
            boosted: one per column, in `columns`' order.
        """
        self.boosters_ = [booster for booster, _ in boosted]
        curves: dict[str, list[list[float]]] = {}
        for _, losses in boosted:
            for name, curve in losses.items():
                curves.setdefault(f"{name} loss", []).append(curve)
        # Labels stop at rounds of their own: a mean over those still boosting would jump, so each keeps its last value.
        self.learning_curves_ = {name: _mean_curve(each) for name, each in curves.items()}

    def columns(self, rows: Labelled) -> list[Column]:
        """What each booster is fitted to: all classes at once, or one label after the other."""
        weights = rows.total_weights
        if not self.multi_label_:
            return [(rows.y.astype(np.float32), weights)]
        # An unknown entry weighs 0, so what its target says does not count.
        positive = (rows.y == POSITIVE).astype(np.float32)
        return [(positive[:, j].copy(), weights[:, j].copy()) for j in range(positive.shape[1])]

    def _boost(self, matrix: xgboost.DMatrix, evals: list[tuple[xgboost.DMatrix, str]]) -> tuple[Booster, Losses]:
        losses: dict[str, dict[str, list[float]]] = {}
        stops = len(evals) > 1
        # save_best cuts off the trees after the best round.
        callbacks = (
            [EarlyStopping(rounds=self.early_stopping_rounds, data_name="val", save_best=True)] if stops else None
        )
        booster = xgboost.train(
            self.booster_params,
            matrix,
            self.n_estimators,
            evals=evals,
            evals_result=losses,
            verbose_eval=False,
            callbacks=callbacks,
        )
        return booster, {name: next(iter(by_metric.values())) for name, by_metric in losses.items()}

    def _binned(self, rows: Labelled, cache: str, like: xgboost.DMatrix | None = None) -> xgboost.DMatrix:
        """Features as histogram bins, a byte each: in memory, or on disk where the features are."""
        threads = self.n_jobs or 0
        if isinstance(rows.X, np.memmap):
            return xgboost.ExtMemQuantileDMatrix(_Blocks(rows.X, cache), nthread=threads, ref=like)
        return xgboost.QuantileDMatrix(rows.X, nthread=threads, ref=like)

    def _check_device(self) -> None:
        # XGBoost itself would warn and go on with the CPU.
        if self.device == "cuda":
            import torch  # noqa: PLC0415  - only to ask for a GPU

            if not torch.cuda.is_available() or not xgboost.build_info()["USE_CUDA"]:
                raise HeadError("device=cuda, and XGBoost finds no CUDA device here: say device=cpu, or use a GPU")

    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        margins = [booster.inplace_predict(X, predict_type="margin", strict_shape=True) for booster in self._threaded()]
        return np.concatenate(margins, axis=1)

    def _logit_weights(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        matrix = xgboost.DMatrix(X, nthread=self.n_jobs or 0)
        # (n, logits of the booster, d + 1) each; the last column is the base value, which is no feature's.
        parts = [booster.predict(matrix, pred_contribs=True, strict_shape=True) for booster in self._threaded()]
        return per_feature(np.concatenate(parts, axis=1)[..., :-1], X)

    def _threaded(self) -> list[Booster]:
        """The boosters, on as many threads as are asked for now."""
        for booster in self.boosters_:
            booster.set_param({"nthread": self.n_jobs or 0})
        return self.boosters_

    def _restore(self, files: Mapping[str, bytes]) -> None:
        wanted = [_LABEL_FILE.format(i) for i in range(len(self.classes_))] if self.multi_label_ else [_MODEL_FILE]
        there = sorted(name for name in files if re.fullmatch(r"(model|label-\d+)\.ubj", name))
        if there != wanted:
            raise HeadError(
                f"the head has {there} where its task asks for {wanted}: copy the head anew from where it was made"
            )
        self.boosters_ = [self._read(name, files[name]) for name in wanted]

    def _read(self, name: str, weights: bytes) -> Booster:
        booster = Booster()
        try:
            booster.load_model(bytearray(weights))
        except XGBoostError as error:
            reason = str(error).splitlines()[0]
            raise HeadError(
                f"{name} is no XGBoost model ({reason}): copy the head anew from where it was made"
            ) from error
        if booster.num_features() != self.n_features_in_:
            raise HeadError(
                f"the XGBoost model {name} takes {booster.num_features()} features, head.json says "
                f"{self.n_features_in_}: they belong to different heads; copy both from where the head was made"
            )
        return booster


class _Blocks(xgboost.DataIter):
    """Rows of a file, block by block, for XGBoost's external memory."""

    def __init__(self, X: NDArray[np.float32], cache: str) -> None:
        self._X, self._next = X, 0
        super().__init__(cache_prefix=cache)

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over the next block; False when there is none left."""
        # Few large pages: XGBoost keeps a file open, and starts its threads, for each.
        rows = 16 * BLOCK_ROWS
        block = self._X[self._next * rows : (self._next + 1) * rows]
        if not len(block):
            return False
        input_data(data=np.asarray(block))
        self._next += 1
        return True

    def reset(self) -> None:
        """Begin again."""
        self._next = 0


def _describe(matrix: xgboost.DMatrix, column: Column) -> None:
    target, weight = column
    matrix.set_info(label=target, weight=weight)


def _mean_curve(curves: list[list[float]]) -> list[float]:
    longest = max(map(len, curves))
    return [float(np.mean([curve[min(i, len(curve) - 1)] for curve in curves])) for i in range(longest)]
