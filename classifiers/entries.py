"""Entries: targets, probabilities and decisions of the same rows, checked, as yes or no for every row and class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from classifiers.errors import EvaluationError
from classifiers.tasks import UNANSWERED, Task

#: How far a rounded float32 softmax may lie outside 0 to 1.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Entries:
    """What was asked, answered and decided, one entry a row and class.

    Attributes:
        known: bool (n, k), whether the row's target for the class is known.
        truth: bool (n, k), whether the row is of the class; False where not known.
        decided: bool (n, k), whether the class was decided for the row.
        probabilities: float64 (n, k), 0 to 1.
        exclusive: whether a row is of exactly one class (single-label).
    """

    known: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    decided: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    exclusive: bool

    @classmethod
    def of(
        cls,
        task: Task,
        targets: NDArray[np.integer[Any]],
        probabilities: NDArray[np.floating[Any]],
        decisions: NDArray[np.bool_],
    ) -> Self:
        """Check that the three fit each other and the task.

        Args:
            task: whose classes these are.
            targets: as `Task.targets` gives them, without rows wholly unanswered.
            probabilities: float (n, k), 0 to 1.
            decisions: bool (n, k); exactly one a row where classes exclude each other.

        Raises:
            EvaluationError: on no rows, shapes that do not fit, targets that are none, rows without a known target,
                probabilities not finite or outside 0 to 1, decisions that are none.
        """
        targets, decisions = np.asarray(targets), np.asarray(decisions)
        k = len(task.classes)
        n = len(targets) if targets.ndim else 0
        shape = (n, k) if task.multi_label else (n,)
        checked = checked_probabilities(probabilities, n, k)
        if targets.shape != shape or decisions.shape != (n, k):
            raise EvaluationError(
                f"{targets.shape} targets and {decisions.shape} decisions of {k} classes do not fit: "
                f"task {task.name!r} wants {shape} and {(n, k)}, of the same rows"
            )
        if n == 0:
            raise EvaluationError("there are no rows to evaluate: leave out a split that has no answered rows")
        known, truth = _labels(targets, k) if task.multi_label else _indices(targets, k)
        if decisions.dtype != np.bool_ or not (task.multi_label or (decisions.sum(axis=1) == 1).all()):
            raise EvaluationError(
                f"decisions of type {decisions.dtype} are no decisions of task {task.name!r}: "
                f"give True and False, {'any' if task.multi_label else 'exactly one'} True in a row"
            )
        return cls(known, truth, decisions & known, checked, exclusive=not task.multi_label)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.known)

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """Which rows have all their known targets decided rightly: bool (n,)."""
        return np.asarray((self.decided == self.truth).all(axis=1))

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """Some of the rows."""
        return replace(
            self,
            known=self.known[rows],
            truth=self.truth[rows],
            decided=self.decided[rows],
            probabilities=self.probabilities[rows],
        )


def checked_probabilities(probabilities: NDArray[np.floating[Any]], n: int, k: int) -> NDArray[np.float64]:
    """Probabilities of n rows and k classes as float64, what rounding left outside 0 to 1 brought back.

    Raises:
        EvaluationError: on another shape, or probabilities not finite or outside 0 to 1.
    """
    given = np.asarray(probabilities, dtype=np.float64)
    if given.shape != (n, k):
        raise EvaluationError(
            f"{n} targets and {given.shape} probabilities of {k} classes do not fit: "
            "give one row of probabilities a target, one column a class"
        )
    if not np.isfinite(given).all():
        raise EvaluationError("some probabilities are NaN or infinite: look for the fault in the head that gave them")
    if given.size and (given.min() < -_ROUNDING or given.max() > 1 + _ROUNDING):
        raise EvaluationError(
            f"probabilities run from {given.min():g} to {given.max():g}: give probabilities, 0 to 1, not raw scores"
        )
    return given.clip(0, 1)


def _indices(targets: NDArray[np.integer[Any]], k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if not np.issubdtype(targets.dtype, np.integer) or targets.min() < 0 or targets.max() >= k:
        raise EvaluationError(
            f"targets run from {targets.min()} to {targets.max()} where only 0 to {k - 1} are classes: "
            "leave out the rows that the task does not answer"
        )
    truth = targets[:, None] == np.arange(k)
    return np.ones_like(truth), truth


def _labels(targets: NDArray[np.integer[Any]], k: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if not np.isin(targets, (0, 1, UNANSWERED)).all():
        raise EvaluationError(
            f"targets of {k} labels hold {np.setdiff1d(targets, (0, 1, UNANSWERED))[:5].tolist()}: "
            f"give 1, 0, or {UNANSWERED} for what is not known"
        )
    known = targets != UNANSWERED
    if not known.any(axis=1).all():
        raise EvaluationError(
            f"{(~known.any(axis=1)).sum()} rows have no known target: leave out the rows that the task does not answer"
        )
    return known, targets == 1
