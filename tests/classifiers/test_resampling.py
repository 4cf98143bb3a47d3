from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from classifiers.resampling import Patients, exact_interval, percentiles


def test_every_resample_draws_as_many_patients_as_there_are():
    patients = Patients(np.array([7, 3, 7, 900, 3, 7]), 6)
    assert patients.rows.tolist() == [1, 0, 1, 2, 0, 1]
    drawn = np.hstack([draw() for draw in patients.draws(1000, seed=0)])
    assert drawn.shape == (3, 1000)
    assert (drawn.sum(axis=0) == 3).all()
    # Each patient is as likely as any other, and there in 19 of 27 resamples.
    assert drawn.mean(axis=1) == pytest.approx([1, 1, 1], abs=0.1)
    assert (drawn > 0).mean(axis=1) == pytest.approx([19 / 27] * 3, abs=0.05)
    assert len(np.unique(drawn, axis=1).T) == 10


def test_sums_are_of_each_patients_rows():
    patients = Patients(np.array([7, 3, 7]), 3)
    values = np.arange(6).reshape(3, 2, 1)
    assert patients.sums(values).tolist() == [[[2], [3]], [[4], [6]]]
    assert Patients(None, 3).sums(values).tolist() == values.tolist()


def test_resampled_figures_come_in_the_draws_order():
    patients = Patients(None, 40)
    found = patients.resampled(lambda weights: {"first": weights[0]}, 700, seed=3)
    assert np.array_equal(found["first"], np.hstack([draw()[0] for draw in patients.draws(700, seed=3)]))


def test_percentiles_leave_out_what_is_not_defined_unless_it_is_most():
    values = np.arange(101.0)
    assert percentiles(values) == (2.5, 97.5)
    assert percentiles(np.concatenate([values, np.full(101, np.nan)])) == (2.5, 97.5)
    assert percentiles(np.concatenate([values, np.full(102, np.nan)])) == (None, None)
    assert percentiles(np.full(3, np.nan)) == (None, None)


@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("share", [0, 1])
def test_exact_intervals_are_clopper_and_pearsons(share, n):
    expected = binomtest(share * n, n).proportion_ci(0.95, method="exact")
    assert exact_interval(share, n) == pytest.approx((expected.low, expected.high))
