"""Phantom archives: the layouts of the real sets, patients in one split, the same bytes for the same config."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import get_args

import numpy as np
import pydicom
import pytest
from phantom_files import rows, write
from PIL import Image
from pydantic import ValidationError

from featurizers.phantoms import Finding
from pipelines.errors import SourceError
from pipelines.phantom_layouts.base import Order
from pipelines.phantoms import LAYOUTS, FindingCount, LayoutName, PhantomsConfig, write_phantoms


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_config_same_bytes_other_seed_other_bytes(tmp_path: Path, layout: str) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write(tmp_path / name, layout, studies=6, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert not set(digests(tmp_path / "a").values()) & set(digests(tmp_path / "c").values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_processes_changes_nothing(tmp_path: Path, layout: LayoutName) -> None:
    for processes in (1, 3):
        out = tmp_path / str(processes)
        out.mkdir()
        LAYOUTS[layout](Order(out, 7, 0, 64, processes, lambda done, total: None))
    assert digests(tmp_path / "1") == digests(tmp_path / "3")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_is_counted_and_reported(tmp_path: Path, layout: str) -> None:
    seen: list[tuple[int, int]] = []
    config = PhantomsConfig.model_validate(
        {"out": str(tmp_path / "x"), "layout": layout, "studies": 9, "long_side": 64}
    )
    archive = write_phantoms(config, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 9) for done in range(1, 10)]
    assert archive.studies == 9
    assert archive.files == len(digests(tmp_path / "x"))
    images = [path for path in (tmp_path / "x").rglob("*") if path.suffix in {".jpeg", ".jpg", ".png", ".dcm"}]
    assert len(images) == (0 if layout == "medmnist" else 9)
    assert archive.counts == tuple(sorted(archive.counts, key=lambda count: (-count.images, count.finding)))


def test_kermany_layout_and_names(tmp_path: Path) -> None:
    archive = write(tmp_path, "kermany", studies=100)
    counts = {count.finding: count.images for count in archive.counts}
    assert counts == {"normal": 26, "viral": 26, "bacterial": 48}
    splits: dict[str, set[str]] = defaultdict(set)
    images_of: dict[str, int] = defaultdict(int)
    for path in tmp_path.rglob("*.jpeg"):
        root, split, kind, name = path.relative_to(tmp_path).parts
        assert root == "chest_xray"
        if kind == "NORMAL":
            match = re.fullmatch(r"((?:NORMAL2-)?IM-\d{4})-\d{4}\.jpeg", name)
        else:
            match = re.fullmatch(r"(person\d+)_(?:virus|bacteria)_\d+\.jpeg", name)
        assert match is not None, name
        splits[match[1]].add(split)
        images_of[match[1]] += 1
        assert max(Image.open(path).size) == 96
    assert len(images_of) == archive.patients
    assert max(images_of.values()) > 1
    assert all(len(split) == 1 for split in splits.values())
    test_share = len(list(tmp_path.glob("chest_xray/test/*/*"))) / 100
    assert 0.1 < test_share < 0.32
    for split in ("train", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            assert any((tmp_path / "chest_xray" / split / kind).iterdir())


def test_chestxray14_files_agree_with_each_other(tmp_path: Path) -> None:
    archive = write(tmp_path, "chestxray14", studies=80)
    entries = rows(tmp_path / "Data_Entry_2017_v2020.csv")
    names = [entry["Image Index"] for entry in entries]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "images").iterdir())
    counted: dict[str, int] = defaultdict(int)
    labels_of = {}
    for entry in entries:
        labels = entry["Finding Labels"].split("|")
        labels_of[entry["Image Index"]] = labels
        assert entry["Image Index"] == f"{int(entry['Patient ID']):08d}_{int(entry['Follow-up #']):03d}.png"
        assert entry["Patient Gender"] in {"M", "F"}
        assert entry["View Position"] in {"PA", "AP"}
        assert 0 < int(entry["Patient Age"]) < 100
        for label in labels:
            counted["normal" if label == "No Finding" else label] += 1
    assert {FindingCount(name, images) for name, images in counted.items()} == set(archive.counts)
    assert any(len(labels) > 1 for labels in labels_of.values())
    train = (tmp_path / "train_val_list.txt").read_text().splitlines()
    test = (tmp_path / "test_list.txt").read_text().splitlines()
    assert sorted(train + test) == sorted(names)
    assert not {name.split("_")[0] for name in train} & {name.split("_")[0] for name in test}
    assert test
    sexes: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        sexes[entry["Patient ID"]].add(entry["Patient Gender"])
    assert all(len(sex) == 1 for sex in sexes.values())


def test_chestxray14_boxes_are_official_and_in_official_pixels(tmp_path: Path) -> None:
    write(tmp_path, "chestxray14", studies=80)
    labels_of = {
        entry["Image Index"]: entry["Finding Labels"].split("|")
        for entry in rows(tmp_path / "Data_Entry_2017_v2020.csv")
    }
    lines = (tmp_path / "BBox_List_2017.csv").read_text().splitlines()
    assert lines[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    assert len(lines) > 10
    largest = 0.0
    for line in lines[1:]:
        name, label, *numbers = line.split(",")
        x, y, width, height = map(float, numbers)
        assert ("Infiltration" if label == "Infiltrate" else label) in labels_of[name]
        assert min(x, y) >= 0
        assert min(width, height) > 0
        assert max(x + width, y + height) <= 1024 + 1e-6
        largest = max(largest, x + width)
    # The files are 96 pixels wide, the boxes count in 1024.
    assert largest > 200


def test_dicom_archive_is_readable_and_its_manifest_true(tmp_path: Path) -> None:
    archive = write(tmp_path, "dicom", studies=24)
    manifest = rows(tmp_path / "labels.csv")
    assert list(manifest[0]) == [
        "path", "patient_id", "study_id", "SOPInstanceUID", "view", "sex", "age", "normal", "pneumonia", "viral",
        "bacterial",
    ]  # fmt: skip
    assert len({row["patient_id"] for row in manifest}) == archive.patients
    photometric, windows, uids = set(), set(), set()
    for row in manifest:
        dataset = pydicom.dcmread(tmp_path / row["path"])
        assert dataset.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID
        assert (dataset.PatientID, dataset.StudyInstanceUID) == (row["patient_id"], row["study_id"])
        assert dataset.SOPInstanceUID == row["SOPInstanceUID"]
        assert (dataset.ViewPosition, dataset.PatientSex) == (row["view"], row["sex"])
        assert int(str(dataset.PatientAge).removesuffix("Y")) == int(row["age"])
        assert "PHANTOM" in str(dataset.PatientName)
        assert int(row["normal"]) + int(row["pneumonia"]) == 1
        assert int(row["viral"]) + int(row["bacterial"]) == int(row["pneumonia"])
        stored = dataset.pixel_array
        assert stored.max() <= 4095
        assert stored.max() > 2000
        photometric.add(dataset.PhotometricInterpretation)
        windows.add("WindowCenter" in dataset)
        uids.add(dataset.SOPInstanceUID)
        # Above the collimator's edge lies air beside the neck: black once MONOCHROME1 is turned round.
        shown = 4095 - stored if dataset.PhotometricInterpretation == "MONOCHROME1" else stored
        middle = shown[:, int(stored.shape[1] * 0.45) : int(stored.shape[1] * 0.55)]
        assert np.median(middle) > np.median(shown)
    assert photometric == {"MONOCHROME1", "MONOCHROME2"}
    assert windows == {True, False}
    assert len(uids) == len(manifest)


@pytest.mark.parametrize("obstacle", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, obstacle: str) -> None:
    target = tmp_path / "x"
    if obstacle == "file":
        target.write_text("kept")
    else:
        target.mkdir()
        (target / "mine.txt").write_text("kept")
    before = digests(tmp_path)
    with pytest.raises(SourceError, match="give `out` a new folder's name"):
        write(target, "kermany")
    assert digests(tmp_path) == before


def test_an_empty_folder_is_as_good_as_a_new_one(tmp_path: Path) -> None:
    assert write(tmp_path, "kermany", studies=1).files == 1


@pytest.mark.parametrize(
    "wrong", [{"studies": 0}, {"layout": "mimic"}, {"seed": -1}, {"long_side": 8}, {"colour": 1}, {"out": ""}]
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PhantomsConfig.model_validate({"out": str(tmp_path / "x"), **wrong})


def test_every_layout_can_be_asked_for() -> None:
    assert set(get_args(LayoutName)) == set(LAYOUTS)


def test_every_setting_is_described() -> None:
    for name, field in PhantomsConfig.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description


def test_counts_name_findings_that_exist(tmp_path: Path) -> None:
    archive = write(tmp_path, "chestxray14", studies=10)
    assert {count.finding for count in archive.counts} <= {finding.value for finding in Finding}


REAL = Path(__file__).parents[2].parent / "shared" / "data" / "nih_chestxray14"


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="the official label files are not here")
@pytest.mark.parametrize("name", ["Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"])
def test_headers_are_the_official_ones(tmp_path: Path, name: str) -> None:
    write(tmp_path, "chestxray14", studies=3)
    with gzip.open(REAL / f"{name}.gz", "rb") as official:
        assert (tmp_path / name).read_bytes().split(b"\n")[0] == official.readline().rstrip(b"\n")
