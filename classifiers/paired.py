"""Two heads' answers on the same rows: how much better one of them is, and whether by more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from classifiers.delong import delong
from classifiers.evaluation import Figure
from classifiers.metrics import paired_difference
from classifiers.rows import SplitRows
from classifiers.tasks import POSITIVE, UNANSWERED, Task


class Answers(NamedTuple):
    """What a head says of rows: probabilities float (n, k), decisions bool (n, k)."""

    probabilities: NDArray[np.floating[Any]]
    decisions: NDArray[np.bool_]


class PairedResult(NamedTuple):
    """One head against another.

    Attributes:
        difference: figure → first minus second, see `paired_difference`.
        p_values: class → p of DeLong's test, see `delong`; None where it is not defined.
    """

    difference: Mapping[str, Figure]
    p_values: Mapping[str, float | None]


def held_against(task: Task, rows: SplitRows, one: Answers, other: Answers, *, resamples: int) -> PairedResult:
    """Compare two heads, patients resampled and tested together.

    Args:
        task: that both answer.
        rows: answered ones; features are not looked at.
        one, other: the two heads' answers to these rows.
        resamples: of patients, behind every interval; 0 for none.

    Raises:
        EvaluationError: on answers that do not fit the rows.
    """
    difference = paired_difference(task, rows.targets, one, other, patients=rows.patients, resamples=resamples)
    p_values: dict[str, float | None] = {}
    for place, name in enumerate(task.classes):
        known = rows.targets[:, place] != UNANSWERED if task.multi_label else np.ones(len(rows), bool)
        truth = rows.targets[:, place] == POSITIVE if task.multi_label else rows.targets == place
        tested = delong(
            truth[known],
            one.probabilities[known, place],
            other.probabilities[known, place],
            None if rows.patients is None else rows.patients[known],
        )
        p_values[name] = None if tested is None else tested.p_value
    return PairedResult(difference, p_values)
