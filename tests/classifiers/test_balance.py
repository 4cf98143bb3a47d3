from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from classifiers.balance import Balance, class_weights, sample_weights

# Every class index 0..3 occurs at least once.
LABELS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 3)).map(
    lambda y: np.concatenate([np.arange(4), y])
)


@given(LABELS)
def test_weights_are_those_of_scikit_learn(y):
    np.testing.assert_allclose(class_weights(y), compute_class_weight("balanced", classes=np.arange(4), y=y))
    np.testing.assert_allclose(sample_weights(y, Balance.CLASS_WEIGHT), compute_sample_weight("balanced", y))


@given(LABELS)
def test_balanced_classes_weigh_the_same(y):
    weights = sample_weights(y, Balance.CLASS_WEIGHT)
    totals = np.bincount(y, weights)
    np.testing.assert_allclose(totals, totals[0])
    assert weights.mean() == pytest.approx(1)


def test_none_leaves_rows_alone():
    assert sample_weights(np.array([0, 0, 1]), Balance.NONE).tolist() == [1, 1, 1]
