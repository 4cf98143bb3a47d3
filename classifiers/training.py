"""Training: from labelled features to a trained head with its evaluations and its baseline, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from classifiers.balance import class_counts
from classifiers.baseline import evaluate_majority, majority_shares
from classifiers.calibration import Calibration, fit_calibrator
from classifiers.errors import HeadError, TaskError
from classifiers.estimator import Head
from classifiers.heads import make_head
from classifiers.metrics import evaluate
from classifiers.rows import SplitRows
from classifiers.tasks import UNANSWERED, Task, get_task
from classifiers.thresholds import ThresholdRule, check_threshold, choose_thresholds
from classifiers.trained import SplitCounts, TrainedHead

RESAMPLES: Final = 1000
"""Of patients, behind every interval."""


def train_head(
    task: Task | str,
    head: str,
    train: SplitRows,
    *,
    extractor: str,
    val: SplitRows | None = None,
    test: SplitRows | None = None,
    params: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    threshold: ThresholdRule | None = None,
    threshold_value: float | None = None,
    provenance: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    fit: Callable[[Head], object] | None = None,
) -> TrainedHead:
    """Fit a head on train; stop it early, calibrate it and choose its thresholds on val; evaluate it on val and test
    beside the baseline.

    A split that is not given, or holds no answered row, has no evaluation.

    Args:
        task: a task, or the name of one.
        head: the name of a head.
        train: rows to fit on; the only ones that class balancing touches.
        extractor: fingerprint of the extractor that gave all these features.
        val: rows for early stopping, calibration and thresholds. Their metrics are therefore a little too good: read
            those of test.
        test: rows that the fit never sees.
        params: the head's parameters; what is left out keeps its default.
        calibration: how probabilities are calibrated on val. None: Platt scaling where there is a val split, else not
            at all.
        threshold: the rule that turns probabilities into decisions. None: argmax where classes exclude each other;
            for labels the best F1 on val, and 0.5 without val.
        threshold_value: what the rule asks for: the fixed threshold, the sensitivity, the precision.
        provenance: where features and labels are from, in words, for the report.
        resamples: of patients, behind every interval; 0 for none.
        fit: fits the head it is given, elsewhere, on these rows; the features of train are then not looked at. None:
            `fit_head`.

    Raises:
        TaskError: when the task is unknown, a target is none of its classes, or a class is missing from train.
        HeadError: when the head or a parameter is unknown, the features do not serve, or a rule needs a val split that
            is not there.
    """
    task = get_task(task) if isinstance(task, str) else task
    estimator = make_head(head, **(params or {}))
    given = {"train": train, "val": val, "test": test}
    splits = {name: split for name, split in given.items() if split is not None}
    counts = {name: count_split(task, name, split) for name, split in splits.items()}
    check_classes(task, counts["train"])
    rows = {name: split.answered() for name, split in splits.items()}
    watch = rows.get("val")
    check_rules(calibration, threshold, has_val=bool(watch))
    check_threshold(*_rule(threshold, threshold_value, task, has_val=bool(watch)), task)
    if fit is None:
        fit_head(estimator, rows["train"], watch)
    else:
        fit(estimator)
    return assess_head(
        estimator,
        task,
        {name: split for name, split in rows.items() if name != "train"},
        extractor=extractor,
        class_counts=counts,
        calibration=calibration,
        threshold=threshold,
        threshold_value=threshold_value,
        provenance=provenance,
        resamples=resamples,
    )


def fit_head(estimator: Head, train: SplitRows, val: SplitRows | None) -> Head:
    """Fit on answered rows; without a val split, a tenth of the patients of train stands in for early stopping."""
    multi_label = train.targets.ndim == 2
    if val is None or not len(val):
        return estimator.fit(train.features, train.targets, patients=train.patients, multi_label=multi_label)
    return estimator.fit(train.features, train.targets, val.features, val.targets, multi_label=multi_label)


def assess_head(
    estimator: Head,
    task: Task,
    held_out: Mapping[str, SplitRows],
    *,
    extractor: str,
    class_counts: Mapping[str, SplitCounts],
    calibration: Calibration | None = None,
    threshold: ThresholdRule | None = None,
    threshold_value: float | None = None,
    provenance: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> TrainedHead:
    """Calibrate a fitted head and choose its thresholds on val, and evaluate it beside the majority baseline.

    Args:
        estimator: fitted on the task's targets, wherever that was.
        task: the question.
        held_out: answered rows of val and test, where there are any.
        extractor, calibration, threshold, threshold_value, provenance, resamples: as of `train_head`.
        class_counts: of every split, train included.
    """
    held_out = {name: split for name, split in held_out.items() if len(split)}
    own = {name: estimator.predict_proba(split.features) for name, split in held_out.items()}
    val = held_out.get("val")
    if calibration is None:
        calibration = Calibration.PLATT if val else Calibration.NONE
    rule, value = _rule(threshold, threshold_value, task, has_val=val is not None)
    if val is None:
        calibrator = fit_calibrator(calibration, task, None, None)
        thresholds = choose_thresholds(rule, value, task, None, None)
    else:
        calibrator = fit_calibrator(calibration, task, val.targets, own["val"])
        thresholds = choose_thresholds(rule, value, task, val.targets, calibrator(own["val"]))
    shares = majority_shares(class_counts["train"])
    metrics, baselines = {}, {}
    for name, split in held_out.items():
        calibrated = calibrator(own[name])
        decisions = thresholds.decide(calibrated, own[name])
        before = None if calibrator.method is Calibration.NONE else own[name]
        metrics[name] = evaluate(
            task,
            split.targets,
            calibrated,
            decisions,
            patients=split.patients,
            attributes=split.attributes,
            uncalibrated=before,
            resamples=resamples,
        )
        baselines[name] = evaluate_majority(task, shares, split, resamples)
    return TrainedHead(
        head=estimator,
        task=task,
        extractor=extractor,
        metrics=metrics,
        baseline=baselines,
        class_counts=class_counts,
        balanced_counts=dict(zip(task.classes, estimator.balanced_counts_.tolist(), strict=True)),
        learning_curves={name: tuple(curve) for name, curve in estimator.learning_curves_.items()},
        provenance=provenance or {},
        thresholds=thresholds,
        calibrator=calibrator,
    )


def count_split(task: Task, name: str, split: SplitRows) -> SplitCounts:
    """Count the rows of a split, by class.

    Raises:
        TaskError: when a target is none of the task's classes.
    """
    targets, k = np.asarray(split.targets), len(task.classes)
    shape = (len(split), k) if task.multi_label else (len(split),)
    allowed = {UNANSWERED, 0, 1} if task.multi_label else {UNANSWERED, *range(k)}
    strange = sorted(set(np.unique(targets).tolist()) - allowed)
    if strange or targets.shape != shape:
        raise TaskError(
            f"{name} holds targets of shape {targets.shape} with the values {strange or 'that are allowed'}, which do "
            f"not fit task {task.name!r}: take targets from Task.targets, {shape} here, of {sorted(allowed)}"
        )
    answered = split.is_answered
    unknown = (targets[answered] == UNANSWERED).sum(axis=0) if task.multi_label else np.zeros(k, np.int64)
    patients = np.arange(len(split)) if split.patients is None else split.patients
    return SplitCounts(
        rows=int(answered.sum()),
        patients=len(np.unique(patients[answered])),
        per_class=dict(zip(task.classes, class_counts(targets[answered], k).tolist(), strict=True)),
        unknown=dict(zip(task.classes, unknown.tolist(), strict=True)),
        unanswered=int((~answered).sum()),
    )


def check_classes(task: Task, train: SplitCounts) -> None:
    """Refuse a train split that lacks a class, or the rest of one.

    Raises:
        TaskError: naming the classes, and what there is.
    """
    known = ", ".join(f"{name} {count:,}" for name, count in train.per_class.items())
    there = f"{known}, unanswered {train.unanswered:,}"
    if missing := [name for name, count in train.per_class.items() if not count]:
        raise TaskError(
            f"class {', '.join(map(repr, missing))} of task {task.name!r} has no row in train ({there}): add images "
            "that show it, or choose a task without it (a YAML file of your own will do)"
        )
    always = [name for name, count in train.per_class.items() if count + train.unknown[name] == train.rows]
    if task.multi_label and always:
        raise TaskError(
            f"class {', '.join(map(repr, always))} of task {task.name!r} has no negative row in train ({there}): add "
            "images without it, or choose a task without it"
        )


def check_rules(calibration: Calibration | None, threshold: ThresholdRule | None, *, has_val: bool) -> None:
    """Refuse, before anything is fitted, what only a val split could give.

    Raises:
        HeadError: naming what needs it.
    """
    if has_val:
        return
    wanted = [f"calibration={calibration}"] if calibration not in (None, Calibration.NONE) else []
    if threshold not in (None, ThresholdRule.ARGMAX, ThresholdRule.FIXED):
        wanted.append(f"threshold={threshold}")
    if wanted:
        raise HeadError(
            f"{' and '.join(wanted)} is chosen on a val split, and there is none with answered rows: ingest with one "
            "(splits belong to patients), or leave the setting out"
        )


def _rule(
    wanted: ThresholdRule | None, value: float | None, task: Task, *, has_val: bool
) -> tuple[ThresholdRule, float | None]:
    if wanted is not None:
        return wanted, value
    if value is not None:
        raise HeadError(
            f"threshold_value={value} without a rule: say what it is, threshold=fixed, sensitivity or precision"
        )
    if not task.multi_label:
        return ThresholdRule.ARGMAX, None
    return (ThresholdRule.BEST_F1, None) if has_val else (ThresholdRule.FIXED, None)
