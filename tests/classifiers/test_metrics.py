from __future__ import annotations

import json
import math
import warnings
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from classifiers.errors import EvaluationError
from classifiers.evaluation import CLASS_FIGURES, Evaluation, Figure
from classifiers.metrics import evaluate, paired_difference
from classifiers.resampling import Patients
from classifiers.tasks import UNANSWERED, Rule, Task

NAMES = ("a", "b", "c")


def exclusive(k):
    return Task.exclusive("question", NAMES[:k])


def labels(k):
    return Task("labels", tuple(Rule(name, any=(name,)) for name in NAMES[:k]), multi_label=True)


def argmax(p):
    return p.argmax(axis=1)[:, None] == np.arange(p.shape[1])


@st.composite
def probabilities(draw, n, k):
    # Few distinct values, so that ties occur.
    return np.array(draw(st.lists(st.integers(0, 4), min_size=n * k, max_size=n * k)), dtype=float).reshape(n, k) / 4


@st.composite
def exclusive_rows(draw):
    k, n = draw(st.sampled_from([2, 3])), draw(st.integers(1, 40))
    y = np.array(draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n)), dtype=np.int64)
    p = draw(probabilities(n, k)) + 0.1
    return exclusive(k), y, p / p.sum(axis=1, keepdims=True)


@st.composite
def label_rows(draw, targets=(0, 1)):
    k, n = draw(st.sampled_from([2, 3])), draw(st.integers(1, 30))
    cells = st.lists(st.sampled_from(targets), min_size=k, max_size=k).filter(lambda row: max(row) > UNANSWERED)
    y = np.array(draw(st.lists(cells, min_size=n, max_size=n)), dtype=np.int8)
    return labels(k), y, draw(probabilities(n, k))


def random_labels(n=60, seed=3, masked=0.1):
    """Labels that probabilities tell something about, some not known, and several rows of most patients."""
    generator = np.random.default_rng(seed)
    y = (generator.random((n, 3)) < (0.4, 0.25, 0.15)).astype(np.int8)
    p = np.clip(generator.normal(0.3 + 0.25 * y, 0.25), 0, 1).round(2)
    y[generator.random((n, 3)) < masked] = UNANSWERED
    y[(y == UNANSWERED).all(axis=1), 0] = 0
    return y, p, generator.integers(0, n // 3, n)


def agrees(ours: Figure, theirs: float) -> bool:
    return ours.value is None if math.isnan(theirs) else ours.value == pytest.approx(theirs, abs=1e-12)


def every_figure(found, path=""):
    """Every figure of an evaluation, by its path."""
    if isinstance(found, Figure):
        yield path, found
    elif is_dataclass(found):
        for field in fields(found):
            yield from every_figure(getattr(found, field.name), f"{path}.{field.name}")
    elif isinstance(found, dict):
        for name, each in found.items():
            yield from every_figure(each, f"{path}.{name}")


def check_class(one, truth, p, decided):
    tn, fp, fn, tp = sk.confusion_matrix(truth, decided, labels=[False, True]).ravel()
    assert (one.n, one.support, one.confusion) == (len(truth), truth.sum(), (tn, fp, fn, tp))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        truth, decided, average="binary", pos_label=True, zero_division=np.nan
    )
    both = truth.any() and not truth.all()
    expected = {
        "precision": precision,
        "recall": recall,
        "specificity": sk.recall_score(truth, decided, pos_label=False, zero_division=np.nan),
        "f1": f1,
        "auc": sk.roc_auc_score(truth, p) if both else np.nan,
        "average_precision": sk.average_precision_score(truth, p) if truth.any() else np.nan,
        "accuracy": sk.accuracy_score(truth, decided),
        "brier": np.mean((p - truth) ** 2),
    }
    assert set(expected) == set(CLASS_FIGURES)
    for name, value in expected.items():
        assert agrees(getattr(one, name), value), name
    assert (one.roc is None, one.pr is None) == (one.auc.value is None, one.average_precision.value is None)


def check_averages(found, truth, p, decided):
    *by_class, support = sk.precision_recall_fscore_support(truth, decided, average=None, zero_division=np.nan)
    for name, average in found.averages.items():
        values = sk.precision_recall_fscore_support(truth, decided, average=name, zero_division=np.nan)[:3]
        for figure, value, each in zip(("precision", "recall", "f1"), values, by_class, strict=True):
            # Where no class that defines the figure has rows, scikit-learn's weighted mean is 0.
            weightless = name == "weighted" and not support[~np.isnan(each)].any()
            expected = np.nan if weightless else value
            if (name, figure) == ("macro", "f1"):
                # scikit-learn counts the F1 of 0 that one false alarm gives a class without rows.
                expected = each[support > 0].mean() if support.any() else np.nan
            assert agrees(getattr(average, figure), expected), (name, figure)
        varied = truth.any(axis=0) & ~truth.all(axis=0)
        assert average.over == varied.sum()
        if name != "samples" and varied.all():
            assert agrees(average.auc, sk.roc_auc_score(truth, p, average=name))
            assert agrees(average.average_precision, sk.average_precision_score(truth, p, average=name))


@given(exclusive_rows())
@settings(deadline=None, max_examples=40)
def test_exclusive_classes_agree_with_scikit_learn_wherever_defined(case):
    task, y, p = case
    decided = argmax(p)
    found = evaluate(task, y, p, decided, resamples=0)
    truth, chosen = y[:, None] == np.arange(p.shape[1]), p.argmax(axis=1)
    assert (found.n, found.patients, found.multi_label) == (len(y), len(y), False)
    assert np.array_equal(found.confusion, sk.confusion_matrix(y, chosen, labels=range(p.shape[1])))
    assert agrees(found.accuracy, sk.accuracy_score(y, chosen))
    assert agrees(found.binary_accuracy, (truth == decided).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, on decisions for classes that do not occur
        assert agrees(found.balanced_accuracy, sk.balanced_accuracy_score(y, chosen))
        for label, name in enumerate(task.classes):
            check_class(found.per_class[name], truth[:, label], p[:, label], decided[:, label])
        check_averages(found, truth, p, decided)
    if len(set(y.tolist())) == len(task.classes):
        score = p[:, 1] if len(task.classes) == 2 else p
        assert agrees(found.auc, sk.roc_auc_score(y, score, multi_class="ovr", average="macro"))
        assert agrees(found.averages["macro"].brier, np.mean((p - truth) ** 2))


@given(label_rows())
@settings(deadline=None, max_examples=40)
def test_labels_agree_with_scikit_learn_wherever_defined(case):
    task, y, p = case
    truth, decided = y == 1, p >= 0.5
    found = evaluate(task, y, p, decided, resamples=0)
    assert found.confusion is None
    assert agrees(found.accuracy, (truth == decided).all(axis=1).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_averages(found, truth, p, decided)


@given(label_rows(targets=(0, 1, UNANSWERED)))
@settings(deadline=None, max_examples=40)
def test_targets_that_are_not_known_are_left_out(case):
    task, y, p = case
    decided, known = p >= 0.5, y != UNANSWERED
    found = evaluate(task, y, p, decided, resamples=0)
    balanced = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label, name in enumerate(task.classes):
            rows, one = known[:, label], found.per_class[name]
            if rows.any():
                check_class(one, y[rows, label] == 1, p[rows, label], decided[rows, label])
            else:
                assert all(getattr(one, figure) == Figure(None) for figure in CLASS_FIGURES)
            if one.auc.value is not None:
                balanced.append(sk.balanced_accuracy_score(y[rows, label], decided[rows, label]))
    assert agrees(found.balanced_accuracy, np.mean(balanced) if balanced else np.nan)
    assert agrees(found.accuracy, ((decided == (y == 1)) | ~known).all(axis=1).mean())
    assert agrees(found.binary_accuracy, (decided == (y == 1))[known].mean())
    if 0 < (y[known] == 1).mean() < 1:
        assert agrees(found.averages["micro"].auc, sk.roc_auc_score(y[known] == 1, p[known]))
    assert agrees(found.averages["micro"].brier, np.mean((p[known] - y[known]) ** 2))


@pytest.mark.parametrize("kind", ["exclusive", "labels"])
def test_intervals_are_those_of_figures_of_copied_rows(kind):
    targets, p, patients = random_labels()
    task, decided = labels(3), p >= 0.5
    if kind == "exclusive":
        task, targets = exclusive(3), (p.argmax(axis=1) + (np.arange(60) % 3 == 0)) % 3
        decided = argmax(p)
    resamples, seed = 60, 5
    found = evaluate(task, targets, p, decided, patients=patients, resamples=resamples, seed=seed)
    owners = Patients(patients, len(p))
    copied: dict[str, list[float]] = {}
    for block in owners.draws(resamples, seed):
        for times in block().T:
            rows = np.repeat(np.arange(len(p)), times[owners.rows].astype(int))
            again = evaluate(task, targets[rows], p[rows], decided[rows], resamples=0)
            for path, figure in every_figure(again):
                copied.setdefault(path, []).append(np.nan if figure.value is None else figure.value)
    compared = 0
    for path, figure in every_figure(found):
        if figure.value in (None, 0, 1):
            continue
        expected = np.nanpercentile(copied[path], (2.5, 97.5))
        assert (figure.low, figure.high) == pytest.approx(expected, abs=1e-12), path
        compared += 1
    assert compared > 40


def test_rows_of_one_patient_stay_together():
    y, p, _ = random_labels()
    once = evaluate(labels(3), y, p, p >= 0.5, resamples=200)
    rows = np.repeat(np.arange(60), 4)
    together = evaluate(labels(3), y[rows], p[rows], p[rows] >= 0.5, patients=rows, resamples=200)
    apart = evaluate(labels(3), y[rows], p[rows], p[rows] >= 0.5, resamples=200)
    assert (together.n, together.patients, apart.patients) == (240, 60, 240)
    one, four, loose = once.auc, together.auc, apart.auc
    assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))
    assert loose.high - loose.low < 0.7 * (four.high - four.low)


def test_the_same_seed_gives_the_same_and_another_does_not():
    y, p, patients = random_labels()
    first, same, other = (
        evaluate(labels(3), y, p, p >= 0.5, patients=patients, resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == same
    assert first.auc.value == other.auc.value
    assert first.auc.low != other.auc.low


def test_what_all_or_none_have_still_has_an_interval():
    y = np.array([0] * 8 + [1] * 4)
    p = np.where(y[:, None] == [0, 1], 0.75, 0.25)
    patients = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7])
    found = evaluate(exclusive(2), y, p, argmax(p), patients=patients, resamples=50)
    four, eight = 0.025 ** (1 / 4), 0.025 ** (1 / 8)
    assert found.per_class["b"].recall == Figure(1.0, pytest.approx(four), 1.0)
    assert found.accuracy == Figure(1.0, pytest.approx(eight), 1.0)
    # Four pairs of a patient with and one without.
    assert found.auc == Figure(1.0, pytest.approx(four), 1.0)
    assert found.balanced_accuracy == Figure(1.0, pytest.approx(four), 1.0)
    assert found.macro_f1 == Figure(1.0, pytest.approx(four), 1.0)
    assert found.per_class["b"].average_precision == Figure(1.0)

    wrong = evaluate(exclusive(2), y, p[:, ::-1], argmax(p[:, ::-1]), patients=patients, resamples=50)
    assert wrong.per_class["b"].recall == Figure(0.0, 0.0, pytest.approx(1 - four))
    assert wrong.accuracy == Figure(0.0, 0.0, pytest.approx(1 - eight))


def test_a_constant_answer_is_worth_half_with_certainty():
    y = np.array([0, 1, 0, 1, 0, 0])
    p = np.tile([0.7, 0.3], (6, 1))
    found = evaluate(exclusive(2), y, p, argmax(p), resamples=50)
    assert found.auc == Figure(0.5, 0.5, 0.5)
    assert found.balanced_accuracy.value == 0.5


def test_what_rests_on_one_patient_has_no_interval():
    y, p, _ = random_labels(masked=0)
    y[:, 2] = 0
    y[:5, 2] = 1
    patients = np.concatenate([np.zeros(5, int), np.arange(1, 56)])
    found = evaluate(labels(3), y, p, p >= 0.5, patients=patients, resamples=50)
    for figure in ("auc", "average_precision", "recall"):
        one = getattr(found.per_class["c"], figure)
        assert one.value is not None
        assert (one.low, one.high) == (None, None)
    assert found.per_class["a"].auc.low is not None


def test_one_patient_or_no_resamples_give_no_intervals():
    y, p, patients = random_labels()
    for told in ({"patients": np.zeros(60, int)}, {"patients": patients, "resamples": 0}):
        found = evaluate(labels(3), y, p, p >= 0.5, attributes={"sex": np.full(60, "F")}, **told)
        figures = [figure for _, figure in every_figure(found)] + [found.subgroups[0].auc]
        assert found.auc.value is not None
        assert all((figure.low, figure.high) == (None, None) for figure in figures)


def test_undefined_values_are_none_and_nothing_warns():
    y, p = np.array([0, 0, 1]), np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(exclusive(3), y, p, argmax(p), uncalibrated=p, resamples=20)
    missed, absent = found.per_class["b"], found.per_class["c"]
    assert (missed.precision, missed.recall.value, missed.f1.value) == (Figure(None), 0.0, 0.0)
    assert missed.auc.value == 1.0
    undefined = (absent.precision, absent.recall, absent.f1, absent.auc, absent.average_precision)
    assert undefined == (Figure(None),) * 5
    assert (absent.support, absent.roc, absent.pr) == (0, None, None)
    # Two classes of three are in the means.
    assert found.averages["macro"].over == 2
    assert found.balanced_accuracy.value == 0.5
    assert found.averages["samples"].auc == Figure(None)
    assert found.accuracy.value == pytest.approx(2 / 3)


@given(label_rows(targets=(0, 1, UNANSWERED)))
@settings(deadline=None, max_examples=25)
def test_json_round_trip_is_exact_and_strict(case):
    task, y, p = case
    sex = np.where(np.arange(len(y)) % 2, "F", "")
    found = evaluate(task, y, p, p >= 0.5, attributes={"sex": sex}, uncalibrated=p / 2, resamples=10)
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert Evaluation.from_dict(json.loads(text)) == found
    for path, figure in every_figure(found):
        if figure.low is not None:
            assert 0 <= figure.low <= figure.high <= 1, path


def test_a_subgroup_is_an_evaluation_of_its_rows():
    y, p, patients = random_labels(90)
    attributes = {"sex": np.array(["F", "M", ""] * 30), "view": np.array(["PA"] * 90)}
    found = evaluate(labels(3), y, p, p >= 0.5, patients=patients, attributes=attributes, resamples=50, seed=4)
    assert [(each.attribute, each.value) for each in found.subgroups] == [
        ("sex", ""), ("sex", "F"), ("sex", "M"), ("view", "PA"),
    ]  # fmt: skip
    for group in found.subgroups:
        rows = attributes[group.attribute] == group.value
        alone = evaluate(labels(3), y[rows], p[rows], p[rows] >= 0.5, patients=patients[rows], resamples=50, seed=4)
        assert (group.n, group.patients) == (alone.n, alone.patients)
        assert group.support == {name: one.support for name, one in alone.per_class.items()}
        assert (group.auc, group.balanced_accuracy, group.f1) == (alone.auc, alone.balanced_accuracy, alone.macro_f1)
        assert group.recall == {name: one.recall for name, one in alone.per_class.items()}
    told = found.as_dict()
    assert Evaluation.from_dict(told) == found
    for group in told["subgroups"]:
        del group["recall"]  # as versions before wrote it
    assert all(not group.recall for group in Evaluation.from_dict(told).subgroups)


def test_reliability_is_told_of_both_probabilities():
    y = np.array([[1, 0], [0, 0], [1, 0], [1, 0], [UNANSWERED, 0], [0, 0]])
    p = np.array([[1.0, 0], [0.2, 0], [0.25, 0], [0.95, 0], [0.9, 0], [0.25, 0]])
    task = labels(2)
    after = evaluate(task, y, p, p >= 0.5, resamples=0).per_class["a"]
    assert [(each.n, each.probability, each.share) for each in after.reliability.bins] == [
        (3, pytest.approx(0.7 / 3), pytest.approx(1 / 3)),
        (2, pytest.approx(0.975), 1.0),
    ]
    assert after.reliability.ece == pytest.approx((3 * 0.1 + 2 * 0.025) / 5)
    assert after.reliability_before is None
    both = evaluate(task, y, p, p >= 0.5, uncalibrated=np.full((6, 2), 0.4), resamples=0).per_class["a"]
    assert both.reliability == after.reliability
    assert both.reliability_before.ece == pytest.approx(0.2)


def test_paired_differences_are_of_the_same_resamples():
    y, p, patients = random_labels()
    other = p[::-1].copy()
    task, answers = labels(3), ((p, p >= 0.5), (other, other >= 0.4))
    found = paired_difference(task, y, *answers, patients=patients, resamples=40, seed=2)
    a, b = (evaluate(task, y, *each, resamples=0) for each in answers)
    assert found["macro_auc"].value == pytest.approx(a.auc.value - b.auc.value)
    assert found["macro_f1"].value == pytest.approx(a.macro_f1.value - b.macro_f1.value)
    assert found["balanced_accuracy"].value == pytest.approx(a.balanced_accuracy.value - b.balanced_accuracy.value)
    owners, copied = Patients(patients, 60), []
    for block in owners.draws(40, 2):
        for times in block().T:
            rows = np.repeat(np.arange(60), times[owners.rows].astype(int))
            one, two = (evaluate(task, y[rows], q[rows], d[rows], resamples=0).auc.value for q, d in answers)
            copied.append(one - two)
    assert (found["macro_auc"].low, found["macro_auc"].high) == pytest.approx(np.percentile(copied, (2.5, 97.5)))


def test_a_head_does_not_differ_from_itself():
    y, p, patients = random_labels()
    answers = p, p >= 0.5
    found = paired_difference(labels(3), y, answers, answers, patients=patients, resamples=20)
    assert set(found.values()) == {Figure(0.0, 0.0, 0.0)}


P2 = np.full((2, 2), 0.5)
ONE, MANY = exclusive(2), labels(2)


@pytest.mark.parametrize(
    ("task", "y", "p", "message"),
    [
        (ONE, np.zeros(0, int), np.zeros((0, 2)), "no rows to evaluate"),
        (ONE, np.zeros(3, int), P2, "do not fit"),
        (ONE, np.zeros(2, int), np.zeros((2, 3)), "do not fit"),
        (ONE, np.zeros((2, 2), int), P2, "do not fit"),
        (MANY, np.zeros(2, int), P2, "do not fit"),
        (ONE, np.array([0, -1]), P2, "leave out the rows that the task does not answer"),
        (ONE, np.array([0, 2]), P2, "only 0 to 1 are classes"),
        (MANY, np.array([[0, 1], [2, 0]]), P2, "hold \\[2\\]: give 1, 0, or -1"),
        (MANY, np.array([[0, 1], [-1, -1]]), P2, "1 rows have no known target"),
        (ONE, np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), "NaN"),
        (ONE, np.array([0, 1]), P2 * 8, "give probabilities, 0 to 1, not raw scores"),
    ],
)
def test_rows_that_can_not_be_compared(task, y, p, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(task, y, p, argmax(p))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"decisions": P2 > 0.1}, "exactly one True in a row"),
        ({"decisions": np.ones((2, 2))}, "give True and False"),
        ({"decisions": np.ones((2, 1), bool)}, "do not fit"),
        ({"patients": np.zeros(3, int)}, "patients of shape \\(3,\\) do not fit"),
        ({"attributes": {"sex": np.array(["F"])}}, "sex of shape \\(1,\\) do not fit"),
        ({"uncalibrated": P2[:1]}, "do not fit"),
        ({"uncalibrated": P2 * np.inf}, "infinite"),
    ],
)
def test_what_does_not_fit_the_rows(told, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(**({"task": ONE, "targets": np.array([0, 1]), "probabilities": P2, "decisions": argmax(P2)} | told))
