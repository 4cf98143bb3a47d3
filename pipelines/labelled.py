"""Features joined with studies: what a head learns from and is judged on, one matrix per split, without Spark."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from classifiers.rows import SplitRows
from classifiers.tasks import Task, get_task
from pipelines import acquisition
from pipelines.acquisition import ACQUISITION, BackbonesHoldOut, HeldOut, HoldOutSettings
from pipelines.answers import ANSWER_COLUMNS, Answers, few_texts
from pipelines.errors import LakeError
from pipelines.lake import Lake
from pipelines.matrices import MatrixRoom
from pipelines.splits import Split
from pipelines.stored_features import FLOAT_BYTES, StoredFeatures

#: The first age of each band but the youngest, years; ingest tells ages over 90 as 90.
_BAND_STARTS: Final = (18, 40, 60, 80)
AGE_BANDS: Final = ("0-17", "18-39", "40-59", "60-79", "80+")

#: The columns of `studies` that attributes are made of.
ATTRIBUTE_COLUMNS: Final = ("dataset", "view", "sex", "age_years")
_COLUMNS = list(dict.fromkeys((*ANSWER_COLUMNS, *ATTRIBUTE_COLUMNS)))


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
        held_out: the patients of the lake's train split that are in val here.
        spilled: bytes of the matrices that lie in temporary files, for want of memory; 0 where all are in memory.
    """

    task: Task
    extractor: str
    splits: Mapping[Split, SplitRows]
    unanswered: Mapping[Split, int]
    copies: Mapping[Split, int]
    without_features: int
    images: str
    held_out: HeldOut
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


def open_rows(
    lake: str, task: str, extractor: str | None = None, *, hold_out: HoldOutSettings | None = None
) -> Labelled:
    """What `read_labelled` gives, by names: the way in for a notebook.

    Args:
        lake: path or URI of the lake.
        task: the task's name, or the path of its YAML file.
        extractor: fingerprint (or its start) of the features; None: the only ones in the lake.
        hold_out: as of `find_rows`; None: whom the backbone's fine-tuning held out, if it did, as jobs/train_head.py
            does. `NOBODY` for the lake's own val.

    Raises:
        LakeError, TaskError: as `read_labelled`, and if there is no such lake, task or extractor.
    """
    question = get_task(task)
    there = Lake.open(lake)
    chosen = there.choose_extractor(extractor)
    settings = hold_out or BackbonesHoldOut.of_extractor(there, chosen).settings
    return read_labelled(there, chosen, question, hold_out=settings)


def read_labelled(
    lake: Lake, extractor: str, task: Task, *, hold_out: HoldOutSettings | None = None, memory: int | None = None
) -> Labelled:
    """All features of one extractor that a task answers, joined with their studies on image_id.

    What is known of the rows is read first; then every feature is decoded straight into its place.

    Args:
        lake, extractor, task, hold_out: as of `find_rows`.
        memory: as of `FoundRows.read`.

    Raises:
        TaskError: as `find_rows`.
        LakeError: as `find_rows` and `FoundRows.read`.
    """
    return find_rows(lake, extractor, task, hold_out).read(memory=memory)


@dataclass(frozen=True, repr=False)
class FoundRows:
    """The rows of one task and one extractor, by split, before any feature is read.

    Attributes:
        task, extractor, unanswered, copies, without_features, images, held_out: as in `Labelled`.
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
    held_out: HeldOut

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
            held_out=self.held_out,
            _room=room,
        )


def find_rows(lake: Lake, extractor: str, task: Task, hold_out: HoldOutSettings | None = None) -> FoundRows:
    """The rows whose features a task answers, joined with their studies on image_id.

    Args:
        lake: where features and studies lie.
        extractor: the whole fingerprint.
        task: what the targets answer.
        hold_out: whom to take from train into val; rows of val then tell by the attribute `ACQUISITION` who is who.

    Raises:
        TaskError: if the lake does not have the task's findings.
        LakeError: if features belong to no study or are there twice, or none is of a train image that the task answers;
            as `acquisition.hold_out`.
    """
    studies = lake.studies.to_arrow(_COLUMNS).combine_chunks()
    answers = Answers.of(studies, task, lake.studies.folder)
    stored = StoredFeatures.open(lake.features(extractor))
    study_of = stored.find_in(studies["image_id"])
    held_out = HeldOut() if hold_out is None else acquisition.hold_out(lake, hold_out)
    splits = held_out.moved(studies["image_id"], answers.splits)
    plan = _Plan.make(study_of, stored.variants, splits, answers.is_answered)
    if Split.TRAIN not in plan.places:
        raise _nothing_to_learn(task, plan)
    told = _Told.of(studies, answers)
    with_features = np.unique(study_of)
    rows = {split: told.rows(study_of[places]) for split, places in plan.places.items()}
    if held_out.patients and (val := rows.get(Split.VAL)) is not None and val.image_ids is not None:
        told_apart = {ACQUISITION: held_out.acquisition(val.image_ids)}
        rows[Split.VAL] = replace(val, attributes={**told_apart, **val.attributes})
    return FoundRows(
        task=task,
        extractor=extractor,
        stored=stored,
        places=plan.places,
        splits=rows,
        unanswered=plan.unanswered,
        copies=plan.copies,
        without_features=studies.num_rows - with_features.size,
        images=_images_text(studies.select(["dataset", "image_id", "patient_key"]).take(pa.array(with_features))),
        held_out=held_out,
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
    """What is told of every study.

    Attributes:
        answers: their targets and patients.
        image_ids: string column.
        attributes: as in `SplitRows`, of all studies.
    """

    answers: Answers
    image_ids: pa.ChunkedArray
    attributes: Mapping[str, npt.NDArray[np.str_]]

    @classmethod
    def of(cls, studies: pa.Table, answers: Answers) -> _Told:
        return cls(answers, studies["image_id"], attributes_of(studies))

    def rows(self, studies: npt.NDArray[np.int64]) -> SplitRows:
        """The rows of a split, by the studies that they are of, with features of width 0."""
        return SplitRows(
            np.empty((studies.size, 0), np.float32),
            self.answers.targets[studies],
            self.answers.patients[studies],
            np.array(self.image_ids.take(pa.array(studies)).to_pylist(), np.str_),
            {name: column[studies] for name, column in self.attributes.items()},
        )


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


def attributes_of(studies: pa.Table) -> Mapping[str, npt.NDArray[np.str_]]:
    """What `SplitRows` calls attributes, of all rows of a table with `ATTRIBUTE_COLUMNS`; "" where nothing is known."""
    ages = studies["age_years"].to_numpy()
    bands = np.array([*AGE_BANDS, ""])[np.where(np.isnan(ages), len(AGE_BANDS), np.digitize(ages, _BAND_STARTS))]
    return {
        "sex": few_texts(studies["sex"]),
        "age": bands,
        "view": few_texts(studies["view"]),
        "data set": few_texts(studies["dataset"]),
    }
