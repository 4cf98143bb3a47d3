"""What an executor does when findings are localized: it reads crops, views them, and writes where each class is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurizers.crops import CropBox, decode_png
from featurizers.heat_boxes import Hotspot
from featurizers.reasons import NoVector
from featurizers.stages import Stages
from pipelines.crop_feed import CropReader
from pipelines.executor_embedder import EmbedderSettings, executor_embedder
from pipelines.extract_worker import Failure, Report
from pipelines.folders import Folder
from pipelines.live_counts import Teller
from pipelines.localizer import Localizer, Located, Rules
from pipelines.row_groups import RowGroup
from pipelines.scoring import ShippedHeads
from pipelines.tables import LOCALIZATIONS, ORIGINAL
from pipelines.task_files import TaskWriter, write_tasks

_NOWHERE = {"left": 0.0, "top": 0.0, "right": 1.0, "bottom": 1.0}


class CropKey(NamedTuple):
    """An image, and what its crop shows of the original."""

    image_id: str
    shown: CropBox


@dataclass(frozen=True)
class LocalizeWorker:
    """Localizes the classes in what the tasks of one chunk were dealt; travels to the executors.

    Attributes:
        settings: of the embedder, made once per Python worker and kept for its next tasks.
        head: the head, alone.
        rules: of the localizer.
        hands: the row groups of each task.
        split: images of others are passed over; None: none are.
        done: images that are localized already.
        report: told how it went.
        tell: told how many images are done.
        run: that is being made.
    """

    settings: EmbedderSettings
    head: ShippedHeads
    rules: Rules
    hands: Sequence[Sequence[RowGroup]]
    split: str | None
    done: frozenset[str]
    report: Report
    tell: Teller
    run: Folder

    def localize(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Numbers of tasks, as Spark deals them out, to batches of the schema WRITTEN."""
        return write_tasks(batches, self.run, LOCALIZATIONS, self._task)

    def _task(self, number: int, writer: TaskWriter) -> None:
        embedder = executor_embedder(self.settings, self.report.setups)
        ((_, trained),) = self.head.open()
        localizer = Localizer(trained, self.rules)
        before = Stages.copy_of(embedder.stages)
        reader, told = CropReader(self.hands[number]), 0
        for viewed in embedder.view_stream(self._wanted(reader), decode_png):
            failed = [(NoVector.DAMAGED_CROP, viewed.damaged), (NoVector.NOT_FINITE, viewed.not_finite)]
            if failures := [Failure(key.image_id, ORIGINAL, reason) for reason, keys in failed for key in keys]:
                self.report.failures(failures)
            if viewed.keys:
                located = localizer.locate(embedder, viewed)
                writer.write(to_arrow(viewed.keys, located, localizer))
            read = reader.bytes_read
            self.tell(viewed.images, read - told)
            told = read
        self.report.stages([embedder.stages.since(before)])

    def _wanted(self, reader: CropReader) -> Iterator[tuple[CropKey, bytes]]:
        for batch in reader.batches("lung_box", "split"):
            for row in batch.to_pylist():
                if self.split in (None, row["split"]) and row["image_id"] not in self.done:
                    # Without a crop, or without its place, there is nothing to look at: no PNG has no bytes.
                    png = row["crop"] if row["lung_box"] else None
                    yield CropKey(row["image_id"], CropBox(**(row["lung_box"] or _NOWHERE))), png or b""


def to_arrow(keys: Sequence[CropKey], located: Located, localizer: Localizer) -> pa.RecordBatch:
    """What a localizer says of some images, as rows of the schema LOCALIZATIONS: one per image and class."""
    classes = localizer.rules.classes
    columns = [localizer.trained.task.classes.index(name) for name in classes]
    spots = localizer.hotspots(located.maps)
    placed = [_placed(spot, key.shown) for key, spots_of in zip(keys, spots, strict=True) for spot in spots_of]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([key.image_id for key in keys for _ in classes], pa.string()),
            pa.array([name for _ in keys for name in classes], pa.string()),
            pa.array(located.scores.probabilities[:, columns].astype(np.float32).reshape(-1)),
            pa.array(located.scores.decisions[:, columns].reshape(-1)),
            pa.array([peak for peak, _ in placed], LOCALIZATIONS.field("peak").type),
            pa.array([boxes for _, boxes in placed], LOCALIZATIONS.field("boxes").type),
        ],
        schema=LOCALIZATIONS,
    )


def _placed(spot: Hotspot, shown: CropBox) -> tuple[dict[str, float] | None, list[dict[str, float]]]:
    """A hotspot of a crop as the original has it; boxes are cut off at its edge where they reach into padding."""
    if spot.peak is None:
        return None, []
    x, y = shown.to_original(spot.peak).tolist()
    boxes = []
    for box in spot.boxes:
        (left, top), (right, bottom) = _inside(shown.to_original([box[:2], box[2:4]]))
        if left < right and top < bottom:
            boxes.append({"left": left, "top": top, "right": right, "bottom": bottom, "intensity": box.intensity})
    return {"x": x, "y": y}, boxes


def _inside(points: npt.NDArray[np.float64]) -> Any:  # noqa: ANN401  nested lists of floats, as deep as the points
    return np.clip(points, 0, 1).tolist()
