from __future__ import annotations

import numpy as np
import pytest
from small_heads import DIM, EXTRACTOR, QUICK

from classifiers.errors import HeadError, TaskError
from classifiers.metrics import evaluate
from classifiers.tasks import UNANSWERED, get_task
from classifiers.training import SplitFeatures, train_head


def train(name, rows, task="three_class", **options):
    return train_head(task, name, rows, extractor=EXTRACTOR, params=QUICK[name], **options)


def unanswered(rows, every=5):
    targets = rows.targets.copy()
    targets[::every] = UNANSWERED
    return SplitFeatures(rows.features, targets)


def test_a_notebook_needs_three_lines():
    rng = np.random.default_rng(0)
    findings = [{"normal": 1}, {"pneumonia": 1}] * 40
    X = (rng.normal(size=(80, DIM)) + np.tile([[0.0], [2.0]], (40, 1))).astype(np.float32)

    rows = SplitFeatures(X, get_task("binary").targets(findings))
    trained = train_head("binary", "logistic", rows, extractor="mine")
    assert trained.score(X).decisions[:, 1].mean() == pytest.approx(0.5, abs=0.1)


def test_evaluations_are_those_of_the_splits(head_name, draw):
    val, test = draw(90, seed=1), draw(70, seed=2)
    trained = train(head_name, draw(300), val=val, test=test)
    assert set(trained.metrics) == set(trained.baseline) == {"val", "test"}
    for name, split in {"val": val, "test": test}.items():
        p = trained.score(split.features).probabilities
        assert trained.metrics[name] == evaluate(split.targets, p, trained.task.classes)
        assert trained.baseline[name].balanced_accuracy == pytest.approx(1 / 3)
        assert trained.baseline[name].auc == 0.5
    if head_name != "majority":
        assert trained.metrics["test"].balanced_accuracy > 0.8
    assert sum(trained.class_counts["train"].per_class.values()) == 300


def test_splits_that_are_absent_or_unanswered_have_no_evaluation(head_name, draw):
    rows, nothing = draw(200), SplitFeatures(draw(9).features, np.full(9, UNANSWERED))
    assert train(head_name, rows).metrics == {}
    assert set(train(head_name, rows, test=draw(50)).metrics) == {"test"}
    trained = train(head_name, rows, val=nothing, test=draw(50))
    assert set(trained.metrics) == {"test"}
    assert trained.class_counts["val"].unanswered == 9


def test_unanswered_rows_are_counted_and_left_out(head_name, draw):
    rows, val = unanswered(draw(300)), unanswered(draw(100, seed=1))
    trained = train(head_name, rows, val=val)
    assert trained.class_counts["train"].unanswered == 60
    assert trained.metrics["val"].n == 80
    same = train(head_name, rows.answered(), val=val.answered())
    assert trained.fingerprint == same.fingerprint


def test_test_rows_are_never_fitted_on(head_name, draw):
    options = {"val": draw(60, seed=1)}
    one = train(head_name, draw(200), test=draw(50, seed=2), **options)
    other = train(head_name, draw(200), test=draw(50, seed=3), **options)
    assert one.fingerprint == other.fingerprint


def test_a_class_missing_from_train_is_named_with_the_counts(head_name, draw):
    rows = unanswered(draw(100, 2))
    with pytest.raises(TaskError, match=r"class 'bacterial' of task 'three_class' has no row in train") as error:
        train(head_name, rows)
    for part in ("normal ", "viral ", "bacterial 0", "unanswered 20", "add images that show it"):
        assert part in str(error.value)


def test_targets_that_are_no_class(draw):
    with pytest.raises(TaskError, match=r"test holds the targets \[2\], which are no class of task 'binary'"):
        train("majority", draw(50, 2), "binary", test=draw(50, 3))


def test_rows_that_do_not_pair_up(draw):
    rows = draw(20)
    with pytest.raises(HeadError, match=r"shape \(20, 32\) and targets of shape \(19,\) do not pair up"):
        SplitFeatures(rows.features, rows.targets[:19])


def test_mistakes_of_the_caller(draw):
    with pytest.raises(TaskError, match="unknown task"):
        train("majority", draw(50), "none such")
    with pytest.raises(HeadError, match="unknown head"):
        train_head("binary", "none such", draw(50, 2), extractor=EXTRACTOR)
    with pytest.raises(HeadError, match="no parameter depth"):
        train_head("binary", "xgboost", draw(50, 2), extractor=EXTRACTOR, params={"depth": 3})
