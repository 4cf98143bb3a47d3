"""The majority baseline on given rows: class shares for everybody, beside which any result stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from classifiers.evaluation import Evaluation
from classifiers.metrics import evaluate
from classifiers.rows import SplitRows
from classifiers.tasks import Task
from classifiers.thresholds import ThresholdRule, choose_thresholds
from classifiers.trained import SplitCounts


def majority_shares(counts: SplitCounts) -> NDArray[np.float64]:
    """Each class's share of the rows whose target for it is known: float64 (k,)."""
    positives = np.array(list(counts.per_class.values()), float)
    return np.asarray(positives / (counts.rows - np.array(list(counts.unknown.values()), float)))


def evaluate_majority(task: Task, shares: NDArray[np.float64], rows: SplitRows, resamples: int) -> Evaluation:
    """Evaluate the shares as everybody's probabilities.

    Decisions are the largest class; of labels, those that more than half of the rows show.

    Args:
        task: whose classes these are.
        shares: (k,), of the rows that a head is fitted on.
        rows: answered ones, that are judged.
        resamples: of patients, behind every interval; 0 for none.
    """
    probabilities = np.tile(shares, (len(rows), 1))
    rule = ThresholdRule.FIXED if task.multi_label else ThresholdRule.ARGMAX
    decisions = choose_thresholds(rule, None, task, None, None).decide(probabilities, probabilities)
    return evaluate(task, rows.targets, probabilities, decisions, patients=rows.patients, resamples=resamples)
