"""Boosting on a Dask cluster: each worker reads its share of the rows, and all grow the same trees together."""

# Of what distributed exports, half has types.
# mypy: allow-untyped-calls, implicit-reexport

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from threading import Thread
from typing import Any, Final

import numpy as np
from distributed import Client, Future, LocalCluster, MultiLock, get_worker, wait
from distributed.comm.addressing import get_address_host
from distributed.scheduler import KilledWorker
from numpy.typing import NDArray
from xgboost import collective
from xgboost.core import XGBoostError
from xgboost.dask import CommunicatorContext
from xgboost.tracker import RabitTracker

from classifiers.boosting import XGBoostHead
from classifiers.dask_cluster import check_packages, connect, names_of_workers
from classifiers.errors import HeadError
from classifiers.estimator import Labelled

Read = Callable[[Sequence[NDArray[np.int64]]], list[NDArray[np.float32]]]
"""Reads features where it is called: places (n,), ascending, of several matrices, to float32 (n, d) each."""

_SECONDS_BETWEEN_LOOKS: Final = 5


@contextmanager
def dask_client(scheduler: str | None) -> Iterator[Client]:
    """A connection to Dask workers, closed at the end.

    Args:
        scheduler: address of a running one, such as tcp://host:8786. None: a worker process with all cores of this
            machine, which ends with the connection; trees of one machine are grown fastest by one process.

    Raises:
        HeadError: when nothing answers there, there are no workers, or they do not have Pleura.
    """
    if scheduler is None:
        with (
            LocalCluster(
                n_workers=1,
                # It would take port 8787 for an empty dashboard, and complain where that is taken.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                # It also complains of workers that take their time to end.
                silence_logs=logging.ERROR,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    with connect(scheduler, "leave it out for workers on this machine") as client:
        check_packages(client, scheduler)
        yield client


def boost_on_dask(client: Client, head: XGBoostHead, train: Labelled, val: Labelled | None, read: Read) -> None:
    """Fit a head on features that workers read; what is fitted is what `XGBoostHead.fit` would give, but for rounding
    and the rows that each tree draws.

    Workers get equal shares of the rows, in order, so that the same cluster gives the same trees. Each makes the
    histogram bins of its rows once, for all labels. A fit uses the threads that a worker has, unless `n_jobs` says
    otherwise.

    Args:
        client: connected to the workers.
        head: prepared by `Head.prepare`, its `n_features_in_` told; becomes fitted.
        train, val: what it sees, with places of rows for X.
        read: how a worker gets the features at such places.

    Raises:
        HeadError: when a worker is lost.
        Exception: whatever `read` raises.
    """
    # No worker without rows of both: a matrix of none has no columns either.
    most = min(len(rows.y) for rows in (train, val) if rows is not None)
    names = names_of_workers(client)
    if not names:
        raise _broken_off("all left")
    workers = sorted(names, key=lambda address: names[address])[:most]
    train_shares, val_shares = (
        [None] * len(workers) if rows is None else _shares(rows, len(workers)) for rows in (train, val)
    )
    shares = list(zip(train_shares, val_shares, strict=True))
    # Boosting needs all workers at once, so two fits that wait for each other's would wait for ever.
    with MultiLock(workers, client=client):

        def everywhere(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Future[Any]]:
            return [
                client.submit(function, *each, workers=[worker], pure=False)
                for worker, each in zip(workers, arguments, strict=True)
            ]

        places = [([rows.X for rows in share if rows is not None],) for share in shares]
        features, boosts = everywhere(read, places), list[Future[Any]]()
        try:
            _wait(client, workers, features)
            tracker = client.submit(_start_tracker, len(workers), workers=workers[:1], pure=False).result()
            boosts = everywhere(_boost, ((head, X, *share, tracker) for X, share in zip(features, shares, strict=True)))
            _wait(client, workers, boosts)
            files, curves = next(filter(None, client.gather(boosts)))
        finally:
            client.cancel([*features, *boosts])
    head.restore(files, n_features=head.n_features_in_, n_classes=len(head.classes_), multi_label=head.multi_label_)
    head.learning_curves_ = curves


def _shares(rows: Labelled, number: int) -> list[Labelled]:
    """The rows in equal parts, in order."""
    return [Labelled(*each) for each in zip(*(np.array_split(column, number) for column in rows), strict=True)]


def _wait(client: Client, workers: Sequence[str], futures: Sequence[Future[Any]]) -> None:
    """Wait for all; raise what the first that fails raised."""
    waiting = set(futures)
    while waiting:
        try:
            done, waiting = wait(waiting, timeout=_SECONDS_BETWEEN_LOOKS, return_when="FIRST_COMPLETED")
        except TimeoutError:
            # A task that belongs to a worker would wait for ever for it to come back.
            if lost := set(workers) - names_of_workers(client).keys():
                raise _broken_off(f"{', '.join(sorted(lost))} left") from None
            continue
        for future in done:
            error = future.exception()
            # To the others, one that is lost is a closed connection.
            if isinstance(error, XGBoostError | KilledWorker):
                raise _broken_off(str(error).splitlines()[0]) from error
            if error is not None:
                raise error


def _broken_off(told: str) -> HeadError:
    return HeadError(
        f"boosting on Dask workers broke off ({told}): if a worker was lost, its log says why; give workers more "
        "memory, or start more of them (features take 4 bytes a number, and 1 more while trees grow)"
    )


def _start_tracker(workers: int) -> dict[str, Any]:
    """Let XGBoost's workers find each other; on the first of them, for all can reach that."""
    tracker = RabitTracker(workers, get_address_host(get_worker().address), sortby="task")
    tracker.start()
    # Keeps the tracker alive until the last of them has left.
    Thread(target=tracker.wait_for, daemon=True).start()
    return dict(tracker.worker_args())


def _boost(
    head: XGBoostHead,
    features: Sequence[NDArray[np.float32]],
    train: Labelled,
    val: Labelled | None,
    tracker: Mapping[str, Any],
) -> tuple[dict[str, bytes], dict[str, list[float]]] | None:
    """Take part in a fit with one worker's share; one of them gives what was fitted."""
    fitted = copy(head)
    fitted.n_jobs = head.n_jobs or get_worker().state.nthreads
    with CommunicatorContext(**tracker):
        fitted._fit(train._replace(X=features[0]), None if val is None else val._replace(X=features[1]))
        is_first = collective.get_rank() == 0
    return (fitted.weights_to_files(), fitted.learning_curves_) if is_first else None
