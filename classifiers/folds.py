"""Folds for cross-validation: no patient in two, and every class spread over them as evenly as patients allow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from classifiers.errors import HeadError
from classifiers.rows import SplitRows
from classifiers.tasks import NEGATIVE, POSITIVE, Task

Integers = NDArray[np.integer[Any]]


class Fold(NamedTuple):
    """One fold: int64 indices of the rows to fit on, and of those to judge on."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def owners(rows: SplitRows) -> NDArray[np.int64]:
    """Whose each row is, int64 (n,): every row a patient of its own where nobody told."""
    return np.arange(len(rows)) if rows.patients is None else rows.patients


def patient_folds(task: Task, rows: SplitRows, k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Deal rows out to k folds; the same rows and seed give the same folds.

    Classes are spread by scikit-learn's StratifiedGroupKFold; of labels, a row counts for the rarest one that it shows.

    Args:
        task: whose targets the rows hold.
        rows: answered ones only (`SplitRows.answered`).
        k: how many, at least 2.
        seed: of what is left to chance.

    Returns:
        int64 (n,): each row's fold, 0 to k - 1.

    Raises:
        HeadError: when rows are unanswered, patients fewer than folds, or some fold would leave a head nothing to
            learn a class from.
    """
    if not rows.is_answered.all():
        raise HeadError(f"{(~rows.is_answered).sum():,} rows have no target: leave them out with SplitRows.answered()")
    targets, patients = np.asarray(rows.targets), owners(rows)
    there = len(np.unique(patients))
    if not 2 <= k <= there:
        raise HeadError(f"{k} folds of {there:,} patients: take 2 folds at least, and as many as patients at most")
    strata = _rarest_label(targets) if task.multi_label else targets
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    folds = np.empty(len(rows), np.int64)
    with warnings.catch_warnings():
        # Classes with fewer rows than folds: whether a head can still learn them is checked below.
        warnings.simplefilter("ignore", UserWarning)
        try:
            for number, (_, test) in enumerate(splitter.split(np.empty((len(rows), 0)), strata, patients)):
                folds[test] = number
        except ValueError as error:  # no class has as many rows as there are folds
            raise HeadError(f"{len(rows):,} rows are too few for {k} folds: take fewer folds") from error
    for fold in each_fold(folds):
        _check_fold(task, targets, patients, fold)
    return folds


def each_fold(folds: NDArray[np.int64]) -> Iterator[Fold]:
    """The folds, one after the other."""
    return (Fold(np.flatnonzero(folds != each), np.flatnonzero(folds == each)) for each in np.unique(folds))


def _rarest_label(targets: Integers) -> NDArray[np.int64]:
    positive = targets == POSITIVE
    counts = positive.sum(axis=0)
    # The last column stands for "none of them".
    weighed = np.where(positive, counts, len(targets) + 1)
    return np.asarray(np.where(positive.any(axis=1), weighed.argmin(axis=1), positive.shape[1]))


def _check_fold(task: Task, targets: Integers, patients: NDArray[np.int64], fold: Fold) -> None:
    classes = np.arange(len(task.classes))
    entries = targets if task.multi_label else (targets[:, None] == classes).astype(np.int8)
    for value, told in ((POSITIVE, "positive"), (NEGATIVE, "negative")):
        shown = entries == value
        for place in np.flatnonzero(~shown[fold.train].any(axis=0)):
            where = shown[:, place]
            raise HeadError(
                f"class {task.classes[place]!r} of task {task.name!r} has no {told} row outside one of the folds (in "
                f"all {where.sum():,} of {len(np.unique(patients[where])):,} patients), so no head could learn it "
                "there: add images of more patients, or choose a task without it (a YAML file of your own will do)"
            )
