"""Boosting on Dask workers: the same trees however few the rows, and a clear word when workers fail."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from distributed import Client, LocalCluster

from classifiers import dask_boosting, dask_cluster
from classifiers.boosting import XGBoostHead
from classifiers.dask_boosting import boost_on_dask, dask_client
from classifiers.errors import HeadError

DIM = 6
PLACES = np.arange(40)


def draw(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Features that tell odd places from even ones, mostly."""
    noise = np.random.default_rng(3).standard_normal((len(PLACES), DIM), dtype=np.float32)
    return noise[places] + np.float32(1.5) * (places % 2)[:, None]


def read(several: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.float32]]:
    return [draw(places) for places in several]


def refuse(several: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.float32]]:
    if any(0 in places for places in several):
        raise HeadError("no such features here")
    return read(several)


def die(several: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.float32]]:
    if any(0 in places for places in several):
        os._exit(1)
    return read(several)


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def prepared(val_rows: int) -> tuple[XGBoostHead, Any]:
    head = XGBoostHead(n_estimators=8, max_depth=2, subsample=1, colsample_bytree=1, n_jobs=1, early_stopping_rounds=3)
    train, val = PLACES[: len(PLACES) - val_rows], PLACES[len(PLACES) - val_rows :]
    head.n_features_in_ = DIM
    return head, head.prepare(train, train % 2, *((val, val % 2) if val_rows else ()))


def test_few_rows_and_workers_that_fail(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cluster for all, for starting one takes seconds."""
    # Fewer validation rows than workers, or none: no worker is left without rows.
    for val_rows in (0, 1, 6):
        head, seen = prepared(val_rows)
        boost_on_dask(client, head, *seen, read)
        alone = prepared(val_rows)[0]
        train, val = (None if rows is None else rows._replace(X=draw(rows.X)) for rows in seen)
        alone.fit(train.X, train.y, *(() if val is None else (val.X, val.y)))
        np.testing.assert_allclose(head.predict_proba(train.X), alone.predict_proba(train.X), atol=1e-4)
        assert ("val loss" in head.learning_curves_) == bool(val_rows)

    head, seen = prepared(6)
    with pytest.raises(HeadError, match="no such features here"):
        boost_on_dask(client, head, *seen, refuse)

    monkeypatch.setattr(dask_boosting, "_SECONDS_BETWEEN_LOOKS", 0.2)
    with pytest.raises(HeadError, match=r"broke off.*more memory"):
        boost_on_dask(client, head, *seen, die)


def test_no_scheduler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "_SECONDS_TO_CONNECT", 0.5)
    with (
        pytest.raises(HeadError, match=r"no Dask scheduler at 'tcp://127.0.0.1:9'.*start one"),
        dask_client("tcp://127.0.0.1:9"),
    ):
        pass


def test_no_workers_are_told() -> None:
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(HeadError, match="has no workers: start some"),
        dask_client(cluster.scheduler_address),
    ):
        pass
