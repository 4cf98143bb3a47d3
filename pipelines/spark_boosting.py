"""Boosting on Spark: the tree head's boosters, fitted by XGBoost's own Spark estimator to features that executors
read."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it
from xgboost import Booster
from xgboost.spark import SparkXGBClassifier

from classifiers.boosting import Losses, XGBoostHead
from classifiers.estimator import Labelled
from pipelines.errors import ConfigError
from pipelines.stored_features import StoredFeatures

#: Vectors that a Python task gets at once: of 2048 numbers, 8 MB.
ARROW_BATCH_ROWS = 1024

_IS_VAL, _PLACE = "is_val", "place"
#: Parameters that both interfaces of XGBoost call the same; the estimator finds out the others by itself.
_SHARED = ("max_depth", "learning_rate", "subsample", "colsample_bytree", "reg_lambda", "tree_method")


def boost_on_spark(
    spark: SparkSession, head: XGBoostHead, train: Labelled, val: Labelled | None, stored: StoredFeatures
) -> None:
    """Fit a head on features that executors read.

    Rows go to tasks by their image and are sorted there, so that the same cluster gives the same trees.

    Args:
        spark: its tasks that run at a time boost together, each with `spark.task.cpus` threads.
        head: prepared by `Head.prepare`, its `n_features_in_` told; becomes fitted.
        train, val: what it sees, with places of rows in `stored` for X.
        stored: where the features lie.

    Raises:
        ConfigError: if the session takes executors as it needs them: boosting needs all of its own at once.
        LakeError: if features are not finite.
    """
    context = spark.sparkContext
    if str(spark.conf.get("spark.dynamicAllocation.enabled", "false")).lower() == "true":
        raise ConfigError(
            "engine=spark needs all its executors at once, and spark.dynamicAllocation.enabled is true. Set it to "
            "false, and say how many there are: spark.executor.instances."
        )
    # It tells every fit at length.
    logging.getLogger("XGBoost-PySpark").setLevel(logging.WARNING)
    workers = max(1, context.defaultParallelism // int(context.getConf().get("spark.task.cpus", "1") or 1))
    columns = range(len(head.classes_) if head.multi_label_ else 1)
    rows = (
        stored.table.read_files(spark, _files(stored))
        .join(F.broadcast(spark.createDataFrame(_plan(head, train, val, stored))), ["image_id", "variant"])
        .repartition(workers, "image_id")
        .sortWithinPartitions(_PLACE)
        .persist(StorageLevel.MEMORY_AND_DISK)
    )
    try:
        if damaged := _not_finite(rows):
            raise stored.not_finite(np.array(damaged))
        watched = [False for _ in columns] if val is None else [bool(w.any()) for _, w in head.columns(val)]
        head.keep([_boost(head, rows, column, workers, is_watched=watched[column]) for column in columns])
    finally:
        rows.unpersist()


def _files(stored: StoredFeatures) -> list[str]:
    """The files whose rows have places, as Spark calls them; later runs may be there by now."""
    files = {(part.run, part.path.rpartition("/")[2]): None for part in stored.parts}
    return [f"{(stored.table.folder / run).hadoop_uri}/{name}" for run, name in files]


def _plan(head: XGBoostHead, train: Labelled, val: Labelled | None, stored: StoredFeatures) -> pa.Table:
    """What is known of the rows to read: whose they are, their targets and weights for every booster."""
    tables = []
    for rows in (train, val):
        if rows is not None:
            table = stored.keys.take(pa.array(rows.X)).append_column(_PLACE, pa.array(rows.X))
            table = table.append_column(_IS_VAL, pa.array(np.full(len(rows.y), rows is val)))
            for column, (target, weight) in enumerate(head.columns(rows)):
                table = table.append_column(f"target_{column}", pa.array(target))
                table = table.append_column(f"weight_{column}", pa.array(weight))
            tables.append(table)
    return pa.concat_tables(tables)


def _not_finite(rows: DataFrame) -> list[int]:
    """The places of features that hold what is no number: XGBoost would take NaN for a missing value."""
    # To Spark, NaN is the largest number.
    is_finite = (F.array_max("features") < np.inf) & (F.array_min("features") > -np.inf)
    return [place for (place,) in rows.where(~F.coalesce(is_finite, F.lit(False))).select(_PLACE).collect()]


def _boost(
    head: XGBoostHead, rows: DataFrame, column: int, workers: int, *, is_watched: bool
) -> tuple[Booster, Losses]:
    """Fit one booster, and cut it off after its best round where validation rows tell it.

    Args:
        is_watched: whether they do: of a label that none of them knows, they do not.
    """
    watching: dict[str, Any] = (
        {"validation_indicator_col": _IS_VAL, "early_stopping_rounds": head.early_stopping_rounds} if is_watched else {}
    )
    fitted = SparkXGBClassifier(
        features_col="features",
        label_col=f"target_{column}",
        weight_col=f"weight_{column}",
        num_workers=workers,
        n_estimators=head.n_estimators,
        verbose=False,
        random_state=head.random_state,
        **{name: head.booster_params[name] for name in _SHARED},
        **watching,
    ).fit(rows if is_watched else rows.where(~F.col(_IS_VAL)))
    booster, losses = fitted.get_booster(), fitted.training_summary
    (train_loss,) = losses.train_objective_history.values()
    if not is_watched:
        return booster, {"train": train_loss}
    (val_loss,) = losses.validation_objective_history.values()
    return booster[: booster.best_iteration + 1], {"train": train_loss, "val": val_loss}
