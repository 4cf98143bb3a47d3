"""What crops tell of how their films were taken, measured once and kept in the lake."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurizers.crops import decode_png
from featurizers.errors import FeaturizerError
from featurizers.radiograph import Pixels
from pipelines.crop_feed import STUDIES_REMEDY
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.parquet import open_parquet
from pipelines.progress import Progress
from pipelines.tables import Table

Measures: TypeAlias = npt.NDArray[np.float64]

#: Grey values below this are air outside the body, collimation, or what a resize left around the film.
BLACK: Final = 8
#: In a lake: what was measured, by measure and by the studies' runs. It can be removed at any time.
MEASURES: Final = "_acquisition"
#: Changes whenever a measure of the same crop would be another.
_VERSION: Final = 1
_MOST_THREADS: Final = 8


class FilmMeasure(StrEnum):
    """What is measured."""

    EXPOSURE = "exposure"
    BORDER = "border"


def measure_films(lake: Lake, image_ids: pa.Array, measure: FilmMeasure) -> Measures:
    """Measure the crops of some images, or recall what was measured of them.

    Measures hold as long as the lake's studies are the same runs. They are kept whole or not at all, so that several
    processes may measure at once; where nothing can be written to the lake, each measures for itself.

    Args:
        lake: with studies.
        image_ids: string (n,), of images in it.
        measure: which.

    Returns:
        float64 (n, 2) of exposure: mean grey and its standard deviation, of what is not black; (n, 1) of the border:
        the share that is black. NaN where a crop is damaged.

    Raises:
        LakeError: if a file of studies is damaged.
    """
    columns, look = _LOOKS[measure]
    kept = _Kept(lake.folder / MEASURES, measure, lake.studies)
    known = kept.read(columns)
    lacking = image_ids.filter(pc.invert(pc.is_in(image_ids, value_set=known["image_id"])))
    if len(lacking):
        found = _measured(lake.studies, lacking, columns, look)
        if found.num_rows:
            known = pa.concat_tables([known, found]).combine_chunks()
            kept.write(known)
    places = pc.index_in(image_ids, value_set=known["image_id"])
    return np.stack([known[name].take(places).to_numpy() for name in columns], axis=1).astype(np.float64)


def black_share(crop: Pixels) -> float:
    """The share of a crop that is black."""
    return float((crop < BLACK).mean())


def _exposure(crop: Pixels) -> tuple[float, ...]:
    """Mean grey and contrast (standard deviation) of what is not black, so that a border is no exposure."""
    lit = crop[crop >= BLACK]
    return (float(lit.mean()), float(lit.std())) if lit.size else (0.0, 0.0)


def _border(crop: Pixels) -> tuple[float, ...]:
    return (black_share(crop),)


_Look: TypeAlias = Callable[[Pixels], tuple[float, ...]]
#: The columns of each measure, and how they are found.
_LOOKS: Final[Mapping[FilmMeasure, tuple[tuple[str, ...], _Look]]] = {
    FilmMeasure.EXPOSURE: (("mean", "deviation"), _exposure),
    FilmMeasure.BORDER: (("black",), _border),
}


class _Kept:
    """The file of one measure of the studies as they are now."""

    def __init__(self, folder: Folder, measure: FilmMeasure, studies: Table) -> None:
        runs = "\n".join([str(_VERSION), *(run.name for run in studies.folder.runs())])
        self._folder, self._measure = folder, measure
        self._name = f"{measure}-{hashlib.sha256(runs.encode()).hexdigest()[:16]}.parquet"

    def read(self, columns: tuple[str, ...]) -> pa.Table:
        """image_id and the measures; empty where nothing is kept that can be read."""
        schema = pa.schema([("image_id", pa.string()), *((name, pa.float64()) for name in columns)])
        try:
            return pq.read_table(io.BytesIO(self._folder.read(self._name)), columns=schema.names).cast(schema)
        except (OSError, pa.ArrowException, ValueError):
            return schema.empty_table()

    def write(self, measures: pa.Table) -> None:
        """Keep them, and forget those of studies as they were."""
        file = io.BytesIO()
        pq.write_table(measures, file)
        # A lake that can't be written to fails in its store's own way, and costs a measurement, not the job.
        with contextlib.suppress(Exception):
            self._folder.write(self._name, file.getvalue())
            for name in self._folder.names():
                if name.startswith(f"{self._measure}-") and name != self._name:
                    self._folder.filesystem.rm_file(f"{self._folder.path}/{name}")


def _measured(studies: Table, image_ids: pa.Array, columns: tuple[str, ...], look: _Look) -> pa.Table:
    """image_id and measures of those whose crops are whole."""

    def measured(crop: bytes) -> tuple[float, ...] | None:
        try:
            return look(decode_png(crop))
        except FeaturizerError:
            return None

    names: list[str] = []
    found: list[tuple[float, ...]] = []
    done = 0
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with ThreadPoolExecutor(threads, "measure") as pool, Progress("measure", len(image_ids), lambda: done):
        for images in _crops_of(studies, image_ids):
            measures = pool.map(measured, images["crop"].to_pylist())
            for image_id, values in zip(images["image_id"].to_pylist(), measures, strict=True):
                done += 1
                if values is not None:
                    names.append(image_id)
                    found.append(values)
    by_column = np.array(found, np.float64).reshape(-1, len(columns)).T
    return pa.table({"image_id": pa.array(names, pa.string()), **dict(zip(columns, by_column, strict=True))})


def _crops_of(studies: Table, image_ids: pa.Array) -> Iterator[pa.Table]:
    """Columns image_id and crop of these images, a row group at a time; groups that hold none of them are not read."""
    filesystem = studies.folder.filesystem
    for path in studies.files():
        with open_parquet(path, filesystem, remedy=STUDIES_REMEDY) as parquet:
            for group in range(parquet.num_row_groups):
                ids = parquet.read_row_group(group, columns=["image_id"])["image_id"]
                is_wanted = pc.is_in(ids, value_set=image_ids)
                if pc.any(is_wanted).as_py():
                    yield parquet.read_row_group(group, columns=["image_id", "crop"]).filter(is_wanted)
