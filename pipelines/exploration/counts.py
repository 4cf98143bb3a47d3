"""Folds the studies of a lake, file by file, into counts and samples whose size does not grow with the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dask.delayed import delayed

from pipelines.exploration.cube import Cube
from pipelines.exploration.samples import CropSample, Examples, PatientSample, hash_texts
from pipelines.folders import Folder
from pipelines.sources.base import NEGATIVE, POSITIVE

#: Rows in memory at a time, per thread: without their crops a few hundred bytes each.
BATCH_ROWS = 16_384
#: Partial counts that are merged at once.
MERGED_AT_ONCE = 8
#: From this age on people are told by ingest as 90.
OLDEST = 90
#: Bands of lung quality, which goes from 0 to 1.
QUALITY_BANDS = 10

_COLUMNS = (
    *("image_id", "dataset", "patient_key", "view", "sex", "age_years", "findings", "split"),
    *("lung_quality", "cropper", "width", "height", "bits", "photometric"),
)
_GROUPS = ("dataset", "split", "view", "sex")
_PAIR_LIST = pa.list_(pa.struct([("finding", pa.string()), ("value", pa.int8())]))


@dataclass(frozen=True)
class StudyFile:
    """One Parquet file of the studies, by its number among those of the lake."""

    number: int
    path: str
    filesystem: fsspec.AbstractFileSystem

    def open(self) -> pq.ParquetFile:
        """The file, with its footer read."""
        return pq.ParquetFile(self.path, filesystem=self.filesystem)

    def rows(self) -> int:
        """How many rows the footer tells."""
        with self.open() as file:
            return int(file.metadata.num_rows)


def study_files(studies: Folder) -> list[StudyFile]:
    """The Parquet files of all committed runs."""
    paths = [f"{run.path}/{name}" for run in studies.runs() for name in run.names() if name.endswith(".parquet")]
    return [StudyFile(number, path, studies.filesystem) for number, path in enumerate(paths)]


@dataclass(frozen=True)
class Scope:
    """What is counted and sampled.

    Attributes:
        dataset: the only data set; None for all.
        examples: images per finding.
        seed: of the samples.
    """

    dataset: str | None
    examples: int
    seed: int


@dataclass(frozen=True)
class Counts:
    """All that the page tells of the studies, crops' pixels excepted.

    Attributes:
        images: by dataset, split, view, sex.
        labelled: the images that mention any finding, by the same.
        findings: mentions by finding, value, dataset, split, view, sex.
        pairs: by dataset, first, second (findings), first_value, second_value; only values 1 and -1, in both orders,
            each finding with itself too.
        labels: images by split, positives (how many findings are positive).
        ages: images by sex, age (whole years, null where unknown).
        finding_ages: positive mentions by finding, age.
        formats: by dataset, bits, photometric.
        crops: by dataset, cropper, quality (band of 1/QUALITY_BANDS).
        widths, heights: by dataset, and width or height in pixels.
    """

    images: Cube
    labelled: Cube
    findings: Cube
    pairs: Cube
    labels: Cube
    ages: Cube
    finding_ages: Cube
    formats: Cube
    crops: Cube
    widths: Cube
    heights: Cube
    patients: PatientSample
    crop_sample: CropSample
    examples: Examples

    @classmethod
    def of(cls, rows: pa.Table, scope: Scope) -> Self:
        """Count rows with `_COLUMNS` and `file`, `row`, `group` (see `_batches`)."""
        rows = _with_derived(rows, scope.seed)
        mentions = _mentions(rows)
        positives = mentions.filter(pc.equal(mentions["value"], POSITIVE))
        return cls(
            images=Cube.of(rows, *_GROUPS),
            labelled=Cube.of(rows.filter(_mentions_any(rows)), *_GROUPS),
            findings=Cube.of(mentions, "finding", "value", *_GROUPS),
            pairs=_pairs(mentions),
            labels=_labels_per_image(rows, positives),
            ages=Cube.of(rows, "sex", "age"),
            finding_ages=Cube.of(positives, "finding", "age"),
            formats=Cube.of(rows, "dataset", "bits", "photometric"),
            crops=Cube.of(rows, "dataset", "cropper", "quality"),
            widths=Cube.of(rows, "dataset", "width"),
            heights=Cube.of(rows, "dataset", "height"),
            patients=PatientSample.of(rows),
            crop_sample=CropSample.of(rows),
            examples=Examples.of(positives, scope.examples),
        )

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The counts of all parts' rows."""
        merged: dict[str, Any] = {}
        for field in fields(cls):
            values = [getattr(part, field.name) for part in parts]
            merged[field.name] = type(values[0]).merge(values)
        return cls(**merged)


def count_files(files: Sequence[StudyFile], scope: Scope, done: Callable[[int], None]) -> Counts:
    """Count all files in threads, merging as they come.

    Args:
        files: at least one.
        scope: what is counted.
        done: told how many rows were read; called from several threads.
    """
    parts = [delayed(_count_file, pure=False)(file, scope, done) for file in files]
    while len(parts) > 1:
        together = [parts[start : start + MERGED_AT_ONCE] for start in range(0, len(parts), MERGED_AT_ONCE)]
        parts = [delayed(Counts.merge, pure=False)(few) for few in together]
    counts = parts[0].compute(scheduler="threads")
    assert isinstance(counts, Counts)
    return counts


def _count_file(file: StudyFile, scope: Scope, done: Callable[[int], None]) -> Counts:
    parts: list[Counts] = []
    for batch in _batches(file, scope.seed):
        mine = batch if scope.dataset is None else batch.filter(pc.equal(batch["dataset"], scope.dataset))
        parts = [Counts.merge([*parts, Counts.of(mine, scope)])]
        done(batch.num_rows)
    return parts[0] if parts else Counts.of(_located(_empty(file), file, 0, np.zeros(1, np.int64), scope.seed), scope)


def _batches(file: StudyFile, seed: int) -> Iterator[pa.Table]:
    with file.open() as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        ends = np.cumsum(sizes)
        start = 0
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(_COLUMNS), use_threads=False):
            yield _located(pa.Table.from_batches([batch]), file, start, ends, seed)
            start += batch.num_rows


def _empty(file: StudyFile) -> pa.Table:
    with file.open() as parquet:
        return parquet.schema_arrow.empty_table().select(_COLUMNS)


def _located(rows: pa.Table, file: StudyFile, start: int, ends: npt.NDArray[np.int64], seed: int) -> pa.Table:
    """Rows with where they are: `file`, `row` in it, and `group`, a seeded hash of their row group."""
    numbers = np.arange(start, start + rows.num_rows)
    hashes = np.array([np.random.default_rng((seed, file.number, group)).integers(2**63) for group in range(ends.size)])
    return (
        rows.append_column("file", pa.array(np.full(rows.num_rows, file.number)))
        .append_column("row", pa.array(numbers))
        .append_column("group", pa.array(hashes[np.searchsorted(ends, numbers, side="right")].astype(np.uint64)))
    )


def _with_derived(rows: pa.Table, seed: int) -> pa.Table:
    """Rows with `age` in whole years, `quality` as a band, and `priority`, a seeded hash of the image."""
    age = pc.min_element_wise(pc.floor(rows["age_years"]).cast(pa.int32()), OLDEST, skip_nulls=False)
    band = pc.floor(pc.multiply(rows["lung_quality"], QUALITY_BANDS)).cast(pa.int32())
    return (
        rows.append_column("age", age)
        .append_column("quality", pc.min_element_wise(band, QUALITY_BANDS - 1, skip_nulls=False))
        .append_column("priority", pa.array(hash_texts(rows["image_id"], seed)))
    )


def _mentions(rows: pa.Table) -> pa.Table:
    """One row per image and finding that is mentioned."""
    pairs = rows["findings"].combine_chunks().cast(_PAIR_LIST)
    mentioned = pc.list_flatten(pairs)
    columns = [*_GROUPS, "age", "priority", "file", "row"]
    return (
        rows.select(columns)
        .take(pc.list_parent_indices(pairs))
        .append_column("finding", mentioned.field("finding"))
        .append_column("value", mentioned.field("value"))
    )


def _mentions_any(rows: pa.Table) -> pa.Array:
    """Whether each image mentions a finding: one that no label row names says nothing, not that nothing is there."""
    return pc.greater(pc.list_value_length(rows["findings"].combine_chunks().cast(_PAIR_LIST)), 0)


def _pairs(mentions: pa.Table) -> Cube:
    told = mentions.filter(pc.not_equal(mentions["value"], NEGATIVE)).select(["row", "dataset", "finding", "value"])
    first = told.rename_columns(["row", "dataset", "first", "first_value"])
    second = told.drop_columns("dataset").rename_columns(["row", "second", "second_value"])
    joined = first.join(second, keys="row", join_type="inner", use_threads=False)
    return Cube.of(joined, "dataset", "first", "second", "first_value", "second_value")


def _labels_per_image(rows: pa.Table, positives: pa.Table) -> Cube:
    first = rows["row"][0].as_py() if rows.num_rows else 0
    # Rows of a filtered batch have gaps in their numbers, so all numbers are counted and then only theirs are taken.
    length = (rows["row"][-1].as_py() - first + 1) if rows.num_rows else 0
    per_row = np.bincount(positives["row"].to_numpy() - first, minlength=length)
    table = pa.table({"split": rows["split"], "positives": pa.array(per_row[rows["row"].to_numpy() - first])})
    return Cube.of(table, "split", "positives")
