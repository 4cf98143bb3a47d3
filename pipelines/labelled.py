"""Features joined with studies: what a head learns from and is judged on, one matrix per split, without Spark."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from classifiers.rows import SplitRows
from classifiers.tasks import UNANSWERED, Task, get_task
from pipelines.errors import LakeError
from pipelines.lake import Lake
from pipelines.matrices import MatrixRoom
from pipelines.splits import Split
from pipelines.stored_features import FLOAT_BYTES, StoredFeatures

#: The first age of each band but the youngest, years; ingest tells ages over 90 as 90.
_BAND_STARTS: Final = (18, 40, 60, 80)
AGE_BANDS: Final = ("0-17", "18-39", "40-59", "60-79", "80+")

_COLUMNS = ["image_id", "dataset", "patient_key", "view", "sex", "age_years", "findings", "split"]
_MENTIONS = pa.list_(pa.struct([("finding", pa.string()), ("value", pa.int8())]))
#: Far from what a label file may state, so that a wrong value is told as such.
_NOT_MENTIONED = np.iinfo(np.int8).min


@dataclass(frozen=True, repr=False)
class Labelled:
    """The rows of one task and one extractor, by split; a context that gives back what disk they took.

    Rows that the task does not answer, and augmented copies outside train, are counted and not kept.

    Attributes:
        task: the question that the targets answer.
        extractor: fingerprint of the extractor.
        splits: the rows of every split that has any; train is always there. Features that were not read have width 0.
        unanswered: per split, images (in train, their copies too) that have features but no target.
        copies: per split, augmented copies (variant > 0) that are not used: those of val and test images.
        without_features: studies that have no features yet.
        images: how many images and patients of which data set have features, in words.
        spilled: bytes of the matrices that lie in temporary files, for want of memory; 0 where all are in memory.
    """

    task: Task
    extractor: str
    splits: Mapping[Split, SplitRows]
    unanswered: Mapping[Split, int]
    copies: Mapping[Split, int]
    without_features: int
    images: str
    _room: MatrixRoom

    @property
    def train(self) -> SplitRows:
        """The rows to learn from."""
        return self.splits[Split.TRAIN]

    @property
    def val(self) -> SplitRows | None:
        """The rows to choose by; None when there are none."""
        return self.splits.get(Split.VAL)

    @property
    def test(self) -> SplitRows | None:
        """The rows to judge by; None when there are none."""
        return self.splits.get(Split.TEST)

    @property
    def spilled(self) -> int:
        """Bytes in temporary files."""
        return self._room.spilled

    def __repr__(self) -> str:
        rows = ", ".join(f"{split} {len(rows):,}" for split, rows in self.splits.items())
        width = max(split.features.shape[1] for split in self.splits.values())
        return f"<{self.task.name}: {rows} rows of {width} features; {self.images}>"

    def close(self) -> None:
        """Remove the temporary files, if there are any."""
        self._room.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_rows(lake: str, task: str, extractor: str | None = None) -> Labelled:
    """What `read_labelled` gives, by names: the way in for a notebook.

    Args:
        lake: path or URI of the lake.
        task: the task's name, or the path of its YAML file.
        extractor: fingerprint (or its start) of the features; None: the only ones in the lake.

    Raises:
        LakeError, TaskError: as `read_labelled`, and if there is no such lake, task or extractor.
    """
    question = get_task(task)
    there = Lake.open(lake)
    return read_labelled(there, there.choose_extractor(extractor), question)


def read_labelled(lake: Lake, extractor: str, task: Task, *, memory: int | None = None) -> Labelled:
    """All features of one extractor that a task answers, joined with their studies on image_id.

    What is known of the rows is read first; then every feature is decoded straight into its place.

    Args:
        lake, extractor, task: as of `find_rows`.
        memory: as of `FoundRows.read`.

    Raises:
        TaskError: as `find_rows`.
        LakeError: as `find_rows` and `FoundRows.read`.
    """
    return find_rows(lake, extractor, task).read(memory=memory)


@dataclass(frozen=True, repr=False)
class FoundRows:
    """The rows of one task and one extractor, by split, before any feature is read.

    Attributes:
        task, extractor, unanswered, copies, without_features, images: as in `Labelled`.
        stored: where the features lie.
        places: per split that has any rows, int64 (n,), ascending: their places in `stored`.
        splits: the same rows, with features of width 0.
    """

    task: Task
    extractor: str
    stored: StoredFeatures
    places: Mapping[Split, npt.NDArray[np.int64]]
    splits: Mapping[Split, SplitRows]
    unanswered: Mapping[Split, int]
    copies: Mapping[Split, int]
    without_features: int
    images: str

    def read(self, splits: Collection[Split] = tuple(Split), *, memory: int | None = None) -> Labelled:
        """Read the features of some splits; those of the others stay of width 0.

        Args:
            splits: which ones.
            memory: bytes that the features may take in memory; what does not fit goes to files under TMPDIR. None:
                half of what this process can still have.

        Raises:
            LakeError: if features are unlike in length or not finite, or neither memory nor disk has room for them.
        """
        wanted = [split for split in self.places if split in splits]
        room = MatrixRoom(sum(self.places[split].size for split in wanted) * self.stored.dim * FLOAT_BYTES, memory)
        try:
            matrices = [room.empty(self.places[split].size, self.stored.dim) for split in wanted]
            self.stored.read_into(matrices, [self.places[split] for split in wanted])
        except BaseException:
            room.close()
            raise
        features = dict(zip(wanted, matrices, strict=True))
        return Labelled(
            task=self.task,
            extractor=self.extractor,
            splits={
                split: replace(rows, features=features.get(split, rows.features)) for split, rows in self.splits.items()
            },
            unanswered=self.unanswered,
            copies=self.copies,
            without_features=self.without_features,
            images=self.images,
            _room=room,
        )


def find_rows(lake: Lake, extractor: str, task: Task) -> FoundRows:
    """The rows whose features a task answers, joined with their studies on image_id.

    Args:
        lake: where features and studies lie.
        extractor: the whole fingerprint.
        task: what the targets answer.

    Raises:
        TaskError: if the lake does not have the task's findings.
        LakeError: if features belong to no study or are there twice, or none is of a train image that the task answers.
    """
    studies = lake.studies.to_arrow(_COLUMNS).combine_chunks()
    _check(studies, lake)
    mentioned = _mentions(studies["findings"])
    task.check_findings(sorted(pc.unique(mentioned["finding"]).to_pylist()))
    targets = _targets(task, mentioned, studies.num_rows)
    stored = StoredFeatures.open(lake.features(extractor))
    study_of = stored.find_in(studies["image_id"])
    plan = _Plan.make(study_of, stored.variants, _split_numbers(studies), _is_answered(targets))
    if Split.TRAIN not in plan.places:
        raise _nothing_to_learn(task, plan)
    told = _Told.of(studies)
    with_features = np.unique(study_of)
    return FoundRows(
        task=task,
        extractor=extractor,
        stored=stored,
        places=plan.places,
        splits={split: told.rows(targets, study_of[places]) for split, places in plan.places.items()},
        unanswered=plan.unanswered,
        copies=plan.copies,
        without_features=studies.num_rows - with_features.size,
        images=_images_text(studies.select(["dataset", "image_id", "patient_key"]).take(pa.array(with_features))),
    )


@dataclass(frozen=True)
class _Plan:
    """Which features are kept, and of what split they are.

    Attributes:
        places: per split that has any, int64 (n,): the places of its rows among all features.
        unanswered, copies: as in `Labelled`.
    """

    places: Mapping[Split, npt.NDArray[np.int64]]
    unanswered: Mapping[Split, int]
    copies: Mapping[Split, int]

    @classmethod
    def make(
        cls,
        study_of: npt.NDArray[np.int64],
        variants: npt.NDArray[np.int32],
        splits: npt.NDArray[np.int8],
        is_answered: npt.NDArray[np.bool_],
    ) -> _Plan:
        """From each feature's study and variant, and each study's split and whether it has a target."""
        places: dict[Split, npt.NDArray[np.int64]] = {}
        unanswered, copies = {}, {}
        for number, split in enumerate(Split):
            here = splits[study_of] == number
            is_unused_copy = here & (variants > 0) if split != Split.TRAIN else np.zeros_like(here)
            is_unanswered = here & ~is_unused_copy & ~is_answered[study_of]
            kept = np.flatnonzero(here & ~is_unused_copy & ~is_unanswered)
            copies[split] = int(is_unused_copy.sum())
            unanswered[split] = int(is_unanswered.sum())
            if kept.size:
                places[split] = kept
        return cls(places, unanswered, copies)


@dataclass(frozen=True)
class _Told:
    """What is told of every study beside its findings.

    Attributes:
        patients: int64 (studies,), one number per patient.
        image_ids: string column.
        attributes: as in `SplitRows`, of all studies.
    """

    patients: npt.NDArray[np.int64]
    image_ids: pa.ChunkedArray
    attributes: Mapping[str, npt.NDArray[np.str_]]

    @classmethod
    def of(cls, studies: pa.Table) -> _Told:
        # An image of nobody known is a patient of its own.
        keys = pc.coalesce(studies["patient_key"], studies["image_id"])
        patient, dataset = _codes(keys), _codes(studies["dataset"].fill_null(""))
        _, patients = np.unique(patient * (1 + dataset.max(initial=0)) + dataset, return_inverse=True)
        ages = studies["age_years"].to_numpy()
        bands = np.array([*AGE_BANDS, ""])[np.where(np.isnan(ages), len(AGE_BANDS), np.digitize(ages, _BAND_STARTS))]
        return cls(
            patients.astype(np.int64),
            studies["image_id"],
            {
                "sex": _texts(studies["sex"]),
                "age": bands,
                "view": _texts(studies["view"]),
                "data set": _texts(studies["dataset"]),
            },
        )

    def rows(self, targets: npt.NDArray[np.integer[Any]], studies: npt.NDArray[np.int64]) -> SplitRows:
        """The rows of a split, by the studies that they are of, with features of width 0."""
        return SplitRows(
            np.empty((studies.size, 0), np.float32),
            targets[studies],
            self.patients[studies],
            np.array(self.image_ids.take(pa.array(studies)).to_pylist(), np.str_),
            {name: column[studies] for name, column in self.attributes.items()},
        )


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


def _is_answered(targets: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    return np.asarray((targets.reshape(len(targets), -1) != UNANSWERED).any(axis=1))


def _check(studies: pa.Table, lake: Lake) -> None:
    if again := studies.num_rows - pc.count_distinct(studies["image_id"]).as_py():
        raise LakeError(
            f"{again:,} studies in '{lake.studies.folder.uri}' have the image_id of another. Was a run copied or put "
            "back? jobs/audit_lake.py tells which."
        )


def _split_numbers(studies: pa.Table) -> npt.NDArray[np.int8]:
    """Each study's split as its place in `Split`: int8 (n,)."""
    numbers = pc.index_in(studies["split"], value_set=pa.array([str(split) for split in Split]))
    if numbers.null_count:
        raise LakeError(
            f"{numbers.null_count:,} studies are in none of the splits {', '.join(Split)}. Ingest their archive again."
        )
    return np.asarray(numbers.to_numpy().astype(np.int8))


def _nothing_to_learn(task: Task, plan: _Plan) -> LakeError:
    if unanswered := plan.unanswered[Split.TRAIN]:
        return LakeError(
            f"none of the {unanswered:,} features of the train split answers task '{task.name}'. Check what the "
            "findings of these studies say (jobs/explore_dataset.py), or choose another task."
        )
    return LakeError("no study of the train split has features. Ingest with a train split, then extract its features.")


def _images_text(studies: pa.Table) -> str:
    return "; ".join(
        f"{row['dataset']}, {row['image_id_count']:,} images of {row['patient_key_count_distinct']:,} patients"
        for row in studies.group_by("dataset")
        .aggregate([("image_id", "count"), ("patient_key", "count_distinct")])
        .to_pylist()
    )


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Equal values as equal numbers from 0: int64 (n,)."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64))


def _texts(column: pa.ChunkedArray) -> npt.NDArray[np.str_]:
    """Few different texts, many times; "" for null: str (n,)."""
    encoded = column.combine_chunks().fill_null("").dictionary_encode()
    return np.asarray(np.array(encoded.dictionary.to_pylist(), np.str_)[encoded.indices.to_numpy()])
