"""Class balance: how often, and how heavily, a rare class is seen in a fit. On train only, never in an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifiers.errors import HeadError
from classifiers.tasks import NEGATIVE, POSITIVE, UNANSWERED

Targets = NDArray[np.integer[Any]]
"""int (n,) class indices 0..k-1, or int (n, k) of 1, 0 and -1 for multi-label."""

LABEL_SET_RATIO: Final = 0.25
"""Share of train's rows that LP-ROS adds and LP-RUS takes away, at most; the default of R's mldr.resampling."""

UP_SAMPLE_GROWTH: Final = 3
"""Train becomes at most so many times as long by up-sampling."""

SMOTE_NEIGHBORS: Final = 5
"""Neighbours of a row that SMOTE draws between (Chawla et al.).

Fewer where the smallest class has fewer: between them it is SMOTE all the same, and one small fold of a
cross-validation does not end it.
"""


class Balance(StrEnum):
    """How a fit makes up for classes of unequal size.

    Attributes:
        NONE: not at all.
        CLASS_WEIGHT: every row weighs inversely to its class's frequency, see `entry_weights`.
        OVER_SAMPLE: single-label: rows of every class are drawn again, at random, until it is as large as the largest.
            Multi-label: LP-ROS, which draws rows with rare combinations of labels again (Charte, Rivera, del Jesus and
            Herrera: Addressing imbalance in multilabel classification: Measures and random resampling algorithms,
            Neurocomputing 163, 2015).
        UP_SAMPLE: after the multi-label up-sampling of Borhan's CheXpert study, where rare observations are drawn
            again. Its text was not at hand, so that the rule is ours: from the rarest label up, rows that show it are
            drawn again until it occurs as often as the most frequent one did, while train is no more than
            `UP_SAMPLE_GROWTH` times as long. Single-label: as OVER_SAMPLE.
        UNDER_SAMPLE: single-label: rows of every class are left out, at random, until it is as small as the smallest.
            Multi-label: LP-RUS, which leaves out rows with frequent combinations of labels (Charte et al., 2015).
        SMOTE: single-label only: rows are made up between neighbours of one class until it is as large as the largest
            (Chawla et al.: SMOTE: Synthetic Minority Over-sampling Technique, JAIR 16, 2002).
        FOCAL: rows and weights as they are; the loss turns to what is hard (see `MLPHead`).
    """

    NONE = "none"
    CLASS_WEIGHT = "class_weight"
    OVER_SAMPLE = "over_sample"
    UP_SAMPLE = "up_sample"
    UNDER_SAMPLE = "under_sample"
    SMOTE = "smote"
    FOCAL = "focal"


@dataclass(frozen=True)
class Balanced:
    """What a fit is to see. Rows are told, not copied: the features may be mapped from a file of gigabytes.

    Attributes:
        rows: int64 (m,), ascending indices into train; a row drawn again is there again.
        weights: float32 (m + s,), single-label, or (m + s, k), multi-label, where unknown targets weigh 0.
        counts: int64 (k,), rows per class (positives per label) after balancing.
        extra_X: float32 (s, d), rows that SMOTE made up; None if it was not asked.
        extra_y: (s,), their classes.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    counts: NDArray[np.int64]
    extra_X: NDArray[np.float32] | None = None  # noqa: N815 - X is the field's name for a feature matrix
    extra_y: Targets | None = None


def class_counts(y: Targets, n_classes: int) -> NDArray[np.int64]:
    """Count the rows of every class, or the positives of every label: int64 (k,)."""
    if y.ndim == 2:
        return np.asarray((y == POSITIVE).sum(axis=0, dtype=np.int64))
    return np.bincount(y, minlength=n_classes).astype(np.int64)


def entry_weights(y: Targets, n_classes: int) -> NDArray[np.float32]:
    """Weigh every target inversely to its frequency, so that each class adds the same to the loss.

    Args:
        y: the targets of train.
        n_classes: k.

    Returns:
        Single-label: float32 (n,), n / (k * n_c), with k the number of classes that occur (scikit-learn's "balanced").
        Multi-label: float32 (n, k), the same of each label by itself: n_known / (2 * n_pos) for positives and
        n_known / (2 * n_neg) for negatives, 1 for a label with no positive or no negative, 0 for unknown targets.
    """
    if y.ndim == 1:
        counts = class_counts(y, n_classes)
        return np.asarray(len(y) / (np.count_nonzero(counts) * counts[y]), np.float32)
    positives, negatives = (np.asarray((y == value).sum(axis=0)) for value in (POSITIVE, NEGATIVE))
    known = positives + negatives
    of_positives, of_negatives = (
        np.where(positives * negatives == 0, 1.0, known / (2 * np.maximum(count, 1)))
        for count in (positives, negatives)
    )
    weights = np.where(y == POSITIVE, of_positives, of_negatives)
    weights[y == UNANSWERED] = 0
    return np.asarray(weights, np.float32)


def rebalance(X: NDArray[np.float32], y: Targets, balance: Balance, random_state: int) -> Balanced:
    """Choose the rows of train that a fit sees, and what they weigh.

    The same targets, rule and seed give the same rows.

    Args:
        X: float32 (n, d), features; only SMOTE looks at them.
        y: the targets; of single-label ones every class 0..k-1 occurs.
        balance: the rule.
        random_state: seeds every draw.

    Raises:
        HeadError: when SMOTE is asked of multi-label targets, or of a class with a single row.
    """
    rng = np.random.default_rng(random_state)
    k = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    if balance is Balance.SMOTE:
        return _smote(X, y, k, rng)
    rows = _chosen_rows(y, k, balance, rng)
    seen = y[rows]
    weights = entry_weights(y, k)[rows] if balance is Balance.CLASS_WEIGHT else _even_weights(seen)
    return Balanced(rows, weights, class_counts(seen, k))


def _chosen_rows(y: Targets, k: int, balance: Balance, rng: np.random.Generator) -> NDArray[np.int64]:
    if balance is Balance.UP_SAMPLE and y.ndim == 2:
        return _up_sampled(y, rng)
    if balance in (Balance.OVER_SAMPLE, Balance.UP_SAMPLE, Balance.UNDER_SAMPLE):
        groups = _label_sets(y) if y.ndim == 2 else y
        sizes = np.bincount(groups)
        # Combinations are many, and most have few rows: they move towards the mean, by a bounded number of rows.
        most = int(LABEL_SET_RATIO * len(y)) if y.ndim == 2 else None
        if balance is Balance.UNDER_SAMPLE:
            goal = sizes.min() if most is None else np.ceil(sizes.mean())
            return _resampled(groups, sizes - _share_out(np.maximum(sizes - goal, 0), most), rng)
        goal = sizes.max() if most is None else np.floor(sizes.mean())
        return _resampled(groups, sizes + _share_out(np.maximum(goal - sizes, 0), most), rng)
    return np.arange(len(y), dtype=np.int64)


def _even_weights(y: Targets) -> NDArray[np.float32]:
    return np.asarray(y != UNANSWERED, np.float32)


def _label_sets(y: Targets) -> NDArray[np.int64]:
    """Number the combinations of labels that rows show: int64 (n,). What is not known is not shown."""
    shown = np.packbits(y == POSITIVE, axis=1)
    keys = shown.view(np.dtype((np.void, shown.shape[1]))).ravel()
    return np.asarray(np.unique(keys, return_inverse=True)[1], np.int64)


def _share_out(room: NDArray[Any], total: int | None) -> NDArray[np.int64]:
    """Spread `total` rows evenly over groups, none of which takes more than its room; all rooms where it is None.

    Charte et al. share out the same way: groups with the least room come first, and what they can't take goes to the
    later ones.
    """
    shares = room.astype(np.int64)
    if total is None or total >= shares.sum():
        return shares
    order = np.argsort(room, kind="stable")
    for place, group in enumerate(order):
        shares[group] = min(shares[group], total // (len(order) - place))
        total -= shares[group]
    return shares


def _resampled(groups: NDArray[Any], sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw rows until every group has its new size: some of its rows, or all and some of them again."""
    order = np.argsort(groups, kind="stable")
    bounds = np.cumsum(np.bincount(groups))[:-1]
    drawn = [
        rng.choice(rows, size, replace=False)
        if size <= len(rows)
        else np.concatenate([rows, rng.choice(rows, size - len(rows))])
        for rows, size in zip(np.split(order, bounds), sizes, strict=True)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _up_sampled(y: Targets, rng: np.random.Generator) -> NDArray[np.int64]:
    positive = y == POSITIVE
    counts = positive.sum(axis=0)
    goal, room = counts.max(), (UP_SAMPLE_GROWTH - 1) * len(y)
    rows = [np.arange(len(y))]
    for label in np.argsort(counts, kind="stable"):
        shown = np.flatnonzero(positive[:, label])
        # Rows drawn for a rarer label may show this one as well, so that its count has grown.
        missing = min(goal - counts[label], room)
        if missing <= 0 or not shown.size:
            continue
        drawn = rng.choice(shown, missing)
        counts = counts + positive[drawn].sum(axis=0)
        room -= missing
        rows.append(drawn)
    return np.sort(np.concatenate(rows)).astype(np.int64)


def _smote(X: NDArray[np.float32], y: Targets, k: int, rng: np.random.Generator) -> Balanced:
    if y.ndim == 2:
        raise HeadError(
            "balance=smote is for single-label tasks: a row made up between two others has no labels of its own where "
            "theirs differ; choose balance=up_sample"
        )
    counts = class_counts(y, k)
    if counts.min() == 1:
        raise HeadError(
            f"balance=smote makes rows up between neighbours of one class, and class {counts.argmin()} has a single "
            "row in train: choose balance=over_sample, or add images of that class"
        )
    # Takes a second to load, and no other rule needs it.
    from imblearn.over_sampling import SMOTE  # noqa: PLC0415

    neighbors = min(SMOTE_NEIGHBORS, int(counts.min()) - 1)
    sampler = SMOTE(k_neighbors=neighbors, random_state=int(rng.integers(2**32)))
    # The sampler puts what it makes behind the rows it is given.
    grown_X, grown_y = (grown[len(y) :].copy() for grown in sampler.fit_resample(X, y))
    all_y = np.concatenate([y, grown_y])
    return Balanced(
        rows=np.arange(len(y), dtype=np.int64),
        weights=_even_weights(all_y),
        counts=class_counts(all_y, k),
        extra_X=grown_X,
        extra_y=grown_y,
    )
