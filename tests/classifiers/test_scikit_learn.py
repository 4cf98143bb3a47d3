"""scikit-learn's tools work on every head: its own checks, clones, pipelines, searches, cross-validation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from small_heads import DIM, LEARNERS, QUICK, aucs, draw, quick

from classifiers.errors import HeadError
from classifiers.tasks import UNANSWERED


def test_scikit_learn_takes_it_for_one_of_its_own(head):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(head, on_fail=None, on_skip=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert not failed
    assert len(results) > 40
    done = {result["check_name"] for result in results if result["status"] == "passed"}
    assert {"check_classifiers_multilabel_output_format_predict_proba", "check_classifiers_train"} <= done


def test_clones_and_parameters(head_name):
    head = quick(head_name)
    assert clone(head).get_params() == head.get_params()
    changed = clone(head).set_params(random_state=3, balance="over_sample")
    assert (changed.random_state, changed.balance) == (3, "over_sample")
    assert head.random_state == 0
    with pytest.raises(ValueError, match="Invalid parameter 'alpha'"):
        head.set_params(alpha=1)


@pytest.mark.parametrize("name", LEARNERS)
def test_pipelines_and_cross_validation_by_patient(name, shape):
    rows = draw(shape, 200)
    head = quick(name)
    if shape == "labels":
        params = {"cv": GroupKFold(2), "groups": rows.patients, "error_score": "raise"}
        scores = cross_val_score(head, rows.features, rows.targets, **params)
        assert scores.min() > 0.75
        return
    pipe = make_pipeline(PCA(8, random_state=0), head)
    scores = cross_val_score(pipe, rows.features, rows.targets, cv=2, error_score="raise")
    assert scores.min() > 0.6


def test_a_grid_is_searched_by_patient(shape):
    rows = draw(shape, 200, signal=0.3)
    grid = {"C": [1e-6, 0.01], "balance": ["class_weight", "none"]}
    search = GridSearchCV(quick("logistic"), grid, cv=GroupKFold(3), error_score="raise")
    search.fit(rows.features, rows.targets, groups=rows.patients)
    assert search.best_params_["C"] == 0.01
    assert len(search.cv_results_["params"]) == 4
    assert search.predict_proba(rows.features).shape == (200, 2 if shape == "two" else 3)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_rows_probability_from_a_fit_without_its_patient(name, shape):
    rows = draw(shape, 300, unknown=0)
    options = {"cv": GroupKFold(2), "groups": rows.patients, "method": "predict_proba"}
    p = cross_val_predict(quick(name), rows.features, rows.targets, **options)
    assert p.shape == (300, 2 if shape == "two" else 3)
    assert aucs(rows, p).min() > 0.85
    half = next(iter(GroupKFold(2).split(rows.features, groups=rows.patients)))
    alone = quick(name).fit(rows.features[half[0]], rows.targets[half[0]])
    np.testing.assert_allclose(p[half[1]], alone.predict_proba(rows.features[half[1]]), atol=1e-6)


def test_cross_val_predict_recodes_what_is_unknown_and_is_told(head_name):
    """scikit-learn numbers a column's values from 0, so that -1, 0, 1 would come as 0, 1, 2: refused, never taken."""
    rows = draw("labels", 100)
    assert (rows.targets == UNANSWERED).any()
    with pytest.raises(HeadError, match=r"y holds \[2\]: write 1 for positive"):
        cross_val_predict(quick(head_name), rows.features, rows.targets, cv=2, method="predict_proba")


def test_frames_keep_their_columns(head):
    rows = draw("three", 120)
    frame = pd.DataFrame(rows.features, columns=[f"f{i}" for i in range(DIM)])
    head.fit(frame, rows.targets)
    np.testing.assert_array_equal(head.predict_proba(frame), head.predict_proba(frame.copy()))
    with pytest.raises(ValueError, match="feature names"):
        head.predict_proba(frame[frame.columns[::-1]])


def test_frames_of_labels(head):
    rows = draw("labels", 120)
    found = head.fit(rows.features, pd.DataFrame(rows.targets, columns=["a", "b", "c"])).predict_proba(rows.features)
    assert np.array_equal(found, clone(head).fit(rows.features, rows.targets).predict_proba(rows.features))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32])
def test_features_of_any_type_are_taken_as_float32(head, dtype):
    rows = draw("two", 120)
    X = (rows.features * 3).astype(dtype)
    found = head.fit(X, rows.targets).predict_proba(X)
    narrow = X.astype(np.float32)
    assert np.array_equal(found, clone(head).fit(narrow, rows.targets).predict_proba(narrow))
    columns_first = np.asfortranarray(narrow)
    assert np.array_equal(found, clone(head).fit(columns_first, rows.targets).predict_proba(columns_first))


def test_quick_settings_are_the_heads_own():
    for name, params in QUICK.items():
        assert {key: quick(name).get_params()[key] for key in params} == params
