"""What predictions come to: counts and quantiles by class, on the screen and as CSV, and a CSV of every image."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from pyspark.sql import DataFrame
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from classifiers.calibration import Calibration
from classifiers.trained import TrainedHead
from pipelines.folders import Folder
from pipelines.scoring import ScoredHead

SUMMARY_CSV, PREDICTIONS_CSV = "summary.csv", "predictions.csv"

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Of Spark's approx_percentile: a quantile's rank is off by a ten-thousandth at most.
_ACCURACY = 10_000


@dataclass(frozen=True)
class ClassSummary:
    """What a head says of one class, over some images; a row of summary.csv.

    Attributes:
        head: `task/name`.
        fingerprint: the head's.
        name: of the class.
        images: that have a prediction.
        decided: of those, how many the head decides for this class.
        share: decided / images; None without images.
        mean, q05, q25, q50, q75, q95: of the probability; quantiles are exact in rank to 1 in 10,000. None without
            images.
        rule, threshold: of the decisions; None where the rule has no level for the class.
        calibration: of the probabilities.
    """

    head: str
    fingerprint: str
    name: str
    images: int
    decided: int
    share: float | None
    mean: float | None
    q05: float | None
    q25: float | None
    q50: float | None
    q75: float | None
    q95: float | None
    rule: str
    threshold: float | None
    calibration: str


def summarise(head: ScoredHead, predictions: DataFrame) -> list[ClassSummary]:
    """A summary of each class, in the task's order.

    Args:
        head: whose predictions they are.
        predictions: rows of the schema PREDICTIONS.
    """
    told = predictions.select(F.explode("probabilities").alias("class", "p"), "decisions")
    rows = (
        told.groupBy("class")
        .agg(
            F.count(F.lit(1)).alias("images"),
            F.sum(F.col("decisions")[F.col("class")].cast("long")).alias("decided"),
            F.avg("p").alias("mean"),
            F.percentile_approx("p", list(_QUANTILES), _ACCURACY).alias("quantiles"),
        )
        .collect()
    )
    by_class = {row["class"]: row for row in rows}
    trained, levels = head.trained, _levels(head.trained)
    found = []
    for name in trained.task.classes:
        row = by_class.get(name)
        images, decided = (row["images"], row["decided"]) if row else (0, 0)
        q05, q25, q50, q75, q95 = row["quantiles"] if row else [None] * len(_QUANTILES)
        found.append(
            ClassSummary(
                head=head.name,
                fingerprint=head.fingerprint,
                name=name,
                images=images,
                decided=decided,
                share=decided / images if images else None,
                mean=row["mean"] if row else None,
                q05=q05,
                q25=q25,
                q50=q50,
                q75=q75,
                q95=q95,
                rule=str(trained.thresholds.rule),
                threshold=levels[name],
                calibration=str(trained.calibrator.method_of(name)),
            )
        )
    return found


def _levels(trained: TrainedHead) -> dict[str, float | None]:
    levels = trained.thresholds.levels or [None] * len(trained.task.classes)
    return dict(zip(trained.task.classes, levels, strict=True))


def summary_csv(rows: Sequence[ClassSummary]) -> bytes:
    """The rows as CSV; what is None is blank."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("class" if field.name == "name" else field.name for field in fields(ClassSummary))
    for row in rows:
        writer.writerow(f"{each:.6g}" if isinstance(each, float) else each for each in astuple(row))
    return text.getvalue().encode()


def summary_lines(head: ScoredHead, rows: Sequence[ClassSummary]) -> list[str]:
    """A head and its rows as an aligned table, for a terminal."""
    title = ["", f"{head.name}  {head.fingerprint[:12]}"]
    calibrator = head.trained.calibrator
    if all(calibrator.method_of(name) is Calibration.NONE for name in calibrator.classes):
        title.append("  probabilities  NOT calibrated")
    else:
        title.append(f"  probabilities  calibrated by {calibrator.describe()}")
    title.append(f"  decisions      {head.trained.thresholds.describe()}")
    header = ["class", "decided", "of images", "share", "mean p", "median p", "threshold"]
    cells = [
        [
            row.name,
            f"{row.decided:,}",
            f"{row.images:,}",
            "n/a" if row.share is None else f"{100 * row.share:.1f}%",
            _shown(row.mean),
            _shown(row.q50),
            _shown(row.threshold),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    return title + [
        "  " + "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in [header, *cells]
    ]


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def write_predictions_csv(rows: DataFrame, trained: TrainedHead, order: Sequence[str], target: Folder) -> None:
    """Write predictions as one CSV file with two columns for each class, its probability and its decision (1 or 0).

    Args:
        rows: columns to be kept in front, with `probabilities` and `decisions`.
        trained: whose predictions they are.
        order: columns to sort by.
        target: the folder for the file, which appears there whole.
    """
    front = [name for name in rows.columns if name not in ("probabilities", "decisions")]
    per_class = [
        column
        for name in trained.task.classes
        for column in (
            F.col("probabilities")[name].alias(f"probability {name}"),
            F.col("decisions")[name].cast("int").alias(f"decided {name}"),
        )
    ]
    # A leading underscore: readers of Parquet leave it alone. Sorted here, in its one task.
    parts = target / "_predictions_csv"
    one = rows.repartition(1).sortWithinPartitions(*order).select(*front, *per_class)
    # Fields with quotes as the rest of the world writes them (RFC 4180), and spaces as they are.
    one.write.csv(
        parts.hadoop_uri,
        header=True,
        escape='"',
        ignoreLeadingWhiteSpace=False,
        ignoreTrailingWhiteSpace=False,
    )
    (part,) = (name for name in parts.names() if name.endswith(".csv"))
    filesystem = target.filesystem
    filesystem.mv(f"{parts.path}/{part}", f"{target.path}/{PREDICTIONS_CSV}")
    parts.remove()
