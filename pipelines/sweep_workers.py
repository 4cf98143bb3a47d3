"""Where the trials of a sweep run: in this process one after another, on Dask workers, or as tasks of Spark."""

# Of what distributed exports, half has types.
# mypy: allow-untyped-calls, implicit-reexport

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from pyspark import SparkContext

from pipelines.finetune_config import FinetuneConfig
from pipelines.folders import new_run_id
from pipelines.session import TaskCores, spark_session
from pipelines.shared_paths import Ask, ask_executors, check_shared, is_local_master, lacking
from pipelines.sweep_call import Call, Status, TrialResult, run_trial
from pipelines.sweep_config import LOCAL, SPARK

Runner: TypeAlias = Callable[[Sequence[Call]], Iterator[tuple[int, TrialResult]]]
"""Runs trials, and yields each one's place among the calls with its result as soon as it is there."""
Work: TypeAlias = Callable[[Call], TrialResult]

_SECONDS_BETWEEN_CANCELS: Final = 0.2


@contextmanager
def trial_runner(workers: str | None, trials: int, master: str | None = None) -> Iterator[Runner]:
    """What runs trials while the body runs.

    Args:
        workers: None for this process, `local`, the address of a Dask scheduler, or `spark`.
        trials: how many there are at most.
        master: of Spark.

    Raises:
        HeadError: when there is no such scheduler, or it has no workers, or they do not have Pleura.
        ConfigError: when Spark can't be started; from the runner, when machines do not see what trials need.
    """
    if workers is None:
        yield lambda calls: ((place, run_trial(call)) for place, call in enumerate(calls))
    elif workers == SPARK:
        with (
            spark_session("sweep_backbones", master, task_cores=TaskCores.WHOLE_EXECUTOR) as spark,
            _spark_jobs(spark.sparkContext) as (executor, work),
        ):
            context = spark.sparkContext
            ask = None if is_local_master(context) else ask_executors(context, context.defaultParallelism)
            yield partial(_as_they_end, executor, work, ask)
    else:
        with _dask(workers, trials) as (executor, ask):
            yield partial(_as_they_end, executor, run_trial, ask)


@contextmanager
def _dask(workers: str, trials: int) -> Iterator[tuple[Executor, Ask | None]]:
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
            yield client.get_executor(pure=False), None
        return
    with connect(workers, f"say {LOCAL!r}, or {SPARK!r}") as client:
        check_packages(client, workers)
        yield client.get_executor(pure=False), lambda paths: client.run(lacking, paths).values()


@contextmanager
def _spark_jobs(context: SparkContext) -> Iterator[tuple[Executor, Work]]:
    """Threads that run trials as jobs of Spark; where the body ends early, so do they."""
    pool = ThreadPoolExecutor(context.defaultParallelism)
    tag, ended = f"sweep-{new_run_id()}", threading.Event()

    def work(call: Call) -> TrialResult:
        """A job of its own: where a task's process is killed, no other trial's job fails."""
        context.addJobTag(tag)
        return context.parallelize([call], 1).map(run_trial).collect()[0]

    def cancel() -> None:
        # Again and again: a thread may be about to start its job.
        while not ended.wait(_SECONDS_BETWEEN_CANCELS):
            context.cancelJobsWithTag(tag)

    try:
        yield pool, work
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        canceller = threading.Thread(target=cancel, name="cancel-trials", daemon=True)
        canceller.start()
        pool.shutdown()
        ended.set()
        canceller.join()
        raise
    else:
        pool.shutdown()


def _as_they_end(
    executor: Executor, work: Work, ask: Ask | None, calls: Sequence[Call]
) -> Iterator[tuple[int, TrialResult]]:
    if ask is not None:
        check_shared(_named(calls), ask)
    places = {executor.submit(work, call): place for place, call in enumerate(calls)}
    for future in as_completed(places):
        yield places[future], _result(future)


def _named(calls: Sequence[Call]) -> dict[str, str]:
    """What trials name that lies somewhere → how their configs say it."""
    named: dict[str, str] = {}
    for call in calls:
        config = FinetuneConfig.model_validate_json(call.told)
        named[config.lake] = f"lake={config.lake}"
        if Path(config.task).suffix:
            named[config.task] = f"task={config.task}"
        if Path(config.backbone.weights).is_file():
            named[config.backbone.weights] = f"backbone.weights={config.backbone.weights}"
    return named


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
