"""Logistic regression ends where scikit-learn's does, however its classes are balanced and its features lie."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from small_heads import DIM, draw

from classifiers.balance import Balance, entry_weights, rebalance
from classifiers.linear import LogisticHead
from classifiers.tasks import UNANSWERED

#: float32 features leave no more digits; another weight or penalty moves answers by hundredths.
NEAR = 2e-3
CLASSES = ["two", "three"]


def solved(**params) -> LogisticHead:
    return LogisticHead(**{"tol": 1e-6, "max_iter": 1000} | params)


class Double:
    """Standardisation over some rows, in double precision."""

    def __init__(self, X):
        self._scaler = StandardScaler().fit(X.astype(np.float64))

    def __call__(self, X):
        return self._scaler.transform(X.astype(np.float64))


def scikit_learns(C: float, **params) -> LogisticRegression:
    return LogisticRegression(C=C, tol=1e-9, max_iter=10_000, **params)


@pytest.mark.parametrize("shape", CLASSES)
@pytest.mark.parametrize("C", [1e-3, 0.1, 1])
@pytest.mark.parametrize(("balance", "class_weight"), [("none", None), ("class_weight", "balanced")])
def test_classes_are_scikit_learns(shape, C, balance, class_weight):
    rows, test = draw(shape, 300, signal=0.5), draw(shape, 100, seed=1, signal=0.5)
    scaled = Double(rows.features)
    theirs = scikit_learns(C, class_weight=class_weight).fit(scaled(rows.features), rows.targets)
    ours = solved(C=C, balance=balance).fit(rows.features, rows.targets)
    np.testing.assert_allclose(
        ours.predict_proba(test.features), theirs.predict_proba(scaled(test.features)), atol=NEAR
    )
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    np.testing.assert_allclose(ours.mean_, rows.features.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("C", [1e-3, 0.1, 1])
@pytest.mark.parametrize("balance", ["none", "class_weight"])
def test_a_label_is_scikit_learns_of_its_known_rows(C, balance):
    """On features standardised over all rows, for those are there whether a label is known of them or not."""
    rows = draw("labels", 300, signal=0.5, unknown=0.3)
    X = Double(rows.features)(rows.features)
    ours = solved(C=C, balance=balance).fit(rows.features, rows.targets)
    p = ours.predict_proba(rows.features)
    for label, y in enumerate(rows.targets.T):
        known = y != UNANSWERED
        class_weight = "balanced" if balance == "class_weight" else None
        theirs = scikit_learns(C, class_weight=class_weight).fit(X[known], y[known])
        np.testing.assert_allclose(p[:, label], theirs.predict_proba(X)[:, 1], atol=NEAR)


@pytest.mark.parametrize("shape", CLASSES)
@pytest.mark.parametrize("balance", [Balance.OVER_SAMPLE, Balance.UNDER_SAMPLE, Balance.SMOTE])
def test_rows_drawn_again_count_again(shape, balance):
    """Rows are weighed by how often they are drawn, never copied; the answer is that of the copies."""
    rows = draw(shape, 200, signal=0.5)
    drawn = rebalance(rows.features, rows.targets, balance, 3)
    X, y = rows.features[drawn.rows], rows.targets[drawn.rows]
    if drawn.extra_X is not None:
        X, y = np.concatenate([X, drawn.extra_X]), np.concatenate([y, drawn.extra_y])
    scaled = Double(X)
    theirs = scikit_learns(0.1).fit(scaled(X), y)
    ours = solved(C=0.1, balance=balance.value, random_state=3).fit(rows.features, rows.targets)
    np.testing.assert_allclose(
        ours.predict_proba(rows.features), theirs.predict_proba(scaled(rows.features)), atol=NEAR
    )
    assert ours.balanced_counts_.tolist() == np.bincount(y).tolist()


def test_labels_drawn_again_count_again():
    rows = draw("labels", 200, signal=0.5)
    drawn = rebalance(rows.features, rows.targets, Balance.UP_SAMPLE, 3).rows
    assert len(drawn) > 250
    copied = solved(C=0.1, balance="none").fit(rows.features[drawn], rows.targets[drawn])
    ours = solved(C=0.1, balance="up_sample", random_state=3).fit(rows.features, rows.targets)
    np.testing.assert_allclose(ours.predict_proba(rows.features), copied.predict_proba(rows.features), atol=NEAR)


@pytest.mark.parametrize("shape", [*CLASSES, "labels"])
def test_the_default_tolerance_is_near_the_optimum(shape):
    rows = draw(shape, 300, signal=0.5)
    default, exact = (head.fit(rows.features, rows.targets) for head in (LogisticHead(), solved()))
    np.testing.assert_allclose(default.predict_proba(rows.features), exact.predict_proba(rows.features), atol=5e-3)
    assert default.n_iter_ < 30
    assert len(default.learning_curves_["train loss"]) == default.n_iter_
    assert np.diff(exact.learning_curves_["train loss"]).max() < 1e-6


def test_the_train_loss_is_the_penalised_mean_log_loss():
    rows = draw("two", 300, signal=0.5)
    head = solved(C=0.1).fit(rows.features, rows.targets)
    weights = entry_weights(rows.targets, 2)
    p = head.predict_proba(rows.features)[np.arange(300), rows.targets]
    loss = (-np.log(p) * weights).sum() / 300 + (head.coef_**2).sum() / (2 * 0.1 * 300)
    assert head.learning_curves_["train loss"][-1] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("shape", ["two", "labels"])
def test_features_that_are_copies_and_of_every_size_do_not_hinder(shape):
    rows = draw(shape, 300, signal=0.5)
    X = np.hstack(
        [rows.features, rows.features[:, :8], rows.features * 1e4, rows.features * 1e-4 + 1, np.ones((300, 2))]
    )
    head = LogisticHead().fit(X.astype(np.float32), rows.targets)
    assert head.n_iter_ < 60
    plain = LogisticHead().fit(rows.features, rows.targets)
    assert head.score(X, rows.targets) > plain.score(rows.features, rows.targets) - 0.05


def test_more_features_than_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 10 * DIM)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)
    ours = solved(C=0.1, balance="none").fit(X, y)
    scaled = Double(X)(X)
    theirs = scikit_learns(0.1).fit(scaled, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(scaled), atol=NEAR)
