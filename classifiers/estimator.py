"""What every head shares: a scikit-learn classifier that checks its data, balances classes, and is stored unpickled."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, Final, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, column_or_1d
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from classifiers.balance import Balance, rebalance
from classifiers.errors import HeadError
from classifiers.feature_weights import Weighting, scores_of
from classifiers.tasks import NEGATIVE, POSITIVE, UNANSWERED

# Rows taken up at once: bounds every temporary, whatever the caller passes (4096 x 2048 float32: 32 MiB).
BLOCK_ROWS: Final = 4096

# No seed beyond 32 bits is taken by NumPy, torch and XGBoost alike.
SEED: Final = [Interval(Integral, 0, 2**32 - 1, closed="both")]

# Of the patients, where a head needs rows to stop early on and is given none.
_HELD_OUT: Final = 0.1


class Labelled(NamedTuple):
    """Checked rows.

    Attributes:
        X: float32 (n, d); may be mapped from a file, or be the numbers (n,) of features elsewhere (`Head.prepare`).
        y: int64 (n,) class indices 0..k-1, or int8 (n, k) of 1, 0 and -1 (unknown) where labels do not exclude
            each other.
        weights: float32, of y's shape: what each entry counts in the loss; 0 where y is unknown.
        repeats: int64 (n,): how often balancing drew each row.
    """

    X: NDArray[np.float32]
    y: NDArray[np.integer[Any]]
    weights: NDArray[np.float32]
    repeats: NDArray[np.int64]

    @property
    def total_weights(self) -> NDArray[np.float32]:
        """Weights with the repeats multiplied in, for heads that need not draw a row twice to count it twice."""
        repeats = self.repeats if self.y.ndim == 1 else self.repeats[:, None]
        return np.asarray(self.weights * repeats, dtype=np.float32)


class Head(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier on feature vectors. Every head takes `balance` and `random_state`.

    Probabilities are NOT calibrated: balancing alone shifts them, so they rank, and must not be read as risks.

    Attributes:
        classes_: (k,) the labels, sorted; column i of the probabilities is `classes_[i]`. Of labels that do not
            exclude each other, their column numbers.
        multi_label_: whether it was fitted on (n, k) targets, each column a question of its own.
        n_features_in_: d, the features' width.
        balanced_counts_: int64 (k,), rows per class (positives per label) that the fit saw after balancing.
        learning_curves_: what was watched while fitting, name → one value per epoch, round or iteration.
    """

    balance: str
    random_state: int
    classes_: NDArray[Any]
    multi_label_: bool
    n_features_in_: int
    balanced_counts_: NDArray[np.int64]
    learning_curves_: dict[str, list[float]]

    execution_params: ClassVar[frozenset[str]] = frozenset()
    """Parameters that change how fast a head runs and not what it says; they are no part of a fingerprint."""

    stops_early: ClassVar[bool] = False
    """Whether a fit looks at validation rows to know when to stop."""

    balances: ClassVar[frozenset[Balance]] = frozenset(Balance) - {Balance.FOCAL}
    """The ways of balancing that the head can follow."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "balance": [StrOptions({rule.value for rule in Balance})],
        "random_state": SEED,
    }

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        patients: ArrayLike | None = None,
        *,
        multi_label: bool | None = None,
    ) -> Self:
        """Fit on train rows; heads that stop early watch the validation rows, and the others do not look at them.

        Args:
            X: float32 (n, d), features.
            y: (n,), labels; class indices 0..k-1 in this project, any scikit-learn takes. Or (n, k) of 1, 0 and -1
                (unknown: counts nowhere), for k labels that do not exclude each other.
            X_val: float32 (m, d), features of the validation rows.
            y_val: (m,) or (m, k), their labels.
            patients: (n,), whose each row is. Where a head stops early and no validation rows are given, a tenth of
                the patients is held out for that, no patient on both sides; without it, such a head runs its most
                epochs or rounds.
            multi_label: whether y is (n, k) labels. None: y has two columns at least; a single column may be meant
                either way, and scikit-learn takes it for (n,).

        Raises:
            HeadError: on values that are not finite, lengths that differ, one class only, a label that is never or
                always positive (or is so after balancing), validation labels that train does not hold or that are all
                unknown, or a parameter out of its range.
        """
        self.check_params()
        X = self._check_features(X, "X", reset=True)
        if X_val is not None:
            X_val = self._check_features(X_val, "X_val", reset=False)
        self._fit(*self.prepare(X, y, X_val, y_val, patients, multi_label=multi_label))
        return self

    def check_params(self) -> None:
        """Refuse parameters out of their range.

        Raises:
            HeadError: naming the parameter.
        """
        try:
            self._validate_params()
        except InvalidParameterError as error:
            raise HeadError(str(error)) from error
        if self.balance not in self.balances:
            raise HeadError(
                f"balance={self.balance} is not for {type(self).__name__}: focal loss is the mlp head's; "
                f"choose one of {', '.join(sorted(self.balances))}"
            )

    def prepare(
        self,
        X: NDArray[Any],
        y: ArrayLike,
        X_val: NDArray[Any] | None = None,
        y_val: ArrayLike | None = None,
        patients: ArrayLike | None = None,
        *,
        multi_label: bool | None = None,
    ) -> tuple[Labelled, Labelled | None]:
        """Choose what a fit sees of checked features: balanced train rows, and those it watches to stop early.

        Where features lie elsewhere their numbers (n,) can stand for them: SMOTE alone looks at what they are.

        Args:
            X, y, X_val, y_val, patients, multi_label: as of `fit`.

        Raises:
            HeadError: as `fit`, on anything but features and parameters.
        """
        shape = np.asarray(y).shape
        self.multi_label_ = len(shape) == 2 and shape[1] > 1 if multi_label is None else multi_label
        targets: NDArray[np.integer[Any]] = (
            self._label_targets(y, X) if self.multi_label_ else self._class_targets(y, X)
        )
        val = self._check_validation(X_val, y_val)
        if val is None and patients is not None and self.stops_early:
            X, targets, val = _hold_out(X, targets, np.asarray(patients), self.random_state)
        train = self._balanced(X, targets, Balance(self.balance))
        self.learning_curves_ = {}
        return train, None if val is None else _weigh_alike(val, targets, train)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give every class's probability, not calibrated.

        Args:
            X: float32 (n, d), features of the extractor that the head was fitted on.

        Returns:
            float64 (n, k), columns as in `classes_`; rows sum to 1 where classes exclude each other.

        Raises:
            HeadError: on values that are not finite, or another number of features.
        """
        return np.concatenate([self._predict_proba(block) for block in blocks_of(self._checked(X))])

    def scores(self, X: ArrayLike) -> NDArray[np.float64]:
        """Give every class's score, which `feature_weights` adds up to (`classifiers.feature_weights` says what it is).

        Returns:
            float64 (n, k), finite also where probabilities round to 0 or 1.

        Raises:
            HeadError: as `predict_proba`.
        """
        logits = np.concatenate([self._logits(block) for block in blocks_of(self._checked(X))])
        return scores_of(logits.astype(np.float64), multi_label=self.multi_label_)

    @property
    def weighting(self) -> Weighting | None:
        """Where its `feature_weights` come from; None where it looks at no feature and has none."""
        return None

    def feature_weights(self, X: ArrayLike) -> NDArray[np.float32]:
        """Give what each feature, as it is, counts for each class: positive speaks for it, negative against it.

        A linear head's weights · features are the scores but for a constant of each class. Gradients are the scores'
        own; of units with a ReLU, weights · features are the row's scores but for a constant of the linear piece that
        it lies on. TreeSHAP's weights · features are the scores less those of the trees' base value, where no feature
        is 0.

        Args:
            X: float32 (n, d), features of the extractor that the head was fitted on. The answer is k times as large.

        Returns:
            float32 (n, k, d), classes as in `classes_`; (1, k, d) where `weighting` is linear.

        Raises:
            HeadError: as `predict_proba`, or when the head looks at no feature.
        """
        return scores_of(self._logit_weights(self._checked(X)), multi_label=self.multi_label_)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Give every row's most probable label (n,), the first one on a tie; of labels that do not exclude each other
        int64 (n, k), 1 where the probability is at least a half.
        """
        probabilities = self.predict_proba(X)
        if self.multi_label_:
            return np.asarray(probabilities >= 0.5, dtype=np.int64)
        labels: NDArray[Any] = self.classes_[np.argmax(probabilities, axis=1)]
        return labels

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Give the share of right decisions: of rows, or of known entries where labels do not exclude each other."""
        if not self.multi_label_:
            return float(super().score(X, y, sample_weight))
        targets = np.asarray(y)
        known = targets != UNANSWERED
        weights = np.ones(len(targets)) if sample_weight is None else np.asarray(sample_weight)
        is_right = self.predict(X) == targets
        return float(np.average(is_right[known], weights=np.broadcast_to(weights[:, None], known.shape)[known]))

    @abstractmethod
    def weights_to_files(self) -> dict[str, bytes]:
        """Write what the fit learnt, by file name, never as a pickle.

        The same fit gives the same bytes on one machine with one number of threads; with another, sums of floats round
        differently.
        """

    def restore(self, files: Mapping[str, bytes], *, n_features: int, n_classes: int, multi_label: bool) -> Self:
        """Become fitted from what `weights_to_files` gave, with the class indices 0..k-1 as labels.

        Args:
            files: whole: compare their hashes first, for XGBoost ends the process on some that are cut.
            n_features: d.
            n_classes: k.
            multi_label: as `multi_label_`.

        Raises:
            HeadError: when the bytes can't be read or do not fit the head's parameters.
        """
        self.n_features_in_ = n_features
        self.classes_ = np.arange(n_classes)
        self.multi_label_ = multi_label
        self._restore(files)
        return self

    @abstractmethod
    def _fit(self, train: Labelled, val: Labelled | None) -> None: ...

    def _predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        return probabilities_of(self._logits(X), multi_label=self.multi_label_)

    @abstractmethod
    def _logits(self, X: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """What `probabilities_of` takes, for some rows."""

    @abstractmethod
    def _logit_weights(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `feature_weights`, of the logits."""

    @abstractmethod
    def _restore(self, files: Mapping[str, bytes]) -> None: ...

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that (n, k) targets are taken."""
        tags: Tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _class_targets(self, y: ArrayLike, X: NDArray[np.float32]) -> NDArray[np.int64]:
        labels = _check_labels(y, X, "y")
        check_classification_targets(labels)
        self.classes_, indices = np.unique(labels, return_inverse=True)
        if len(self.classes_) == 1:
            raise HeadError(
                f"y holds one class only, {self.classes_.tolist()[0]!r}: "
                "a head needs rows of two classes at least; look at the labels, or widen the train split"
            )
        return indices.astype(np.int64)

    def _label_targets(self, y: ArrayLike, X: NDArray[np.float32]) -> NDArray[np.int8]:
        targets = _check_entries(y, X, "y")
        self.classes_ = np.arange(targets.shape[1])
        for told, missing in _one_sided(targets).items():
            raise HeadError(
                f"no row of train is {told} for the labels in columns {missing}: "
                "leave those labels out of the task, or add images of them to train"
            )
        return targets

    def _balanced(self, X: NDArray[np.float32], y: NDArray[np.integer[Any]], balance: Balance) -> Labelled:
        """Follow the balancing rule. Rows drawn again are counted, not copied: X may be gigabytes, or on disk."""
        balanced = rebalance(X, y, balance, self.random_state)
        self.balanced_counts_ = balanced.counts
        for told, missing in _one_sided(y[balanced.rows]).items():
            raise HeadError(
                f"balance={balance.value} leaves no {told} row in train for the labels in columns {missing}, of which "
                "there are too few: choose another balance, or add such images to train"
            )
        if balanced.extra_X is not None and balanced.extra_y is not None:
            if isinstance(X, np.memmap):
                raise HeadError(
                    "balance=smote makes rows in memory, where these features do not fit: choose over_sample, or give "
                    "more memory"
                )
            X = np.concatenate([X[balanced.rows], balanced.extra_X])
            y = np.concatenate([y[balanced.rows], balanced.extra_y])
            return Labelled(X, y, balanced.weights, np.ones(len(y), np.int64))
        repeats = np.bincount(balanced.rows, minlength=len(y))
        weights = np.zeros(y.shape, np.float32)
        weights[balanced.rows] = balanced.weights
        if (kept := np.flatnonzero(repeats)).size < len(y):
            X, y, weights, repeats = _rows_of(X, kept), y[kept], weights[kept], repeats[kept]
        return Labelled(X, y, weights, repeats)

    def _check_validation(self, X: NDArray[Any] | None, y_val: ArrayLike | None) -> Labelled | None:
        if X is None and y_val is None:
            return None
        if X is None or y_val is None:
            raise HeadError("one of X_val and y_val is missing: give both, or neither")
        if self.multi_label_:
            entries = _check_entries(y_val, X, "y_val")
            if entries.shape[1] != len(self.classes_):
                raise HeadError(
                    f"y_val has {entries.shape[1]} labels where y has {len(self.classes_)}: give the same ones"
                )
            if (entries == UNANSWERED).all():
                raise HeadError("y_val knows no label of any row: give validation rows with known labels, or none")
            return _plain(X, entries)
        labels = _check_labels(y_val, X, "y_val")
        if unknown := set(np.unique(labels).tolist()) - set(self.classes_.tolist()):
            raise HeadError(
                f"y_val holds {sorted(unknown)}, which y does not: give validation rows of the classes of train, "
                f"{self.classes_.tolist()}"
            )
        return _plain(X, np.searchsorted(self.classes_, labels).astype(np.int64))

    def _checked(self, X: ArrayLike) -> NDArray[np.float32]:
        """Features that a fitted head is asked about."""
        check_is_fitted(self)
        return self._check_features(X, "X", reset=False)

    def _check_features(self, X: ArrayLike, name: str, *, reset: bool) -> NDArray[np.float32]:
        if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype == np.float32 and X.flags.c_contiguous and X.size:
            features: NDArray[np.float32] = X  # as it is: a memory map stays one
        else:
            # Values that float32 can't hold become infinite here, and are told below.
            with np.errstate(over="ignore"):
                features = check_array(X, dtype=np.float32, order="C", ensure_all_finite=False)
        if not reset and features.shape[1] != self.n_features_in_:
            # The first half is scikit-learn's own wording, which its tools look for.
            raise HeadError(
                f"X has {features.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                f"features as input ({name}): give features of the extractor that the head was fitted on, "
                "or fit the head anew"
            )
        validate_data(self, X, reset=reset, skip_check_array=True)  # the names of a data frame's columns
        # A block's sum is finite only if every value is (float64 can't overflow on it), and needs no mask in memory.
        bad = sum(
            int((~np.isfinite(block)).any(axis=1).sum())
            for block in blocks_of(features)
            if not np.isfinite(block.sum(dtype=np.float64))
        )
        if bad:
            raise HeadError(
                f"{bad} of {len(features)} rows of {name} hold NaN or inf (or values beyond float32): "
                "leave those rows out, and look for the fault where the features were extracted"
            )
        return features


def blocks_of(X: NDArray[np.float32], rows: int = BLOCK_ROWS) -> Iterator[NDArray[np.float32]]:
    """Consecutive rows, so many at a time; views."""
    return (X[start : start + rows] for start in range(0, len(X), rows))


def _plain(X: NDArray[np.float32], y: NDArray[np.integer[Any]]) -> Labelled:
    """Rows that are not balanced: every known entry counts once."""
    weights = np.ones(y.shape, np.float32) if y.ndim == 1 else (y != UNANSWERED).astype(np.float32)
    return Labelled(X, y, weights, np.ones(len(y), np.int64))


def _weigh_alike(val: Labelled, before: NDArray[np.integer[Any]], train: Labelled) -> Labelled:
    """Validation rows whose classes count as balancing made train's count: else a head would stop on another loss than
    it lowers.

    Args:
        val: rows that are not balanced.
        before: train's targets before balancing.
        train: after.
    """
    # A label is two classes: negative and positive.
    k = int(before.max()) + 1 if before.ndim == 1 else 2
    after, mass, given, known = _columns(train.y), _columns(train.total_weights), _columns(before), _columns(val.y)
    weights = np.zeros(known.shape, np.float32)
    for j in range(known.shape[1]):
        for c in range(k):
            counted = float(mass[after[:, j] == c, j].sum())
            weights[known[:, j] == c, j] = counted / max(int((given[:, j] == c).sum()), 1)
    return val._replace(weights=weights.reshape(val.y.shape))


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    """One column per question: (n, 1) or (n, k)."""
    return values.reshape(len(values), -1)


def _hold_out(
    X: NDArray[np.float32], y: NDArray[np.integer[Any]], patients: NDArray[Any], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.integer[Any]], Labelled | None]:
    """Take a tenth of the patients out of train to stop early on; nobody where train would lose a class by that."""
    if len(patients) != len(X):
        raise HeadError(f"{len(X)} rows and {len(patients)} patients: give whose each row is")
    everybody, codes = np.unique(patients, return_inverse=True)
    held = np.random.default_rng(seed).permutation(len(everybody)) < round(_HELD_OUT * len(everybody))
    is_held = held[codes]
    kept = y[~is_held]
    is_lost = bool(_one_sided(kept)) if y.ndim == 2 else len(np.unique(kept)) < len(np.unique(y))
    if is_lost or not (y[is_held] != UNANSWERED).any():
        return X, y, None
    return _rows_of(X, np.flatnonzero(~is_held)), kept, _plain(_rows_of(X, np.flatnonzero(is_held)), y[is_held])


def _rows_of(X: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Some rows: a copy, which is on disk where X is, for there memory has no room."""
    if not isinstance(X, np.memmap):
        return np.asarray(X[rows])
    with tempfile.TemporaryFile() as file:  # without a name: it goes with the last view of it
        copy: NDArray[Any] = np.memmap(file, X.dtype, "w+", shape=(len(rows), *X.shape[1:]))
    for start in range(0, len(rows), BLOCK_ROWS):
        copy[start : start + BLOCK_ROWS] = X[rows[start : start + BLOCK_ROWS]]
    return copy


def _one_sided(y: NDArray[np.integer[Any]]) -> dict[str, list[int]]:
    """Columns of labels that no row is positive for, or none negative, by what is missing; of classes, nothing."""
    sides = {} if y.ndim == 1 else {"positive": POSITIVE, "negative": NEGATIVE}
    columns = {told: np.flatnonzero(~(y == value).any(axis=0)).tolist() for told, value in sides.items()}
    return {told: missing for told, missing in columns.items() if missing}


def _check_labels(y: ArrayLike, X: NDArray[np.float32], name: str) -> NDArray[Any]:
    if y is None:
        raise HeadError(
            f"a head requires y to be passed, but the target y is None ({name}): give the label of every row"
        )
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    if len(labels) != len(X):
        raise HeadError(f"{len(X)} rows of features and {len(labels)} labels in {name}: give one label per row")
    return labels


def _check_entries(y: ArrayLike, X: NDArray[np.float32], name: str) -> NDArray[np.int8]:
    entries = np.asarray(y)
    if entries.ndim != 2 or len(entries) != len(X):
        raise HeadError(f"{len(X)} rows of features and {name} of shape {entries.shape}: give (n, k) of the same rows")
    if strange := sorted(set(np.unique(entries).tolist()) - {POSITIVE, NEGATIVE, UNANSWERED}, key=repr):
        raise HeadError(
            f"{name} holds {strange[:5]}: write 1 for positive, 0 for negative, {UNANSWERED} for what is not known"
        )
    return entries.astype(np.int8)


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn scores into probabilities of their own, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * scores)))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn scores (n, k) into probabilities whose rows sum to 1, without overflow."""
    powers: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def probabilities_of(logits: Sequence[Any] | NDArray[Any], *, multi_label: bool) -> NDArray[np.float64]:
    """Turn logits into probabilities: one per label, or one per class (one in all for two classes).

    Args:
        logits: (n, k); (n, 1) for two classes that share one, of class 1 against a class 0 whose logit is 0.
        multi_label: whether each column is a question of its own.
    """
    values = np.asarray(logits, dtype=np.float64)
    if multi_label:
        return sigmoid(values)
    if values.shape[1] == 1:
        values = np.hstack([np.zeros_like(values), values])
    return softmax(values)
