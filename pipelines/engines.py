"""Engines: where a head is fitted, in this process or by workers that read the features themselves."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import partial

import numpy as np
import numpy.typing as npt

from classifiers.balance import Balance
from classifiers.boosting import XGBoostHead
from classifiers.estimator import Head
from pipelines.errors import ConfigError
from pipelines.labelled import FoundRows
from pipelines.session import TaskCores, spark_session
from pipelines.splits import Split
from pipelines.stored_features import StoredFeatures


class Engine(StrEnum):
    """Where a head is fitted.

    Attributes:
        MEMORY: in this process, out of core where memory does not hold the features.
        DASK: on Dask workers, by XGBoost's collective.
        SPARK: on Spark executors, by `SparkXGBClassifier`.
    """

    MEMORY = "memory"
    DASK = "dask"
    SPARK = "spark"


def check_engine(engine: Engine, head: Head, scheduler: str | None = None, master: str | None = None) -> None:
    """Refuse, before anything is read, what an engine can't do.

    Args:
        engine: where the head is to be fitted.
        head: not fitted.
        scheduler, master: as of `fit_on_workers`.

    Raises:
        ConfigError: naming what can be asked instead.
        HeadError: on a parameter of the head's out of its range.
    """
    if scheduler is not None and engine is not Engine.DASK:
        raise ConfigError(f"scheduler={scheduler} is for engine=dask, and engine={engine} was asked. Leave one out.")
    if master is not None and engine is not Engine.SPARK:
        raise ConfigError(f"master={master} is for engine=spark, and engine={engine} was asked. Leave one out.")
    if engine is Engine.MEMORY:
        return
    if not isinstance(head, XGBoostHead):
        raise ConfigError(f"engine={engine} fits head=xgboost alone. Choose that head, or engine=memory.")
    head.check_params()
    if head.balance == Balance.SMOTE:
        raise ConfigError(
            f"params.balance=smote needs all features in one place, and engine={engine} leaves them with its workers. "
            "Choose balance=over_sample, or engine=memory."
        )
    if head.device != "cpu":
        raise ConfigError(
            f"engine={engine} boosts on CPUs. Leave params.device={head.device} out, or use engine=memory."
        )


def fit_on_workers(
    engine: Engine, found: FoundRows, head: XGBoostHead, *, scheduler: str | None = None, master: str | None = None
) -> XGBoostHead:
    """Fit a head on rows whose features workers read; this process reads none.

    The fit is the one of `classifiers.training.fit_head`, but for rounding and for which rows a tree draws. Without
    a val split, a tenth of the patients of train stands in for early stopping.

    Args:
        engine: DASK or SPARK, and the head one that `check_engine` allows.
        found: the rows.
        head: becomes fitted.
        scheduler: address of a Dask scheduler; None: workers on this machine.
        master: Spark master; None: what spark-submit was told, or local[*] without it.

    Raises:
        ConfigError: as `check_engine`, or if Spark can't be had there.
        HeadError: if targets do not serve, there are no Dask workers, or one is lost.
        LakeError: if features are unlike in length or not finite, or a file is damaged.
    """
    check_engine(engine, head, scheduler, master)
    train, val = found.splits[Split.TRAIN], found.splits.get(Split.VAL)
    seen = head.prepare(
        found.places[Split.TRAIN],
        train.targets,
        None if val is None else found.places[Split.VAL],
        None if val is None else val.targets,
        train.patients if val is None else None,
        multi_label=found.task.multi_label,
    )
    head.n_features_in_ = found.stored.dim
    if engine is Engine.DASK:
        # Each takes a second to load, and most fits need neither.
        from classifiers.dask_boosting import boost_on_dask, dask_client  # noqa: PLC0415

        with dask_client(scheduler) as client:
            boost_on_dask(client, head, *seen, partial(_read, found.stored))
    else:
        from pipelines.spark_boosting import ARROW_BATCH_ROWS, boost_on_spark  # noqa: PLC0415

        with spark_session(
            "train_head", master, task_cores=TaskCores.WHOLE_EXECUTOR, arrow_batch_rows=ARROW_BATCH_ROWS
        ) as spark:
            boost_on_spark(spark, head, *seen, found.stored)
    return head


def _read(stored: StoredFeatures, places: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.float32]]:
    matrices = [np.empty((rows.size, stored.dim), np.float32) for rows in places]
    stored.read_into(matrices, places)
    return matrices
