from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.utils.class_weight import compute_sample_weight

from classifiers.balance import (
    LABEL_SET_RATIO,
    UP_SAMPLE_GROWTH,
    Balance,
    class_counts,
    entry_weights,
    rebalance,
)
from classifiers.errors import HeadError
from classifiers.tasks import UNANSWERED

# Every class index 0..3 occurs at least once.
CLASSES = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 3)).map(
    lambda y: np.concatenate([np.arange(4), y])
)
LABELS = hnp.arrays(np.int8, st.tuples(st.integers(1, 60), st.integers(1, 10)), elements=st.sampled_from([0, 0, 1, -1]))
ROWS_ONLY = st.sampled_from([balance for balance in Balance if balance is not Balance.SMOTE])
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(y, balance, seed=0):
    # Features that can't be looked at: the rules that draw rows must not touch gigabytes.
    return rebalance(None, y, balance, seed)


def label_sets(y):
    return Counter(map(tuple, (y == 1).tolist()))


@settings(deadline=None)
@given(CLASSES)
def test_weights_of_classes_are_those_of_scikit_learn(y):
    weights = entry_weights(y, 4)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_sample_weight("balanced", y), rtol=1e-6)
    np.testing.assert_allclose(np.bincount(y, weights), len(y) / 4, rtol=1e-5)


def test_a_class_that_does_not_occur_takes_no_weight_from_the_others():
    assert entry_weights(np.array([0, 0, 2, 2]), 4).tolist() == [1, 1, 1, 1]


@settings(deadline=None)
@given(LABELS)
def test_weights_of_labels_are_those_of_scikit_learn_on_known_rows(y):
    weights = entry_weights(y, y.shape[1])
    assert weights.dtype == np.float32
    assert weights.shape == y.shape
    for column, weight in zip(y.T, weights.T, strict=True):
        known = column != UNANSWERED
        assert not weight[~known].any()
        both = len(set(column[known])) == 2
        expected = compute_sample_weight("balanced", column[known]) if both else np.ones(known.sum())
        np.testing.assert_allclose(weight[known], expected, rtol=1e-6)


@settings(deadline=None)
@given(CLASSES | LABELS, ROWS_ONLY, SEEDS)
def test_what_every_rule_promises(y, balance, seed):
    found, again = rows_of(y, balance, seed), rows_of(y, balance, seed)
    seen = y[found.rows]
    np.testing.assert_array_equal(found.rows, again.rows)
    np.testing.assert_array_equal(found.weights, again.weights)
    assert found.extra_X is None
    assert found.extra_y is None
    assert found.rows.dtype == np.int64
    assert found.rows.min() >= 0  # an index too high fails above
    assert (np.diff(found.rows) >= 0).all()
    assert found.weights.dtype == np.float32
    assert found.weights.shape == seen.shape
    np.testing.assert_array_equal(found.weights > 0, seen != UNANSWERED)
    k = 4 if y.ndim == 1 else y.shape[1]
    np.testing.assert_array_equal(found.counts, class_counts(seen, k))
    # No rule loses a class or a label, and only one leaves rows out.
    np.testing.assert_array_equal(found.counts > 0, class_counts(y, k) > 0)
    assert balance is Balance.UNDER_SAMPLE or set(found.rows) == set(range(len(y)))


@settings(deadline=None)
@given(CLASSES | LABELS, st.sampled_from([Balance.NONE, Balance.FOCAL, Balance.CLASS_WEIGHT]))
def test_rules_that_draw_nothing_keep_the_rows(y, balance):
    found = rows_of(y, balance)
    assert found.rows.tolist() == list(range(len(y)))
    if balance is Balance.CLASS_WEIGHT:
        np.testing.assert_array_equal(found.weights, entry_weights(y, y.max() + 1 if y.ndim == 1 else y.shape[1]))
    else:
        np.testing.assert_array_equal(found.weights, y != UNANSWERED)


@settings(deadline=None)
@given(CLASSES, st.sampled_from([Balance.OVER_SAMPLE, Balance.UP_SAMPLE]), SEEDS)
def test_over_sampling_makes_classes_as_large_as_the_largest(y, balance, seed):
    assert rows_of(y, balance, seed).counts.tolist() == [np.bincount(y).max()] * 4


@settings(deadline=None)
@given(CLASSES, SEEDS)
def test_under_sampling_makes_classes_as_small_as_the_smallest(y, seed):
    found = rows_of(y, Balance.UNDER_SAMPLE, seed)
    assert found.counts.tolist() == [np.bincount(y).min()] * 4
    assert len(set(found.rows)) == len(found.rows)


@settings(deadline=None)
@given(LABELS, SEEDS)
def test_over_sampling_of_labels_draws_rare_combinations_up_to_the_mean(y, seed):
    before, after = label_sets(y), label_sets(y[rows_of(y, Balance.OVER_SAMPLE, seed).rows])
    mean = len(y) / len(before)
    wanted = sum(max(int(mean) - count, 0) for count in before.values())
    assert sum(after.values()) - len(y) == min(wanted, int(LABEL_SET_RATIO * len(y)))
    for combination, count in before.items():
        assert count <= after[combination] <= max(count, mean)


@settings(deadline=None)
@given(LABELS, SEEDS)
def test_under_sampling_of_labels_cuts_frequent_combinations_down_to_the_mean(y, seed):
    rows = rows_of(y, Balance.UNDER_SAMPLE, seed).rows
    before, after = label_sets(y), label_sets(y[rows])
    mean = len(y) / len(before)
    spare = sum(max(count - int(np.ceil(mean)), 0) for count in before.values())
    assert len(y) - len(rows) == min(spare, int(LABEL_SET_RATIO * len(y)))
    assert len(set(rows)) == len(rows)
    for combination, count in before.items():
        assert min(count, mean) <= after[combination] <= count


def test_rows_to_draw_are_shared_out_evenly():
    # Combinations of 10, 10, 8, 1 and 11 rows, of which the mean is 8: 7 rows for the rarest, none for the others.
    singles = np.repeat(np.eye(5, dtype=np.int8), [10, 10, 8, 1, 11], axis=0)
    assert rows_of(singles, Balance.OVER_SAMPLE).counts.tolist() == [10, 10, 8, 8, 11]
    # 3 + 3 + 1 spare rows; a quarter of 40 is more.
    assert rows_of(singles, Balance.UNDER_SAMPLE).counts.tolist() == [8, 8, 8, 1, 8]
    # Mean 12: room for 11, 10 and 6 rows, but only a quarter of 48 is drawn.
    rare = np.repeat(np.eye(4, dtype=np.int8), [39, 1, 2, 6], axis=0)
    assert rows_of(rare, Balance.OVER_SAMPLE).counts.tolist() == [39, 5, 6, 10]
    # Mean 50: room for 2, 10 and 138 rows, of which 50: what the first can't give, the others do.
    frequent = np.repeat(np.eye(4, dtype=np.int8), [52, 60, 84, 4], axis=0)
    assert rows_of(frequent, Balance.UNDER_SAMPLE).counts.tolist() == [50, 50, 50, 4]


@settings(deadline=None)
@given(LABELS, SEEDS)
def test_up_sampling_lifts_labels_to_the_most_frequent_within_its_bound(y, seed):
    found = rows_of(y, Balance.UP_SAMPLE, seed)
    before = class_counts(y, y.shape[1])
    assert len(found.rows) <= UP_SAMPLE_GROWTH * len(y)
    if len(found.rows) < UP_SAMPLE_GROWTH * len(y):
        assert (found.counts[before > 0] >= before.max()).all()


def test_up_sampling_that_reaches_its_bound_serves_the_rarest_first():
    y = np.ones((100, 6), np.int8)
    for label in range(5):
        y[:, label] = np.arange(100) // 3 == label  # three rows each, apart
    found = rows_of(y, Balance.UP_SAMPLE)
    assert len(found.rows) == UP_SAMPLE_GROWTH * 100
    assert found.counts.tolist() == [100, 100, 9, 3, 3, 300]


def test_another_seed_draws_other_rows():
    y = np.repeat([0, 1], [90, 30])
    for balance in (Balance.OVER_SAMPLE, Balance.UNDER_SAMPLE):
        assert rows_of(y, balance, 0).rows.tolist() != rows_of(y, balance, 1).rows.tolist()


def grouped(sizes, seed=0):
    y = np.repeat(np.arange(len(sizes)), sizes)
    X = np.random.default_rng(seed).normal(size=(len(y), 3)) + 100 * y[:, np.newaxis]
    return X.astype(np.float32), y


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=2, max_size=4), SEEDS)
def test_smote_makes_rows_up_inside_their_class(sizes, seed):
    X, y = grouped(sizes)
    found, again = (rebalance(X, y, Balance.SMOTE, seed) for _ in range(2))
    assert found.counts.tolist() == [max(sizes)] * len(sizes)
    assert found.rows.tolist() == list(range(len(y)))
    assert found.extra_X.dtype == np.float32
    assert found.extra_X.shape == (max(sizes) * len(sizes) - len(y), 3)
    assert found.weights.tolist() == [1] * (len(y) + len(found.extra_y))
    np.testing.assert_array_equal(found.extra_X, again.extra_X)
    for label in set(found.extra_y):
        own, made = X[y == label], found.extra_X[found.extra_y == label]
        assert (made >= own.min(axis=0) - 1e-4).all()
        assert (made <= own.max(axis=0) + 1e-4).all()


def test_smote_says_what_it_can_not_do():
    X, y = grouped([5, 1, 4])
    with pytest.raises(HeadError, match="class 1 has a single row in train: choose balance=over_sample"):
        rebalance(X, y, Balance.SMOTE, 0)
    with pytest.raises(HeadError, match=r"single-label tasks: .*choose balance=up_sample"):
        rebalance(X, np.zeros((10, 2), np.int8), Balance.SMOTE, 0)
