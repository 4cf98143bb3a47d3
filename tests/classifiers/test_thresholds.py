"""Thresholds: rules against brute force, targets reached on val, decisions, and what is told where val can't choose."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from classifiers.errors import EvaluationError, HeadError
from classifiers.tasks import Rule, Task, get_task
from classifiers.thresholds import ThresholdRule, Thresholds, choose_thresholds

VAL_RULES = {"best_f1": None, "youden": None, "sensitivity": 0.9, "precision": 0.3}
#: Those that three exclusive classes can follow: none of them would reach a target.
RULES_OF_THREE = {"best_f1": None, "youden": None}
BINARY, THREE = get_task("binary"), get_task("three_class")
LABELS = get_task("chestxray14")
GRID = [0.0, 1e-12, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 1.0]


def labels(*names: str) -> Task:
    return Task("labels", tuple(Rule(name, any=(name,)) for name in names), multi_label=True)


def choose(rule: str, task: Task, y, p, value: float | None = None) -> Thresholds:
    return choose_thresholds(ThresholdRule(rule), value, task, np.asarray(y), np.asarray(p, dtype=float))


def of_one_label(rule: str, y, p, value: float | None = None) -> Thresholds:
    return choose(rule, labels("mass"), np.asarray(y)[:, None], np.asarray(p, dtype=float)[:, None], value)


def draw_labels(n: int = 3000, seed: int = 0):
    """Targets of the 14 labels, rare ones among them and a tenth unknown, and probabilities that rank them well."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(np.linspace(-4, 0, 14), 2, size=(n, 14))
    y = (rng.random((n, 14)) < expit(logits)).astype(np.int8)
    y[rng.random((n, 14)) < 0.1] = -1
    return y, expit(logits + rng.normal(size=(n, 14)))


def draw_classes(k: int, n: int = 600, seed: int = 0):
    """Targets of k classes, each a third as frequent as the one before, and probabilities that know it."""
    rng = np.random.default_rng(seed)
    shares = 3.0 ** -np.arange(k) / (3.0 ** -np.arange(k)).sum()
    y = rng.choice(k, n, p=shares)
    scores = shares * np.exp(1.5 * (np.arange(k) == y[:, None]) + rng.normal(size=(n, k)))
    return y, scores / scores.sum(axis=1, keepdims=True)


# --- the rules, against every level there is


def every_cut(y: np.ndarray, p: np.ndarray) -> list[np.ndarray]:
    """What each level between 0 and 1 would decide, fewest first."""
    levels = {*p[(p > 0) & (p < 1)], np.nextafter(1, 0), np.nextafter(0, 1)}
    return [decided for level in sorted(levels, reverse=True) if (decided := p >= level).any()]


def merit(rule: str, y: np.ndarray, decided: np.ndarray) -> Fraction:
    tp, fp = int((decided & (y == 1)).sum()), int((decided & (y == 0)).sum())
    positives, negatives = int((y == 1).sum()), int((y == 0).sum())
    return {
        "best_f1": lambda: Fraction(2 * tp, tp + fp + positives),
        "youden": lambda: Fraction(tp, positives) - Fraction(fp, negatives),
        "sensitivity": lambda: Fraction(tp, positives),
        "precision": lambda: Fraction(tp, tp + fp),
    }[rule]()


def by_brute_force(rule: str, value: Fraction | None, y: np.ndarray, p: np.ndarray) -> np.ndarray | None:
    """The rows that the rule must decide on val; None where val can't tell."""
    if not (y == 1).any() or (rule != "sensitivity" and not (y == 0).any()):
        return None
    cuts = every_cut(y, p)
    merits = [merit(rule, y, cut) for cut in cuts]
    if value is None:
        return cuts[merits.index(max(merits))] if merits and max(merits) > 0 else None
    reached = [cut for cut, found in zip(cuts, merits, strict=True) if found >= value]
    if not reached:
        return None
    return reached[0] if rule == "sensitivity" else reached[-1]


@given(
    st.sampled_from([(rule, None if value is None else 10) for rule, value in VAL_RULES.items()]),
    st.integers(1, 10),
    st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(GRID) | st.floats(0, 1)), min_size=1, max_size=25),
)
def test_a_rule_finds_what_trying_every_level_finds(rule, tenths, rows):
    (name, tens), (y, p) = rule, map(np.array, zip(*rows, strict=True))
    chosen = of_one_label(name, y, p, None if tens is None else tenths / tens)
    expected = by_brute_force(name, None if tens is None else Fraction(tenths, tens), y, p)
    (level,) = chosen.levels
    assert 0 < level < 1
    if expected is None:
        assert (level, chosen.defaulted) == (0.5, ("mass",))
    else:
        assert not chosen.defaulted
        assert chosen.decide(p[:, None], p[:, None])[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rule", "value", "level"),
    [
        ("best_f1", None, 0.35),
        ("youden", None, 0.7),
        ("sensitivity", 0.6, 0.7),
        ("sensitivity", 1.0, 0.35),
        ("precision", 0.75, 0.35),
        ("precision", 0.8, 0.7),
        ("precision", 0.3, 0.05),
    ],
)
def test_levels_lie_half_way_between_probabilities(rule, value, level):
    chosen = of_one_label(rule, [0, 0, 1, 0, 1, 1], [0.1, 0.3, 0.4, 0.6, 0.8, 0.9], value)
    assert chosen.levels == pytest.approx((level,))


@pytest.mark.parametrize(("rule", "value"), VAL_RULES.items())
def test_rounded_probabilities_are_decided_alike(rule, value):
    y, p = draw_labels()
    p = (p * 1000).round() / 1000
    chosen = choose(rule, LABELS, y, p, value)
    rounded, known = p.astype(np.float32), y >= 0
    assert np.array_equal(chosen.decide(rounded, rounded)[known], chosen.decide(p, p)[known])


@pytest.mark.parametrize("at", [0.3, 0.5, 1.0 - 2**-52])
def test_neighbouring_numbers_are_told_apart(at):
    p = np.array([np.nextafter(at, 0), at])
    chosen = of_one_label("youden", [0, 1], p)
    assert not chosen.defaulted
    assert chosen.decide(p[:, None], p[:, None])[:, 0].tolist() == [False, True]


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95, 1.0])
def test_targets_are_reached_on_val_label_by_label(target):
    y, p = draw_labels()
    by_recall = choose("sensitivity", LABELS, y, p, target).decide(p, p)
    chosen = choose("precision", LABELS, y, p, target)
    by_precision = chosen.decide(p, p)
    assert len(chosen.defaulted) < 14
    for place, name in enumerate(LABELS.classes):
        known, positive = y[:, place] >= 0, y[:, place] == 1
        assert by_recall[positive, place].mean() >= target
        if name not in chosen.defaulted:
            assert positive[known & by_precision[:, place]].mean() >= target


@pytest.mark.parametrize(("rule", "value"), VAL_RULES.items())
def test_what_is_not_known_does_not_count(rule, value):
    y, p = draw_labels(500)
    strange = np.where(y == -1, np.random.default_rng(1).random(y.shape), p)
    assert choose(rule, LABELS, y, p, value) == choose(rule, LABELS, y, strange, value)
    y, p = draw_classes(2)
    unanswered = choose(rule, BINARY, np.append(y, [-1] * 50), np.vstack([p, np.full((50, 2), 1 / 2)]), value)
    assert unanswered == choose(rule, BINARY, y, p, value)


# --- what val can't decide


@pytest.mark.parametrize(
    ("rule", "value", "y", "p"),
    [
        ("best_f1", None, [0, 0], [0.2, 0.9]),
        ("best_f1", None, [1, 1], [0.2, 0.9]),
        ("youden", None, [1, 1], [0.2, 0.9]),
        ("youden", None, [1, 0], [0.2, 0.9]),
        ("youden", None, [1, 0], [0.4, 0.4]),
        ("youden", None, [-1, -1], [0.2, 0.9]),
        ("sensitivity", 0.9, [0, 0], [0.2, 0.9]),
        ("sensitivity", 1.0, [1, 1], [0.0, 0.9]),
        ("precision", 0.6, [1, 0], [0.2, 0.9]),
        ("precision", 0.6, [1, 1], [0.2, 0.9]),
    ],
)
def test_what_val_can_not_decide_is_set_to_half_and_told(rule, value, y, p):
    task = labels("mass", "hernia")
    y, p = np.column_stack([[1, 0] * 5, y * 5]), np.column_stack([[0.8, 0.3] * 5, p * 5])
    chosen = choose(rule, task, y, p, value)
    assert chosen.defaulted == ("hernia",)
    assert chosen.levels[1] == 0.5
    assert chosen.levels[0] == pytest.approx(0.15 if value == 0.3 else 0.55)
    assert "hernia 0.5" in chosen.describe().partition("no level found on val")[2]


def test_sensitivity_needs_positives_only():
    assert of_one_label("sensitivity", [1, 1], [0.2, 0.9], 1.0).levels == (0.1,)


@pytest.mark.parametrize("rule", ["sensitivity", "precision"])
def test_of_three_classes_none_would_reach_a_target(rule):
    y, p = draw_classes(3)
    with pytest.raises(HeadError, match="choose argmax, youden or best_f1"):
        choose(rule, THREE, y, p, 0.9)


def test_of_three_classes_the_one_that_val_lacks_weighs_as_the_others_do():
    y, p = draw_classes(3)
    y, p = y[y < 2], p[y < 2]
    chosen = choose("youden", THREE, y, p)
    assert chosen.defaulted == ("bacterial",)
    assert chosen.levels[2] == pytest.approx(np.sqrt(chosen.levels[0] * chosen.levels[1]))


def test_two_classes_have_one_level_that_may_be_undecided():
    chosen = choose("best_f1", BINARY, [0, 0], [[0.8, 0.2], [0.6, 0.4]])
    assert (chosen.levels, chosen.defaulted) == ((0.5, 0.5), ("pneumonia",))


# --- decisions


def test_argmax_looks_at_the_heads_own_probabilities():
    chosen = choose_thresholds(ThresholdRule.ARGMAX, None, THREE, None, None)
    own = np.array([[0.5, 0.3, 0.2], [0.1, 0.45, 0.45]])
    assert chosen.decide(own[:, ::-1], own).tolist() == [[True, False, False], [False, True, False]]
    assert (chosen.levels, chosen.chosen_on, chosen.defaulted) == (None, None, ())


def test_of_two_classes_the_last_is_decided_at_its_level_or_above():
    chosen = choose_thresholds(ThresholdRule.FIXED, 0.2, BINARY, None, None)
    assert chosen.levels == (0.8, 0.2)
    p = np.array([0.0, np.nextafter(0.2, 0), 0.2, 0.5, 1.0])
    decided = chosen.decide(np.column_stack([1 - p, p]), np.full((5, 2), 0.5))
    assert decided[:, 1].tolist() == [False, False, True, True, True]
    assert (decided.sum(axis=1) == 1).all()


@pytest.mark.parametrize(("rule", "value"), VAL_RULES.items())
def test_two_exclusive_classes_are_decided_as_one_label_is(rule, value):
    y, p = draw_classes(2)
    chosen, label = choose(rule, BINARY, y, p, value), of_one_label(rule, y, p[:, 1], value)
    assert chosen.levels[1] == label.levels[0]
    assert sum(chosen.levels) == 1
    assert np.array_equal(chosen.decide(p, p)[:, 1], label.decide(p[:, 1:], p[:, 1:])[:, 0])


def test_of_three_classes_the_largest_multiple_of_a_level_is_decided():
    chosen = Thresholds(ThresholdRule.YOUDEN, None, (0.5, 0.25, 0.125), False, "val", (), THREE.classes)
    p = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.4, 0.5, 0.1], [0.5, 0.25, 0.125], [0.0, 0.0, 0.0]])
    assert chosen.decide(p, p).argmax(axis=1).tolist() == [0, 2, 1, 0, 0]
    assert (chosen.decide(p, p).sum(axis=1) == 1).all()


@pytest.mark.parametrize(("rule", "value"), RULES_OF_THREE.items())
def test_one_of_three_classes_is_decided_by_every_rule(rule, value):
    y, p = draw_classes(3)
    chosen = choose(rule, THREE, y, p, value)
    assert all(0 < level < 1 for level in chosen.levels)
    assert (chosen.decide(p, p).sum(axis=1) == 1).all()


def test_moved_thresholds_find_the_rare_class_more_often():
    y, p = draw_classes(3, 3000)
    moved = choose("youden", THREE, y, p).decide(p, p)
    by_argmax = choose_thresholds(ThresholdRule.ARGMAX, None, THREE, None, None).decide(p, p)
    recalls = [[decided[y == c, c].mean() for c in range(3)] for decided in (moved, by_argmax)]
    assert recalls[0][2] > recalls[1][2] + 0.2
    assert np.mean(recalls[0]) > np.mean(recalls[1]) + 0.05


def test_a_fixed_level_holds_for_every_label():
    chosen = choose_thresholds(ThresholdRule.FIXED, None, LABELS, None, None)
    assert (chosen.value, chosen.levels, chosen.chosen_on) == (0.5, (0.5,) * 14, None)
    assert chosen.decide(np.full((1, 14), 0.5, np.float32), np.zeros((1, 14))).all()


# --- what is refused


@pytest.mark.parametrize(
    ("rule", "value", "task", "told"),
    [
        ("argmax", None, LABELS, "best_f1 with val or fixed without"),
        ("argmax", 0.5, BINARY, "leave the value out"),
        ("best_f1", 0.5, LABELS, "leave the value out"),
        ("fixed", 0.0, LABELS, "give a value between 0 and 1"),
        ("fixed", 1.0, BINARY, "give a value between 0 and 1"),
        ("fixed", float("nan"), BINARY, "give a value between 0 and 1"),
        ("sensitivity", None, LABELS, "give the recall to reach on val"),
        ("sensitivity", 0.0, LABELS, "above 0 and at most 1"),
        ("precision", 1.1, LABELS, "give the precision to reach on val"),
        ("best_f1", None, LABELS, "give val rows, or choose threshold fixed"),
        ("youden", None, BINARY, "give val rows, or choose threshold argmax or fixed"),
    ],
)
def test_mistakes_are_told_with_their_remedy(rule, value, task, told):
    with pytest.raises(HeadError, match=told):
        choose_thresholds(ThresholdRule(rule), value, task, None, None)


@pytest.mark.parametrize(
    ("y", "p", "told"),
    [
        ([0, 1], [[0.5, 0.5]], "do not fit"),
        ([[0, 1], [1, 0]], [[0.5, 0.5]] * 2, "give them as its `targets` does"),
        ([0, 2], [[0.5, 0.5]] * 2, "where 0 to 1 are answers"),
        ([0, -2], [[0.5, 0.5]] * 2, "where 0 to 1 are answers"),
        ([0, 1], [[np.nan, 0.5]] * 2, "NaN"),
        ([0, 1], [[-3.0, 3.0]] * 2, "not raw scores"),
    ],
)
def test_val_that_does_not_fit_is_refused(y, p, told):
    with pytest.raises(EvaluationError, match=told):
        choose("youden", BINARY, y, p)


# --- stored and told


@pytest.mark.parametrize(
    ("task", "rule", "value"),
    [
        (task, rule, value)
        for task in (BINARY, THREE, LABELS)
        for rule, value in [("fixed", 0.2), *VAL_RULES.items()]
        if task is not THREE or rule in ("fixed", *RULES_OF_THREE)
    ],
)
def test_what_is_read_again_decides_alike(rule, value, task):
    y, p = draw_labels(400) if task.multi_label else draw_classes(len(task.classes))
    chosen = choose(rule, task, y, p, value)
    again = Thresholds.from_dict(json.loads(json.dumps(chosen.as_dict())))
    assert again == chosen
    assert np.array_equal(again.decide(p, p), chosen.decide(p, p))


def test_argmax_is_read_again():
    chosen = choose_thresholds(ThresholdRule.ARGMAX, None, BINARY, None, None)
    assert Thresholds.from_dict(json.loads(json.dumps(chosen.as_dict()))) == chosen


@pytest.mark.parametrize("wrong", [{}, {"rule": "argmax"}, {"rule": "guess", "levels": None}])
def test_anything_else_is_not_read(wrong):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Thresholds.from_dict(wrong)


def test_a_description_tells_rule_split_and_levels():
    y, p = draw_labels(400)
    told = choose("best_f1", LABELS, y, p).describe()
    assert told.startswith("best F1 on val: Atelectasis 0.")
    assert all(name in told for name in LABELS.classes)
    assert choose("sensitivity", BINARY, [0, 1], [[0.9, 0.1], [0.5, 0.5]], 0.95).describe() == (
        "recall of at least 0.95 on val: pneumonia 0.3"
    )
    fixed = {
        task.name: choose_thresholds(ThresholdRule.FIXED, 0.2, task, None, None) for task in (BINARY, THREE, LABELS)
    }
    assert fixed["binary"].describe() == "fixed for pneumonia: 0.2"
    assert fixed["chestxray14"].describe() == "fixed for every label: 0.2"
    assert "as the highest probability does" in fixed["three_class"].describe()
