"""One call from rows to a trained head: what it evaluates, calibrates, decides by, counts, and refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_heads import DIM, EXTRACTOR, LEARNERS, QUICK, TASKS, draw

from classifiers.calibration import Calibration, fit_calibrator
from classifiers.errors import HeadError, TaskError
from classifiers.metrics import evaluate
from classifiers.rows import SplitRows
from classifiers.tasks import UNANSWERED, Rule, Task, get_task
from classifiers.thresholds import ThresholdRule, choose_thresholds
from classifiers.training import train_head

FEW = 20


def train(name, shape, rows, **options):
    params = QUICK.get(name, {}) | options.pop("params", {})
    return train_head(TASKS[shape], name, rows, extractor=EXTRACTOR, params=params, **{"resamples": FEW} | options)


def unanswered(rows, every=5):
    targets = rows.targets.copy()
    targets[::every] = UNANSWERED
    return replace(rows, targets=targets)


def test_a_notebook_needs_three_lines():
    rng = np.random.default_rng(0)
    findings = [{"normal": 1}, {"pneumonia": 1}] * 40
    X = (rng.normal(size=(80, DIM)) + np.tile([[0.0], [2.0]], (40, 1))).astype(np.float32)

    rows = SplitRows(X, get_task("binary").targets(findings))
    trained = train_head("binary", "logistic", rows, extractor="mine")
    assert trained.score(X).decisions[:, 1].mean() == pytest.approx(0.5, abs=0.1)


# Evaluation


def test_evaluations_are_those_of_the_splits_beside_the_baseline(head_name, shape):
    attributes = {"sex": np.array(["F", "M", "M"] * 30)}
    val, test = replace(draw(shape, 90, seed=1), attributes=attributes), draw(shape, 70, seed=2)
    trained = train(head_name, shape, draw(shape, 300), val=val, test=test)
    assert set(trained.metrics) == set(trained.baseline) == {"val", "test"}
    for name, split in {"val": val, "test": test}.items():
        scores = trained.score(split.features)
        assert trained.metrics[name] == evaluate(
            trained.task, split.targets, scores.probabilities, scores.decisions, patients=split.patients,
            attributes=split.attributes, uncalibrated=scores.uncalibrated, resamples=FEW,
        )  # fmt: skip
        assert trained.baseline[name].auc.value == 0.5
        assert trained.baseline[name].n == trained.metrics[name].n == len(split)
        k = len(trained.task.classes)
        assert trained.baseline[name].balanced_accuracy.value == pytest.approx(0.5 if shape == "labels" else 1 / k)
    assert {group.value for group in trained.metrics["val"].subgroups} == {"F", "M"}
    assert trained.metrics["test"].subgroups == ()
    found = trained.metrics["test"].auc
    if head_name == "majority":
        assert found.value == 0.5
    else:
        assert 0.5 < found.low < found.value > 0.85


def test_the_baseline_is_the_majority_heads(shape):
    rows, test = draw(shape, 300), draw(shape, 70, seed=2)
    majority = train("majority", shape, rows, test=test)
    assert train("logistic", shape, rows, test=test).baseline["test"] == majority.metrics["test"]


def test_without_resamples_there_are_no_intervals(shape):
    trained = train("logistic", shape, draw(shape, 200), test=draw(shape, 50, seed=1), resamples=0)
    for evaluation in (trained.metrics["test"], trained.baseline["test"]):
        assert evaluation.auc.value is not None
        assert (evaluation.auc.low, evaluation.auc.high) == (None, None)


def test_splits_that_are_absent_or_unanswered_have_no_evaluation(head_name, shape):
    rows, test = draw(shape, 200), draw(shape, 50, seed=1)
    nothing = draw(shape, 9)
    nothing.targets[:] = UNANSWERED
    assert train(head_name, shape, rows).metrics == {}
    assert set(train(head_name, shape, rows, test=test).metrics) == {"test"}
    trained = train(head_name, shape, rows, val=nothing, test=test)
    assert set(trained.metrics) == set(trained.baseline) == {"test"}
    assert trained.class_counts["val"].unanswered == 9
    assert trained.class_counts["val"].rows == trained.class_counts["val"].patients == 0


# Rows


def test_unanswered_rows_are_counted_and_left_out(head_name, shape):
    rows, val = unanswered(draw(shape, 300)), unanswered(draw(shape, 100, seed=1))
    trained = train(head_name, shape, rows, val=val)
    assert trained.class_counts["train"].unanswered == 60
    assert trained.class_counts["train"].rows == 240
    assert trained.metrics["val"].n == 80
    same = train(head_name, shape, rows.answered(), val=val.answered())
    assert trained.fingerprint == same.fingerprint
    assert same.class_counts["train"] == replace(trained.class_counts["train"], unanswered=0)


def test_what_a_split_holds_is_counted(shape):
    rows = unanswered(draw(shape, 100))
    counts = train("majority", shape, rows).class_counts["train"]
    y = rows.targets
    assert counts.patients == 50  # of every patient at least one of two rows is answered
    if shape == "labels":
        assert list(counts.per_class.values()) == (y == 1).sum(axis=0).tolist()
        assert list(counts.unknown.values()) == ((y == UNANSWERED).sum(axis=0) - 20).tolist()
    else:
        assert list(counts.per_class.values()) == np.bincount(y[y >= 0]).tolist()
        assert set(counts.unknown.values()) == {0}
    assert list(counts.per_class) == list(counts.unknown) == list(TASKS[shape].classes)
    bare = train("majority", shape, replace(rows, patients=None)).class_counts["train"]
    assert bare.patients == bare.rows == 80


def test_counts_after_balancing_and_learning_curves_are_kept(head_name):
    rows = draw("two", 200)
    trained = train(head_name, "two", rows, val=draw("two", 50, seed=1), params={"balance": "over_sample"})
    assert trained.balanced_counts == dict.fromkeys(trained.task.classes, np.bincount(rows.targets).max())
    wanted = {"majority": set(), "logistic": {"train loss"}}.get(head_name, {"train loss", "val loss"})
    assert set(trained.learning_curves) == wanted
    assert all(len(curve) > 1 for curve in trained.learning_curves.values())


def test_test_rows_are_never_looked_at(head_name, shape):
    options = {"val": draw(shape, 60, seed=1)}
    one = train(head_name, shape, draw(shape, 200), test=draw(shape, 50, seed=2), **options)
    other = train(head_name, shape, draw(shape, 200), test=draw(shape, 50, seed=3), **options)
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_without_val_patients_of_train_are_held_out(name, shape):
    rows = draw(shape, 200)
    assert set(train(name, shape, rows).learning_curves) == {"train loss", "val loss"}
    # Without patients nobody knows which rows belong together.
    assert set(train(name, shape, replace(rows, patients=None)).learning_curves) == {"train loss"}
    assert train(name, shape, rows).metrics == {}


# Calibration and thresholds


@pytest.mark.parametrize("name", LEARNERS)
def test_defaults_with_val_are_platt_and_argmax_or_best_f1(name, shape):
    val = draw(shape, 150, seed=1)
    trained = train(name, shape, draw(shape, 300), val=val)
    assert trained.calibrator.method is Calibration.PLATT
    assert trained.thresholds.rule is (ThresholdRule.BEST_F1 if shape == "labels" else ThresholdRule.ARGMAX)
    assert trained.thresholds.chosen_on == ("val" if shape == "labels" else None)


@pytest.mark.parametrize("name", LEARNERS)
def test_defaults_without_val_are_the_heads_own_probabilities_and_a_half(name, shape):
    trained = train(name, shape, draw(shape, 300), test=draw(shape, 60, seed=1))
    assert trained.calibrator.method is Calibration.NONE
    assert trained.thresholds.chosen_on is None
    if shape == "labels":
        assert trained.thresholds.rule is ThresholdRule.FIXED
        assert trained.thresholds.levels == (0.5, 0.5, 0.5)
    else:
        assert trained.thresholds.rule is ThresholdRule.ARGMAX
    assert trained.metrics["test"].per_class[trained.task.classes[0]].reliability_before is None


@pytest.mark.parametrize("calibration", list(Calibration))
@pytest.mark.parametrize(
    ("rule", "value"),
    [("fixed", 0.2), ("fixed", None), ("best_f1", None), ("youden", None), ("sensitivity", 0.9), ("precision", 0.8)],
)
def test_scores_follow_the_calibration_and_the_rule_found_on_val(shape, calibration, rule, value):
    val, test = draw(shape, 150, seed=1, signal=0.5), draw(shape, 60, seed=2, signal=0.5).features
    options = {"calibration": calibration, "threshold": ThresholdRule(rule), "threshold_value": value, "resamples": 0}
    if shape == "three" and rule in ("sensitivity", "precision"):
        with pytest.raises(HeadError, match="exclusive"):
            train("logistic", shape, draw(shape, 300, signal=0.5), val=val, **options)
        return
    trained = train("logistic", shape, draw(shape, 300, signal=0.5), val=val, **options)
    calibrator = fit_calibrator(calibration, trained.task, val.targets, trained.head.predict_proba(val.features))
    calibrated = calibrator(trained.head.predict_proba(val.features))
    thresholds = choose_thresholds(ThresholdRule(rule), value, trained.task, val.targets, calibrated)
    assert (trained.calibrator, trained.thresholds) == (calibrator, thresholds)
    scores, own = trained.score(test), trained.head.predict_proba(test)
    np.testing.assert_array_equal(scores.uncalibrated, own)
    np.testing.assert_array_equal(scores.probabilities, calibrator(own))
    np.testing.assert_array_equal(scores.decisions, thresholds.decide(calibrator(own), own))
    before = trained.metrics["val"].per_class[trained.task.classes[-1]].reliability_before
    assert (before is None) == (calibration is Calibration.NONE)


def test_calibrated_probabilities_come_true_where_balancing_shifted_them():
    rng = np.random.default_rng(0)

    def rows(n):
        y = (rng.random(n) < 0.1).astype(np.int64)
        return SplitRows((rng.normal(size=(n, DIM)) + 0.2 * y[:, None]).astype(np.float32), y)

    trained = train("logistic", "two", rows(1000), val=rows(1000), test=rows(1000))
    finding = trained.metrics["test"].per_class["pneumonia"]
    assert finding.reliability.ece < 0.05 < 0.2 < finding.reliability_before.ece


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"calibration": Calibration.PLATT}, "calibration=platt is chosen on a val split"),
        ({"threshold": ThresholdRule.YOUDEN}, "threshold=youden is chosen on a val split"),
        (
            {"calibration": Calibration.ISOTONIC, "threshold": ThresholdRule.BEST_F1},
            "calibration=isotonic and threshold=best_f1 is chosen on a val split",
        ),
    ],
)
def test_what_needs_val_is_refused_before_anything_is_fitted(shape, options, told):
    nothing = draw(shape, 9)
    nothing.targets[:] = UNANSWERED
    # A head that would diverge, had it been fitted.
    for val in (None, nothing):
        with pytest.raises(HeadError, match=f"{told}, and there is none with answered rows: .*leave the setting out"):
            train("mlp", shape, draw(shape, 60), val=val, params={"learning_rate": 1e30}, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threshold": ThresholdRule.FIXED, "threshold_value": 1.5}, "a fixed threshold of 1.5 decides nothing"),
        ({"threshold": ThresholdRule.SENSITIVITY}, "sensitivity with value None has no target"),
        ({"threshold": ThresholdRule.YOUDEN, "threshold_value": 0.5}, "youden takes no value, but was given 0.5"),
        ({"threshold_value": 0.2}, "threshold_value=0.2 without a rule: say what it is, threshold=fixed"),
    ],
)
def test_thresholds_that_are_none_are_refused_before_anything_is_fitted(shape, options, told):
    with pytest.raises(HeadError, match=told):
        train("mlp", shape, draw(shape, 60), val=draw(shape, 60), params={"learning_rate": 1e30}, **options)


def test_argmax_of_labels_is_refused_before_anything_is_fitted():
    with pytest.raises(HeadError, match="argmax decides for one class, but an image may have any number of the 3"):
        train("mlp", "labels", draw("labels", 60), params={"learning_rate": 1e30}, threshold=ThresholdRule.ARGMAX)


# Labels that are hardly known


def test_a_label_that_val_does_not_know_is_told_and_not_made_up(head_name):
    val, test = draw("labels", 80, seed=1), draw("labels", 80, seed=2)
    val.targets[:, 1] = UNANSWERED
    test.targets[:, 2] = 0
    trained = train(head_name, "labels", draw("labels", 300), val=val, test=test)
    assert trained.calibrator.left_out == ("edema",)
    assert "edema" in trained.thresholds.defaulted
    assert trained.thresholds.levels[1] == 0.5
    unknown, never = trained.metrics["val"].per_class["edema"], trained.metrics["test"].per_class["mass"]
    assert (unknown.n, unknown.auc.value, unknown.accuracy.value) == (0, None, None)
    assert (never.support, never.recall.value, never.auc.value) == (0, None, None)
    assert trained.metrics["test"].averages["macro"].over == 2


def test_a_task_of_one_label_is_trained(head_name):
    task = Task("mass", (Rule("mass", any=("mass",)),), multi_label=True)
    one = [replace(rows, targets=rows.targets[:, :1]) for rows in (draw("labels", n, seed=n) for n in (300, 80, 90))]
    options = {"val": one[1], "test": one[2], "extractor": EXTRACTOR, "params": QUICK[head_name], "resamples": FEW}
    trained = train_head(task, head_name, one[0], **options)
    assert trained.score(one[2].features).decisions.shape == (90, 1)
    assert head_name == "majority" or trained.metrics["test"].auc.value > 0.85


# What can't be trained on


def test_a_class_missing_from_train_is_named_with_the_counts(head_name):
    rows = unanswered(draw("two", 100))
    with pytest.raises(TaskError, match=r"class 'bacterial' of task 'three_class' has no row in train") as error:
        train(head_name, "three", rows)
    for part in ("normal ", "viral ", "bacterial 0", "unanswered 20", "add images that show it"):
        assert part in str(error.value)


@pytest.mark.parametrize(("value", "told"), [(1, "no row in train"), (0, "no negative row in train")])
def test_a_label_without_both_answers_in_train_is_named(head_name, value, told):
    rows = draw("labels", 100)
    rows.targets[rows.targets[:, 1] == value, 1] = UNANSWERED
    with pytest.raises(TaskError, match=rf"class 'edema' of task 'labels' has {told} \(.*edema \d+, .*unanswered"):
        train(head_name, "labels", rows)


def test_train_without_an_answer_names_every_class():
    rows = draw("three", 30)
    rows.targets[:] = UNANSWERED
    with pytest.raises(TaskError, match=r"class 'normal', 'viral', 'bacterial' .* has no row in train .*unanswered 30"):
        train("logistic", "three", rows)


@pytest.mark.parametrize(
    ("shape", "targets", "told"),
    [
        ("two", np.array([0, 1, 2] * 10), r"test holds targets of shape \(30,\) with the values \[2\]"),
        ("two", np.array([0, 1, -2] * 10), r"with the values \[-2\]"),
        ("two", np.zeros((30, 2), np.int8), r"shape \(30, 2\) with the values that are allowed"),
        ("labels", np.full((30, 3), 2, np.int8), r"shape \(30, 3\) with the values \[2\]"),
        ("labels", np.zeros((30, 2), np.int8), r"shape \(30, 2\)"),
        ("labels", np.zeros(30, np.int64), r"shape \(30,\)"),
    ],
)
def test_targets_that_are_none_of_the_tasks(shape, targets, told):
    test = SplitRows(draw(shape, 30).features, targets)
    with pytest.raises(TaskError, match=f"{told}.*take targets from Task.targets"):
        train("majority", shape, draw(shape, 60), test=test)


def test_features_that_do_not_serve(head_name, shape):
    bad = draw(shape, 60, seed=1)
    bad.features[3, 3] = np.nan
    narrow = replace(bad, features=np.ascontiguousarray(draw(shape, 60).features[:, 1:]))
    with pytest.raises(HeadError, match="1 of 60 rows of X hold NaN"):
        train(head_name, shape, bad)
    for split in ("val", "test"):
        with pytest.raises(HeadError, match=r"1 of 60 rows of X(_val)? hold NaN"):
            train(head_name, shape, draw(shape, 60), **{split: bad})
        with pytest.raises(HeadError, match=r"X has 31 features, but .* is expecting 32 features"):
            train(head_name, shape, draw(shape, 60), **{split: narrow})


def test_rows_that_are_not_answered_may_hold_anything(shape):
    rows = unanswered(draw(shape, 100))
    rows.features[::5] = np.nan
    assert train("logistic", shape, rows).class_counts["train"].rows == 80


def test_mistakes_of_the_caller():
    rows = draw("two", 50)
    with pytest.raises(TaskError, match="unknown task"):
        train_head("none such", "majority", rows, extractor=EXTRACTOR)
    with pytest.raises(HeadError, match="unknown head"):
        train("none such", "two", rows)
    with pytest.raises(HeadError, match="no parameter depth"):
        train("xgboost", "two", rows, params={"depth": 3})


def test_a_preset_is_stored_as_the_head_that_it_is():
    trained = train("vazquez_mlp", "two", draw("two", 100), params={"max_epochs": 2})
    assert trained.head_name == "mlp"
    assert (trained.params["activation"], trained.params["max_epochs"]) == ("sigmoid", 2)
