"""Training: from labelled features to a trained head with its evaluations and its baseline, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifiers.errors import HeadError, TaskError
from classifiers.estimator import Head
from classifiers.heads import make_head
from classifiers.metrics import Evaluation, evaluate
from classifiers.tasks import UNANSWERED, Task, get_task
from classifiers.trained import SplitCounts, TrainedHead


@dataclass(frozen=True)
class SplitFeatures:
    """One split's rows.

    Attributes:
        features: float32 (n, d).
        targets: int64 (n,), as `Task.targets` gives them; unanswered rows are counted and left out of fit and metrics.

    Raises:
        HeadError: when the two do not have the same number of rows.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse rows that do not pair up."""
        if np.shape(self.targets) != np.shape(self.features)[:1]:
            raise HeadError(
                f"features of shape {np.shape(self.features)} and targets of shape {np.shape(self.targets)} do not "
                "pair up: give (n, d) and (n,) of the same images in the same order"
            )

    def answered(self) -> SplitFeatures:
        """Leave out the rows that the task does not answer."""
        known = np.asarray(self.targets) != UNANSWERED
        return self if known.all() else SplitFeatures(self.features[known], self.targets[known])

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.targets)


def train_head(
    task: Task | str,
    head: str,
    train: SplitFeatures,
    *,
    extractor: str,
    val: SplitFeatures | None = None,
    test: SplitFeatures | None = None,
    params: Mapping[str, Any] | None = None,
    provenance: Mapping[str, str] | None = None,
) -> TrainedHead:
    """Fit a head on train, stop it early on val where it can be, and evaluate it on val and test beside the baseline.

    A split that is not given, or holds no answered row, has no evaluation.

    Args:
        task: a task, or the name of one.
        head: the name of a head.
        train: rows to fit on; the only ones that class balancing touches.
        extractor: fingerprint of the extractor that gave all these features.
        val: rows for early stopping. Their metrics are therefore a little too good: read those of test.
        test: rows that the fit never sees.
        params: the head's parameters; what is left out keeps its default.
        provenance: where features and labels are from, in words, for the report.

    Raises:
        TaskError: when the task is unknown, a target is none of its class indices, or a class is missing from train.
        HeadError: when the head or a parameter is unknown, or the features do not serve.
    """
    task = get_task(task) if isinstance(task, str) else task
    estimator, majority = make_head(head, **(params or {})), make_head("majority")
    given = {"train": train, "val": val, "test": test}
    counts = {name: _count(task, name, split) for name, split in given.items() if split is not None}
    if missing := [name for name, count in counts["train"].per_class.items() if not count]:
        raise TaskError(
            f"class {', '.join(map(repr, missing))} of task {task.name!r} has no row in train "
            f"({_listed(counts['train'])}): add images that show it, or choose a task that these findings answer"
        )

    rows = {name: split.answered() for name, split in given.items() if split is not None}
    held_out = {name: split for name, split in rows.items() if name != "train" and len(split)}
    fit_on, watch = rows["train"], held_out.get("val")
    if watch is None:
        estimator.fit(fit_on.features, fit_on.targets)
    else:
        estimator.fit(fit_on.features, fit_on.targets, watch.features, watch.targets)
    majority.fit(fit_on.features, fit_on.targets)
    return TrainedHead(
        head=estimator,
        task=task,
        extractor=extractor,
        metrics={name: _evaluate(estimator, task, split) for name, split in held_out.items()},
        baseline={name: _evaluate(majority, task, split) for name, split in held_out.items()},
        class_counts=counts,
        provenance=provenance or {},
    )


def _evaluate(head: Head, task: Task, split: SplitFeatures) -> Evaluation:
    return evaluate(split.targets, head.predict_proba(split.features), task.classes)


def _count(task: Task, name: str, split: SplitFeatures) -> SplitCounts:
    values, occurrences = np.unique(split.targets, return_counts=True)
    found = dict(zip(values.tolist(), occurrences.tolist(), strict=True))
    unanswered = found.pop(UNANSWERED, 0)
    if strange := sorted(set(found) - set(range(len(task.classes)))):
        raise TaskError(
            f"{name} holds the targets {strange}, which are no class of task {task.name!r}: "
            f"take targets from Task.targets, 0 to {len(task.classes) - 1}, or {UNANSWERED} for unanswered"
        )
    return SplitCounts({label: found.get(index, 0) for index, label in enumerate(task.classes)}, unanswered)


def _listed(counts: SplitCounts) -> str:
    known = ", ".join(f"{name} {count}" for name, count in counts.per_class.items())
    return f"{known}, unanswered {counts.unanswered}"
