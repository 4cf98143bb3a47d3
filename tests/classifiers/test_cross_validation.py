"""Cross-validation: every row judged out of its fold, all rows evaluated together, nothing chosen on what is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from small_heads import LABELS, LEARNERS, QUICK, TASKS, aucs, draw, quick

from classifiers.calibration import Calibration
from classifiers.cross_validation import CrossValidated, cross_validate
from classifiers.errors import HeadError
from classifiers.folds import patient_folds
from classifiers.rows import SplitRows
from classifiers.thresholds import ThresholdRule


def validated(
    shape: str, head: str = "logistic", n: int = 300, signal: float = 1.0, **changed: Any
) -> tuple[SplitRows, CrossValidated]:
    rows = draw(shape, n, signal=signal)
    folds = patient_folds(TASKS[shape], rows, 3)
    settings = {"params": QUICK[head], "resamples": 20} | changed
    return rows, cross_validate(TASKS[shape], head, rows, folds, **settings)


@pytest.mark.parametrize("head", LEARNERS)
def test_every_head_is_judged_out_of_fold_on_tasks_of_every_shape(head: str, shape: str) -> None:
    rows, found = validated(shape, head)
    answers = found.answers
    assert answers.probabilities.shape == answers.decisions.shape == (300, len(TASKS[shape].classes))
    assert found.evaluation.n == 300
    assert found.evaluation.patients == 150
    np.testing.assert_allclose(found.evaluation.auc.value, aucs(rows, answers.probabilities).mean())
    assert found.evaluation.auc.value > 0.7
    assert sum(fold.rows for fold in found.folds) == 300
    assert sum(fold.patients for fold in found.folds) == 150
    assert found.spread is not None
    assert 0 < found.spread < 0.2


def test_a_fold_is_said_by_the_head_of_the_other_folds() -> None:
    rows, found = validated("three")
    for fold in range(3):
        there = found.fold_of == fold
        train = rows.take(~there)
        alone = quick("logistic").fit(train.features, train.targets)
        np.testing.assert_allclose(alone.predict_proba(rows.features[there]), found.answers.probabilities[there])


def test_noise_is_no_better_than_chance() -> None:
    """A head that had seen the rows it judges would learn these labels by heart, two rows of a patient being alike."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(150, 20)), 2, axis=0).astype(np.float32)
    rows = SplitRows(X, np.repeat(rng.integers(0, 2, 150), 2), np.arange(300) // 2)
    task = TASKS["two"]
    found = cross_validate(task, "logistic", rows, patient_folds(task, rows, 5), params={"C": 1e3}, resamples=0)
    assert 0.35 < found.evaluation.auc.value < 0.65


def test_thresholds_of_labels_are_chosen_inside_the_training_folds() -> None:
    _, plain = validated("labels", params={"balance": "none"}, n=600)
    rows, chosen = validated("labels", params={"balance": "none"}, n=600, threshold=ThresholdRule.BEST_F1)
    np.testing.assert_array_equal(plain.answers.decisions, plain.answers.probabilities >= 0.5)
    for fold in range(3):
        there = chosen.fold_of == fold
        said, decided = chosen.answers.probabilities[there], chosen.answers.decisions[there]
        levels = np.where(decided, said, np.inf).min(axis=0)
        np.testing.assert_array_equal(decided, said >= levels)
    # Other targets of a fold change what is said of the others, not of the fold itself.
    there = chosen.fold_of == 0
    other = rows.targets.copy()
    other[there] = np.where(other[there] < 0, other[there], 1 - other[there])
    again = cross_validate(
        LABELS, "logistic", SplitRows(rows.features, other, rows.patients), chosen.fold_of,
        params={"balance": "none"}, threshold=ThresholdRule.BEST_F1, resamples=0,
    )  # fmt: skip
    np.testing.assert_array_equal(again.answers.decisions[there], chosen.answers.decisions[there])
    assert (again.answers.decisions[~there] != chosen.answers.decisions[~there]).any()


def test_calibration_mends_what_balancing_shifts(shape: str) -> None:
    shifted = {"balance": "class_weight", "C": 10.0}
    _, plain = validated(shape, params=shifted, n=900, signal=0.2)
    _, calibrated = validated(shape, params=shifted, n=900, signal=0.2, calibration=Calibration.PLATT)
    assert calibrated.evaluation.averages["macro"].brier.value < plain.evaluation.averages["macro"].brier.value
    before = next(iter(calibrated.evaluation.per_class.values())).reliability_before
    assert before is not None


def test_rows_of_nobody_known_are_patients_of_their_own() -> None:
    rows = draw("two", 120)
    alone = SplitRows(rows.features, rows.targets)
    found = cross_validate(TASKS["two"], "mlp", alone, patient_folds(TASKS["two"], alone, 3), params=QUICK["mlp"])
    assert found.evaluation.patients == 120


def test_a_patient_in_two_folds_is_refused() -> None:
    rows = draw("two", 60)
    with pytest.raises(HeadError, match="one patient are in several folds"):
        cross_validate(TASKS["two"], "logistic", rows, np.arange(60) % 3)
    with pytest.raises(HeadError, match="folds of shape"):
        cross_validate(TASKS["two"], "logistic", rows, np.arange(59) % 3)
