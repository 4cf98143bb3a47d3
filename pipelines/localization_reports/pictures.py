"""Some images as a backbone and a localizer see them, on the driver: for the gallery, and for the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from featurizers.crops import CropBox, decode_png, encode_png
from featurizers.embedder import Embedder, fit
from featurizers.errors import FeaturizerError
from featurizers.heat_boxes import hotspot
from featurizers.radiograph import Pixels
from pipelines.increment import as_path
from pipelines.lake import Lake
from pipelines.localization_reports.figures import Boxes, Case
from pipelines.localization_reports.subject import Shown
from pipelines.localizer import Localizer


class Asked(NamedTuple):
    """A class in an image."""

    image_id: str
    finding: str


@dataclass(frozen=True, eq=False)
class Picture:
    """A stored crop.

    Attributes:
        pixels: uint8 (height, width).
        patient: whose.
        shown: what it shows of the original.
    """

    pixels: Pixels
    patient: str
    shown: CropBox


def read_pictures(spark: SparkSession, lake: Lake, image_ids: Sequence[str]) -> dict[str, Picture]:
    """The crops of some images, by id; those that can't be decoded are left out."""
    wanted = F.col("image_id").isin(sorted(set(image_ids)))
    # Ids first, which are small: of crops only those files are read that hold one that is wanted.
    found = lake.studies.read(spark).where(wanted).select(F.col("_metadata.file_path").alias("file")).distinct()
    files = [as_path(row["file"]) for row in found.collect()]
    if not files:
        return {}
    rows = lake.studies.read_files(spark, files).where(wanted & F.col("lung_box").isNotNull())
    pictures: dict[str, Picture] = {}
    for row in rows.select("image_id", "patient_key", "lung_box", "crop").toArrow().to_pylist():
        try:
            pixels = decode_png(row["crop"] or b"")
        except FeaturizerError:
            continue
        pictures[row["image_id"]] = Picture(pixels, row["patient_key"], CropBox(**row["lung_box"]))
    return pictures


class _Seen(NamedTuple):
    """What was made of an image: its maps (k, h, w), probabilities and decisions."""

    maps: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]
    decisions: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Exhibition:
    """Draws maps of some classes in some images anew.

    Attributes:
        localizer: whose maps.
        embedder: of its extractor.
    """

    localizer: Localizer
    embedder: Embedder

    def show(
        self, asked: Sequence[Asked], pictures: Mapping[str, Picture], judged: Mapping[Asked, Case]
    ) -> list[Shown]:
        """What is asked for, in order; an image without a picture is left out.

        Args:
            asked: classes in images.
            pictures: of the images.
            judged: those of which there are boxes: a card says what the figures say.
        """
        there = list(dict.fromkeys(each.image_id for each in asked if each.image_id in pictures))
        seen: dict[str, _Seen] = {}
        for viewed in self.embedder.view_stream(((each, pictures[each].pixels) for each in there), _as_it_is):
            if not viewed.keys:
                continue
            scores, maps = self.localizer.locate(self.embedder, viewed)
            seen |= dict(zip(viewed.keys, map(_Seen, maps, scores.probabilities, scores.decisions), strict=True))
        return [
            self._shown(each, pictures[each.image_id], seen[each.image_id], judged.get(each))
            for each in asked
            if each.image_id in seen
        ]

    def _shown(self, asked: Asked, picture: Picture, seen: _Seen, case: Case | None) -> Shown:
        trained, rules = self.localizer.trained, self.localizer.rules
        place = trained.task.classes.index(asked.finding)
        cells = seen.maps[rules.classes.index(asked.finding)]
        heat = self.localizer.heat(cells[None, None])[0, 0]
        spot = hotspot(cells, heat, rules.level)
        boxes: Boxes = np.empty((0, 4))
        if case is not None:
            boxes = picture.shown.to_crop(case.truth.reshape(-1, 2, 2)).reshape(-1, 4)
        levels = trained.thresholds.levels
        return Shown(
            image_id=asked.image_id,
            finding=asked.finding,
            probability=float(seen.probabilities[place]),
            threshold=None if levels is None else levels[place],
            decision=bool(seen.decisions[place]),
            crop=encode_png(picture.pixels),
            heat=heat,
            peak=spot.peak,
            found=spot.boxes,
            truth=boxes,
            is_hit=None if case is None else case.is_pointed_at,
            iobb=None if case is None else case.best_iobb,
        )


def sample_pixels(pictures: Sequence[Picture], embedder: Embedder) -> Pixels:
    """uint8 (n, s, s), as the backbone takes them."""
    return np.stack([fit(each.pixels, embedder.input_size) for each in pictures])


def _as_it_is(pixels: Pixels) -> Pixels:
    return pixels
