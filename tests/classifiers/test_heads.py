from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from small_heads import DIM, QUICK

from classifiers.errors import HeadError
from classifiers.heads import HEADS, make_head

LEARNERS = [name for name in QUICK if name != "majority"]


def quick(name, **params):
    return make_head(name, **(QUICK[name] | params))


def test_scikit_learn_takes_it_for_one_of_its_own(head):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(head, on_fail=None, on_skip=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert not failed
    assert len(results) > 40


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("with_val", [False, True])
def test_it_learns_and_gives_probabilities(head, head_name, draw, classes, with_val):
    train, test = draw(300, classes), draw(150, classes, seed=9)
    val = draw(60, classes, seed=5)
    assert head.fit(train.features, train.targets, *((val.features, val.targets) if with_val else ())) is head
    p = head.predict_proba(test.features)
    assert p.shape == (150, classes)
    assert p.dtype == np.float64
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert head.classes_.tolist() == list(range(classes))
    assert np.array_equal(head.predict(test.features), p.argmax(axis=1))
    if head_name == "majority":
        np.testing.assert_allclose(p, np.tile(np.bincount(train.targets) / 300, (150, 1)))
    else:
        assert balanced_accuracy_score(test.targets, head.predict(test.features)) > 0.8


def test_any_labels_do(head, draw):
    rows = draw(200)
    names = np.array(["viral", "bacterial", "normal"])[rows.targets]
    head.fit(rows.features, names)
    assert head.classes_.tolist() == ["bacterial", "normal", "viral"]
    assert set(head.predict(rows.features)) <= set(names)
    assert head.score(rows.features, names) > 0.5


@pytest.mark.parametrize("name", LEARNERS)
def test_clone_grid_search_and_pipeline(name, draw):
    rows = draw(150)
    head = quick(name)
    assert clone(head).get_params() == head.get_params()
    search = GridSearchCV(head, {"balance": ["class_weight", "none"]}, cv=2, error_score="raise")
    assert search.fit(rows.features, rows.targets).best_score_ > 0.6
    pipe = make_pipeline(PCA(8, random_state=0), quick(name))
    assert cross_val_score(pipe, rows.features, rows.targets, cv=2, error_score="raise").min() > 0.6


def test_frames_keep_their_columns(head, draw):
    rows = draw(120)
    frame = pd.DataFrame(rows.features, columns=[f"f{i}" for i in range(DIM)])
    head.fit(frame, rows.targets)
    np.testing.assert_array_equal(head.predict_proba(frame), head.predict_proba(frame.copy()))
    with pytest.raises(ValueError, match="feature names"):
        head.predict_proba(frame[frame.columns[::-1]])


@pytest.mark.parametrize("with_val", [False, True])
def test_the_same_fit_gives_the_same_bytes(head, draw, with_val):
    rows, val = draw(200), draw(60, seed=3)
    held_out = (val.features, val.targets) if with_val else ()
    first = clone(head).fit(rows.features, rows.targets, *held_out).weights_to_bytes()
    torch.rand(3), np.random.rand(3)  # chance from outside changes nothing
    assert head.fit(rows.features, rows.targets, *held_out).weights_to_bytes() == first
    head.predict_proba(val.features)
    assert head.weights_to_bytes() == first
    assert b"pickle" not in first


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_the_seed_matters(name, draw):
    rows = draw(200)
    weights = {quick(name, random_state=s).fit(rows.features, rows.targets).weights_to_bytes() for s in (0, 1)}
    assert len(weights) == 2


def test_global_random_state_is_left_alone(head, draw):
    rows = draw(100)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    head.fit(rows.features, rows.targets, rows.features, rows.targets)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_batching_does_not_matter(head, draw):
    rows = draw(4_200)  # beyond one chunk
    head.fit(rows.features[:200], rows.targets[:200])
    whole = head.predict_proba(rows.features)
    parts = np.concatenate([head.predict_proba(part) for part in np.array_split(rows.features, 7)])
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    shuffled = np.random.default_rng(0).permutation(len(whole))
    np.testing.assert_allclose(head.predict_proba(rows.features[shuffled]), whole[shuffled], atol=1e-6)


@pytest.mark.parametrize("name", LEARNERS)
def test_balance_helps_the_rare_class(name):
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.06).astype(np.int64)
    X = (rng.normal(size=(600, DIM)) + 0.35 * y[:, None]).astype(np.float32)
    rare = {b: quick(name, balance=b).fit(X, y).predict_proba(X)[:, 1].mean() for b in ("class_weight", "none")}
    assert rare["class_weight"] > rare["none"]


def test_constant_features_are_harmless(head, draw):
    rows = draw(120)
    rows.features[:, :4] = 3
    p = head.fit(rows.features, rows.targets).predict_proba(rows.features)
    assert np.isfinite(p).all()


# Validation rows


def test_early_stopping_keeps_the_best_round(draw):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, DIM)).astype(np.float32), rng.integers(0, 2, 120)  # nothing to learn but noise
    X_val, y_val = rng.normal(size=(60, DIM)).astype(np.float32), rng.integers(0, 2, 60)
    mlp = quick("mlp", max_epochs=60, patience=3).fit(X, y, X_val, y_val)
    assert mlp.n_epochs_ < 57
    assert quick("mlp", max_epochs=60).fit(X, y).n_epochs_ == 60
    # The best epoch's weights are those that training for just so long gives.
    short = quick("mlp", max_epochs=mlp.n_epochs_).fit(X, y)
    np.testing.assert_array_equal(short.predict_proba(X_val), mlp.predict_proba(X_val))

    trees = quick("xgboost", n_estimators=100, early_stopping_rounds=3)
    stopped = clone(trees).fit(X, y, X_val, y_val)
    rounds = stopped.booster_.num_boosted_rounds()
    assert rounds < 97
    short = quick("xgboost", n_estimators=rounds).fit(X, y)
    np.testing.assert_array_equal(short.predict_proba(X_val), stopped.predict_proba(X_val))
    # One round fewer, or three more, would do worse on the rows that were watched.
    losses = [
        log_loss(y_val, quick("xgboost", n_estimators=n).fit(X, y).predict_proba(X_val))
        for n in range(max(1, rounds - 1), rounds + 4)
    ]
    assert min(losses) == pytest.approx(log_loss(y_val, stopped.predict_proba(X_val)))
    assert trees.fit(X, y).booster_.num_boosted_rounds() == 100


@pytest.mark.parametrize("name", ["majority", "logistic"])
def test_heads_that_do_not_stop_early_ignore_validation_rows(name, draw):
    rows, val = draw(100), draw(40, seed=1)
    alone = quick(name).fit(rows.features, rows.targets).weights_to_bytes()
    assert quick(name).fit(rows.features, rows.targets, val.features, val.targets).weights_to_bytes() == alone


# Errors name the cause and the remedy


def spoilt(X, value):
    X = X.copy()
    X[[1, 5], 3] = value
    return X


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(head, draw, value):
    rows = draw(60)
    message = "2 of 60 rows of X hold NaN or inf.*leave those rows out"
    with pytest.raises(HeadError, match=message):
        head.fit(spoilt(rows.features, value), rows.targets)
    head.fit(rows.features, rows.targets)
    with pytest.raises(HeadError, match=message):
        head.predict_proba(spoilt(rows.features, value))
    with pytest.raises(HeadError, match="rows of X_val hold NaN"):
        head.fit(rows.features, rows.targets, spoilt(rows.features, value), rows.targets)


def test_values_beyond_float32(head, draw):
    rows = draw(60)
    with pytest.raises(HeadError, match=r"1 of 60 rows of X hold .*beyond float32"):
        head.fit(np.vstack([np.full(DIM, 1e300), rows.features[1:]]), rows.targets)


def test_wrong_number_of_features_names_both(head, draw):
    rows = draw(60)
    head.fit(rows.features, rows.targets)
    with pytest.raises(HeadError, match=r"X has 31 features, .* expecting 32 features.*fit the head anew"):
        head.predict_proba(rows.features[:, :31])
    with pytest.raises(HeadError, match="31 features"):
        head.fit(rows.features, rows.targets, rows.features[:, :31], rows.targets)


@pytest.mark.parametrize("label", [2, "viral"])
def test_a_single_class_is_named(head, draw, label):
    rows = draw(60)
    with pytest.raises(HeadError, match=f"one class only, {label!r}: a head needs rows of two classes"):
        head.fit(rows.features, np.full(60, label))


def test_lengths_that_differ(head, draw):
    rows = draw(60)
    with pytest.raises(HeadError, match="60 rows of features and 59 labels in y: give one label per row"):
        head.fit(rows.features, rows.targets[:59])


def test_validation_rows_that_do_not_serve(head, draw):
    rows = draw(60)
    with pytest.raises(HeadError, match="give both, or neither"):
        head.fit(rows.features, rows.targets, X_val=rows.features)
    with pytest.raises(HeadError, match=r"y_val holds \[3\], which y does not"):
        head.fit(rows.features, rows.targets, rows.features, np.where(rows.targets == 0, 3, 1))


def test_not_fitted_yet(head, draw):
    with pytest.raises(NotFittedError):
        head.predict_proba(draw(10).features)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("logistic", {"C": -1.0}, "'C' parameter of LogisticHead must be a float in the range"),
        ("majority", {"balance": "oversample"}, "'balance' parameter of MajorityHead must be a str among"),
        ("mlp", {"dropout": 1.0}, "'dropout' parameter of MLPHead must be a float in the range"),
        ("mlp", {"hidden": 16}, "'hidden' parameter of MLPHead must be an array-like"),
        ("mlp", {"hidden": (16, 0)}, r"hidden is \[16, 0\]: give whole numbers above 0"),
        ("mlp", {"hidden": (1.5,)}, "give whole numbers above 0"),
        ("mlp", {"random_state": None}, "'random_state' parameter"),
        ("xgboost", {"subsample": 1.5}, "'subsample' parameter"),
        ("xgboost", {"n_jobs": -1}, "'n_jobs' parameter"),
    ],
)
def test_parameters_out_of_range(name, params, message, draw):
    rows = draw(60)
    with pytest.raises(HeadError, match=message):
        quick(name, **params).fit(rows.features, rows.targets)


def test_training_that_diverges_says_so(draw):
    rows = draw(60)
    with pytest.raises(HeadError, match=r"diverged .* lower it"):
        quick("mlp", learning_rate=1e30).fit(rows.features, rows.targets)


def test_a_perceptron_may_have_any_depth(draw):
    rows = draw(200)
    for hidden in ((), (16, 8), [16], np.array([8])):
        head = quick("mlp", hidden=hidden).fit(rows.features, rows.targets)
        assert [len(b) for b in head.intercepts_] == [*hidden, 3]
        assert head.score(rows.features, rows.targets) > 0.8


# The registry


@pytest.mark.parametrize("name", HEADS)
def test_every_head_shares_the_common_parameters(name):
    params = make_head(name).get_params()
    assert params["balance"] == "class_weight"
    assert params["random_state"] == 0


def test_unknown_head_names_the_known_ones():
    with pytest.raises(HeadError, match="unknown head 'svm': choose one of majority, logistic, mlp, xgboost"):
        make_head("svm")


def test_unknown_parameter_names_the_known_ones():
    with pytest.raises(HeadError, match="head 'logistic' has no parameter alpha, l1: it takes C, balance, max_iter"):
        make_head("logistic", alpha=1, C=1.0, l1=2)


# What is stored


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_restore_reproduces_every_bit(name, classes, draw):
    rows = draw(200, classes)
    head = quick(name).fit(rows.features, rows.targets)
    weights = head.weights_to_bytes()
    again = quick(name).restore(weights, n_features=DIM, n_classes=classes)
    np.testing.assert_array_equal(again.predict_proba(rows.features), head.predict_proba(rows.features))
    assert again.weights_to_bytes() == weights


@pytest.mark.parametrize("name", HEADS)
def test_restore_refuses_what_is_not_its_own(name, draw):
    rows = draw(100)
    weights = quick(name).fit(rows.features, rows.targets).weights_to_bytes()
    # XGBoost ends the process on bytes that are cut, so TrainedHead compares hashes before it comes to this.
    cut = () if name == "xgboost" else (b"", weights[: len(weights) // 2])
    for damaged in (b"nonsense", *cut):
        with pytest.raises(HeadError, match="copy the head anew"):
            quick(name).restore(damaged, n_features=DIM, n_classes=3)
    sizes = {"n_features": DIM, "n_classes": 4} if name == "majority" else {"n_features": DIM + 1, "n_classes": 3}
    with pytest.raises(HeadError, match="belong to different heads"):
        quick(name).restore(weights, **sizes)
