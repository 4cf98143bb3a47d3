from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from classifiers.errors import EvaluationError
from classifiers.metrics import Evaluation, evaluate

NAMES = ("a", "b", "c")


@st.composite
def rows(draw):
    k = draw(st.sampled_from([2, 3]))
    n = draw(st.integers(1, 40))
    y = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), dtype=np.int64)
    # Few distinct values, so that ties occur.
    raw = np.array(draw(st.lists(st.integers(1, 4), min_size=n * k, max_size=n * k)), dtype=float).reshape(n, k)
    return y, raw / raw.sum(axis=1, keepdims=True), NAMES[:k]


def pairwise_auc(is_class, score):
    """The AUC's meaning: how often a row of the class scores above another, a tie counting half."""
    wins = score[is_class][:, None] - score[~is_class][None, :]
    return ((wins > 0) + 0.5 * (wins == 0)).mean()


@given(rows())
def test_metrics_agree_with_scikit_learn_wherever_defined(case):
    y, p, names = case
    found = evaluate(y, p, names)
    decided, labels = p.argmax(axis=1), list(range(len(names)))
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, decided, labels=labels, zero_division=np.nan)
    assert found.n == len(y)
    assert found.accuracy == pytest.approx(sk.accuracy_score(y, decided))
    assert np.array_equal(found.confusion, sk.confusion_matrix(y, decided, labels=labels))
    for i, name in enumerate(names):
        one = found.per_class[name]
        assert one.support == support[i]
        for ours, theirs in ((one.precision, precision[i]), (one.recall, recall[i]), (one.f1, f1[i])):
            assert ours is None if math.isnan(theirs) else ours == pytest.approx(theirs)
        is_class = y == i
        if is_class.any() and not is_class.all():
            assert one.auc == pytest.approx(pairwise_auc(is_class, p[:, i]))
        else:
            assert one.auc is None
    if len(set(y.tolist())) == len(names):
        assert found.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(y, decided))
        assert found.macro_f1 == pytest.approx(sk.f1_score(y, decided, average="macro"))
        score = p[:, 1] if len(names) == 2 else p
        assert found.auc == pytest.approx(sk.roc_auc_score(y, score, multi_class="ovr", average="macro"))
    else:
        assert found.balanced_accuracy is None
        assert found.auc is None


@given(rows())
def test_json_round_trip_is_exact_and_strict(case):
    found = evaluate(*case)
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert Evaluation.from_dict(json.loads(text)) == found


def test_undefined_values_are_none_and_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(np.array([0, 0, 1]), np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0]]), NAMES)
    missed, absent = found.per_class["b"], found.per_class["c"]
    assert (missed.precision, missed.recall, missed.f1) == (None, 0.0, 0.0)
    assert missed.auc == 1.0
    assert (absent.precision, absent.recall, absent.f1, absent.auc, absent.support) == (None, None, None, None, 0)
    assert (found.balanced_accuracy, found.macro_f1, found.auc) == (None, None, None)
    assert found.accuracy == pytest.approx(2 / 3)


P2 = np.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        (np.zeros(0, int), np.zeros((0, 2)), "no rows to evaluate"),
        (np.zeros(3, int), P2, "do not fit"),
        (np.zeros(2, int), np.zeros((2, 3)), "do not fit"),
        (np.array([0, -1]), P2, "leave out the rows that the task does not answer"),
        (np.array([0, 2]), P2, "only 0 to 1 are classes"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), "NaN"),
    ],
)
def test_rows_that_can_not_be_compared(y, p, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(y, p, NAMES[:2])
