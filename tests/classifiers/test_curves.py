from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from classifiers.curves import pr_curve, reliability, roc_curve


def rows(n=20_000, share=0.05):
    generator = np.random.default_rng(1)
    is_positive = generator.random(n) < share
    return is_positive, 1 / (1 + np.exp(-generator.normal(1.2 * is_positive - 2, 1)))


def test_a_thinned_roc_curve_keeps_its_ends_and_its_shape():
    is_positive, scores = rows()
    found = roc_curve(is_positive, scores)
    assert 100 < len(found.x) == len(found.y) <= 200
    assert (found.x[0], found.y[0], found.x[-1], found.y[-1]) == (0, 0, 1, 1)
    fpr, tpr, _ = sk.roc_curve(is_positive, scores)
    assert np.abs(np.interp(fpr, found.x, found.y) - tpr).max() < 0.02
    assert np.trapezoid(found.y, found.x) == pytest.approx(sk.roc_auc_score(is_positive, scores), abs=0.002)


@pytest.mark.parametrize("share", [0.003, 0.05, 0.5])
def test_a_thinned_pr_curve_keeps_its_ends_and_its_shape(share):
    is_positive, scores = rows(share=share)
    found = pr_curve(is_positive, scores)
    assert len(found.x) == len(found.y) <= 200
    assert (found.x[0], found.y[0], found.x[-1]) == (0, 1, 1)
    assert list(found.x) == sorted(found.x)
    precision = sk.average_precision_score(is_positive, scores)
    assert np.trapezoid(found.y, found.x) == pytest.approx(precision, abs=0.02)


def test_short_curves_are_scikit_learns():
    is_positive, scores = np.array([True, False, True, False]), np.array([0.9, 0.6, 0.6, 0.1])
    assert roc_curve(is_positive, scores) == ((0, 0, 0.5, 1), (0, 0.5, 1, 1))
    assert pr_curve(is_positive, scores) == ((0, 0.5, 1, 1), (1, 1, 0.66667, 0.5))


@pytest.mark.parametrize("is_positive", [np.zeros(3, bool), np.zeros(0, bool)])
def test_without_a_positive_there_is_no_curve(is_positive):
    assert roc_curve(is_positive, np.zeros(len(is_positive))) is None
    assert pr_curve(is_positive, np.zeros(len(is_positive))) is None
    assert roc_curve(~is_positive, np.zeros(len(is_positive))) is None


def test_reliability_without_rows():
    found = reliability(np.zeros(0, bool), np.zeros(0))
    assert (found.bins, found.ece) == ((), None)
