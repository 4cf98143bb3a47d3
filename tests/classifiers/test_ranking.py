from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from classifiers.ranking import Ranking


def check(is_positive, scores, rows, weights):
    """Against scikit-learn, in which a row counts as often as its patient."""
    found = Ranking(is_positive, scores, rows, len(weights)).areas(weights)
    for column, times in enumerate(weights.T):
        copied = np.repeat(np.arange(len(rows)), times[rows].astype(int))
        truth, score = is_positive[copied], scores[copied]
        auc = roc_auc_score(truth, score) if 0 < truth.sum() < len(truth) else np.nan
        precision = average_precision_score(truth, score) if truth.any() else np.nan
        assert found.auc[column] == pytest.approx(auc, nan_ok=True)
        assert found.average_precision[column] == pytest.approx(precision, nan_ok=True)


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_areas_are_scikit_learns_for_every_weighting(data):
    n = data.draw(st.integers(0, 25))

    def column(low, high):
        return np.array(data.draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), int)

    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=8, max_size=8)), float).reshape(4, 2)
    check(column(0, 1) == 1, column(0, 6) / 7, column(0, 3), weights)


@pytest.mark.parametrize("distinct", [700, 10**6])
def test_many_rows_with_few_and_with_no_ties(distinct):
    generator = np.random.default_rng(0)
    n, patients = 5000, 300
    is_positive = generator.random(n) < 0.6
    scores = generator.integers(0, distinct, n) / distinct + 0.2 * is_positive
    check(is_positive, scores, generator.integers(0, patients, n), generator.poisson(1, (patients, 4)).astype(float))
