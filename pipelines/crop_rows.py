"""What is known of a lake's crops that a task answers before any of them is read: where they lie and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from classifiers.tasks import Task
from pipelines.answers import ANSWER_COLUMNS, Answers, few_texts
from pipelines.crop_feed import STUDIES_REMEDY
from pipelines.errors import LakeError
from pipelines.lake import Lake
from pipelines.parquet import open_parquet
from pipelines.splits import Split
from pipelines.tables import STUDIES

_FACTS = pa.schema([STUDIES.field(name) for name in ANSWER_COLUMNS])
#: Footers and a few short columns: as many reads at once as hide a far file system's answers.
_READERS = 8


@dataclass(frozen=True, eq=False, repr=False)
class CropRows:
    """The rows that a task answers, of all splits: n of them, file by file in the order in which they lie.

    A row's number, 0 to n - 1, is what orders, readers and batches know it by.

    Attributes:
        image_ids: str (n,).
        files: paths of the Parquet files of all committed runs of studies, inside the table's file system.
        file: int32 (n,), place in `files`.
        row_group: int32 (n,), place in the file.
        row: int32 (n,), place in the row group.
        targets: int64 (n,), class index; or int8 (n, classes) of a multi-label task, 1, 0 or -1 for unknown.
        patients: int64 (n,), one number per patient.
        split: int8 (n,), place in `Split`.
        datasets: str (n,), the data set's name.
        unanswered: per split, images that the task does not answer, which are not among the rows.
    """

    image_ids: npt.NDArray[np.str_]
    files: tuple[str, ...]
    file: npt.NDArray[np.int32]
    row_group: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    targets: npt.NDArray[np.integer[Any]]
    patients: npt.NDArray[np.int64]
    split: npt.NDArray[np.int8]
    datasets: npt.NDArray[np.str_]
    unanswered: Mapping[Split, int]

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {self.of(split).size:,}" for split in Split)
        return f"<crops: {counts} in {len(self.files):,} files>"

    def of(self, split: Split) -> npt.NDArray[np.int64]:
        """The numbers of a split's rows, ascending: int64."""
        return np.flatnonzero(self.split == list(Split).index(split))

    def groups(self) -> npt.NDArray[np.int64]:
        """A number per row that is the row group's own among all files: int64 (n,), ascending."""
        return self.file.astype(np.int64) << 32 | self.row_group


def find_crops(lake: Lake, task: Task) -> CropRows:
    """Find the crops that a task answers; reads the short columns of `studies` only, and no crop.

    Args:
        lake: where the studies lie.
        task: what the targets answer.

    Raises:
        TaskError: if the lake does not have the task's findings.
        LakeError: if no train image is answered, an image is there twice, a split is none, or a file is damaged.
    """
    filesystem = lake.studies.folder.filesystem
    files = tuple(lake.studies.files())

    def look(path: str) -> tuple[list[int], pa.Table]:
        with open_parquet(path, filesystem, remedy=STUDIES_REMEDY) as parquet:
            metadata = parquet.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            return sizes, parquet.read(_FACTS.names, use_threads=False).cast(_FACTS)

    with ThreadPoolExecutor(_READERS, "look") as pool:
        found = list(pool.map(look, files))
    studies = pa.concat_tables([_FACTS.empty_table(), *(facts for _, facts in found)]).combine_chunks()
    answers = Answers.of(studies, task, lake.studies.folder)
    unanswered = {
        split: int((~answers.is_answered & (answers.splits == number)).sum()) for number, split in enumerate(Split)
    }
    if not (answers.is_answered & (answers.splits == list(Split).index(Split.TRAIN))).any():
        raise _nothing_to_learn(task, unanswered[Split.TRAIN])
    sizes = [size for groups, _ in found for size in groups]
    kept = np.flatnonzero(answers.is_answered)
    return CropRows(
        image_ids=np.array(studies["image_id"].take(pa.array(kept)).to_pylist(), np.str_),
        files=files,
        file=np.repeat(np.arange(len(files), dtype=np.int32), [facts.num_rows for _, facts in found])[kept],
        row_group=np.repeat(_counts([len(groups) for groups, _ in found]), sizes)[kept],
        row=_counts(sizes)[kept],
        targets=answers.targets[kept],
        patients=answers.patients[kept],
        split=answers.splits[kept],
        datasets=few_texts(studies["dataset"])[kept],
        unanswered=unanswered,
    )


def _counts(lengths: list[int]) -> npt.NDArray[np.int32]:
    """0, 1, … up to each length in turn: int32 (sum of lengths,)."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return (np.arange(sum(lengths)) - np.repeat(ends - lengths, lengths)).astype(np.int32)


def _nothing_to_learn(task: Task, unanswered: int) -> LakeError:
    if unanswered:
        return LakeError(
            f"none of the {unanswered:,} images of the train split answers task '{task.name}'. Check what the findings "
            "of these studies say (jobs/explore_dataset.py), or choose another task."
        )
    return LakeError("no study is in the train split. Ingest an archive with one.")
