"""The tree head: XGBoost as it is, a booster per label, stopped where validation rows say, on disk or on a GPU."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import xgboost
from sklearn.base import clone
from sklearn.metrics import log_loss
from small_heads import DIM, aucs, draw, quick

from classifiers.balance import entry_weights
from classifiers.errors import HeadError
from classifiers.tasks import UNANSWERED

ROUNDS = 8


def trees(**params):
    return quick("xgboost", **params)


@pytest.mark.parametrize("balance", ["none", "class_weight"])
def test_it_is_xgboost_called_directly(shape, balance):
    rows, test = draw(shape, 300), draw(shape, 100, seed=1).features
    head = trees(balance=balance, n_estimators=ROUNDS).fit(rows.features, rows.targets)
    k = 3 if shape != "two" else 2
    params = {
        **{"tree_method": "hist", "max_depth": 4, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.5, "nthread": 1},
        **({"objective": "multi:softprob", "num_class": 3} if shape == "three" else {"objective": "binary:logistic"}),
    }

    def direct(X, y, weight):
        matrix = xgboost.QuantileDMatrix(X, nthread=1)
        matrix.set_info(label=y, weight=weight)  # behind the bins, which are those of the features alone
        return xgboost.train(params, matrix, ROUNDS).inplace_predict(test)

    weigh = entry_weights if balance == "class_weight" else lambda y, k: (y != UNANSWERED).astype(np.float32)
    weights = weigh(rows.targets, k)
    if shape == "labels":
        columns = [direct(rows.features, y == 1, w) for y, w in zip(rows.targets.T, weights.T, strict=True)]
        wanted = np.column_stack(columns)
    else:
        wanted = direct(rows.features, rows.targets, weights)
        wanted = np.column_stack([1 - wanted, wanted]) if shape == "two" else wanted
    np.testing.assert_allclose(head.predict_proba(test), wanted, atol=1e-6)


def test_labels_have_a_booster_each_and_classes_one(shape):
    rows = draw(shape, 200)
    head = trees().fit(rows.features, rows.targets)
    assert len(head.boosters_) == (3 if shape == "labels" else 1)
    names = [f"label-00{i}.ubj" for i in range(3)] if shape == "labels" else ["model.ubj"]
    assert list(head.weights_to_files()) == names


def test_early_stopping_keeps_the_best_round():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, DIM)).astype(np.float32), rng.integers(0, 2, 120)  # nothing to learn
    X_val, y_val = rng.normal(size=(60, DIM)).astype(np.float32), rng.integers(0, 2, 60)
    head = trees(n_estimators=100, early_stopping_rounds=3, balance="none")
    stopped = clone(head).fit(X, y, X_val, y_val)
    rounds = stopped.boosters_[0].num_boosted_rounds()
    losses = stopped.learning_curves_["val loss"]
    assert len(losses) == rounds + 3 < 100
    assert losses[rounds - 1] == min(losses)
    assert min(losses) == pytest.approx(log_loss(y_val, stopped.predict_proba(X_val)))
    short = trees(n_estimators=rounds, balance="none").fit(X, y)
    np.testing.assert_array_equal(short.predict_proba(X_val), stopped.predict_proba(X_val))
    assert head.fit(X, y).boosters_[0].num_boosted_rounds() == 100


def test_every_label_stops_at_a_round_of_its_own():
    rows, val = draw("labels", 300), draw("labels", 100, seed=1)
    rows.targets[:, 0] = np.random.default_rng(0).integers(0, 2, 300)  # nothing to learn of the first
    head = trees(n_estimators=80, early_stopping_rounds=3).fit(rows.features, rows.targets, val.features, val.targets)
    rounds = [booster.num_boosted_rounds() for booster in head.boosters_]
    assert rounds[0] < min(rounds[1:])
    # The curve is a mean over labels and as long as the longest of them ran.
    assert len(head.learning_curves_["val loss"]) >= max(rounds)
    for label, booster in enumerate(head.boosters_):
        alone = trees(n_estimators=rounds[label]).fit(rows.features, rows.targets).boosters_[label]
        np.testing.assert_array_equal(alone.inplace_predict(val.features), booster.inplace_predict(val.features))


def test_a_label_that_no_validation_row_knows_is_boosted_to_the_end():
    rows, val = draw("labels", 300), draw("labels", 100, seed=1)
    val.targets[:, 1] = UNANSWERED
    head = trees(early_stopping_rounds=2).fit(rows.features, rows.targets, val.features, val.targets)
    assert head.boosters_[1].num_boosted_rounds() == 15
    alone = trees().fit(rows.features, rows.targets)
    test = draw("labels", 100, seed=2).features
    np.testing.assert_array_equal(head.predict_proba(test)[:, 1], alone.predict_proba(test)[:, 1])


def test_threads_change_nothing(shape):
    rows = draw(shape, 300)
    one, two = (trees(n_jobs=n).fit(rows.features, rows.targets).predict_proba(rows.features) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_mapped_features_are_binned_on_disk_and_leave_nothing_there(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(cache))
    boost, there = xgboost.train, []

    def watched(*args, **kwargs):
        there.extend(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        return boost(*args, **kwargs)

    monkeypatch.setattr(xgboost, "train", watched)
    rows = draw("labels", 300)
    rows.features.tofile(tmp_path / "features")
    X = np.memmap(tmp_path / "features", np.float32, "r", shape=rows.features.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trees().fit(X, rows.targets, X, rows.targets)
    assert max(there) >= rows.features.size  # a byte a value at least
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_gpu_that_is_not_there_is_told():
    rows = draw("two", 60)
    with pytest.raises(HeadError, match="device=cuda, and XGBoost finds no CUDA device here: say device=cpu"):
        trees(device="cuda").fit(rows.features, rows.targets)


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_answers_within_noise(shape, tmp_path):
    rows, val, test = draw(shape, 600), draw(shape, 100, seed=1), draw(shape, 300, seed=2)
    rows.features.tofile(tmp_path / "features")
    X = np.memmap(tmp_path / "features", np.float32, "r", shape=rows.features.shape)
    on_cpu = trees().fit(rows.features, rows.targets, val.features, val.targets)
    wanted = aucs(test, on_cpu.predict_proba(test.features))
    for features in (rows.features, X):
        head = trees(device="cuda").fit(features, rows.targets, val.features, val.targets)
        found = head.predict_proba(test.features)
        np.testing.assert_allclose(aucs(test, found), wanted, atol=0.03)
        # Whoever scores need not have one.
        sizes = {"n_features": DIM, "n_classes": len(head.classes_), "multi_label": head.multi_label_}
        again = trees().restore(head.weights_to_files(), **sizes)
        np.testing.assert_allclose(again.predict_proba(test.features), found, atol=1e-5)
