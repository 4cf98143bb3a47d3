"""Folds: no patient in two, classes spread, and nothing left that a head could not learn from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_heads import LABELS, TASKS, draw

from classifiers.errors import HeadError
from classifiers.folds import each_fold, patient_folds
from classifiers.rows import SplitRows


def rows_of(y, patients=None) -> SplitRows:
    return SplitRows(np.zeros((len(y), 1), np.float32), np.array(y), None if patients is None else np.array(patients))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.integers(0, 1000), st.integers(1, 5), st.sampled_from(list(TASKS)))
def test_every_row_is_judged_once_by_who_saw_nobody_of_its_patient(k, seed, images, shape) -> None:
    drawn = draw(shape, 200, seed)
    rows = SplitRows(drawn.features, drawn.targets, np.random.default_rng(seed).permutation(200) // images)
    folds = patient_folds(TASKS[shape], rows, k, seed=seed)
    assert sorted(np.concatenate([fold.test for fold in each_fold(folds)])) == list(range(200))
    for fold in each_fold(folds):
        assert not set(rows.patients[fold.train]) & set(rows.patients[fold.test])
        assert len(fold.train) + len(fold.test) == 200
    np.testing.assert_array_equal(folds, patient_folds(TASKS[shape], rows, k, seed=seed))


def test_classes_are_spread_evenly() -> None:
    rows = draw("three", 600)
    folds = patient_folds(TASKS["three"], rows, 5)
    shares = [[(rows.targets[folds == fold] == c).mean() for c in range(3)] for fold in range(5)]
    assert np.ptp(shares, axis=0).max() < 0.03


def test_a_rare_label_is_in_as_many_folds_as_it_has_patients() -> None:
    number = np.arange(400)
    y = np.stack([number % 2 == 0, number % 3 == 0, number % 100 == 0], axis=1).astype(np.int8)
    folds = patient_folds(LABELS, rows_of(y), 4)
    assert set(folds[::100]) == {0, 1, 2, 3}


def test_a_seed_deals_anew() -> None:
    rows = draw("two", 300)
    assert (patient_folds(TASKS["two"], rows, 5, seed=0) != patient_folds(TASKS["two"], rows, 5, seed=1)).any()


@pytest.mark.parametrize(
    ("y", "patients", "k", "message"),
    [
        ([0, 1, 0, 1], None, 5, "5 folds of 4 patients"),
        ([0, 1, 0, 1], None, 1, "2 folds at least"),
        ([0, 1, -1, 1], None, 2, "1 rows have no target"),
        ([0] * 10 + [1] * 10, [*range(10), *[10] * 10], 3, r"has no positive row.* 10 of 1 patients"),
        ([0] * 10, None, 2, "'pneumonia' .*no positive row"),
        ([0, 1, 0, 1], None, 4, "too few for 4 folds"),
    ],
)
def test_what_no_head_could_learn_from_is_told(y, patients, k, message) -> None:
    with pytest.raises(HeadError, match=message):
        patient_folds(TASKS["two"], rows_of(y, patients), k)
