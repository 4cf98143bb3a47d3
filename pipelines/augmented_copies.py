"""Augmented copies of train images, until the classes of a task are equal: how many of which image, and their pixels.

Offline balancing as Vazquez et al. did it on Kermany's set: copies are drawn once, at extraction, turned by up to 10°,
enlarged by up to 1.2 and mirrored, and are features like any others from then on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from classifiers.balance import Balance, class_counts, rebalance
from classifiers.tasks import Task, get_task
from featurizers.errors import FeaturizerError
from pipelines.acquisition import NOBODY, HoldOutSettings, hold_out
from pipelines.answers import ANSWER_COLUMNS, Answers
from pipelines.augment_config import AugmentConfig, Brightness, Contrast, Rotate, Shift, Zoom
from pipelines.copy_rule import CopyRule
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.increment import SourceFile, as_path
from pipelines.lake import Lake
from pipelines.splits import Split
from pipelines.tables import ORIGINAL, Table

#: In a folder of features: how their copies were drawn, and how many there are of each image.
COPIES_CARD: Final = "_copies.json"
#: Changes whenever the code would draw other copies for the same settings.
FORMAT_VERSION: Final = 1
_WANTED = pa.schema([("image_id", pa.string()), ("copies", pa.int32())])
_LACKING = pa.schema([("image_id", pa.string()), ("variants", pa.list_(pa.int32())), ("location", pa.string())])


class CopyBalance(StrEnum):
    """Until when images get copies; as `Balance`, whose rules these are."""

    OVER_SAMPLE = Balance.OVER_SAMPLE.value
    UP_SAMPLE = Balance.UP_SAMPLE.value


class CopiesConfig(AugmentConfig):
    """Which train images get augmented copies, and how these differ from them."""

    shift: Shift = 0.0
    rotate: Rotate = 10.0
    zoom: Zoom = (1.0, 1.2)
    brightness: Brightness = 0.0
    contrast: Contrast = 0.0
    task: str | None = Field(
        None, description="train images get copies until its classes are equal: a task or a task file; null: no copies"
    )
    balance: CopyBalance = Field(
        CopyBalance.OVER_SAMPLE, description="which images get them; the two differ where the task is multi-label"
    )
    seed: int = Field(0, ge=0, description="decides which images get copies, and how each differs")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        try:
            self.settings()
        except FeaturizerError as error:
            raise ValueError(str(error)) from error
        return self


@dataclass(frozen=True)
class CopyPlan:
    """How many copies of which train image.

    Attributes:
        task: whose classes become equal.
        balance: by which rule.
        rule: how copies are drawn.
        train: hash of the train images and their targets that it was made for.
        copies: image_id to the number of copies, for images that get any.
        images, rows: per class, how many train images show it, and how many with their copies.
    """

    task: Task
    balance: CopyBalance
    rule: CopyRule
    train: str
    copies: Mapping[str, int]
    images: Mapping[str, int]
    rows: Mapping[str, int]

    @classmethod
    def make(cls, lake: Lake, features: Folder, config: CopiesConfig, held_out: HoldOutSettings = NOBODY) -> Self:
        """The plan for a lake as it is now.

        A plan that was remembered is kept. Where images were added since, they and others get more copies, and no image
        gets fewer than it had: those are extracted already. Heads take the backbone's hold-out out of train, copies and
        all, so that the classes are made equal without it.

        Args:
            lake: with studies.
            features: the folder of the features that get the copies; what is remembered lies there.
            config: with a task.
            held_out: with which the backbone was fine-tuned.

        Raises:
            TaskError: if there is no such task, or the lake does not have its findings.
            LakeError: if a class is shown by no train image, nobody can be held out, or the features hold copies drawn
                with other settings.
        """
        assert config.task is not None
        task, rule = get_task(config.task), CopyRule(config.settings(), config.seed)
        remembered = _remembered(features)
        if remembered:
            _check_settings(features, remembered, _settings(task, config.balance, rule))
        image_ids, targets = _train(lake, task, held_out)
        train = _hash_of(image_ids, targets)
        there: Mapping[str, int] = remembered.get("copies", {})
        number = np.array([there.get(image_id, 0) for image_id in image_ids], np.int64)
        if remembered.get("train") != train:
            number = draw_copies(targets, number, Balance(config.balance), config.seed)
        images, rows = (
            dict(zip(task.classes, class_counts(each, len(task.classes)).tolist(), strict=True))
            for each in (targets, np.repeat(targets, 1 + number, axis=0))
        )
        drawn = {image_id: int(n) for image_id, n in zip(image_ids, number, strict=True) if n}
        # Those of images that are held out now stay known: they are there should the images come back to train.
        copies = dict(there) | drawn
        return cls(task, config.balance, rule, train, copies, images, rows)

    def remember(self, features: Folder) -> None:
        """Write it down beside the features, before any copy is extracted."""
        settings = _settings(self.task, self.balance, self.rule)
        features.write_json(COPIES_CARD, settings | {"train": self.train, "copies": dict(self.copies)})

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the settings that the copies depend on: hexadecimal."""
        return str(_settings(self.task, self.balance, self.rule)["fingerprint"])


def draw_copies(
    targets: npt.NDArray[np.integer[Any]], least: npt.NDArray[np.int64], balance: Balance, seed: int
) -> npt.NDArray[np.int64]:
    """How many copies each image gets.

    Args:
        targets: of the images: (n,) classes, or (n, k) of a multi-label task.
        least: int64 (n,), copies that each has already.
        balance: OVER_SAMPLE or UP_SAMPLE.
        seed: of the draw.

    Returns:
        int64 (n,), nowhere below `least`.
    """
    rows = np.repeat(np.arange(len(targets)), 1 + least)
    # No rule of these looks at features.
    chosen = rebalance(np.empty((rows.size, 0), np.float32), targets[rows], balance, seed).rows
    return np.asarray(np.bincount(rows[chosen], minlength=len(targets)) - 1, np.int64)


def task_of_copies(features: Folder) -> str | None:
    """The name of the task that features hold copies for; None where they hold none."""
    remembered = _remembered(features)
    return str(remembered["task"]["name"]) if remembered else None


@dataclass(frozen=True)
class LackingCopies:
    """The work of one job: copies that a plan has and the features lack.

    Attributes:
        rows: image_id, the variants that it lacks, and the file of its study.
    """

    rows: pa.Table

    @classmethod
    def find(cls, spark: SparkSession, plan: CopyPlan, studies: Table, done: DataFrame) -> Self:
        """Ask what is lacking of a plan.

        Args:
            spark: running.
            plan: for these features.
            studies: whose crops are copied.
            done: image_id and variant of what is not to be done again.
        """
        wanted = spark.createDataFrame(
            pa.table([list(plan.copies), list(plan.copies.values())], schema=_WANTED)
        ).withColumn("variant", F.explode(F.sequence(F.lit(ORIGINAL + 1), "copies")))
        there = done.where(f"variant > {ORIGINAL}")
        lacking = (
            wanted.join(there, ["image_id", "variant"], "left_anti")
            .groupBy("image_id")
            .agg(F.sort_array(F.collect_list("variant")).alias("variants"))
        )
        located = studies.read(spark).select("image_id", F.col("_metadata.file_path").alias("location"))
        found = lacking.join(located, "image_id").select(*_LACKING.names).toArrow()
        paths = pa.array([as_path(location) for location in found["location"].to_pylist()], pa.string())
        return cls(found.set_column(2, "location", paths).cast(_LACKING))

    def files(self) -> list[SourceFile]:
        """The files with images that lack copies, in order; told are copies, not images."""
        copies = pa.table([self.rows["location"], pc.list_value_length(self.rows["variants"])], ["file", "copies"])
        per_file = copies.group_by("file").aggregate([("copies", "sum")]).sort_by("file")
        return [SourceFile(row["file"], row["copies_sum"], row["copies_sum"]) for row in per_file.to_pylist()]

    def variants(self, files: Sequence[SourceFile]) -> dict[str, list[int]]:
        """Of each image of some files, the variants that it lacks."""
        locations = pa.array([file.location for file in files], pa.string())
        here = self.rows.filter(pc.is_in(self.rows["location"], locations))
        return dict(zip(here["image_id"].to_pylist(), here["variants"].to_pylist(), strict=True))


def _train(lake: Lake, task: Task, settings: HoldOutSettings) -> tuple[list[str], npt.NDArray[np.integer[Any]]]:
    """The train images that a task answers, but for those held out, by image_id, and their targets."""
    studies = lake.studies.to_arrow(list(ANSWER_COLUMNS)).combine_chunks().sort_by("image_id")
    answers = Answers.of(studies, task, lake.studies.folder)
    try:
        splits = hold_out(lake, settings).moved(studies["image_id"], answers.splits)
    except LakeError as error:
        raise LakeError(
            f"copies.task={task.name} makes classes equal among images that the backbone did not hold out, and here "
            f"nobody can be held out as there. {error} To extract without copies, give copies.task=null."
        ) from error
    chosen = np.flatnonzero(answers.is_answered & (splits == list(Split).index(Split.TRAIN)))
    targets = answers.targets[chosen]
    counts = class_counts(targets, len(task.classes))
    absent = [name for name, count in zip(task.classes, counts, strict=True) if not count]
    # A label that no image shows leaves the others to be balanced; a class does not.
    if absent and (not task.multi_label or len(absent) == len(task.classes)):
        raise LakeError(
            f"copies.task={task.name}: no image of the train split shows {', '.join(absent)}, so that no copies can "
            "make the classes equal. Ingest such images, or choose another task."
        )
    return studies["image_id"].take(pa.array(chosen)).to_pylist(), targets


def _settings(task: Task, balance: CopyBalance, rule: CopyRule) -> dict[str, Any]:
    """All that decides which copies there are, ready for JSON, and its fingerprint."""
    told = {
        "format_version": FORMAT_VERSION,
        "task": {key: value for key, value in task.as_dict().items() if key != "description"},
        "balance": balance.value,
        "seed": rule.seed,
        "augmentation": asdict(rule.augmentation),
    }
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return {"fingerprint": hashlib.sha256(canonical.encode()).hexdigest(), **json.loads(canonical)}


def _remembered(features: Folder) -> dict[str, Any]:
    return features.read_json(COPIES_CARD) if COPIES_CARD in features.names() else {}


def _check_settings(features: Folder, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    if there["fingerprint"] == here["fingerprint"]:
        return
    before, now = _by_key(there), _by_key(here)
    differing = [
        f"copies.{key}: {before.get(key)} there, {value} here" for key, value in now.items() if before.get(key) != value
    ]
    told = "\n  ".join(differing or ["the rules of the task, or Pleura's way of drawing, are others now"])
    raise LakeError(
        f"'{features.uri}' holds augmented copies that were drawn otherwise, and copies of two kinds would not make "
        f"its classes equal:\n  {told}\nGive the settings of the first ({COPIES_CARD} there tells them), or "
        "copies.task=null for none; or extract into another lake. To have these here, remove that folder, features and "
        "all, and extract again."
    )


def _by_key(settings: Mapping[str, Any]) -> dict[str, object]:
    """Settings as the keys of the config tell them."""
    simple = {key: settings[key] for key in ("balance", "seed")}
    return {"task": settings["task"]["name"], **simple, **settings["augmentation"]}


def _hash_of(image_ids: list[str], targets: npt.NDArray[np.integer[Any]]) -> str:
    digest = hashlib.sha256("\n".join(image_ids).encode())
    digest.update(np.ascontiguousarray(targets, "<i8").tobytes())
    return digest.hexdigest()
