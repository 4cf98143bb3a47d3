"""Stanford's CheXpert: `{train,valid,test}/patientN/studyN/viewN_frontal.jpg` and a CSV file for each part.

Irvin et al.: CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison, AAAI 2019. Both
CheXpert-v1.0 and CheXpert-v1.0-small, whose layouts are the same.
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
from pipelines.sources.label_files import (
    another_layout,
    contents,
    find_file,
    is_image,
    read_table,
    refuse_repeated,
    refuse_torn_patients,
    refuse_wrong_cells,
    survey,
    unlabelled,
)
from pipelines.sources.label_table import FINDING_VALUES
from pipelines.splits import Split

CHEXPERT_OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
TRAIN, VALID = "train.csv", "valid.csv"
#: Labels of the test images: in the set's own release, and in CheXlocalize's of the same images.
TEST = ("test.csv", "test_labels.csv")
PARTS = ("train", "valid", "test")

#: The full-size release unpacks into one folder for each of its zips; train's patients lie directly in theirs.
_BATCH = re.compile(r"CheXpert-v1\.0 batch \d+ \(.*\)")
#: The end of a path, whatever stands before: patients' numbers are one series over all parts.
_IMAGE = r"(?:^|/)(patient\d+/study\d+/[^/]+)$"
_DEMOGRAPHICS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
#: The test part has labels alone; its files' names tell the view.
_LATERAL_NAME = re.compile(r"view\d+_lateral\.")

_BLANK = 2
_CELLS = FINDING_VALUES | {"": _BLANK}
_SEXES = {"Male": "M", "Female": "F", "Unknown": None, "": None}
_SIDES = ("Frontal", "Lateral", "")
_PROJECTIONS = (AP, PA, "LL", "RL", "")
MAX_AGE = 120


@dataclass(frozen=True)
class Observations:
    """CheXpert's 14 observations of many studies, a byte each."""

    values: npt.NDArray[np.int8]
    """Shape (rows, 14)."""

    @classmethod
    def of(cls, name: str, frame: pd.DataFrame) -> Observations:
        """Out of the cells of the label file `name`.

        Raises:
            SourceError: telling by row and column which cells are not 1, 0, -1 or blank.
        """
        columns = {column: frame[column].map(_CELLS) for column in CHEXPERT_OBSERVATIONS}
        rule = "must be 1, 0, -1 or blank"
        refuse_wrong_cells(name, {column: (values.notna(), rule) for column, values in columns.items()})
        return cls(np.column_stack([values.to_numpy(np.int8) for values in columns.values()]))

    def findings(self, position: int) -> dict[str, int]:
        """A row's findings; blank cells are not mentioned."""
        values = self.values[position].tolist()
        return {name: value for name, value in zip(CHEXPERT_OBSERVATIONS, values, strict=True) if value != _BLANK}


@dataclass(frozen=True)
class _Table:
    """One of the label files, row by row, and where its rows begin among those of all."""

    name: str
    split: Split | None
    start: int
    images: list[str]
    """`patientN/studyN/viewN_frontal.jpg`."""
    observations: Observations
    views: list[str | None]
    sexes: list[str | None]
    ages: list[float | None]


@dataclass(frozen=True)
class _Labels:
    """What the label files say; a position counts the rows of all."""

    tables: list[_Table]
    positions: dict[str, int]
    """Image → position."""

    def row(self, position: int) -> tuple[_Table, int]:
        """The table that a row stands in, and its index there."""
        table = next(table for table in reversed(self.tables) if table.start <= position)
        return table, position - table.start

    def place(self, position: int) -> str:
        """Where a row stands, for a person."""
        table, index = self.row(position)
        return f"row {index + 2} of {table.name}"


@dataclass(frozen=True)
class ChexpertSource:
    """The set as published. The archive is the folder that holds `train.csv`, or its parent.

    The valid part is val, the test part, where its labels are there, test; the rest of train is left to the patients'
    hashes.
    """

    archive: Folder

    @property
    def is_public(self) -> bool:
        """True: `patientN` is a number that the set gives."""
        return True

    @property
    def official_splits(self) -> frozenset[Split]:
        """Val; and test, where its labels are there."""
        return frozenset(table.split for table in self._labels.tables if table.split)

    def check(self) -> Contents:
        """Parse all label files and find their images."""
        labels = self._labels
        images, is_there = survey(self._images(), len(labels.positions))
        if not images:
            raise another_layout(self.archive, "chexpert", "images in train/patient…/study…/")
        names = list(labels.positions)
        return contents(images, is_there, lambda position: names[position])

    def records(self) -> Iterator[StudyRecord]:
        """All images, part by part and patient by patient."""
        labels = self._labels
        tables = ", ".join(table.name for table in labels.tables)
        for file, position in self._images():
            if position is None:
                yield unlabelled(file, tables)
                continue
            table, index = labels.row(position)
            patient, study, _ = table.images[index].split("/")
            yield StudyRecord(
                path=file.path,
                patient_id=patient,
                findings=table.observations.findings(index),
                study_id=f"{patient}/{study}",
                view=table.views[index],
                sex=table.sexes[index],
                age_years=table.ages[index],
                split=table.split,
                version=file.version,
                row=index + 2,
            )

    def _images(self) -> Iterator[tuple[ArchiveFile, int | None]]:
        for folder in self._image_folders():
            for file in filter(is_image, walk(self.archive, folder)):
                yield file, self._labels.positions.get("/".join(file.path.rsplit("/", 3)[-3:]))

    def _image_folders(self) -> list[str]:
        if _BATCH.fullmatch(self._home):
            return [name for name in self.archive.names() if _BATCH.fullmatch(name)]
        return [f"{self._home}/{part}".lstrip("/") for part in PARTS]

    @functools.cached_property
    def _home(self) -> str:
        """The folder of the label files, relative to the archive."""
        if find_file(self.archive, TRAIN):
            return ""
        folders = [name for name in self.archive.names() if name.lower().startswith("chexpert")]
        homes = [name for name in folders if find_file(self.archive / name, TRAIN)]
        if not homes:
            raise another_layout(self.archive, "chexpert", f"{TRAIN} and {VALID} in it or in its folder CheXpert-v1.0…")
        if len(homes) > 1:
            raise SourceError(
                f"'{self.archive.uri}' holds CheXpert several times: {', '.join(homes)}. Give one of them as archive=…"
            )
        return homes[0]

    @functools.cached_property
    def _labels(self) -> _Labels:
        folder = self.archive / self._home if self._home else self.archive
        tables: list[_Table] = []
        rows = 0
        for names, split in (((TRAIN,), None), ((VALID,), Split.VAL), (TEST, Split.TEST)):
            name = find_file(folder, *names)
            if name:
                tables.append(_read(folder, name, split, rows))
                rows += len(tables[-1].images)
            elif split is Split.VAL:
                raise SourceError(f"there is no {VALID} beside {tables[0].name}. Put the official one there.")
        images = [image for table in tables for image in table.images]
        labels = _Labels(tables, {image: position for position, image in enumerate(images)})
        patients = np.array([image.partition("/")[0] for image in images])
        splits = [table.split for table in tables for _ in table.images]
        refuse_torn_patients(patients, splits, labels.place)
        return labels


def _read(folder: Folder, name: str, split: Split | None, start: int) -> _Table:
    is_test = split is Split.TEST
    required = ("Path", *CHEXPERT_OBSERVATIONS) + (() if is_test else _DEMOGRAPHICS)
    frame = read_table(folder, name, required, optional=_DEMOGRAPHICS if is_test else ())
    images = frame["Path"].str.extract(_IMAGE)[0]
    ages = pd.to_numeric(frame["Age"], errors="coerce").astype(np.float64)
    refuse_wrong_cells(
        name,
        {
            "Path": (images.notna(), "must end in patient…/study…/view….jpg"),
            "Sex": (frame["Sex"].isin(_SEXES), "must be Male, Female or Unknown"),
            "Age": ((frame["Age"] == "") | ages.between(0, MAX_AGE), f"must be years, 0 to {MAX_AGE}"),
            "Frontal/Lateral": (frame["Frontal/Lateral"].isin(_SIDES), "must be Frontal or Lateral"),
            "AP/PA": (frame["AP/PA"].isin(_PROJECTIONS), "must be AP, PA, LL, RL or blank"),
        },
    )
    refuse_repeated(name, "Path", images)
    sexes = [_SEXES[cell] for cell in frame["Sex"]]
    return _Table(
        name=name,
        split=split,
        start=start,
        images=images.tolist(),
        observations=Observations.of(name, frame),
        views=[_view(*cells) for cells in zip(images, frame["Frontal/Lateral"], frame["AP/PA"], strict=True)],
        sexes=sexes,
        ages=[_age(*cells) for cells in zip(ages, sexes, strict=True)],
    )


def _view(image: str, side: str, projection: str) -> str | None:
    if side == "Lateral" or (not side and _LATERAL_NAME.search(image)):
        return LATERAL
    return projection if projection in (AP, PA) else None


def _age(years: float, sex: str | None) -> float | None:
    """Age 0 of unknown sex is a patient of whom nothing is known."""
    return None if np.isnan(years) or (years == 0 and sex is None) else years
