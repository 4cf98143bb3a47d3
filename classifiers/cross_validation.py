"""Cross-validation: every row judged by a head that saw nobody of its patient, and all rows evaluated together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifiers.calibration import Calibration, fit_calibrator
from classifiers.errors import HeadError
from classifiers.evaluation import Evaluation
from classifiers.folds import each_fold, owners, patient_folds
from classifiers.heads import make_head
from classifiers.metrics import evaluate
from classifiers.paired import Answers
from classifiers.rows import SplitRows
from classifiers.tasks import Task
from classifiers.thresholds import ThresholdRule, choose_thresholds
from classifiers.training import RESAMPLES, fit_head

#: Of a fold's training patients, one in so many is held out to calibrate and to choose thresholds.
_HELD_OUT: Final = 10


@dataclass(frozen=True)
class FoldResult:
    """What one fold gave, without intervals.

    Attributes:
        rows, patients: that were judged.
        headline: see `Evaluation.headline`; None where these rows do not define it.
        auc: macro.
        seconds: that fitting took.
    """

    rows: int
    patients: int
    headline: float | None
    auc: float | None
    seconds: float


@dataclass(frozen=True)
class CrossValidated:
    """A setting of a head, judged on all rows.

    Attributes:
        answers: of every row, by the head of its fold.
        evaluation: of all rows together, once, with intervals by bootstrap over patients.
        fold_of: int (n,), each row's fold.
        folds: each fold by itself.
    """

    answers: Answers
    evaluation: Evaluation
    fold_of: NDArray[np.int64]
    folds: tuple[FoldResult, ...]

    @property
    def seconds(self) -> float:
        """All fits together."""
        return sum(fold.seconds for fold in self.folds)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the headline between folds; None where one does not define it."""
        values = [fold.headline for fold in self.folds]
        known = [value for value in values if value is not None]
        return float(np.std(known, ddof=1)) if len(known) == len(values) else None


def cross_validate(
    task: Task,
    head: str,
    rows: SplitRows,
    folds: NDArray[np.int64],
    *,
    params: Mapping[str, Any] | None = None,
    calibration: Calibration = Calibration.NONE,
    threshold: ThresholdRule | None = None,
    threshold_value: float | None = None,
    resamples: int = RESAMPLES,
) -> CrossValidated:
    """Fit a head once per fold, on the rows outside it, and judge it on those inside.

    Balancing touches the rows of the fit only. Heads that stop early hold out a tenth of its patients. Calibration, and
    rules that choose thresholds, are given another tenth of them, which the head is then not fitted on but stops by.

    Args:
        task: the question.
        head: the name of a head.
        rows: answered ones.
        folds: int (n,), each row's; settings are compared on the same ones (`patient_folds`).
        params: the head's parameters; what is left out keeps its default.
        calibration: how probabilities are calibrated.
        threshold: how decisions are taken; None: argmax, and 0.5 for labels.
        threshold_value: what the rule asks for.
        resamples: of patients, behind every interval; 0 for none.

    Raises:
        HeadError: when the head or a parameter is unknown, a patient is in two folds, or a fit fails.
        EvaluationError: when folds and rows do not fit.
    """
    rows = replace(rows, patients=owners(rows))
    _check_folds(owners(rows), folds)
    if threshold is None:
        threshold = ThresholdRule.FIXED if task.multi_label else ThresholdRule.ARGMAX
    k = len(task.classes)
    own, calibrated = np.empty((len(rows), k)), np.empty((len(rows), k))
    decisions = np.empty((len(rows), k), np.bool_)
    results = []
    for train_rows, test_rows in each_fold(folds):
        train, test = rows.take(train_rows), rows.take(test_rows)
        val = None
        if calibration is not Calibration.NONE or threshold not in (ThresholdRule.ARGMAX, ThresholdRule.FIXED):
            held_out = patient_folds(task, train, _HELD_OUT) == 0
            train, val = train.take(~held_out), train.take(held_out)
        started = time.monotonic()
        estimator = fit_head(make_head(head, **(params or {})), train, val)
        seconds = time.monotonic() - started
        targets, said = (None, None) if val is None else (val.targets, estimator.predict_proba(val.features))
        calibrator = fit_calibrator(calibration, task, targets, said)
        thresholds = choose_thresholds(
            threshold, threshold_value, task, targets, None if said is None else calibrator(said)
        )
        own[test_rows] = estimator.predict_proba(test.features)
        calibrated[test_rows] = calibrator(own[test_rows])
        decisions[test_rows] = thresholds.decide(calibrated[test_rows], own[test_rows])
        alone = evaluate(task, test.targets, calibrated[test_rows], decisions[test_rows], resamples=0)
        results.append(
            FoldResult(len(test), len(np.unique(owners(test))), alone.headline[1].value, alone.auc.value, seconds)
        )
    evaluation = evaluate(
        task,
        rows.targets,
        calibrated,
        decisions,
        patients=rows.patients,
        uncalibrated=None if calibration is Calibration.NONE else own,
        resamples=resamples,
    )
    return CrossValidated(Answers(calibrated, decisions), evaluation, folds, tuple(results))


def _check_folds(patients: NDArray[np.int64], folds: NDArray[np.int64]) -> None:
    if np.shape(folds) != patients.shape:
        raise HeadError(f"folds of shape {np.shape(folds)} for {len(patients):,} rows: give each row's fold")
    pairs = np.unique(np.stack([patients, folds]), axis=1)
    if pairs.shape[1] > len(np.unique(patients)):
        raise HeadError(
            "rows of one patient are in several folds, so a head would be judged on patients whom it was fitted on: "
            "take the folds of patient_folds"
        )
