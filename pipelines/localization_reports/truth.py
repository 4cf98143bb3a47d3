"""Annotated boxes, of the studies or of a file, as boxes of a task's classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from classifiers.tasks import Task
from featurizers.crops import CropBox
from pipelines.errors import SourceError
from pipelines.lake import Lake
from pipelines.localization_reports.figures import Boxes

_FRACTIONS: Final = ("left", "top", "right", "bottom")
_PIXELS: Final = ("x", "y", "width", "height")
_KEYS: Final = ("image", "finding")
#: So many wrong rows of a file are told.
_MISTAKES: Final = 5


@dataclass(frozen=True, eq=False)
class Annotated:
    """An image with boxes.

    Attributes:
        patient: whose.
        shown: what its crop shows.
        boxes: class → (n, 4) fractions of the original, of every class that has any.
    """

    patient: str
    shown: CropBox
    boxes: Mapping[str, Boxes]


@dataclass(frozen=True)
class BoxFile:
    """A user's own boxes.

    Attributes:
        name: what messages call the file.
        rows: image (an id or a uri), finding, left, top, right, bottom, and the line of the file.
        in_pixels: whether these are pixels of the original, not fractions.
    """

    name: str
    rows: pd.DataFrame
    in_pixels: bool

    @classmethod
    def read(cls, location: str) -> BoxFile:
        """Read it.

        Raises:
            SourceError: if it is not there, lacks columns, or holds what is no box.
        """
        try:
            rows = pd.read_csv(location, dtype=dict.fromkeys(_KEYS, "string"))
        except (OSError, ValueError) as error:
            raise SourceError(f"boxes='{location}' can't be read ({error}). Name a CSV file with a header.") from error
        in_pixels = set(_PIXELS) <= set(rows.columns)
        sides = _PIXELS if in_pixels else _FRACTIONS
        if missing := [name for name in (*_KEYS, *sides) if name not in rows.columns]:
            raise SourceError(
                f"boxes='{location}' has no column {', '.join(missing)}. It needs image and finding, and left, top, "
                "right, bottom (fractions of the original) or x, y, width, height (its pixels)."
            )
        rows = rows[[*_KEYS, *sides]].copy()
        numbers = rows[list(sides)].apply(pd.to_numeric, errors="coerce")
        rows[list(sides)] = numbers
        if in_pixels:
            wrong = ~((numbers["width"] > 0) & (numbers["height"] > 0))
        else:
            inside = ((numbers >= 0) & (numbers <= 1)).all(axis=1)
            wrong = ~(inside & (numbers["left"] < numbers["right"]) & (numbers["top"] < numbers["bottom"]))
        wrong |= numbers.isna().any(axis=1) | rows[list(_KEYS)].isna().any(axis=1)
        if wrong.any():
            told = ", ".join(str(row + 2) for row in np.flatnonzero(wrong)[:_MISTAKES])
            rule = "a width and height above 0" if in_pixels else "fractions from 0 to 1, left < right, top < bottom"
            raise SourceError(
                f"{int(wrong.sum()):,} lines of boxes='{location}' hold no box (line {told}): each needs an image, a "
                f"finding, and four numbers, {rule}."
            )
        if in_pixels:
            corners = numbers["x"] + numbers["width"], numbers["y"] + numbers["height"]
            rows = rows.assign(left=numbers["x"], top=numbers["y"], right=corners[0], bottom=corners[1])
        rows = rows.assign(line=np.arange(2, len(rows) + 2))
        return cls(location, rows[[*_KEYS, *_FRACTIONS, "line"]], in_pixels)


def annotated(
    spark: SparkSession,
    lake: Lake,
    task: Task,
    classes: Sequence[str],
    *,
    split: str | None,
    file: BoxFile | None,
) -> dict[str, Annotated]:
    """The images with boxes of some classes of a task: image id → what is annotated.

    Args:
        spark: running.
        lake: with the studies.
        task: whose classes they are; a class has the boxes of the findings that can make it positive.
        classes: that count.
        split: of the images; None: all.
        file: of the boxes; None: the studies' own.

    Raises:
        SourceError: if a file names no image of the lake, or no finding that a class has.
    """
    by_finding: dict[str, list[str]] = defaultdict(list)
    for rule in task.rules:
        if rule.name in classes:
            for finding in dict.fromkeys((*rule.any, *rule.all)):
                by_finding[finding].append(rule.name)
    studies = lake.studies.read(spark)
    rows = _of_studies(studies) if file is None else _of_file(spark, studies, file, by_finding)
    if split is not None:
        rows = rows.where(F.col("split") == split)
    # What lies beside the image can't be found in it.
    is_there = (F.col("left") < F.col("right")) & (F.col("top") < F.col("bottom")) & F.col("lung_box").isNotNull()
    told = rows.where(F.col("finding").isin(list(by_finding)) & is_there).toArrow().to_pylist()
    images: dict[str, dict[str, Any]] = {}
    boxes: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for row in told:
        images[row["image_id"]] = row
        for name in by_finding[row["finding"]]:
            boxes[row["image_id"]][name].append([row[side] for side in _FRACTIONS])
    return {
        image_id: Annotated(
            row["patient_key"],
            CropBox(**row["lung_box"]),
            {name: np.array(each) for name, each in boxes[image_id].items()},
        )
        for image_id, row in images.items()
    }


def _of_studies(studies: DataFrame) -> DataFrame:
    box = F.explode("boxes").alias("box")
    there = studies.select("image_id", "patient_key", "split", "lung_box", box)
    return there.select(
        "image_id", "patient_key", "split", "lung_box", "box.finding", *(f"box.{s}" for s in _FRACTIONS)
    )


def _of_file(
    spark: SparkSession, studies: DataFrame, file: BoxFile, by_finding: Mapping[str, Sequence[str]]
) -> DataFrame:
    there = sorted(set(file.rows["finding"]))
    if not set(there) & set(by_finding):
        told = ", ".join([*there[:_MISTAKES], *(["…"] if len(there) > _MISTAKES else [])])
        raise SourceError(
            f"boxes='{file.name}' has boxes of {told}, and the classes ask for {', '.join(by_finding)}. Name findings "
            "as the studies do."
        )
    boxes = F.broadcast(spark.createDataFrame(file.rows))
    # An id or a uri: no uri looks like a SHA-256.
    named = studies.select("image_id", "uri", "patient_key", "split", "lung_box", "width", "height")
    rows = named.withColumn("image", F.explode(F.array("image_id", "uri"))).join(boxes, "image")
    several = rows.groupBy("line").count().where("count > 1").orderBy("line").limit(1).collect()
    if several:
        raise SourceError(
            f"line {several[0]['line']} of boxes='{file.name}' names an image by a uri that several data sets of the "
            "lake have. Name its image_id."
        )
    if rows.isEmpty():
        raise SourceError(
            f"boxes='{file.name}' names no image of the lake. Name images by their image_id, or by the uri of their "
            "study."
        )
    if file.in_pixels:
        for side, whole in zip(_FRACTIONS, ("width", "height") * 2, strict=True):
            rows = rows.withColumn(side, F.least(F.greatest(F.col(side) / F.col(whole), F.lit(0.0)), F.lit(1.0)))
    return rows.select("image_id", "patient_key", "split", "lung_box", "finding", *_FRACTIONS)
