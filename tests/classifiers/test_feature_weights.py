"""What a head says that features count is what its scores are made of, whatever kind of head it is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.exceptions import NotFittedError
from small_heads import DIM, QUICK, TASKS, draw, quick

from classifiers.errors import HeadError
from classifiers.estimator import probabilities_of
from classifiers.feature_weights import Weighting, per_feature, scores_of
from classifiers.heads import KINDS, OWN_TOP, make_head

#: Every kind of head, with and without hidden layers: name in KINDS, parameters, where its weights come from.
WEIGHING = {
    "logistic": ("logistic", {}, Weighting.LINEAR),
    "mlp": ("mlp", {}, Weighting.GRADIENT),
    "deep mlp": ("mlp", {"hidden": np.array([16, 8])}, Weighting.GRADIENT),
    "sigmoid mlp": ("mlp", {"hidden": (8, 8), "activation": "sigmoid"}, Weighting.GRADIENT),
    "flat mlp": ("mlp", {"hidden": ()}, Weighting.LINEAR),
    "xgboost": ("xgboost", {}, Weighting.SHAP),
    "own top": (OWN_TOP, {}, Weighting.LINEAR),
    "deep own top": (OWN_TOP, {"hidden": (8,)}, Weighting.GRADIENT),
}
#: float32 features leave no more digits of a score.
NEAR = 1e-3


def own_top(multi_label, k, hidden=()):
    rng = np.random.default_rng(3)
    layers = [
        (rng.normal(scale=fan_in**-0.5, size=(out, fan_in)).astype(np.float32), rng.normal(size=out).astype(np.float32))
        for fan_in, out in pairwise([DIM, *hidden, k])
    ]
    return make_head(OWN_TOP, hidden=hidden).take(layers, np.full(k, 20), multi_label=multi_label)


@pytest.fixture(scope="module")
def make_weighing():
    made = {}

    def make(case, shape):
        if (case, shape) not in made:
            name, params, _ = WEIGHING[case]
            if name == OWN_TOP:
                made[case, shape] = own_top(shape == "labels", len(TASKS[shape].classes), **params)
            else:
                rows = draw(shape, 200)
                made[case, shape] = quick(name, **params).fit(rows.features, rows.targets)
        return made[case, shape]

    return make


@pytest.fixture(params=WEIGHING)
def case(request):
    return request.param


@pytest.fixture
def weighing(make_weighing, case, shape):
    return make_weighing(case, shape)


def cases_of(*weightings):
    return [case for case, (_, _, weighting) in WEIGHING.items() if weighting in weightings]


def added_up(head, X):
    return np.einsum("nkd,nd->nk", np.broadcast_to(w := head.feature_weights(X), (len(X), *w.shape[1:])), X)


def test_every_kind_of_head_is_tested():
    assert {name for name, _, _ in WEIGHING.values()} == set(KINDS) - {"majority"}
    assert set(QUICK) - {"majority"} < {name for name, _, _ in WEIGHING.values()}


# The contract


@pytest.mark.parametrize("n", [1, 5])
def test_there_is_a_weight_for_every_class_and_feature(weighing, case, shape, n):
    assert weighing.weighting is WEIGHING[case][2]
    X = draw(shape, n, seed=1).features
    weights = weighing.feature_weights(X)
    k = len(TASKS[shape].classes)
    assert weights.shape == (1 if weighing.weighting is Weighting.LINEAR else n, k, DIM)
    assert weights.dtype == np.float32
    assert np.isfinite(weights).all()
    assert weights.any(axis=(0, 2)).all()
    scores = weighing.scores(X)
    assert (scores.shape, scores.dtype) == ((n, k), np.float64)
    if shape == "labels":
        p = weighing.predict_proba(X)
        np.testing.assert_allclose(scores, np.log(p / (1 - p)), rtol=1e-3, atol=1e-6)
    else:
        np.testing.assert_allclose(scores.sum(axis=1), 0, atol=1e-9)
        np.testing.assert_allclose(weights.sum(axis=1), 0, atol=1e-5)
        np.testing.assert_array_equal(scores.argmax(axis=1), weighing.predict(X))
    if shape == "two":
        p = weighing.predict_proba(X)
        np.testing.assert_allclose(scores[:, 1] - scores[:, 0], np.log(p[:, 1] / p[:, 0]), atol=1e-6)


@pytest.mark.parametrize("case", cases_of(Weighting.LINEAR, Weighting.SHAP))
def test_weights_times_features_are_the_scores_but_for_a_constant_of_each_class(weighing, shape):
    X = draw(shape, 60, seed=1).features
    rest = weighing.scores(X) - added_up(weighing, X)
    np.testing.assert_allclose(rest, np.broadcast_to(rest.mean(axis=0), rest.shape), atol=NEAR)
    assert np.ptp(weighing.scores(X), axis=0).min() > 100 * NEAR


@pytest.mark.parametrize("case", cases_of(Weighting.GRADIENT))
def test_gradients_are_what_a_small_step_does_to_the_scores(weighing, shape):
    X = draw(shape, 100, seed=1).features
    step = np.random.default_rng(0).normal(scale=1e-2, size=X.shape).astype(np.float32)
    before, after = X - step, X + step
    # Where a ReLU's bend lies between both ends, a step says nothing about the slope.
    bend = np.abs(weighing.feature_weights(after) - weighing.feature_weights(before)).max(axis=(1, 2))
    is_straight = bend < 1e-2
    assert is_straight.mean() > 0.5
    moved = weighing.scores(after) - weighing.scores(before)
    wanted = np.einsum("nkd,nd->nk", weighing.feature_weights(X), after - before)
    np.testing.assert_allclose(moved[is_straight], wanted[is_straight], atol=NEAR)
    assert np.abs(wanted).max() > 5 * NEAR


@pytest.mark.parametrize("case", ["mlp", "deep own top"])
def test_on_one_linear_piece_of_a_network_the_rest_is_constant(weighing, shape):
    X = draw(shape, 20, seed=1).features
    near = X * np.float32(1 + 1e-3)
    weights = weighing.feature_weights(X)
    same = np.isclose(weights, weighing.feature_weights(near)).all(axis=(1, 2))
    assert same.mean() > 0.5
    rest, rest_near = (weighing.scores(rows) - added_up(weighing, rows) for rows in (X, near))
    np.testing.assert_allclose(rest[same], rest_near[same], atol=NEAR)


def test_trees_give_an_absent_feature_no_weight(make_weighing, shape):
    head = make_weighing("xgboost", shape)
    X = draw(shape, 60, seed=1).features
    X[::2, ::2] = 0
    weights = head.feature_weights(X)
    assert not weights.transpose(0, 2, 1)[X == 0].any()
    whole = slice(1, None, 2)
    rest = head.scores(X)[whole] - added_up(head, X)[whole]
    np.testing.assert_allclose(rest, np.broadcast_to(rest[0], rest.shape), atol=NEAR)


@pytest.mark.parametrize("name", sorted(set(QUICK) - {"majority"}))
def test_two_labels_are_no_two_classes(name):
    rows = draw("labels", 200, unknown=0)
    one, other = rows.targets[:, 0], rows.targets[:, 1]
    both = quick(name, balance="none").fit(rows.features, np.column_stack([one, other]))
    weights = both.feature_weights(rows.features[:4])
    assert weights.shape[1:] == (2, DIM)
    assert not np.allclose(weights[:, 0], -weights[:, 1], atol=1e-3 * np.abs(weights).max())


# As every other answer of a head


def test_a_restored_head_gives_the_same_weights(weighing, case, shape):
    X = draw(shape, 20, seed=1).features
    again = make_head(WEIGHING[case][0], **weighing.get_params()).restore(
        weighing.weights_to_files(),
        n_features=DIM,
        n_classes=len(TASKS[shape].classes),
        multi_label=shape == "labels",
    )
    assert again.weighting is weighing.weighting
    np.testing.assert_array_equal(again.feature_weights(X), weighing.feature_weights(X))
    np.testing.assert_array_equal(again.scores(X), weighing.scores(X))


def test_features_are_checked(weighing):
    X = draw("two", 5).features
    with pytest.raises(HeadError, match=r"X has 31 features, .* expecting 32 features"):
        weighing.feature_weights(X[:, :31])
    X[2, 3] = np.nan
    for ask in (weighing.feature_weights, weighing.scores):
        with pytest.raises(HeadError, match="1 of 5 rows of X hold NaN"):
            ask(X)


def test_not_fitted_yet(head):
    for ask in (head.feature_weights, head.scores):
        with pytest.raises(NotFittedError):
            ask(draw("two", 5).features)


def test_the_majority_looks_at_no_feature(shape):
    rows = draw(shape, 100)
    head = quick("majority").fit(rows.features, rows.targets)
    assert head.weighting is None
    with pytest.raises(HeadError, match=r"majority looks at no feature, so nothing in an image speaks .*: choose log"):
        head.feature_weights(rows.features)
    assert np.ptp(head.scores(rows.features), axis=0).max() == 0


# The arithmetic

LOGITS = st.integers(1, 4).flatmap(lambda k: hnp.arrays(np.float64, (3, k), elements=st.floats(-8, 8)))


@given(logits=LOGITS)
def test_a_labels_score_is_its_log_odds(logits):
    p = probabilities_of(logits, multi_label=True)
    np.testing.assert_allclose(scores_of(logits, multi_label=True), np.log(p / (1 - p)), atol=1e-9)


@given(logits=LOGITS, shift=st.floats(-8, 8))
def test_a_classs_score_is_what_probabilities_know_of_its_logit(logits, shift):
    logs = np.log(probabilities_of(logits, multi_label=False))
    scores = scores_of(logits, multi_label=False)
    np.testing.assert_allclose(scores, logs - logs.mean(axis=1, keepdims=True), atol=1e-9)
    if logits.shape[1] > 1:
        np.testing.assert_allclose(scores_of(logits + shift, multi_label=False), scores, atol=1e-9)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(data=st.data(), n=st.integers(1, 3), k=st.integers(1, 3), d=st.integers(1, 4))
def test_contributions_come_back_unless_the_feature_is_absent(data, n, k, d):
    contributions = data.draw(hnp.arrays(np.float32, (n, k, d), elements=FLOATS))
    X = data.draw(hnp.arrays(np.float32, (n, d), elements=FLOATS))
    weights = per_feature(contributions, X)
    assert weights.dtype == np.float32
    wanted, features = contributions.astype(np.float64), np.broadcast_to(X[:, None].astype(np.float64), weights.shape)
    is_there = (features != 0) & (np.abs(wanted) <= 1e30 * np.abs(features))
    assert not weights[~is_there].any()
    # float32 rounds by 1e-7 of a weight, and below its normal numbers by 1e-45.
    off = np.abs(weights * features - wanted)[is_there]
    assert (off <= (1e-6 * np.abs(wanted) + 1e-44 * np.abs(features))[is_there]).all()


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_do_not_end_where_probabilities_round_to_0_and_1(multi_label):
    head = own_top(multi_label, 3)
    head.coefs_[0] *= 100
    X = draw("three", 20, seed=1).features
    assert head.predict_proba(X).min() < 1e-12
    rest = head.scores(X) - added_up(head, X)
    np.testing.assert_allclose(rest, np.broadcast_to(rest.mean(axis=0), rest.shape), atol=100 * NEAR)
