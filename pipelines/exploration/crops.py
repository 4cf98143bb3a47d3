"""Reads the crops that were sampled: grey values of many, small pictures of a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dask.delayed import delayed
from PIL import Image

from featurizers.crops import decode_png
from featurizers.radiograph import Pixels
from pipelines.exploration.counts import StudyFile

#: Side of a picture on the page, pixels: enough to see what an image is like, too little to read it.
PICTURE_SIDE = 144
_JPEG_QUALITY = 75

#: Where an image is: (number of its file, row in it).
Place = tuple[int, int]


@dataclass(frozen=True)
class GreyValues:
    """Grey values of one crop: mean and standard deviation, 0 to 255."""

    dataset: str
    mean: float
    deviation: float


@dataclass(frozen=True)
class Picture:
    """A small picture of a crop, with what the label files say of it and no identifier."""

    jpeg: bytes
    split: str
    findings: Mapping[str, int]


@dataclass
class Crops:
    """What was seen in the crops."""

    grey_values: list[GreyValues] = field(default_factory=list)
    pictures: dict[Place, Picture] = field(default_factory=dict)


def read_crops(
    files: Sequence[StudyFile], measured: Sequence[Place], shown: Sequence[Place], done: Callable[[int], None]
) -> Crops:
    """Read crops in threads, each row group that holds one once.

    Args:
        files: all files of the studies, by number.
        measured: whose grey values are taken.
        shown: of which a picture is made.
        done: told how many crops were read; called from several threads.

    Raises:
        FeaturizerError: if a stored crop is damaged.
    """
    wanted: dict[int, list[int]] = {}
    for file, row in sorted({*measured, *shown}):
        wanted.setdefault(file, []).append(row)
    to_measure, to_show = set(measured), set(shown)
    parts = [delayed(_read_file, pure=False)(files[f], rows, to_measure, to_show, done) for f, rows in wanted.items()]
    found = Crops()
    for part in delayed(list)(parts).compute(scheduler="threads"):
        found.grey_values += part.grey_values
        found.pictures |= part.pictures
    return found


def _read_file(
    file: StudyFile, rows: list[int], measured: set[Place], shown: set[Place], done: Callable[[int], None]
) -> Crops:
    found = Crops()
    with file.open() as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            here = [row for row in rows if start <= row < end]
            for row, image in zip(here, _take(parquet, group, [row - start for row in here]), strict=True):
                place = (file.number, row)
                pixels = decode_png(image["crop"])
                if place in measured:
                    found.grey_values.append(GreyValues(image["dataset"], float(pixels.mean()), float(pixels.std())))
                if place in shown:
                    found.pictures[place] = Picture(_jpeg(pixels), image["split"], dict(image["findings"]))
                done(1)
            start = end
    return found


def _take(parquet: pq.ParquetFile, group: int, rows: list[int]) -> list[dict[str, Any]]:
    if not rows:
        return []
    columns = ["crop", "dataset", "split", "findings"]
    table = parquet.read_row_group(group, columns=columns, use_threads=False)
    return list(table.take(pa.array(rows)).to_pylist())


def _jpeg(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    picture = Image.fromarray(pixels).resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
