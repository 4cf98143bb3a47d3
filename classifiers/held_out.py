"""Held-out rows: what is known of them beside what the head says, as thresholds and calibration are fitted on them."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from classifiers.entries import checked_probabilities
from classifiers.errors import EvaluationError
from classifiers.tasks import UNANSWERED, Task


class HeldOut(NamedTuple):
    """Every class against the rest. Of exclusive classes only rows whose class is known are here.

    Attributes:
        known: bool (n, k), whether the row's target for the class is known.
        truth: bool (n, k), whether the row is of the class; False where not known.
        probabilities: float64 (n, k), 0 to 1.
    """

    known: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    probabilities: NDArray[np.float64]

    @classmethod
    def of(cls, task: Task, targets: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> Self:
        """Pair targets with probabilities.

        Args:
            task: whose classes these are.
            targets: as `Task.targets` gives them, rows without an answer among them or not.
            probabilities: float (n, k), 0 to 1.

        Raises:
            EvaluationError: on shapes that do not fit, targets that are none, or probabilities that are none.
        """
        targets, k = np.asarray(targets), len(task.classes)
        checked = checked_probabilities(probabilities, len(targets), k)
        if targets.shape != ((len(targets), k) if task.multi_label else (len(targets),)):
            raise EvaluationError(
                f"targets of shape {targets.shape} do not fit the {k} {'labels' if task.multi_label else 'classes'} "
                f"of task {task.name!r}: give them as its `targets` does"
            )
        highest = 1 if task.multi_label else k - 1
        if not ((targets >= UNANSWERED) & (targets <= highest)).all():
            raise EvaluationError(
                f"targets run from {targets.min()} to {targets.max()} where 0 to {highest} are answers of task "
                f"{task.name!r} and {UNANSWERED} is none: give them as its `targets` does"
            )
        if task.multi_label:
            return cls(targets != UNANSWERED, targets == 1, checked)
        answered = targets != UNANSWERED
        truth = targets[answered, None] == np.arange(k)
        return cls(np.ones_like(truth), truth, checked[answered])

    def of_class(self, place: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Truth and probability of one class, (m,) each, of the rows where it is known."""
        known = self.known[:, place]
        return self.truth[known, place], self.probabilities[known, place]
