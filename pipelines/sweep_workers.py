"""Where the trials of a sweep run: in this process one after another, on Dask workers, or as tasks of Spark."""

# Of what distributed exports, half has types.
# mypy: allow-untyped-calls, implicit-reexport

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from pyspark import SparkContext

from pipelines.session import spark_session
from pipelines.sweep_call import Call, Status, TrialResult, run_trial
from pipelines.sweep_config import LOCAL, SPARK

Runner: TypeAlias = Callable[[Sequence[Call]], Iterator[tuple[int, TrialResult]]]
"""Runs trials, and yields each one's place among the calls with its result as soon as it is there."""


@contextmanager
def trial_runner(workers: str | None, trials: int, master: str | None = None) -> Iterator[Runner]:
    """What runs trials while the body runs.

    Args:
        workers: None for this process, `local`, the address of a Dask scheduler, or `spark`.
        trials: how many there are at most.
        master: of Spark.

    Raises:
        HeadError: when there is no such scheduler, or it has no workers, or they do not have Pleura.
        ConfigError: when Spark can't be started.
    """
    if workers is None:
        yield lambda calls: ((place, run_trial(call)) for place, call in enumerate(calls))
    elif workers == SPARK:
        with spark_session("sweep_backbones", master, whole_executor_per_task=True) as spark:
            context = spark.sparkContext
            with ThreadPoolExecutor(context.defaultParallelism) as pool:
                yield partial(_as_they_end, pool, partial(_as_spark_job, context))
    else:
        with _dask(workers, trials) as executor:
            yield partial(_as_they_end, executor, run_trial)


@contextmanager
def _dask(workers: str, trials: int) -> Iterator[Executor]:
    # Takes a second to load, and most sweeps do without.
    from dask.system import CPU_COUNT  # noqa: PLC0415
    from distributed import Client, LocalCluster  # noqa: PLC0415

    from classifiers.dask_cluster import check_packages, connect  # noqa: PLC0415

    if workers == LOCAL:
        with (
            LocalCluster(
                n_workers=min(CPU_COUNT, trials),
                threads_per_worker=1,
                # It would take port 8787 for an empty dashboard, and complain where that is taken.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.ERROR,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client.get_executor(pure=False)
        return
    with connect(workers, f"say {LOCAL!r}, or {SPARK!r}") as client:
        check_packages(client, workers)
        yield client.get_executor(pure=False)


def _as_spark_job(context: SparkContext, call: Call) -> TrialResult:
    """A job of its own: where a task's process is killed, no other trial's job fails."""
    return context.parallelize([call], 1).map(run_trial).collect()[0]


def _as_they_end(
    executor: Executor, work: Callable[[Call], TrialResult], calls: Sequence[Call]
) -> Iterator[tuple[int, TrialResult]]:
    places = {executor.submit(work, call): place for place, call in enumerate(calls)}
    for future in as_completed(places):
        yield places[future], _result(future)


def _result(future: Future[TrialResult]) -> TrialResult:
    error = future.exception()
    if error is None:
        return future.result()
    # The first sentence: what follows are tracebacks, and hints for programmers.
    cause = re.split(r"\n|\. ", str(error).strip())[0]
    return TrialResult(
        Status.FAILED,
        error=f"its process ended ({type(error).__name__}: {cause}). If memory ran out, take a smaller batch_size or "
        "cache_mb, or fewer workers.",
    )
