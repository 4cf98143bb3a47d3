"""What every head shares: a scikit-learn classifier that checks its data, weighs classes, and is stored unpickled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from classifiers.balance import Balance, sample_weights
from classifiers.errors import HeadError

# Rows predicted at once: bounds the float64 copy (4096 x 2048: 64 MiB) whatever the caller passes.
_CHUNK_ROWS: Final = 4096

# No seed beyond 32 bits is taken by NumPy, torch and XGBoost alike.
SEED: Final = [Interval(Integral, 0, 2**32 - 1, closed="both")]


class Labelled(NamedTuple):
    """Checked rows: X float32 (n, d), y int64 (n,) class indices 0..k-1."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]


class Head(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier on feature vectors. Every head takes `balance` and `random_state`.

    Probabilities are NOT calibrated: class weights alone shift them, so they rank, and must not be read as risks.

    Attributes:
        classes_: (k,) the labels, sorted; column i of the probabilities is `classes_[i]`.
        n_features_in_: d, the features' width.
    """

    balance: str
    random_state: int
    classes_: NDArray[Any]
    n_features_in_: int

    weights_file: ClassVar[str] = "weights.safetensors"
    """Name of the file that holds what `weights_to_bytes` gives."""

    execution_params: ClassVar[frozenset[str]] = frozenset()
    """Parameters that change how fast a head runs and not what it says; they are no part of a fingerprint."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "balance": [StrOptions({rule.value for rule in Balance})],
        "random_state": SEED,
    }

    def fit(self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None = None, y_val: ArrayLike | None = None) -> Self:
        """Fit on train rows; heads that stop early watch the validation rows, and the others do not look at them.

        Args:
            X: float32 (n, d), features.
            y: (n,), labels; class indices 0..k-1 in this project, any scikit-learn takes.
            X_val: float32 (m, d), features of the validation rows.
            y_val: (m,), their labels.

        Raises:
            HeadError: on values that are not finite, lengths that differ, one class only, validation labels that
                train does not hold, or a parameter out of its range.
        """
        try:
            self._validate_params()
        except InvalidParameterError as error:
            raise HeadError(str(error)) from error
        X = self._check_features(X, "X", reset=True)
        y = _check_labels(y, X, "y")
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        if len(self.classes_) == 1:
            raise HeadError(
                f"y holds one class only, {self.classes_.tolist()[0]!r}: "
                "a head needs rows of two classes at least; look at the labels, or widen the train split"
            )
        train = Labelled(X, indices.astype(np.int64))
        self._fit(train, sample_weights(train.y, Balance(self.balance)), self._check_validation(X_val, y_val))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give every class's probability, not calibrated.

        Args:
            X: float32 (n, d), features of the extractor that the head was fitted on.

        Returns:
            float64 (n, k), columns as in `classes_`; rows sum to 1.

        Raises:
            HeadError: on values that are not finite, or another number of features.
        """
        check_is_fitted(self)
        features = self._check_features(X, "X", reset=False)
        chunks = [features[start : start + _CHUNK_ROWS] for start in range(0, len(features), _CHUNK_ROWS)]
        return np.concatenate([self._predict_proba(chunk) for chunk in chunks])

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give every row's most probable label, the first one on a tie: (n,), of the labels' type."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[np.argmax(probabilities, axis=1)]
        return labels

    @abstractmethod
    def weights_to_bytes(self) -> bytes:
        """Write what the fit learnt, never as a pickle.

        The same fit gives the same bytes on one machine with one number of threads; with another, sums of floats round
        differently.
        """

    def restore(self, weights: bytes, *, n_features: int, n_classes: int) -> Self:
        """Become fitted from what `weights_to_bytes` gave, with the class indices 0..k-1 as labels.

        Args:
            weights: the bytes, whole: compare their hash first, for XGBoost ends the process on some that are cut.
            n_features: d.
            n_classes: k.

        Raises:
            HeadError: when the bytes can't be read or do not fit the head's parameters.
        """
        self.n_features_in_ = n_features
        self.classes_ = np.arange(n_classes)
        self._restore(weights)
        return self

    @abstractmethod
    def _fit(self, train: Labelled, weights: NDArray[np.float64], val: Labelled | None) -> None: ...

    @abstractmethod
    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]: ...

    @abstractmethod
    def _restore(self, weights: bytes) -> None: ...

    def _check_validation(self, X_val: ArrayLike | None, y_val: ArrayLike | None) -> Labelled | None:
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise HeadError("one of X_val and y_val is missing: give both, or neither")
        X = self._check_features(X_val, "X_val", reset=False)
        y = _check_labels(y_val, X, "y_val")
        if unknown := set(np.unique(y).tolist()) - set(self.classes_.tolist()):
            raise HeadError(
                f"y_val holds {sorted(unknown)}, which y does not: give validation rows of the classes of train, "
                f"{self.classes_.tolist()}"
            )
        return Labelled(X, np.searchsorted(self.classes_, y).astype(np.int64))

    def _check_features(self, X: ArrayLike, name: str, *, reset: bool) -> NDArray[np.float32]:
        # Values that float32 can't hold become infinite here, and are told below.
        with np.errstate(over="ignore"):
            features: NDArray[np.float32] = check_array(X, dtype=np.float32, order="C", ensure_all_finite=False)
        if not reset and features.shape[1] != self.n_features_in_:
            # The first half is scikit-learn's own wording, which its tools look for.
            raise HeadError(
                f"X has {features.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                f"features as input ({name}): give features of the extractor that the head was fitted on, "
                "or fit the head anew"
            )
        validate_data(self, X, reset=reset, skip_check_array=True)  # the names of a data frame's columns
        # The sum is finite only if every value is (float64 can't overflow on it), and needs no mask in memory.
        if not np.isfinite(features.sum(dtype=np.float64)):
            rows = sum(not np.isfinite(row).all() for row in features)
            raise HeadError(
                f"{rows} of {len(features)} rows of {name} hold NaN or inf (or values beyond float32): "
                "leave those rows out, and look for the fault where the features were extracted"
            )
        return features


def _check_labels(y: ArrayLike, X: NDArray[np.float32], name: str) -> NDArray[Any]:
    if y is None:
        raise HeadError(
            f"a head requires y to be passed, but the target y is None ({name}): give the label of every row"
        )
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    if len(labels) != len(X):
        raise HeadError(f"{len(X)} rows of features and {len(labels)} labels in {name}: give one label per row")
    return labels


class Standardisation(NamedTuple):
    """Mean and scale of every feature over the train rows, float32 (d,)."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, X: NDArray[np.float32]) -> Standardisation:
        """Measure train rows; the scale of a constant feature is 1, so that it becomes 0 and not NaN."""
        scaler = StandardScaler().fit(X)
        return cls(scaler.mean_.astype(np.float32), scaler.scale_.astype(np.float32))

    def __call__(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise a copy of the rows."""
        return (X - self.mean) / self.scale


def write_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Write arrays as safetensors; the same arrays give the same bytes."""
    return bytes(save_safetensors({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


def read_tensors(weights: bytes, like: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Read arrays from safetensors.

    Args:
        weights: the bytes.
        like: names, shapes and dtypes that the bytes must hold, no more and no fewer.

    Raises:
        HeadError: when they can't be read, or hold something else.
    """
    try:
        tensors = load_safetensors(weights)
    except SafetensorError as error:
        raise HeadError(
            f"the weights are no safetensors ({error}): copy the head anew from where it was made"
        ) from error
    found, wanted = ({n: (t.shape, str(t.dtype)) for n, t in sorted(ts.items())} for ts in (tensors, like))
    if found != wanted:
        raise HeadError(
            f"the weights hold {found} where the head's parameters ask for {wanted}: head.json and weights belong to "
            "different heads; copy both from where the head was made"
        )
    # Copies of our own: what the reader gives is a view of the bytes, read-only and aligned by chance.
    return {name: tensor.copy() for name, tensor in tensors.items()}


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn scores (n, k) into probabilities whose rows sum to 1, without overflow."""
    powers: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
