"""What every head does: it learns, masks, is told what it must not be fed, and comes back from its files as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from small_heads import DIM, LEARNERS, QUICK, aucs, draw, quick

from classifiers.balance import Balance, rebalance
from classifiers.errors import HeadError
from classifiers.heads import HEADS, PRESETS, head_names, make_head
from classifiers.mlp import MLPHead
from classifiers.tasks import UNANSWERED

#: Ways of balancing that a head does not know: every head but mlp the focal loss, none SMOTE of labels.
FOCAL_IS = "mlp"


def fit(head, rows, val=None, **options):
    held_out = () if val is None else (val.features, val.targets)
    return head.fit(rows.features, rows.targets, *held_out, **options)


def fitted(name, rows, val=None, **params):
    return fit(quick(name, **params), rows, val)


def mapped(X, folder, mode="r"):
    path = folder / f"features-{mode}"
    X.tofile(path)
    return np.memmap(path, np.float32, mode, shape=X.shape)


# Learning


@pytest.mark.parametrize("with_val", [False, True])
def test_it_learns_and_gives_probabilities(head, head_name, shape, with_val):
    train, val, test = draw(shape, 300), draw(shape, 80, seed=5), draw(shape, 200, seed=9)
    k = 3 if shape == "labels" else train.targets.max() + 1
    assert fit(head, train, val if with_val else None) is head
    p = head.predict_proba(test.features)
    assert p.shape == (200, k)
    assert p.dtype == np.float64
    assert ((p >= 0) & (p <= 1)).all()
    assert head.classes_.tolist() == list(range(k))
    assert head.multi_label_ == (shape == "labels")
    assert head.n_features_in_ == DIM
    if shape == "labels":
        assert np.array_equal(head.predict(test.features), p >= 0.5)
        assert head.balanced_counts_.tolist() == (train.targets == 1).sum(axis=0).tolist()
    else:
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
        assert np.array_equal(head.predict(test.features), p.argmax(axis=1))
        assert head.balanced_counts_.tolist() == np.bincount(train.targets).tolist()
    if head_name == "majority":
        assert (aucs(test, p) == 0.5).all()
    else:
        assert aucs(test, p).min() > 0.85


@pytest.mark.parametrize("name", LEARNERS)
def test_learning_curves_fall_and_tell_of_validation_rows_if_there_are_any(name, shape):
    train, val = draw(shape, 300), draw(shape, 80, seed=5)
    alone, watched = fitted(name, train).learning_curves_, fitted(name, train, val).learning_curves_
    assert set(alone) == {"train loss"}
    assert set(watched) == ({"train loss"} if name == "logistic" else {"train loss", "val loss"})
    for curve in (*alone.values(), *watched.values()):
        assert all(isinstance(value, float) for value in curve)
        assert min(curve) < curve[0]
    assert len({len(curve) for curve in watched.values()}) == 1


def test_the_majority_head_gives_the_shares_of_what_is_known(shape):
    train = draw(shape, 300)
    p = fitted("majority", train).predict_proba(train.features[:5])
    y = train.targets
    shares = np.nanmean(np.where(y == UNANSWERED, np.nan, y), axis=0) if y.ndim == 2 else np.bincount(y) / 300
    np.testing.assert_allclose(p, np.tile(shares, (5, 1)))


def test_any_labels_do(head):
    rows = draw("three", 200)
    names = np.array(["viral", "bacterial", "normal"])[rows.targets]
    head.fit(rows.features, names)
    assert head.classes_.tolist() == ["bacterial", "normal", "viral"]
    assert set(head.predict(rows.features)) <= set(names)
    assert head.score(rows.features, names) > 0.5


def test_a_single_label_of_its_own_is_what_is_said_of_it(head_name):
    """One column of 1, 0 and unknown is a question; scikit-learn takes it for classes, so it has to be said."""
    rows = draw("labels", 300)
    y = rows.targets[:, :1]
    head = quick(head_name).fit(rows.features, y, multi_label=True)
    p = head.predict_proba(rows.features)
    assert p.shape == (300, 1)
    again = quick(head_name).restore(head.weights_to_files(), n_features=DIM, n_classes=1, multi_label=True)
    assert np.array_equal(again.predict_proba(rows.features), p)
    assert head_name == "majority" or head.score(rows.features, y) > 0.85


def test_constant_features_are_harmless(head, shape):
    rows = draw(shape, 150)
    rows.features[:, :4] = 3
    assert np.isfinite(fit(head, rows).predict_proba(rows.features)).all()


def test_a_score_is_the_share_of_known_entries_that_are_right(head):
    rows = draw("labels", 150)
    fit(head, rows)
    known, is_right = rows.targets != UNANSWERED, head.predict(rows.features) == rows.targets
    assert head.score(rows.features, rows.targets) == pytest.approx(is_right[known].mean())
    weights = np.arange(150) % 3
    wanted = (is_right * known * weights[:, None]).sum() / (known * weights[:, None]).sum()
    assert head.score(rows.features, rows.targets, weights) == pytest.approx(wanted)


# Balance


@pytest.mark.parametrize("balance", [each.value for each in Balance])
def test_every_head_follows_every_balance_or_says_why_not(head_name, shape, balance):
    train, val, test = draw(shape, 300), draw(shape, 80, seed=1), draw(shape, 200, seed=2)
    head = quick(head_name, balance=balance)
    if balance == "focal" and head_name != FOCAL_IS:
        with pytest.raises(HeadError, match=r"balance=focal is not for .*the mlp head's; choose one of class_weight, "):
            fit(head, train)
        return
    if balance == "smote" and shape == "labels":
        with pytest.raises(HeadError, match=r"balance=smote is for single-label tasks: .* choose balance=up_sample"):
            fit(head, train)
        return
    fit(head, train, val)
    counts = rebalance(train.features, train.targets, Balance(balance), 0).counts
    assert head.balanced_counts_.tolist() == counts.tolist()
    if head_name != "majority":
        assert aucs(test, head.predict_proba(test.features)).min() > 0.8


@pytest.mark.parametrize("shape", ["two", "labels"])
@pytest.mark.parametrize("balance", ["class_weight", "over_sample", "up_sample", "under_sample", "smote"])
@pytest.mark.parametrize("name", LEARNERS)
def test_balance_helps_the_rare_class(name, balance, shape):
    if (balance, shape) == ("smote", "labels"):
        return
    rng = np.random.default_rng(0)
    truth = rng.random((800, 2)) < [0.05, 0.5]
    X = (rng.normal(size=(800, DIM)) + 0.35 * truth[:, :1] - 0.3 * truth[:, 1:]).astype(np.float32)
    y = truth.astype(np.int8) if shape == "labels" else truth[:, 0].astype(np.int64)
    column = 0 if shape == "labels" else 1
    plain, balanced = (
        quick(name, balance=each).fit(X, y).predict_proba(X)[:, column].mean() for each in ("none", balance)
    )
    # Label sets move by a quarter of the rows at most, so that those rules do less than weights.
    assert balanced > plain * (1.02 if shape == "labels" and balance.endswith("er_sample") else 1.3)


def test_balancing_that_takes_a_labels_last_negatives_is_refused(head_name):
    """Under-sampling looks at what rows show, and may leave out the few that are known not to show a label."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, DIM)).astype(np.float32)
    y = np.column_stack([np.zeros(600), np.full(600, UNANSWERED)]).astype(np.int8)
    y[:150, 0], y[:20, 1], y[400, 1] = 1, 1, 0
    outcomes = set()
    short = {"mlp": {"max_epochs": 1}, "xgboost": {"n_estimators": 1}}.get(head_name, {})
    for seed in range(12):
        head = quick(head_name, balance="under_sample", random_state=seed, **short)
        try:
            assert 0 < head.fit(X, y).predict_proba(X)[:, 1].mean() < 1
            outcomes.add("fitted")
        except HeadError as error:
            assert "balance=under_sample leaves no negative row in train for the labels in columns [1]" in str(error)
            outcomes.add("refused")
    assert outcomes == {"fitted", "refused"}


# What is not known does not count


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("balance", ["none", "class_weight"])
def test_features_of_rows_whose_target_is_not_known_do_not_matter(name, balance):
    """They are swapped among each other, so that mean and scale of the features stay as they are."""
    rows, test = draw("labels", 400, unknown=0.3), draw("labels", 100, seed=1).features
    # Without a hidden layer the labels of mlp share nothing; with one they share the layer.
    own = {"mlp": {"hidden": (), "precision": "float32"}, "logistic": {"tol": 1e-6, "max_iter": 1000}}
    params = {"balance": balance} | own.get(name, {})
    for label in range(3):
        masked = np.flatnonzero(rows.targets[:, label] == UNANSWERED)
        swapped = rows.features.copy()
        swapped[masked] = rows.features[np.roll(masked, 1)]
        one = quick(name, **params).fit(rows.features, rows.targets).predict_proba(test)
        other = quick(name, **params).fit(swapped, rows.targets).predict_proba(test)
        np.testing.assert_allclose(other[:, label], one[:, label], atol=5e-4)
        assert name == "majority" or np.abs(other - one).max() > 0.02  # the other labels did look at them


@pytest.mark.parametrize("name", ["majority", "logistic", "xgboost"])
def test_a_label_is_not_moved_by_what_is_known_of_others(name):
    rows, test = draw("labels", 400), draw("labels", 100, seed=1).features
    masked = rows.targets.copy()
    masked[::2, 1:] = UNANSWERED
    params = {} if name != "logistic" else {"tol": 1e-6, "max_iter": 1000}
    one = quick(name, **params).fit(rows.features, rows.targets).predict_proba(test)
    other = quick(name, **params).fit(rows.features, masked).predict_proba(test)
    np.testing.assert_allclose(other[:, 0], one[:, 0], atol=1e-4)
    assert (np.abs(other[:, 1:] - one[:, 1:]).max(axis=0) > 1e-3).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_rows_that_are_wholly_unknown_are_taken(name):
    rows, test = draw("labels", 300), draw("labels", 200, seed=1)
    rows.targets[::10] = UNANSWERED
    assert aucs(test, fitted(name, rows).predict_proba(test.features)).min() > 0.85


# Chance


@pytest.mark.parametrize("with_val", [False, True])
def test_the_same_fit_gives_the_same_bytes(head, shape, with_val):
    rows, val = draw(shape, 200), draw(shape, 60, seed=3) if with_val else None
    first = fit(clone(head), rows, val).weights_to_files()
    torch.rand(3), np.random.rand(3)  # chance from outside changes nothing
    assert fit(head, rows, val).weights_to_files() == first
    head.predict_proba(rows.features)
    assert head.weights_to_files() == first
    assert not any(b"pickle" in content for content in first.values())


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_the_seed_matters(name, shape):
    rows = draw(shape, 200)
    one, other = (fitted(name, rows, random_state=seed).weights_to_files() for seed in (0, 1))
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_global_random_state_is_left_alone(head):
    rows = draw("three", 100)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit(head, rows, rows)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_batching_does_not_matter(head, shape):
    rows = draw(shape, 4_200)  # beyond one block
    head.fit(rows.features[:200], rows.targets[:200])
    whole = head.predict_proba(rows.features)
    parts = np.concatenate([head.predict_proba(part) for part in np.array_split(rows.features, 7)])
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    shuffled = np.random.default_rng(0).permutation(len(whole))
    np.testing.assert_allclose(head.predict_proba(rows.features[shuffled]), whole[shuffled], atol=1e-6)


# Features on a disk


def test_features_mapped_from_a_file_give_the_same_answers(head_name, shape, tmp_path):
    rows, val, test = draw(shape, 4_500), draw(shape, 200, seed=1), draw(shape, 300, seed=2)
    head = quick(head_name, **({"max_epochs": 2} if head_name == "mlp" else {}))
    answers = fit(clone(head), rows, val).predict_proba(test.features)
    X = mapped(rows.features, tmp_path)
    head.fit(X, rows.targets, val.features, val.targets)
    found = head.predict_proba(test.features)
    if head_name == "xgboost":  # bins are drawn from a sketch, block by block
        np.testing.assert_allclose(aucs(test, found), aucs(test, answers), atol=0.02)
    else:
        np.testing.assert_array_equal(found, answers)
    np.testing.assert_array_equal(head.predict_proba(X), head.predict_proba(rows.features))
    assert np.array_equal(X, rows.features)


@pytest.mark.parametrize("balance", ["none", "over_sample", "under_sample"])
@pytest.mark.parametrize("name", LEARNERS)
def test_either_side_of_train_and_val_may_be_mapped(name, balance, tmp_path):
    rows, val = draw("two", 300), draw("two", 80, seed=1)
    answers = fitted(name, rows, val, balance=balance).predict_proba(val.features)
    on_disk = mapped(rows.features, tmp_path, "r+"), mapped(val.features, tmp_path, "c")
    for X, X_val in [on_disk, (on_disk[0], val.features), (rows.features, on_disk[1])]:
        found = quick(name, balance=balance).fit(X, rows.targets, X_val, val.targets).predict_proba(on_disk[1])
        np.testing.assert_allclose(found, answers, atol=0.1 if name == "xgboost" else 0)


def test_rows_are_not_made_up_where_features_do_not_fit_in_memory(head_name, tmp_path):
    rows = draw("two", 100)
    with pytest.raises(HeadError, match="balance=smote makes rows in memory, where these features do not fit: choose"):
        quick(head_name, balance="smote").fit(mapped(rows.features, tmp_path), rows.targets)


# Rows to stop early on


@pytest.mark.parametrize("name", ["majority", "logistic"])
def test_heads_that_do_not_stop_early_ignore_validation_rows(name, shape):
    rows, val = draw(shape, 100), draw(shape, 40, seed=1)
    alone = fitted(name, rows).weights_to_files()
    assert fitted(name, rows, val).weights_to_files() == alone
    assert quick(name).fit(rows.features, rows.targets, patients=rows.patients).weights_to_files() == alone


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_a_tenth_of_the_patients_is_held_out_whole(name, shape):
    """What is known of a patient who is held out moves the validation loss only, and of anybody else the train loss."""
    rows = draw(shape, 120)
    patients = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 6))
    head = quick(name, balance="none", **({"max_epochs": 2} if name == "mlp" else {"n_estimators": 2}))

    def curves(y):
        return head.fit(rows.features, y, patients=patients).learning_curves_

    def otherwise(y):
        return np.where(y == UNANSWERED, y, 1 - y) if shape == "labels" else (y + 1) % len(np.unique(rows.targets))

    before = curves(rows.targets)
    assert set(before) == {"train loss", "val loss"}
    held_out = []
    for patient in range(20):
        y = rows.targets.copy()
        y[patients == patient] = otherwise(y[patients == patient])
        after = curves(y)
        if after["train loss"] == before["train loss"]:
            assert after["val loss"] != before["val loss"]
            held_out.append(patient)
    assert len(held_out) == 2


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_nobody_is_held_out_where_a_class_would_go_with_them(name):
    rows = draw("two", 100)
    one_patient_each = np.zeros(100, np.int64)
    one_patient_each[rows.targets == 1] = 1
    for patients in (one_patient_each, np.zeros(100)):
        head = quick(name).fit(rows.features, rows.targets, patients=patients)
        assert set(head.learning_curves_) == {"train loss"}


# Errors name the cause and the remedy


def spoilt(X, value):
    X = X.copy()
    X[[1, 5], 3] = value
    return X


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(head, value, tmp_path):
    rows = draw("three", 60)
    message = "2 of 60 rows of X hold NaN or inf.*leave those rows out"
    bad = spoilt(rows.features, value)
    for X in (bad, mapped(bad, tmp_path)):
        with pytest.raises(HeadError, match=message):
            head.fit(X, rows.targets)
    fit(head, rows)
    with pytest.raises(HeadError, match=message):
        head.predict_proba(bad)
    with pytest.raises(HeadError, match="rows of X_val hold NaN"):
        head.fit(rows.features, rows.targets, bad, rows.targets)


def test_values_beyond_float32(head):
    rows = draw("three", 60)
    with pytest.raises(HeadError, match=r"1 of 60 rows of X hold .*beyond float32"):
        head.fit(np.vstack([np.full(DIM, 1e300), rows.features[1:]]), rows.targets)


def test_wrong_number_of_features_names_both(head):
    rows = draw("three", 60)
    fit(head, rows)
    with pytest.raises(HeadError, match=r"X has 31 features, .* expecting 32 features.*fit the head anew"):
        head.predict_proba(rows.features[:, :31])
    with pytest.raises(HeadError, match="31 features"):
        head.fit(rows.features, rows.targets, rows.features[:, :31], rows.targets)


@pytest.mark.parametrize("label", [2, "viral"])
def test_a_single_class_is_named(head, label):
    rows = draw("three", 60)
    with pytest.raises(HeadError, match=f"one class only, {label!r}: a head needs rows of two classes"):
        head.fit(rows.features, np.full(60, label))


@pytest.mark.parametrize(("told", "value"), [("positive", 1), ("negative", 0)])
def test_a_label_without_both_answers_is_named(head, told, value):
    rows = draw("labels", 60)
    rows.targets[rows.targets[:, 1] == value, 1] = UNANSWERED
    with pytest.raises(HeadError, match=rf"no row of train is {told} for the labels in columns \[1\]: leave those"):
        fit(head, rows)


@pytest.mark.parametrize(("value", "told"), [(2, "[2.0]"), (-2, "[-2.0]"), (np.nan, "[nan]")])
def test_targets_of_labels_that_are_none(head, value, told):
    rows = draw("labels", 60)
    y = rows.targets.astype(float)
    y[7, 1] = value
    with pytest.raises(HeadError) as error:
        head.fit(rows.features, y)
    assert f"y holds {told}: write 1 for positive, 0 for negative, -1 for what is not known" in str(error.value)
    with pytest.raises(HeadError, match="y_val holds"):
        head.fit(rows.features, rows.targets, rows.features, y)


def test_lengths_that_differ(head):
    rows, labels = draw("three", 60), draw("labels", 60)
    with pytest.raises(HeadError, match="60 rows of features and 59 labels in y: give one label per row"):
        head.fit(rows.features, rows.targets[:59])
    with pytest.raises(HeadError, match=r"60 rows of features and y of shape \(59, 3\): give \(n, k\) of the same"):
        head.fit(labels.features, labels.targets[:59])
    with pytest.raises(HeadError, match=r"60 rows of features and y_val of shape \(59, 3\)"):
        head.fit(labels.features, labels.targets, labels.features, labels.targets[:59])


@pytest.mark.parametrize("name", ["mlp", "xgboost"])
def test_patients_that_are_not_of_these_rows(name):
    rows = draw("three", 60)
    with pytest.raises(HeadError, match="60 rows and 59 patients: give whose each row is"):
        quick(name).fit(rows.features, rows.targets, patients=rows.patients[:59])


def test_validation_rows_that_do_not_serve(head):
    rows, labels = draw("three", 60), draw("labels", 60)
    with pytest.raises(HeadError, match="give both, or neither"):
        head.fit(rows.features, rows.targets, X_val=rows.features)
    with pytest.raises(HeadError, match=r"y_val holds \[3\], which y does not"):
        head.fit(rows.features, rows.targets, rows.features, np.where(rows.targets == 0, 3, 1))
    with pytest.raises(HeadError, match="y_val has 2 labels where y has 3: give the same ones"):
        head.fit(labels.features, labels.targets, labels.features, labels.targets[:, :2])
    with pytest.raises(HeadError, match=r"y_val of shape \(60,\)"):
        head.fit(labels.features, labels.targets, labels.features, rows.targets)
    with pytest.raises(HeadError, match="y_val knows no label of any row: give validation rows with known labels"):
        head.fit(labels.features, labels.targets, labels.features, np.full((60, 3), UNANSWERED))


def test_not_fitted_yet(head):
    with pytest.raises(NotFittedError):
        head.predict_proba(draw("three", 10).features)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("logistic", {"C": -1.0}, "'C' parameter of LogisticHead must be a float in the range"),
        ("logistic", {"tol": 0.0}, "'tol' parameter"),
        ("majority", {"balance": "oversample"}, "'balance' parameter of MajorityHead must be a str among"),
        ("mlp", {"dropout": 1.0}, "'dropout' parameter of MLPHead must be a float in the range"),
        ("mlp", {"hidden": 16}, "'hidden' parameter of MLPHead must be an array-like"),
        ("mlp", {"hidden": (16, 0)}, r"hidden is \[16, 0\]: give whole numbers above 0"),
        ("mlp", {"hidden": (1.5,)}, "give whole numbers above 0"),
        ("mlp", {"activation": "tanh"}, "'activation' parameter .*among .*'relu'"),
        ("mlp", {"optimizer": "lbfgs"}, "'optimizer' parameter"),
        ("mlp", {"precision": "float16"}, "'precision' parameter"),
        ("mlp", {"focal_gamma": -1.0}, "'focal_gamma' parameter"),
        ("mlp", {"random_state": None}, "'random_state' parameter"),
        ("xgboost", {"subsample": 1.5}, "'subsample' parameter"),
        ("xgboost", {"n_jobs": -1}, "'n_jobs' parameter"),
        ("xgboost", {"device": "tpu"}, "'device' parameter"),
    ],
)
def test_parameters_out_of_range(name, params, message):
    with pytest.raises(HeadError, match=message):
        fitted(name, draw("three", 60), **params)


# The registry


@pytest.mark.parametrize("name", HEADS)
def test_every_head_shares_the_common_parameters(name):
    params = make_head(name).get_params()
    assert params["balance"] == "class_weight" or name == "majority"
    assert params["random_state"] == 0


def test_names_and_presets():
    assert set(QUICK) == set(HEADS)
    assert head_names() == ("majority", "logistic", "mlp", "xgboost", "vazquez_mlp")
    head = make_head("vazquez_mlp", max_epochs=2)
    assert type(head) is MLPHead
    assert head.get_params() == MLPHead(**PRESETS["vazquez_mlp"][1]).get_params() | {"max_epochs": 2}
    assert (head.activation, head.dropout, head.optimizer, head.learning_rate) == ("sigmoid", 0.2, "sgd", 1e-3)


def test_unknown_head_names_the_known_ones():
    with pytest.raises(HeadError, match="unknown head 'svm': choose one of majority, logistic, mlp, xgboost, vazquez"):
        make_head("svm")


@pytest.mark.parametrize("name", ["logistic", "mlp", "vazquez_mlp"])
def test_unknown_parameter_names_the_known_ones(name):
    with pytest.raises(
        HeadError, match=f"head '{name}' has no parameter alpha, l1: it takes .*balance, .*random_state"
    ):
        make_head(name, alpha=1, balance="none", l1=2)


# What is stored


def test_restore_reproduces_every_bit(head, head_name, shape):
    rows, test = draw(shape, 200), draw(shape, 300, seed=4)
    files = fit(head, rows).weights_to_files()
    k = len(head.classes_)
    again = quick(head_name).restore(files, n_features=DIM, n_classes=k, multi_label=shape == "labels")
    np.testing.assert_array_equal(again.predict_proba(test.features), head.predict_proba(test.features))
    np.testing.assert_array_equal(again.predict(test.features), head.predict(test.features))
    assert again.weights_to_files() == files


def test_restore_refuses_what_is_not_its_own(head_name, shape):
    rows = draw(shape, 100)
    files = fitted(head_name, rows).weights_to_files()
    sizes = {"n_features": DIM, "n_classes": 2 if shape == "two" else 3, "multi_label": shape == "labels"}
    name, content = next(iter(files.items()))
    # XGBoost ends the process on bytes that are cut, so TrainedHead compares hashes before it comes to this.
    cut = () if head_name == "xgboost" else (b"", content[: len(content) // 2])
    for damaged in (b"nonsense", *cut):
        with pytest.raises(HeadError, match="copy the head anew"):
            quick(head_name).restore(files | {name: damaged}, **sizes)
    wrong = {"n_classes": 4} if head_name == "majority" else {"n_features": DIM + 1}
    with pytest.raises(HeadError, match="belong to different heads"):
        quick(head_name).restore(files, **sizes | wrong)
