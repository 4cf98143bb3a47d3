"""NIH's ChestX-ray14: `images*/…/*.png`, `Data_Entry_2017*.csv`, the official test list and the boxes.

Wang et al.: ChestX-ray8: Hospital-Scale Chest X-Ray Database and Benchmarks on Weakly-Supervised Classification and
Localization of Common Thorax Diseases, CVPR 2017; files at https://nihcc.app.box.com/v/ChestXray-NIHCC.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from featurizers.reasons import Reason
from pipelines.archives import ArchiveFile, walk
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import AP, NEGATIVE, PA, POSITIVE, Contents, FindingBox, Rejection, StudyRecord
from pipelines.sources.label_files import (
    another_layout,
    contents,
    find_file,
    is_image,
    read_lines,
    read_table,
    refuse_repeated,
    refuse_torn_patients,
    refuse_wrong_cells,
    unlabelled,
)
from pipelines.splits import Split

#: In the order that the set's papers and most published models use.
CHESTXRAY14_LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
#: Width and height of the published images, in whose pixels the boxes are told.
BOX_SIDE = 1024
#: Older patients are slips of the pen: the first release knows some of more than 400 years.
MAX_AGE = 120

ENTRIES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
TEST_LIST, TRAIN_LIST = "test_list.txt", "train_val_list.txt"
IMAGE_FOLDERS = "images"

_ENTRY_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
)
#: Three names over six columns: `Bbox [x,y,w,h]` is split at its commas.
_BOX_SIDES = ("Bbox [x", "y", "w", "h]")
_BOX_SPELLINGS = {"Infiltrate": "Infiltration"}
#: Units of DICOM's age string (PS3.5, 6.2), which the first release uses; a bare number is years.
_UNITS_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}


@dataclass(frozen=True)
class Labels:
    """What the label files say, by the position of the image's row."""

    name: str
    positions: dict[str, int]
    """Image's name → position."""
    findings: list[dict[str, int]]
    """Rows with the same labels share one dict."""
    patients: list[str]
    studies: list[str]
    ages: list[float | None]
    sexes: list[str]
    views: list[str]
    splits: list[Split | None]
    boxes: dict[int, tuple[FindingBox, ...]]


@dataclass(frozen=True)
class _Survey:
    """What lies in the image folders."""

    images: int
    folders: list[str | None]
    """For each label row, the folder of its image's largest file; None where there is none."""


@dataclass(frozen=True)
class ChestXray14Source:
    """The set as published: its labels are complete, so that a finding which is not mentioned is negative.

    An image that lies in several folders (at several sizes) is one image, of which the largest file is kept.
    """

    archive: Folder

    @property
    def is_public(self) -> bool:
        """True: patients are numbered from 1."""
        return True

    @property
    def official_splits(self) -> frozenset[Split]:
        """Test, where its list is there; the patients' hashes cut val."""
        return frozenset({Split.TEST}) if self._test_list else frozenset()

    def check(self) -> Contents:
        """Parse all label files and find their images."""
        labels, survey = self.labels, self._survey
        if not survey.images:
            raise another_layout(self.archive, "chestxray14", f"images below {IMAGE_FOLDERS}*/ (unpacked)")
        is_there = np.array([folder is not None for folder in survey.folders], np.bool_)
        names = list(labels.positions)
        return contents(survey.images, is_there, lambda position: names[position])

    def records(self) -> Iterator[StudyRecord]:
        """All images, folder by folder, by name."""
        labels = self.labels
        for file, position in self._images():
            if position is None:
                yield unlabelled(file, labels.name)
                continue
            kept = self._survey.folders[position]
            twin = Rejection(Reason.DUPLICATE, f"the same image at another size as {kept}/{file.name}")
            yield StudyRecord(
                path=file.path,
                patient_id=labels.patients[position],
                findings=labels.findings[position],
                boxes=labels.boxes.get(position, ()),
                study_id=labels.studies[position],
                view=labels.views[position],
                sex=labels.sexes[position],
                age_years=labels.ages[position],
                split=labels.splits[position],
                version=file.version,
                row=position + 2,
                rejection=None if kept in (None, _folder(file)) else twin,
            )

    def _images(self) -> Iterator[tuple[ArchiveFile, int | None]]:
        for name in self.archive.names():
            if name.startswith(IMAGE_FOLDERS):
                for file in filter(is_image, walk(self.archive, name)):
                    yield file, self.labels.positions.get(file.name)

    @functools.cached_property
    def _survey(self) -> _Survey:
        images = 0
        folders: list[str | None] = [None] * len(self.labels.positions)
        sizes = [-1] * len(folders)
        # Names of folders are few: all rows share them.
        names: dict[str, str] = {}
        for file, position in self._images():
            images += 1
            if position is not None and file.size > sizes[position]:
                sizes[position] = file.size
                folders[position] = names.setdefault(_folder(file), _folder(file))
        return _Survey(images, folders)

    @functools.cached_property
    def _test_list(self) -> str | None:
        test_list = find_file(self.archive, TEST_LIST)
        if test_list is None and find_file(self.archive, TRAIN_LIST):
            raise SourceError(
                f"'{self.archive.uri}' holds {TRAIN_LIST} and no {TEST_LIST}. Put the official {TEST_LIST} beside it, "
                f"or take {TRAIN_LIST} away too: then the patients' hashes decide the splits."
            )
        return test_list

    @functools.cached_property
    def labels(self) -> Labels:
        """All rows of the label files, whether or not their images are there.

        Raises:
            SourceError: naming what can't be read.
        """
        name = find_file(self.archive, *ENTRIES)
        if name is None:
            expected = f"{' or '.join(ENTRIES)} (or .gz) beside {IMAGE_FOLDERS}*/"
            raise another_layout(self.archive, "chestxray14", expected)
        frame = read_table(self.archive, name, _ENTRY_COLUMNS, synonyms={"Patient Sex": "Patient Gender"})
        combinations, texts = pd.factorize(frame["Finding Labels"])
        parsed = [_findings(text) for text in texts]
        ages = _ages(frame["Patient Age"])
        is_known = np.array([findings is not None for findings in parsed], np.bool_)[combinations]
        refuse_wrong_cells(
            name,
            {
                "Image Index": (frame["Image Index"] != "", "is blank"),
                "Finding Labels": (
                    pd.Series(is_known, frame.index),
                    f"must be '{NO_FINDING}' or some of {', '.join(CHESTXRAY14_LABELS)}, with | between them",
                ),
                "Follow-up #": (frame["Follow-up #"].str.fullmatch(r"\d+"), "must be a number"),
                "Patient ID": (frame["Patient ID"].str.fullmatch(r"\d+"), "must be a number"),
                "Patient Age": (ages.notna(), "must be years, or a number with Y, M, W or D"),
                "Patient Gender": (frame["Patient Gender"].isin(["M", "F"]), "must be M or F"),
                "View Position": (frame["View Position"].isin([PA, AP]), "must be PA or AP"),
            },
        )
        refuse_repeated(name, "Image Index", frame["Image Index"])
        positions = {image: position for position, image in enumerate(frame["Image Index"])}
        labels = Labels(
            name=name,
            positions=positions,
            findings=[parsed[combination] or {} for combination in combinations.tolist()],
            patients=frame["Patient ID"].tolist(),
            studies=(frame["Patient ID"] + "_" + frame["Follow-up #"]).tolist(),
            ages=[age if age <= MAX_AGE else None for age in ages.tolist()],
            sexes=frame["Patient Gender"].tolist(),
            views=frame["View Position"].tolist(),
            splits=self._splits(name, positions),
            boxes=self._boxes(name, positions),
        )
        refuse_torn_patients(
            frame["Patient ID"].to_numpy(), labels.splits, lambda position: f"row {position + 2} of {name}"
        )
        return labels

    def _splits(self, entries: str, positions: dict[str, int]) -> list[Split | None]:
        splits: list[Split | None] = [None] * len(positions)
        lines = read_lines(self.archive, self._test_list) if self._test_list else []
        for number, image in enumerate(lines, 1):
            if image and image not in positions:
                raise SourceError(
                    f"line {number} of '{self._test_list}' names no image of '{entries}'. Put the official list there, "
                    "which has one image's name on each line."
                )
            if image:
                splits[positions[image]] = Split.TEST
        return splits

    def _boxes(self, entries: str, positions: dict[str, int]) -> dict[int, tuple[FindingBox, ...]]:
        name = find_file(self.archive, BOXES)
        if name is None:
            return {}
        frame = read_table(self.archive, name, ("Image Index", "Finding Label", *_BOX_SIDES))
        findings = frame["Finding Label"].replace(_BOX_SPELLINGS)
        sides = frame[list(_BOX_SIDES)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        fractions = box_fractions(sides)
        is_box = np.isfinite(sides).all(1) & (fractions[:, 0] < fractions[:, 2]) & (fractions[:, 1] < fractions[:, 3])
        refuse_wrong_cells(
            name,
            {
                "Image Index": (frame["Image Index"].isin(list(positions)), f"names no image of {entries}"),
                "Finding Label": (findings.isin(CHESTXRAY14_LABELS), "must be one of ChestX-ray14's findings"),
                "Bbox [x,y,w,h]": (
                    pd.Series(is_box, frame.index),
                    f"must be four numbers, of a box inside the image of {BOX_SIDE} × {BOX_SIDE} pixels",
                ),
            },
        )
        boxes: dict[int, tuple[FindingBox, ...]] = {}
        for image, finding, box in zip(frame["Image Index"], findings, fractions.tolist(), strict=True):
            position = positions[image]
            boxes[position] = (*boxes.get(position, ()), FindingBox(finding, *box))
        return boxes


def box_fractions(sides: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Left, top, right and bottom as fractions of the image, cut off at its edges.

    Args:
        sides: x, y, width and height in pixels of the published image, shape (boxes, 4).
    """
    corners = np.hstack([sides[:, :2], sides[:, :2] + sides[:, 2:]])
    return np.clip(corners / BOX_SIDE, 0.0, 1.0)


def _findings(text: str) -> dict[str, int] | None:
    """The findings of a cell like `Mass|Nodule`; None if it is none such."""
    names: Sequence[str] = text.split("|")
    if names == [NO_FINDING]:
        names = ()
    elif not set(names) <= set(CHESTXRAY14_LABELS):
        return None
    findings = {label: POSITIVE if label in names else NEGATIVE for label in CHESTXRAY14_LABELS}
    return findings | {NO_FINDING: NEGATIVE if names else POSITIVE}


def _ages(cells: pd.Series[str]) -> pd.Series[float]:
    """Years; NaN where a cell is no age."""
    parts = cells.str.extract(r"^(\d+)([YMWD]?)$")
    return pd.to_numeric(parts[0]) / parts[1].map(_UNITS_PER_YEAR)


def _folder(file: ArchiveFile) -> str:
    return file.path.rpartition("/")[0]
