"""The neural head: its settings are those it trains with, and it stops where validation rows say."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.base import clone
from small_heads import DIM, aucs, draw, quick

from classifiers.balance import Balance, rebalance
from classifiers.errors import HeadError
from classifiers.heads import make_head
from classifiers.tasks import UNANSWERED

PRECISE = {"precision": "float32", "dropout": 0.0, "balance": "none"}


def noise(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, DIM)).astype(np.float32), rng.integers(0, 2, n)


def by_hand(head, X):
    """What the stored layers make of standardised features."""
    hidden = (X.astype(np.float64) - head.mean_) / head.scale_
    for coef, intercept in zip(head.coefs_[:-1], head.intercepts_[:-1], strict=True):
        hidden = hidden @ coef.T + intercept
        hidden = np.maximum(hidden, 0) if head.activation == "relu" else 1 / (1 + np.exp(-hidden))
    return hidden @ head.coefs_[-1].T + head.intercepts_[-1]


@cache
def plain_coefs(shape):
    rows = draw(shape, 300)
    return quick("mlp", max_epochs=25).fit(rows.features, rows.targets).coefs_[0]


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_probabilities_are_those_of_the_layers(shape, activation):
    rows = draw(shape, 200)
    head = quick("mlp", activation=activation, hidden=(16, 8)).fit(rows.features, rows.targets)
    scores = by_hand(head, rows.features)
    if shape == "labels":
        wanted = 1 / (1 + np.exp(-scores))
    else:
        wanted = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(rows.features), wanted, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (16, 8), [16], np.array([8])])
def test_a_perceptron_may_have_any_depth(hidden):
    rows = draw("three", 200)
    head = quick("mlp", hidden=hidden).fit(rows.features, rows.targets)
    assert [len(intercept) for intercept in head.intercepts_] == [*hidden, 3]
    assert head.score(rows.features, rows.targets) > 0.8


@pytest.mark.parametrize(
    "params",
    [
        {"activation": "sigmoid"},
        {"optimizer": "sgd", "learning_rate": 0.3},
        {"optimizer": "adam"},
        {"balance": "focal"},
        {"balance": "focal", "focal_gamma": 0.5},
        {"dropout": 0.0},
        {"precision": "float32"},
        {"weight_decay": 0.0},
        {"batch_size": 1000},
    ],
    ids=str,
)
def test_every_setting_learns(shape, params):
    rows, test = draw(shape, 300), draw(shape, 200, seed=1)
    head = quick("mlp", **{"max_epochs": 25} | params).fit(rows.features, rows.targets)
    assert aucs(test, head.predict_proba(test.features)).min() > 0.85
    assert not np.array_equal(head.coefs_[0], plain_coefs(shape))


def test_the_preset_of_vazquez_learns():
    rows, test = draw("two", 400), draw("two", 200, seed=1)
    head = make_head("vazquez_mlp").fit(rows.features, rows.targets)
    assert len(head.learning_curves_["train loss"]) == 60
    assert aucs(test, head.predict_proba(test.features)).min() > 0.85


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_one_step_is_the_optimizers(optimizer, kind, shape):
    """All rows in one batch, no hidden layer: two epochs whose gradient is known."""
    rows = draw(shape, 64)
    settings = PRECISE | {"hidden": (), "batch_size": 64, "weight_decay": 0.1, "optimizer": optimizer}
    start = quick("mlp", **settings | {"max_epochs": 1, "learning_rate": 1e-20}).fit(rows.features, rows.targets)
    ended = quick("mlp", **settings | {"max_epochs": 2, "learning_rate": 0.05}).fit(rows.features, rows.targets)

    coef = torch.tensor(start.coefs_[0], requires_grad=True)
    intercept = torch.tensor(start.intercepts_[0], requires_grad=True)
    steps = kind([coef, intercept], lr=0.05, weight_decay=0.1)
    X, y = torch.tensor((rows.features - start.mean_) / start.scale_), torch.tensor(rows.targets)
    for _ in range(2):
        scores = X @ coef.T + intercept
        if shape == "labels":
            known = y != UNANSWERED
            # A mean over rows, of the known entries' sum: a row of which less is known counts less.
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                scores[known], y[known].float(), reduction="sum"
            ) / len(y)
        else:
            loss = torch.nn.functional.cross_entropy(scores, y)
        steps.zero_grad()
        loss.backward()
        steps.step()
    np.testing.assert_allclose(ended.coefs_[0], coef.detach(), atol=1e-5)
    np.testing.assert_allclose(ended.intercepts_[0], intercept.detach(), atol=1e-5)


def test_focal_loss_without_focus_is_the_log_loss(shape):
    rows = draw(shape, 200, signal=0.4)
    one = quick("mlp", balance="focal", focal_gamma=0.0).fit(rows.features, rows.targets)
    other = quick("mlp", balance="none").fit(rows.features, rows.targets)
    np.testing.assert_allclose(one.predict_proba(rows.features), other.predict_proba(rows.features), atol=1e-3)
    focused = quick("mlp", balance="focal", focal_gamma=4.0).fit(rows.features, rows.targets)
    # What is right already is left alone, so that probabilities stay further from 0 and 1.
    assert (
        np.abs(focused.predict_proba(rows.features) - 0.5).mean()
        < 0.9 * np.abs(one.predict_proba(rows.features) - 0.5).mean()
    )


@pytest.mark.parametrize("shape", ["two", "labels"])
def test_rows_drawn_again_are_trained_on_again(shape):
    """The learning curve is a mean over the rows of a pass, those drawn again included."""
    rows = draw(shape, 200)
    still = {"learning_rate": 1e-20, "max_epochs": 1, "hidden": (), "dropout": 0.0, "precision": "float32"}
    plain = quick("mlp", balance="none", **still).fit(rows.features, rows.targets)
    drawn = quick("mlp", balance="up_sample", **still).fit(rows.features, rows.targets)
    assert plain.balanced_counts_.tolist() != drawn.balanced_counts_.tolist()
    assert plain.learning_curves_ != drawn.learning_curves_


def test_early_stopping_keeps_the_best_epoch():
    (X, y), (X_val, y_val) = noise(120, 0), noise(60, 1)  # nothing to learn
    head = quick("mlp", max_epochs=60, patience=3).fit(X, y, X_val, y_val)
    losses = head.learning_curves_["val loss"]
    assert len(losses) == head.n_epochs_ + 3 < 60
    assert losses[head.n_epochs_ - 1] == min(losses)
    # The best epoch's weights are those that training for just so long gives.
    short = clone(head).set_params(max_epochs=head.n_epochs_).fit(X, y)
    np.testing.assert_array_equal(short.predict_proba(X_val), head.predict_proba(X_val))
    assert short.n_epochs_ == len(short.learning_curves_["train loss"]) == head.n_epochs_


def test_patience_is_how_long_it_waits():
    (X, y), (X_val, y_val) = noise(120, 0), noise(60, 1)
    for patience in (1, 5):
        head = quick("mlp", max_epochs=60, patience=patience).fit(X, y, X_val, y_val)
        assert len(head.learning_curves_["val loss"]) == head.n_epochs_ + patience
    assert len(quick("mlp", max_epochs=25, patience=2).fit(X, y).learning_curves_["train loss"]) == 25


@pytest.mark.parametrize("balance", ["none", "class_weight", "over_sample"])
def test_the_validation_loss_is_the_log_loss_with_classes_counting_as_in_train(shape, balance):
    rows, val = draw(shape, 200), draw(shape, 100, seed=1)
    head = quick("mlp", **PRECISE | {"balance": balance}, max_epochs=3, learning_rate=1e-3)
    head.fit(rows.features, rows.targets, val.features, val.targets)
    assert head.n_epochs_ == 3
    p, y = head.predict_proba(val.features), val.targets
    # What a negative and a positive, or a row of each class, counts in train after balancing.
    if shape == "labels":
        drawn = rows.targets[rebalance(rows.features, rows.targets, Balance(balance), 0).rows]
        before, after = (np.array([(each == value).sum(axis=0) for value in (0, 1)]) for each in (rows.targets, drawn))
        weigh = (after if balance == "over_sample" else before.sum(axis=0) / 2) / before
        weigh = np.ones((2, 3)) if balance == "none" else weigh
        entries = weigh[1] * (y == 1) * np.log(p) + weigh[0] * (y == 0) * np.log(1 - p)
        loss = -entries.sum(axis=1).mean()
    else:
        before = np.bincount(rows.targets)
        after = {"none": before, "class_weight": 200 / len(before), "over_sample": before.max()}[balance]
        loss = -((after / before)[y] * np.log(p[np.arange(100), y])).mean()
    assert head.learning_curves_["val loss"][-1] == pytest.approx(loss, rel=1e-4)


def test_half_precision_is_near_the_whole():
    rows, test = draw("labels", 400), draw("labels", 300, seed=1)
    half, whole = (
        aucs(test, quick("mlp", precision=each).fit(rows.features, rows.targets).predict_proba(test.features))
        for each in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(half, whole, atol=0.01)


def test_training_that_diverges_says_so(shape):
    rows = draw(shape, 60)
    with pytest.raises(HeadError, match=r"diverged .* lower it"):
        quick("mlp", learning_rate=1e30).fit(rows.features, rows.targets)
