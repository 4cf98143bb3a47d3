"""What a task makes of the studies: every image's targets, patient and split, without pixels or features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from classifiers.tasks import UNANSWERED, Task
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.splits import Split

#: The columns of `studies` that answers are made of.
ANSWER_COLUMNS: Final = ("image_id", "dataset", "patient_key", "findings", "split")

_MENTIONS = pa.list_(pa.struct([("finding", pa.string()), ("value", pa.int8())]))
#: Far from what a label file may state, so that a wrong value is told as such.
_NOT_MENTIONED = np.iinfo(np.int8).min


@dataclass(frozen=True)
class Answers:
    """Of every study, in the order of the table.

    Attributes:
        targets: as `Task.targets` gives them: int64 (n,), or int8 (n, classes) of a multi-label task.
        is_answered: bool (n,), whether any target is known.
        patients: int64 (n,), one number per patient of a data set; an image of nobody known is a patient of its own.
        splits: int8 (n,), the place in `Split`.
    """

    targets: npt.NDArray[np.integer[Any]]
    is_answered: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    splits: npt.NDArray[np.int8]

    @classmethod
    def of(cls, studies: pa.Table, task: Task, folder: Folder) -> Self:
        """Ask a task of studies.

        Args:
            studies: with `ANSWER_COLUMNS`, each in one chunk.
            task: what is asked.
            folder: where they lie, for messages.

        Raises:
            TaskError: if no study mentions the task's findings.
            LakeError: if an image is there twice, or a split is none.
        """
        if again := studies.num_rows - pc.count_distinct(studies["image_id"]).as_py():
            raise LakeError(
                f"{again:,} studies in '{folder.uri}' have the image_id of another. Was a run copied or put back? "
                "jobs/audit_lake.py tells which."
            )
        mentioned = _mentions(studies["findings"])
        task.check_findings(sorted(pc.unique(mentioned["finding"]).to_pylist()))
        targets = _targets(task, mentioned, studies.num_rows)
        is_answered = (targets.reshape(len(targets), -1) != UNANSWERED).any(axis=1)
        return cls(targets, np.asarray(is_answered), patient_numbers(studies), _split_numbers(studies))


def few_texts(column: pa.ChunkedArray) -> npt.NDArray[np.str_]:
    """Few different texts, many times; "" for null: str (n,)."""
    encoded = column.combine_chunks().fill_null("").dictionary_encode()
    return np.asarray(np.array(encoded.dictionary.to_pylist(), np.str_)[encoded.indices.to_numpy()])


def _mentions(findings: pa.ChunkedArray) -> pa.Table:
    """One row per study and finding that it mentions: study (its row), finding, value."""
    pairs = findings.combine_chunks().cast(_MENTIONS)
    flat = pc.list_flatten(pairs)
    return pa.table(
        {"study": pc.list_parent_indices(pairs), "finding": flat.field("finding"), "value": flat.field("value")}
    )


def _targets(task: Task, mentioned: pa.Table, studies: int) -> npt.NDArray[np.integer[Any]]:
    """The task's targets of all studies, asked for once per combination of findings."""
    columns = pc.index_in(mentioned["finding"], value_set=pa.array(task.findings, pa.string()))
    is_asked = pc.and_(columns.is_valid(), mentioned["value"].is_valid()).to_numpy()
    stated = np.full((studies, len(task.findings)), _NOT_MENTIONED, np.int8)
    stated[mentioned["study"].to_numpy()[is_asked], columns.fill_null(-1).to_numpy()[is_asked]] = (
        mentioned["value"].fill_null(0).to_numpy()[is_asked]
    )
    # Rows as bytes, so that Arrow's hash table finds the combinations.
    as_bytes = pa.Array.from_buffers(pa.binary(stated.shape[1]), studies, [None, pa.py_buffer(stated)])
    encoded = as_bytes.dictionary_encode()
    combinations = [
        {name: value for name, value in zip(task.findings, row, strict=True) if value != _NOT_MENTIONED}
        for row in (np.frombuffer(each, np.int8).tolist() for each in encoded.dictionary.to_pylist())
    ]
    return np.asarray(task.targets(combinations)[encoded.indices.to_numpy()])


def patient_numbers(studies: pa.Table) -> npt.NDArray[np.int64]:
    """One number per patient of a data set, from 0; an image of nobody known is a patient of its own: int64 (n,)."""
    keys = pc.coalesce(studies["patient_key"], studies["image_id"])
    patient, dataset = text_codes(keys), text_codes(studies["dataset"].fill_null(""))
    _, patients = np.unique(patient * (1 + dataset.max(initial=0)) + dataset, return_inverse=True)
    return patients.astype(np.int64)


def _split_numbers(studies: pa.Table) -> npt.NDArray[np.int8]:
    numbers = pc.index_in(studies["split"], value_set=pa.array([str(split) for split in Split]))
    if numbers.null_count:
        raise LakeError(
            f"{numbers.null_count:,} studies are in none of the splits {', '.join(Split)}. Ingest their archive again."
        )
    return np.asarray(numbers.to_numpy().astype(np.int8))


def text_codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Equal values as equal numbers from 0: int64 (n,)."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64))
