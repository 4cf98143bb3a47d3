"""Search: halving finds what is good, patients stay together, mistakes are told first, Dask gives the same answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from distributed import LocalCluster
from small_heads import QUICK, TASKS, draw

from classifiers.cross_validation import cross_validate
from classifiers.errors import HeadError
from classifiers.estimator import Head
from classifiers.folds import patient_folds
from classifiers.linear import LogisticHead
from classifiers.rows import SplitRows
from classifiers.search import search_params
from classifiers.search_result import SearchMetric, SearchResult

C = {"C": [1e-6, 1e-4, 1e-2, 1.0]}


def searched(shape: str = "three", head: str = "logistic", space: dict[str, Any] = C, **settings: Any) -> SearchResult:
    params = settings.pop("params", QUICK[head])
    rows = settings.pop("rows", None) or draw(shape, 360, signal=0.4)
    return search_params(head, TASKS[shape], rows, space, params=params, **settings)


@pytest.mark.parametrize("metric", SearchMetric)
def test_the_best_setting_of_the_last_round_is_found_for_tasks_of_every_shape(shape: str, metric: SearchMetric) -> None:
    found = searched(shape, metric=metric)
    assert found.best_params == found.best.params
    assert found.best.rank == 1
    last = [trial for trial in found.trials if trial.round == found.best.round]
    assert found.best.score == max(trial.score for trial in last)
    assert found.best.rows == 240
    assert {trial.params["C"] for trial in found.trials} == set(C["C"])


def test_a_score_is_the_mean_over_folds_of_the_whole_rows_at_last() -> None:
    rows = draw("three", 360, signal=0.4)
    found = searched(rows=rows, folds=3)
    folds = patient_folds(TASKS["three"], rows, 3)
    alone = cross_validate(TASKS["three"], "logistic", rows, folds, params=found.best_params, resamples=0)
    assert found.best.score == pytest.approx(np.mean([fold.auc for fold in alone.folds]), abs=1e-3)
    assert found.best.std == pytest.approx(np.std([fold.auc for fold in alone.folds]), abs=1e-3)


def test_each_round_keeps_a_third_and_gives_it_three_times_the_rows() -> None:
    found = searched(space={"C": {"log_uniform": [1e-6, 1.0]}}, rows=draw("two", 1800), shape="two", candidates=9)
    rounds = {r: [trial for trial in found.trials if trial.round == r] for r in (1, 2, 3)}
    assert [len(trials) for trials in rounds.values()] == [9, 3, 1]
    assert [trials[0].rows for trials in rounds.values()] == [133, 399, 1197]
    for earlier, later in ((1, 2), (2, 3)):
        ranks = {trial.candidate: trial.rank for trial in rounds[earlier]}
        assert all(ranks[trial.candidate] <= len(rounds[later]) for trial in rounds[later])
    assert all(1e-6 <= trial.params["C"] <= 1 for trial in found.trials)


def test_what_a_head_is_fitted_on_holds_every_class_and_is_not_what_it_is_judged_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = draw("labels", 900)
    rare = rows.targets.copy()
    rare[:, 2] = np.where(np.arange(900) // 2 % 75 == 0, 1, 0)  # 6 patients
    fitted: list[tuple[set[int], set[int]]] = []
    fit, predict = LogisticHead.fit, LogisticHead.predict_proba

    def watched_fit(self: Head, X, y, **settings: Any) -> Head:
        assert (y == 1).any(axis=0).all()
        fitted.append((set(settings["patients"]), set()))
        return fit(self, X, y, **settings)

    def watched_predict(self: Head, X):
        fitted[-1][1].update(X[:, 0].astype(int))
        return predict(self, X)

    monkeypatch.setattr(LogisticHead, "fit", watched_fit)
    monkeypatch.setattr(LogisticHead, "predict_proba", watched_predict)
    features = rows.features.copy()
    features[:, 0] = rows.patients
    searched("labels", rows=SplitRows(features, rare, rows.patients), candidates=4)
    assert fitted
    assert all(judged and not judged & learned for learned, judged in fitted)


def test_values_may_be_lists_and_a_head_that_stops_early_is_searched_too() -> None:
    space = {"hidden": [[4], [8, 4]], "dropout": {"uniform": [0.0, 0.6]}, "batch_size": {"integers": [16, 64]}}
    found = searched(head="mlp", space=space, params={"max_epochs": 3}, candidates=4)
    assert found.best_params["hidden"] in ([4], [8, 4])
    assert 0 <= found.best_params["dropout"] <= 0.6
    assert type(found.best_params["batch_size"]) is int
    table = found.to_arrow()
    assert table.num_rows == len(found.trials)
    assert table["param_hidden"].type == pa.list_(pa.int64())
    assert table["score"].to_pylist() == [trial.score for trial in found.trials]


def test_the_same_seed_finds_the_same_and_another_draws_others() -> None:
    space = {"C": {"log_uniform": [1e-6, 1.0]}}

    def drawn(seed: int) -> list[tuple[float, float | None]]:
        return [(trial.params["C"], trial.score) for trial in searched(space=space, candidates=4, seed=seed).trials]

    assert drawn(1) == drawn(1)
    assert {c for c, _ in drawn(1)}.isdisjoint(c for c, _ in drawn(2))


def test_whole_numbers_are_drawn_once_each() -> None:
    found = searched(head="xgboost", space={"max_depth": {"integers": [2, 4]}}, candidates=20)
    first = [trial.params["max_depth"] for trial in found.trials if trial.round == 1]
    assert sorted(first) == [2, 3, 4]


def test_a_setting_that_can_not_be_fitted_has_no_score_and_tells_why() -> None:
    space = {"learning_rate": [1e-2, 1e30], "optimizer": ["sgd"]}
    found = searched(head="mlp", space=space, params={"hidden": (4,), "max_epochs": 3})
    assert found.best_params["learning_rate"] == 1e-2
    (bad,) = (trial for trial in found.trials if trial.params["learning_rate"] == 1e30)
    assert (bad.score, bad.std, bad.rank) == (None, None, None)
    assert "diverged" in found.failures[0]
    with pytest.raises(HeadError, match=r"no setting could be fitted: training diverged"):
        searched(head="mlp", space=space | {"learning_rate": [1e30, 1e31]}, params={"hidden": (4,), "max_epochs": 3})


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "empty"),
        ({"c": [1]}, "c: LogisticHead has no such parameter; it takes C"),
        ({"C": []}, "C: holds no value"),
        ({"C": 1.0}, "neither a list nor a range"),
        ({"C": {"normal": [0, 1]}}, "a range has one key, of uniform, log_uniform, integers"),
        ({"C": {"uniform": [2, 1]}}, "the lower one first"),
        ({"C": {"uniform": [0.1]}}, "two numbers"),
        ({"C": {"uniform": 3}}, "two numbers"),
        ({"C": {"log_uniform": [0, 1]}}, "starts above 0"),
        ({"C": {"uniform": [-1, 1]}}, "C: .*must be a float in the range"),
        ({"max_iter": {"integers": [1, 2.5]}}, "two whole numbers"),
        ({"balance": ["none", "focal"]}, "balance: focal is not for LogisticHead"),
        ({"balance": ["none", "evenly"]}, "balance: .*'evenly'"),
        ({"C": [0.1]}, "a single setting"),
    ],
)
def test_mistakes_are_told_before_any_fit(space: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogisticHead, "fit", lambda *_, **__: pytest.fail("a head was fitted"))
    with pytest.raises(HeadError, match=message):
        searched(space=space)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(HeadError) as caught:
        searched(space={"c": [1], "C": [-1, -2], "tol": {"uniform": [1, 0]}})
    assert "4 mistakes" in str(caught.value)
    with pytest.raises(HeadError, match="both set and searched"):
        searched(params={"C": 1.0})
    with pytest.raises(HeadError, match="smote is for classes that exclude each other"):
        searched("labels", space={"balance": ["none", "smote"]})
    with pytest.raises(HeadError, match="unknown head 'forest'"):
        search_params("forest", TASKS["two"], draw("two", 60), C)


def test_dask_workers_find_the_same() -> None:
    here = searched()
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        there = searched(scheduler=cluster.scheduler_address)
    assert there.best_params == here.best_params
    assert [trial.params for trial in there.trials] == [trial.params for trial in here.trials]
    np.testing.assert_allclose([t.score for t in there.trials], [t.score for t in here.trials], atol=1e-6)


def test_a_search_starts_dask_workers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distributed.deploy.local.CPU_COUNT", 1)  # each takes seconds to start
    assert searched(scheduler="local").best_params == searched().best_params


def test_a_scheduler_that_is_not_there_or_idle_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classifiers.dask_cluster._SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(HeadError, match=r"no Dask scheduler at 'tcp://127\.0\.0\.1:9'"):
        searched(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(HeadError, match="no Dask scheduler at 'nonsense://x'"):
        searched(scheduler="nonsense://x")
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        pytest.raises(HeadError, match="has no workers"),
    ):
        searched(scheduler=cluster.scheduler_address)
