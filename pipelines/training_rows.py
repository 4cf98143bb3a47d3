"""The images that a backbone is fine-tuned and judged on: where their crops lie, what the task answers of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from classifiers.rows import SplitRows
from classifiers.tasks import Task
from pipelines.acquisition import ACQUISITION, HeldOut, HoldOutSettings, hold_out
from pipelines.crop_rows import CropRows, find_crops
from pipelines.errors import LakeError
from pipelines.labelled import ATTRIBUTE_COLUMNS, attributes_of
from pipelines.lake import Lake
from pipelines.splits import Split


@dataclass(frozen=True, repr=False)
class TrainingRows:
    """All rows of a task, by split, with what was held out of train.

    Attributes:
        task: what is asked.
        crops: where the crops lie, and their targets.
        places: per split, int64 (n,), its rows in `crops`, ascending.
        attributes: as of `SplitRows`, of all rows.
        held_out: who counts as val though the lake has them in train.
    """

    task: Task
    crops: CropRows
    places: Mapping[Split, NDArray[np.int64]]
    attributes: Mapping[str, NDArray[np.str_]]
    held_out: HeldOut

    def split(self, split: Split) -> SplitRows:
        """A split's rows, without features."""
        return self.at(self.places[split])

    def at(self, rows: NDArray[np.int64]) -> SplitRows:
        """Some rows, without features."""
        return SplitRows(
            np.empty((rows.size, 0), np.float32),
            self.crops.targets[rows],
            self.crops.patients[rows],
            self.crops.image_ids[rows],
            # What is known of none of them is no way to part them.
            {name: column[rows] for name, column in self.attributes.items() if (column[rows] != "").any()},
        )

    @property
    def layout(self) -> str:
        """SHA-256 of where the rows lie, which the order of an epoch, and the rows' numbers, follow."""
        digest = hashlib.sha256("".join(self.crops.image_ids).encode())
        for column in (self.crops.file, self.crops.row_group, self.crops.row):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    @property
    def plan(self) -> str:
        """Whether two processes mean the same rows in the same places."""
        return f"{self.layout} {self.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is learned from what: image ids, targets and splits, in the order of the ids."""
        digest = hashlib.sha256()
        for split, places in self.places.items():
            ordered = places[np.argsort(self.crops.image_ids[places])]
            digest.update(f"{split} {ordered.size}".encode())
            digest.update("".join(self.crops.image_ids[ordered]).encode())
            digest.update(np.ascontiguousarray(self.crops.targets[ordered], dtype=np.int64).tobytes())
        return digest.hexdigest()


def find_training_rows(lake: Lake, task: Task, settings: HoldOutSettings) -> TrainingRows:
    """Find them.

    Raises:
        TaskError: if the lake does not have the task's findings.
        LakeError: if there is nothing to learn from, or no val split to choose the best epoch by.
    """
    crops = find_crops(lake, task)
    held_out = hold_out(lake, settings)
    splits = held_out.moved(crops.image_ids, crops.split)
    places = {split: np.flatnonzero(splits == number) for number, split in enumerate(Split)}
    if not places[Split.VAL].size:
        raise LakeError(
            f"no image of the val split in '{lake.folder.uri}' answers task '{task.name}', so that nothing can tell "
            "the best epoch. Ingest with a val fraction, or hold patients of train out: hold_out.by=series, border, …"
        )
    studies = lake.studies.to_arrow(["image_id", *ATTRIBUTE_COLUMNS])
    order = pc.index_in(pa.array(crops.image_ids, pa.string()), value_set=studies["image_id"].combine_chunks())
    attributes = dict(attributes_of(studies.take(order).combine_chunks()))
    if held_out.patients:
        apart = held_out.acquisition(crops.image_ids)
        attributes[ACQUISITION] = np.where(splits == list(Split).index(Split.VAL), apart, "")
    return TrainingRows(task, crops, places, attributes, held_out)
