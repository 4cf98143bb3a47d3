"""MIMIC-CXR-JPG: `files/pNN/pSUBJECT/sSTUDY/DICOM_ID.jpg` and three CSV files, as PhysioNet gives them.

Johnson et al.: MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs, arXiv:1901.07042;
https://doi.org/10.13026/jsn5-t979.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.archives import ArchiveFile, walk
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import AP, LATERAL, PA, Contents, StudyRecord
from pipelines.sources.chexpert import CHEXPERT_OBSERVATIONS, Observations
from pipelines.sources.label_files import (
    another_layout,
    contents,
    is_image,
    read_table,
    refuse_repeated,
    refuse_torn_patients,
    refuse_wrong_cells,
    survey,
    unlabelled,
)
from pipelines.splits import Split

IMAGE_FOLDER = "files"
TABLES = ("metadata", "split", "chexpert")

_TABLE = re.compile(r"mimic-cxr-(?P<version>\d+\.\d+\.\d+)-(?P<table>metadata|split|chexpert)\.csv(?P<gz>\.gz)?")
_DIGITS = r"[1-9]\d{0,17}"
_SPLITS = {"train": Split.TRAIN, "validate": Split.VAL, "test": Split.TEST}
#: ViewPosition (DICOM PS3.3, C.8.1.1: LL and RL are left and right lateral) as the set's machines write it. Decubitus,
#: oblique and axial views are neither PA nor AP nor lateral.
_VIEWS = {"PA": PA, "AP": AP, "LATERAL": LATERAL, "LL": LATERAL, "RL": LATERAL, "XTABLE LATERAL": LATERAL}


@dataclass(frozen=True)
class _Labels:
    """What the label files say, by the position of the image's row in the metadata."""

    name: str
    """The metadata's file."""
    positions: dict[str, int]
    """dicom_id → position."""
    subjects: npt.NDArray[np.int64]
    studies: npt.NDArray[np.int64]
    views: list[str | None]
    splits: list[Split]
    study_rows: npt.NDArray[np.int64]
    """Rows of the study's observations; -1 where it has none."""
    observations: Observations

    def folders(self, position: int) -> str:
        """The last two folders of an image's path."""
        return f"p{self.subjects[position]}/s{self.studies[position]}"


@dataclass(frozen=True)
class MimicCxrJpgSource:
    """The set as published; its findings belong to studies, so that all images of a study have the same.

    Messages tell rows, never names: subject, study and image numbers are those of patients.
    """

    archive: Folder

    @property
    def is_public(self) -> bool:
        """False: PhysioNet gives it to credentialed users only, who must not pass on what identifies its patients."""
        return False

    @property
    def official_splits(self) -> frozenset[Split]:
        """All three."""
        return frozenset(Split)

    def check(self) -> Contents:
        """Parse all label files and find their images."""
        labels = self._labels
        images, is_there = survey(self._images(), len(labels.positions))
        if not images:
            raise another_layout(self.archive, "mimic_cxr_jpg", f"images in {IMAGE_FOLDER}/p…/p…/s…/")
        return contents(images, is_there, lambda position: f"row {position + 2} of {labels.name}")

    def records(self) -> Iterator[StudyRecord]:
        """All images, patient by patient and study by study."""
        labels = self._labels
        for file, position in self._images():
            if position is None:
                yield unlabelled(file, labels.name)
                continue
            study_row = int(labels.study_rows[position])
            yield StudyRecord(
                path=file.path,
                patient_id=str(labels.subjects[position]),
                findings=labels.observations.findings(study_row) if study_row >= 0 else {},
                study_id=str(labels.studies[position]),
                view=labels.views[position],
                split=labels.splits[position],
                version=file.version,
                row=position + 2,
            )

    def _images(self) -> Iterator[tuple[ArchiveFile, int | None]]:
        labels = self._labels
        for file in filter(is_image, walk(self.archive, IMAGE_FOLDER)):
            position = labels.positions.get(file.name.rpartition(".")[0])
            # A file in another patient's folder is not the one that the row tells of.
            is_in_place = position is not None and file.path.endswith(f"{labels.folders(position)}/{file.name}")
            yield file, position if is_in_place else None

    @functools.cached_property
    def _labels(self) -> _Labels:
        name, split_name, chexpert_name = self._names()
        frame = read_table(self.archive, name, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
        numbers = _numbers(name, frame, "subject_id", "study_id")
        refuse_wrong_cells(name, {"dicom_id": (frame["dicom_id"] != "", "is blank")})
        refuse_repeated(name, "dicom_id", frame["dicom_id"])
        study_rows, observations = self._observations(chexpert_name, numbers)
        labels = _Labels(
            name=name,
            positions={image: position for position, image in enumerate(frame["dicom_id"])},
            subjects=numbers["subject_id"].to_numpy(),
            studies=numbers["study_id"].to_numpy(),
            views=[_VIEWS.get(view) for view in frame["ViewPosition"]],
            splits=self._splits(split_name, name, frame["dicom_id"]),
            study_rows=study_rows,
            observations=observations,
        )
        refuse_torn_patients(labels.subjects, labels.splits, lambda position: f"row {position + 2} of {name}")
        return labels

    def _names(self) -> tuple[str, ...]:
        """The three label files: the newest version of each, unpacked rather than packed."""
        found: dict[str, tuple[list[int], bool, str]] = {}
        for name in self.archive.names():
            if match := _TABLE.fullmatch(name):
                candidate = ([int(number) for number in match["version"].split(".")], not match["gz"], name)
                found[match["table"]] = max(candidate, found.get(match["table"], candidate))
        missing = [table for table in TABLES if table not in found]
        if len(missing) == len(TABLES):
            expected = f"mimic-cxr-2.0.0-{{{','.join(TABLES)}}}.csv (or .gz) beside {IMAGE_FOLDER}/"
            raise another_layout(self.archive, "mimic_cxr_jpg", expected)
        if missing:
            files = ", ".join(f"mimic-cxr-2.0.0-{table}.csv" for table in missing)
            raise SourceError(f"'{self.archive.uri}' lacks {files} (or .gz). Put it there: PhysioNet gives it.")
        return tuple(found[table][2] for table in TABLES)

    def _splits(self, name: str, metadata: str, images: pd.Series[str]) -> list[Split]:
        frame = read_table(self.archive, name, ("dicom_id", "split"))
        refuse_wrong_cells(name, {"split": (frame["split"].isin(_SPLITS), f"must be {', '.join(_SPLITS)}")})
        refuse_repeated(name, "dicom_id", frame["dicom_id"])
        rows = pd.Index(frame["dicom_id"]).get_indexer(pd.Index(images))
        refuse_wrong_cells(metadata, {"dicom_id": (pd.Series(rows >= 0, images.index), f"has no row in {name}")})
        splits = [_SPLITS[cell] for cell in frame["split"]]
        return [splits[row] for row in rows]

    def _observations(self, name: str, images: pd.DataFrame) -> tuple[npt.NDArray[np.int64], Observations]:
        """The rows of the images' studies, and what they say."""
        frame = read_table(self.archive, name, ("subject_id", "study_id", *CHEXPERT_OBSERVATIONS))
        studies = pd.MultiIndex.from_frame(_numbers(name, frame, "subject_id", "study_id"))
        refuse_repeated(name, "study_id", frame["subject_id"] + "/" + frame["study_id"])
        rows = studies.get_indexer(pd.MultiIndex.from_frame(images))
        return rows.astype(np.int64), Observations.of(name, frame)


def _numbers(name: str, frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Columns of identifiers as whole numbers."""
    are_right = {column: frame[column].str.fullmatch(_DIGITS) for column in columns}
    refuse_wrong_cells(name, {column: (is_right, "must be a whole number") for column, is_right in are_right.items()})
    return frame[list(columns)].astype(np.int64)
