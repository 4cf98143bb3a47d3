"""Calibration: probabilities that come true, whose order is kept, and that are the same when read again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from classifiers.calibration import FEWEST, Calibration, Calibrator, fit_calibrator
from classifiers.errors import EvaluationError, HeadError
from classifiers.tasks import Rule, Task, get_task

FITTED = ["temperature", "platt", "isotonic"]
BINARY, THREE = get_task("binary"), get_task("three_class")
LABELS = get_task("chestxray14")


def labels(*names: str) -> Task:
    return Task("labels", tuple(Rule(name, any=(name,)) for name in names), multi_label=True)


def fit(method: str, task: Task, y, p) -> Calibrator:
    return fit_calibrator(Calibration(method), task, np.asarray(y), np.asarray(p, dtype=float))


def fit_one_label(method: str, y, p) -> Calibrator:
    return fit(method, labels("mass"), np.asarray(y)[:, None], np.asarray(p, dtype=float)[:, None])


def draw_labels(n: int, *, slope: float = 1, offset: float = 0, seed: int = 0, k: int = 14):
    """Targets of labels, rare ones among them, and probabilities whose log-odds are stretched and shifted."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(np.linspace(-4, 0, k), 1.5, size=(n, k))
    y = (rng.random((n, k)) < expit(log_odds)).astype(np.int8)
    return y, expit(slope * log_odds + offset)


def draw_classes(k: int, n: int, *, slope: float = 1, offset: float = 0, seed: int = 0):
    """Targets of classes that are ever rarer, and probabilities stretched, and shifted towards the rare ones."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-0.7 * np.arange(k), 1.5, size=(n, k))
    y = (rng.random((n, 1)) > softmax(scores, axis=1).cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    return y, softmax(slope * scores + offset * np.arange(k), axis=1)


def draw(task: Task, n: int, **kwargs):
    return draw_labels(n, **kwargs) if task.multi_label else draw_classes(len(task.classes), n, **kwargs)


def truths(task: Task, y: np.ndarray) -> np.ndarray:
    return y == 1 if task.multi_label else y[:, None] == np.arange(len(task.classes))


def log_loss(truth: np.ndarray, p: np.ndarray) -> float:
    return float(-np.log(np.where(truth, p, 1 - p).clip(1e-9)).mean())


def brier(truth: np.ndarray, p: np.ndarray) -> float:
    return float(((truth - p) ** 2).mean())


def calibration_error(truth: np.ndarray, p: np.ndarray) -> float:
    """Expected calibration error over ten bins, mean over classes."""
    bins = (p * 10).astype(int).clip(0, 9)
    gaps = [abs((truth - p)[:, c][bins[:, c] == b].sum()) for c in range(p.shape[1]) for b in range(10)]
    return sum(gaps) / p.size


# --- what it is for


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("task", [BINARY, THREE, LABELS], ids=lambda task: task.name)
def test_weighted_over_confident_heads_come_true_on_new_rows(method, task):
    skew = {"slope": 2.5, "offset": 1.5}
    calibrator = fit(method, task, *draw(task, 6000, seed=1, **skew))
    y, p = draw(task, 12000, seed=2, **skew)
    truth, calibrated = truths(task, y), calibrator(p)
    gains = {score: score(truth, p) - score(truth, calibrated) for score in (log_loss, brier, calibration_error)}
    assert min(gains.values()) > 0.01
    if method != "temperature":  # which can't shift
        assert calibration_error(truth, calibrated) < 0.2 * calibration_error(truth, p)


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize("task", [BINARY, THREE, LABELS], ids=lambda task: task.name)
def test_what_comes_true_already_stays(method, task):
    calibrator = fit(method, task, *draw(task, 6000, seed=1))
    y, p = draw(task, 12000, seed=2)
    assert np.abs(calibrator(p) - p).mean() < 0.02
    assert log_loss(truths(task, y), calibrator(p)) < log_loss(truths(task, y), p) + 0.01


# --- what is fitted


def test_platt_finds_slope_and_offset_of_each_label():
    calibrator = fit("platt", LABELS, *draw_labels(40000, slope=2, offset=1))
    # log-odds = (distorted - 1) / 2
    assert calibrator.slopes == pytest.approx([0.5] * 14, rel=0.08)
    assert calibrator.offsets == pytest.approx([-0.5] * 14, abs=0.15)


def test_platt_of_three_classes_finds_slope_and_offsets():
    calibrator = fit("platt", THREE, *draw_classes(3, 40000, slope=2, offset=1))
    assert calibrator.slopes == pytest.approx([0.5] * 3, rel=0.05)
    assert np.diff(calibrator.offsets) == pytest.approx([-0.5, -0.5], abs=0.08)


def test_temperatures_are_found():
    assert fit("temperature", LABELS, *draw_labels(40000, slope=3)).slopes == pytest.approx([1 / 3] * 14, rel=0.05)
    calibrator = fit("temperature", THREE, *draw_classes(3, 40000, slope=3))
    assert calibrator.slopes == pytest.approx([1 / 3] * 3, rel=0.05)
    assert calibrator.offsets == (0, 0, 0)


def test_platt_is_logistic_regression_on_smoothed_targets():
    y, p = draw_labels(300, slope=2, offset=1, k=1)
    high, low = (y.sum() + 1) / (y.sum() + 2), 1 / ((1 - y).sum() + 2)
    wanted = np.where(y == 1, high, low)[:, 0]
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        logit(np.vstack([p, p])), np.repeat([1, 0], 300), sample_weight=np.append(wanted, 1 - wanted)
    )
    expected = peer.predict_proba(logit(p))[:, 1]
    assert fit("platt", labels("mass"), y, p)(p)[:, 0] == pytest.approx(expected, abs=1e-5)
    exclusive = np.hstack([1 - p, p])
    assert fit("platt", BINARY, y[:, 0], exclusive)(exclusive)[:, 1] == pytest.approx(expected, abs=1e-5)


def test_isotonic_is_scikit_learns():
    y, p = draw_labels(500, slope=2, offset=1, k=1)
    new = np.linspace(0, 1, 1001)
    peer = IsotonicRegression(out_of_bounds="clip").fit(p[:, 0], y[:, 0])
    assert fit("isotonic", labels("mass"), y, p)(new[:, None])[:, 0] == pytest.approx(peer.predict(new), abs=1e-12)


@pytest.mark.parametrize("method", FITTED)
def test_two_exclusive_classes_are_calibrated_as_one_label_is(method):
    y, p = draw_classes(2, 400, slope=2, offset=1)
    label = fit_one_label(method, y, p[:, 1])(p[:, 1:])[:, 0]
    assert fit(method, BINARY, y, p)(p)[:, 1] == pytest.approx(label, abs=1e-6)


# --- what holds for any rows

SKEW = {"slope": st.floats(0.2, 5), "offset": st.floats(-3, 3), "seed": st.integers(0, 2**16)}


@given(st.sampled_from(FITTED), st.sampled_from([BINARY, THREE]), st.integers(1, 60), st.fixed_dictionaries(SKEW))
def test_rows_of_exclusive_classes_add_up_to_one(method, task, n, skew):
    calibrator = fit(method, task, *draw(task, n, **skew))
    p = np.vstack([draw(task, 200, **skew)[1], np.eye(len(task.classes))])
    calibrated = calibrator(p)
    assert calibrated.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert calibrated.min() >= 0
    assert calibrated.dtype == np.float64


@given(st.sampled_from(FITTED), st.integers(1, 60), st.booleans(), st.fixed_dictionaries(SKEW))
def test_the_order_of_a_label_is_never_reversed(method, n, reverse, skew):
    y, p = draw_labels(n, k=3, **skew)
    calibrator = fit(method, labels("mass", "nodule", "hernia"), 1 - y if reverse else y, p)
    calibrated = calibrator(np.tile(np.linspace(0, 1, 2001)[:, None], 3))
    assert calibrated.min() >= 0
    assert calibrated.max() <= 1
    steps = np.diff(calibrated, axis=0)
    assert (steps >= 0).all()
    if method != "isotonic":
        told_apart = calibrated[1:] < 1 - 1e-9  # nearer to 1 there are no numbers left
        assert (steps[told_apart] > 0).all()


@given(
    st.sampled_from(["none", *FITTED]),
    st.sampled_from([BINARY, THREE, LABELS]),
    st.integers(1, 60),
    st.fixed_dictionaries(SKEW),
)
def test_what_is_read_again_gives_the_same_probabilities_to_the_last_bit(method, task, n, skew):
    calibrator = fit(method, task, *draw(task, n, **skew))
    again = Calibrator.from_dict(json.loads(json.dumps(calibrator.as_dict())))
    p = draw(task, 200, **skew)[1]
    assert again == calibrator
    assert np.array_equal(again(p), calibrator(p))


@pytest.mark.parametrize("method", FITTED)
def test_a_fit_is_the_same_every_time_and_a_batch_does_not_matter(method):
    y, p = draw_labels(300, slope=2)
    calibrator = fit(method, LABELS, y, p)
    assert fit(method, LABELS, y, p) == calibrator
    assert calibrator(p[:7]) == pytest.approx(calibrator(p)[:7], rel=1e-14)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_the_auc_stays_even_of_a_reversed_label(method):
    y, p = draw_labels(2000, slope=2, offset=1, k=1)
    for truth in (y, 1 - y):
        calibrated = fit(method, labels("mass"), truth, p)(p)
        assert roc_auc_score(truth, calibrated) == pytest.approx(roc_auc_score(truth, p), abs=1e-12)


def test_given_probabilities_are_not_changed():
    y, p = draw_labels(300)
    before = p.copy()
    for method in ["none", *FITTED]:
        fit(method, LABELS, y, p)(p)[:] = 0
    assert np.array_equal(p, before)


# --- what val does not tell


@pytest.mark.parametrize("method", FITTED)
def test_a_label_without_both_answers_is_left_as_it_is_and_told(method):
    y, p = draw_labels(300, slope=2, k=3)
    y[:, 1], y[:, 2] = 0, np.where(y[:, 2] == 1, 1, -1)
    calibrator = fit(method, labels("mass", "nodule", "hernia"), y, p)
    assert calibrator.left_out == ("nodule", "hernia")
    assert np.array_equal(calibrator(p)[:, 1:], p[:, 1:])
    assert not np.allclose(calibrator(p)[:, 0], p[:, 0])
    assert "nodule, hernia" in calibrator.describe().partition("NOT calibrated")[2]


@pytest.mark.parametrize("method", FITTED)
def test_a_class_that_val_lacks_keeps_its_share_and_is_told(method):
    y, p = draw_classes(3, 3000, slope=2)
    seen = y < 2
    calibrator = fit(method, THREE, y[seen], p[seen])
    calibrated = calibrator(p)
    assert calibrator.left_out == ("bacterial",)
    assert calibrated.sum(axis=1) == pytest.approx(1)
    assert calibrated[~seen, 2].mean() > 0.3  # fitted on rows without it, its probability would be next to nothing


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_a_class_that_val_lacks_shares_the_temperature_and_is_not_shifted(method):
    y, p = draw_classes(3, 3000, slope=2, offset=1)
    calibrator = fit(method, THREE, y[y < 2], p[y < 2])

    def against_the_others(p: np.ndarray) -> np.ndarray:
        return np.log(p[:, 2]) - np.log(p[:, :2]).mean(axis=1)

    assert calibrator.slopes[0] < 0.7
    assert against_the_others(calibrator(p)) == pytest.approx(calibrator.slopes[0] * against_the_others(p))


@pytest.mark.parametrize("method", FITTED)
def test_val_of_one_class_changes_nothing(method):
    _, p = draw_classes(3, 50)
    calibrator = fit(method, THREE, np.zeros(50, int), p)
    assert calibrator.left_out == THREE.classes
    assert np.array_equal(calibrator(p), p)


@pytest.mark.parametrize("method", FITTED)
def test_what_is_not_known_does_not_count(method):
    y, p = draw_labels(300)
    y[np.random.default_rng(3).random(y.shape) < 0.2] = -1
    assert fit(method, LABELS, y, p) == fit(method, LABELS, y, np.where(y == -1, 0.123, p))
    y, p = draw_classes(3, 300)
    unanswered = fit(method, THREE, np.append(y, [-1] * 9), np.vstack([p, np.full((9, 3), 1 / 3)]))
    assert unanswered == fit(method, THREE, y, p)


# --- edges


def test_perfect_order_stays_short_of_certainty():
    y, p = [0] * 20 + [1] * 20, [0.1] * 20 + [0.9] * 20
    for method in ("temperature", "platt"):
        calibrated = fit_one_label(method, y, p)(np.array([[0.1], [0.9]]))
        assert calibrated[:, 0] == pytest.approx([1 / 22, 21 / 22], abs=1e-6)


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.filterwarnings("error")
def test_zeros_and_ones_are_taken(method):
    y = np.array([0, 1] * 20)
    p = np.where(np.arange(40) < 30, y, 1 - y).astype(float)
    calibrated = fit_one_label(method, y, p)(np.array([[0.0], [1e-300], [1.0]]))
    assert calibrated[:, 0] == pytest.approx([0.25, 0.25, 0.75], abs=0.03)
    exclusive = np.column_stack([1 - p, p])
    assert fit(method, BINARY, y, exclusive)(exclusive).sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_one_probability_for_all_becomes_the_share_of_val(method):
    y = np.array([1] * 100 + [0] * 900)
    assert fit_one_label(method, y, np.full(1000, 0.5))(np.array([[0.5]])) == pytest.approx(0.1, abs=0.002)


def test_a_row_that_isotonic_regression_gives_nothing_keeps_its_own():
    # Each class is absent up to 0.4 and certain at 0.5, so that thirds are nothing for all three.
    p = np.array([[0.5, 0.4, 0.1], [0.1, 0.5, 0.4], [0.4, 0.1, 0.5]])
    calibrator = fit("isotonic", THREE, [0, 1, 2] * FEWEST, np.tile(p, (FEWEST, 1)))
    assert calibrator(np.vstack([p, np.full(3, 1 / 3)])) == pytest.approx(np.vstack([np.eye(3), np.full(3, 1 / 3)]))


@pytest.mark.parametrize("method", FITTED)
def test_a_class_of_a_few_rows_is_left_as_it_is(method):
    y, p = draw_labels(400)
    y[np.flatnonzero(y[:, 0] == 1)[FEWEST - 1 :], 0] = 0
    calibrator = fit(method, LABELS, y, p)
    assert LABELS.classes[0] in calibrator.left_out
    assert np.array_equal(calibrator(p)[:, 0], p[:, 0])


def test_without_calibration_the_heads_own_probabilities_stay():
    calibrator = fit_calibrator(Calibration.NONE, LABELS, None, None)
    p = draw_labels(20)[1].astype(np.float32)
    assert np.array_equal(calibrator(p), p)
    assert calibrator.describe().startswith("not calibrated")


@pytest.mark.parametrize("method", FITTED)
def test_calibration_without_val_is_refused(method):
    with pytest.raises(HeadError, match="give val rows, or set calibration none"):
        fit_calibrator(Calibration(method), LABELS, None, None)


def test_val_that_does_not_fit_is_refused():
    with pytest.raises(EvaluationError, match="do not fit"):
        fit("platt", BINARY, [0, 1, 1], [[0.5, 0.5]])
    with pytest.raises(EvaluationError, match="labels of task 'chestxray14'"):
        fit("platt", LABELS, [0], [[0.5] * 14])


@pytest.mark.parametrize("wrong", [{}, {"method": "guess", "knots": None}, {"knots": 3, "method": "none"}])
def test_anything_else_is_not_read(wrong):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Calibrator.from_dict(wrong)


def test_a_description_tells_what_was_fitted():
    y, p = draw_labels(2000)
    for method in FITTED:
        told = fit(method, LABELS, y, p).describe()
        assert told.startswith(f"{method} on val: Atelectasis ")
        assert all(name in told for name in LABELS.classes)
    y, p = draw_classes(3, 3000, slope=2)
    assert fit("temperature", THREE, y, p).describe().startswith(("temperature on val: 2.", "temperature on val: 1.9"))
    assert all(name in fit("platt", THREE, y, p).describe() for name in THREE.classes)
