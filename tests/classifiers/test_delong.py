from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from classifiers.delong import delong
from classifiers.errors import EvaluationError


def naive_z(is_positive, a, b, patients):
    """Obuchowski's formulae (1997), pair by pair, for a covariance matrix of the two AUCs; None without a variance."""
    positive, negative = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    m, n, names = len(positive), len(negative), sorted(set(patients.tolist()))
    v10, v01, auc = [], [], []
    for s in (a, b):
        wins = np.array([[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in negative] for i in positive])
        auc.append(wins.mean())
        v10.append([sum(wins[x].mean() - auc[-1] for x, i in enumerate(positive) if patients[i] == p) for p in names])
        v01.append(
            [sum(wins[:, y].mean() - auc[-1] for y, j in enumerate(negative) if patients[j] == p) for p in names]
        )
    i, i10, i01 = len(names), len(set(patients[positive])), len(set(patients[negative]))
    v10, v01 = np.array(v10), np.array(v01)
    s10 = v10 @ v10.T * i10 / ((i10 - 1) * m)
    s01 = v01 @ v01.T * i01 / ((i01 - 1) * n)
    s11 = v10 @ v01.T * i / (i - 1)
    covariance = s10 / m + s01 / n + (s11 + s11.T) / (m * n)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return (auc[0] - auc[1]) / np.sqrt(variance) if variance > 1e-12 else None


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_the_test_is_what_the_papers_formulae_give(data):
    n = data.draw(st.integers(6, 20))

    def column(high):
        return np.array(data.draw(st.lists(st.integers(0, high), min_size=n, max_size=n)))

    is_positive, a, b = column(1) == 1, column(8) / 8, column(8) / 8
    patients = column(6) if data.draw(st.booleans()) else np.arange(n)
    found = delong(is_positive, a, b, patients)
    if min(len(np.unique(patients[kind])) for kind in (is_positive, ~is_positive)) < 2:
        assert found is None
        return
    z = naive_z(is_positive, a, b, patients)
    if z is None:
        assert found is None or (found.difference, found.p_value) == (0, 1)
        return
    assert found.auc_a == pytest.approx(roc_auc_score(is_positive, a))
    assert found.auc_b == pytest.approx(roc_auc_score(is_positive, b))
    assert found.difference == pytest.approx(found.auc_a - found.auc_b)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(z)))
    assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
    assert (found.low + found.high) / 2 == pytest.approx(found.difference)


def test_only_the_order_of_scores_matters():
    generator = np.random.default_rng(0)
    is_positive, a, b = generator.random(200) < 0.3, generator.normal(size=200), generator.normal(size=200)
    found = delong(is_positive, a, b)
    assert delong(is_positive, np.exp(a), 3 * b - 7) == found
    swapped = delong(is_positive, b, a)
    assert (swapped.difference, swapped.p_value) == pytest.approx((-found.difference, found.p_value))


def test_heads_that_rank_alike_differ_by_nothing():
    generator = np.random.default_rng(0)
    is_positive, scores = generator.random(50) < 0.5, generator.random(50)
    found = delong(is_positive, scores, scores**3)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def simulated(trials, images):
    """p values of two heads that are equally good, on 60 patients with `images` alike images each."""
    generator = np.random.default_rng(7)
    for _ in range(trials):
        is_positive = np.repeat(generator.random(60) < 0.4, images)
        patients = np.repeat(np.arange(60), images)
        a, b = (
            np.repeat(generator.normal(size=60), images) + is_positive + 0.3 * generator.normal(size=60 * images)
            for _ in range(2)
        )
        yield delong(is_positive, a, b, patients).p_value, delong(is_positive, a, b).p_value


def test_as_many_false_alarms_as_promised_also_with_several_images_a_patient():
    p_values = np.array(list(simulated(trials=400, images=1)))
    assert np.array_equal(p_values[:, 0], p_values[:, 1])
    assert 0.02 < (p_values[:, 0] < 0.05).mean() < 0.09
    clustered, loose = (np.array(list(simulated(trials=400, images=5))) < 0.05).mean(axis=0)
    assert 0.02 < clustered < 0.09
    # What taking every image for a patient would cost.
    assert loose > 0.25


@pytest.mark.parametrize(
    "is_positive",
    [[True] * 4, [False] * 4, [True, False, False, False], [True, True, True, False]],
)
def test_without_two_patients_of_each_kind_there_is_no_test(is_positive):
    assert delong(np.array(is_positive), np.arange(4), np.arange(4)[::-1]) is None


def test_two_images_of_one_patient_are_no_two_patients():
    is_positive, a, b = np.array([True, True, False, False]), np.array([4, 1, 2, 3]), np.array([1, 2, 3, 4])
    assert delong(is_positive, a, b) is not None
    assert delong(is_positive, a, b, np.array([0, 0, 1, 2])) is None


def test_heads_that_differ_alike_everywhere_give_no_variance():
    is_positive, a = np.array([True, True, False, False]), np.array([2, 2, 1, 1])
    assert delong(is_positive, a, -a) is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(EvaluationError, match="do not fit"):
        delong(np.array([True, False]), np.zeros(2), np.zeros(3))
    with pytest.raises(EvaluationError, match="NaN"):
        delong(np.array([True, False]), np.zeros(2), np.array([0, np.nan]))
