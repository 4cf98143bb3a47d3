"""Each layout is the published one: folders, file names, label files and values, and patients that keep to a split."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from phantom_files import rows, write
from PIL import Image
from pydantic import ValidationError

from pipelines.phantoms import PhantomsConfig
from pipelines.sources.chestxray14 import CHESTXRAY14_LABELS

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chexpert")
    write(root, "chexpert", studies=80)
    return root


def test_chexperts_label_files_name_every_image_by_the_official_path(chexpert: Path) -> None:
    named = []
    sides = Counter()
    for part, file in (("train", "train.csv"), ("valid", "valid.csv")):
        table = rows(chexpert / "CheXpert-v1.0-small" / file)
        assert table
        assert list(table[0]) == ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
        for row in table:
            match = re.fullmatch(
                rf"CheXpert-v1\.0-small/{part}/patient(\d{{5}})/study\d+/view(1_frontal|2_lateral)\.jpg", row["Path"]
            )
            assert match is not None, row["Path"]
            assert (match[1] > "64540") is (part == "valid")
            assert row["Frontal/Lateral"].lower() == match[2][2:]
            assert (row["AP/PA"] == "") is (row["Frontal/Lateral"] == "Lateral")
            assert row["Sex"] in {"Female", "Male"}
            assert 18 <= int(row["Age"]) <= 90
            sides[row["Frontal/Lateral"]] += 1
            named.append(row["Path"])
    assert sorted(named) == sorted(path.relative_to(chexpert).as_posix() for path in chexpert.rglob("*.jpg"))
    assert 0 < sides["Lateral"] < sides["Frontal"]


def test_chexperts_values_are_those_of_a_labeler_in_train_and_of_radiologists_in_valid(chexpert: Path) -> None:
    train, valid = (rows(chexpert / "CheXpert-v1.0-small" / file) for file in ("train.csv", "valid.csv"))
    values = Counter(row[name] for row in train for name in OBSERVATIONS)
    assert set(values) == {"1.0", "0.0", "-1.0", ""}
    assert values[""] == max(values.values())
    assert {row[name] for row in valid for name in OBSERVATIONS} == {"1.0", "0.0"}
    of_disease = OBSERVATIONS[1:-1]
    for row in train + valid:
        is_clear = all(row[name] not in {"1.0", "-1.0"} for name in of_disease)
        assert (row["No Finding"] == "1.0") is is_clear
    by_study = defaultdict(set)
    for row in train + valid:
        by_study[row["Path"].rpartition("/")[0]].add(tuple(row[name] for name in OBSERVATIONS))
    assert all(len(labels) == 1 for labels in by_study.values())


def test_chexperts_images_have_the_small_versions_size(tmp_path: Path) -> None:
    write(tmp_path, "chexpert", studies=4, long_side=None)
    for path in tmp_path.rglob("*_frontal.jpg"):
        assert min(Image.open(path).size) == 320
        assert 320 <= max(Image.open(path).size) <= 390


def test_a_lateral_is_narrower_than_its_frontal_film(chexpert: Path) -> None:
    lateral = Image.open(next(chexpert.rglob("*_lateral.jpg")))
    assert max(lateral.size) <= 96
    assert lateral.width < 0.76 * 96


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mimic")
    write(root, "mimic_cxr_jpg", studies=80)
    return root


def test_mimics_files_lie_where_its_label_files_say(mimic: Path) -> None:
    metadata = rows(mimic / "mimic-cxr-2.0.0-metadata.csv.gz")
    expected = set()
    for row in metadata:
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}", row["dicom_id"])
        assert re.fullmatch(r"1\d{7}", row["subject_id"])
        assert re.fullmatch(r"5\d{7}", row["study_id"])
        assert row["ViewPosition"] in {"PA", "AP", "LATERAL", "LL"}
        subject = row["subject_id"]
        path = f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{row['dicom_id']}.jpg"
        assert Image.open(mimic / path).size == (int(row["Columns"]), int(row["Rows"]))
        expected.add(path)
    assert expected == {path.relative_to(mimic).as_posix() for path in mimic.rglob("*.jpg")}
    assert {"PA", "AP"} < {row["ViewPosition"] for row in metadata}


def test_mimics_studies_have_one_row_of_labels_and_its_patients_one_split(mimic: Path) -> None:
    labels = rows(mimic / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert list(labels[0]) == ["subject_id", "study_id", *sorted(OBSERVATIONS)]
    assert {row[name] for row in labels for name in OBSERVATIONS} == {"1.0", "0.0", "-1.0", ""}
    studies = [row["study_id"] for row in labels]
    split = rows(mimic / "mimic-cxr-2.0.0-split.csv.gz")
    assert list(split[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    assert len(studies) == len(set(studies))
    assert set(studies) == {row["study_id"] for row in split}
    assert len(split) == 80
    parts = defaultdict(set)
    for row in split:
        parts[row["subject_id"]].add(row["split"])
    assert all(len(part) == 1 for part in parts.values())
    assert set.union(*parts.values()) == {"train", "validate", "test"}


@pytest.mark.parametrize(
    ("side", "name"), [(None, "chestmnist.npz"), (28, "chestmnist.npz"), (64, "chestmnist_64.npz")]
)
def test_medmnists_file_has_its_arrays(tmp_path: Path, side: int | None, name: str) -> None:
    write(tmp_path, "medmnist", studies=30, long_side=side)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with np.load(tmp_path / name) as npz:
        assert set(npz) == {f"{split}_{kind}" for split in ("train", "val", "test") for kind in ("images", "labels")}
        images = [npz[f"{split}_images"] for split in ("train", "val", "test")]
        labels = np.concatenate([npz[f"{split}_labels"] for split in ("train", "val", "test")])
    for array in images:
        assert array.dtype == np.uint8
        assert array.shape[1:] == (side or 28, side or 28)
    assert len(np.concatenate(images)) == len(labels) == 30
    assert labels.dtype == np.uint8
    assert labels.shape[1] == 14
    assert set(np.unique(labels)) == {0, 1}
    assert np.concatenate(images).std() > 30


def test_medmnists_columns_are_in_its_order(tmp_path: Path) -> None:
    archive = write(tmp_path, "medmnist", studies=60, long_side=28)
    with np.load(tmp_path / "chestmnist.npz") as npz:
        sums = sum(npz[f"{split}_labels"].sum(axis=0) for split in ("train", "val", "test"))
    counts = {count.finding: count.images for count in archive.counts if count.finding != "normal"}
    assert counts == {name: total for name, total in zip(CHESTXRAY14_LABELS, sums, strict=True) if total}


@pytest.mark.parametrize(("layout", "side"), [("medmnist", 96), ("medmnist", 32), ("kermany", 28), ("dicom", 63)])
def test_a_side_that_a_layout_does_not_have_is_refused(layout: str, side: int) -> None:
    with pytest.raises(ValidationError, match="long_side"):
        PhantomsConfig.model_validate({"out": "x", "layout": layout, "long_side": side})


def test_strays_of_a_hospitals_export_are_there_and_not_listed(tmp_path: Path) -> None:
    archive = write(tmp_path, "dicom", studies=80)
    manifest = {row["path"]: row for row in rows(tmp_path / "labels.csv")}
    headers = {
        path.relative_to(tmp_path).as_posix(): pydicom.dcmread(path, stop_before_pixels=True)
        for path in tmp_path.rglob("*.dcm")
    }
    assert archive.studies == len(headers) == 80
    strays = {path: header for path, header in headers.items() if path not in manifest}
    laterals = [header for header in strays.values() if header.ViewPosition == "LL"]
    knees = [header for header in strays.values() if header.BodyPartExamined == "KNEE"]
    assert len(laterals) == len(knees) == 2
    assert len(strays) == 4
    assert len({header.SOPInstanceUID for header in headers.values()}) == 80
    frontals = [headers[path] for path in manifest]
    assert {header.BodyPartExamined for header in frontals} == {"CHEST"}
    assert {header.ViewPosition for header in frontals} <= {"PA", "AP"}
    studies, patients = ({header[tag].value for header in frontals} for tag in ("StudyInstanceUID", "PatientID"))
    for header in laterals + knees:
        assert header.PatientID in patients
        assert (header.StudyInstanceUID in studies) is (header.BodyPartExamined == "CHEST")
        assert pydicom.valuerep.DA(header.StudyDate) is not None
    for path, row in manifest.items():
        assert row["SOPInstanceUID"] == headers[path].SOPInstanceUID


def test_a_small_export_has_no_strays(tmp_path: Path) -> None:
    write(tmp_path, "dicom", studies=39)
    assert len(rows(tmp_path / "labels.csv")) == 39
