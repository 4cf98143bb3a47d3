"""CheXpert's layout: observations as the labeler left them, views, and the parts as splits."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from featurizers.reasons import Reason
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import StudyRecord
from pipelines.sources.chexpert import CHEXPERT_OBSERVATIONS, ChexpertSource
from pipelines.splits import Split

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_OBSERVATIONS]
TRAIN = "train/patient00001/study1/view1_frontal.jpg"
VALID = "valid/patient64541/study1/view1_frontal.jpg"
TEST = "test/patient64741/study1/view1_frontal.jpg"
SMALL = "CheXpert-v1.0-small"
Files = dict[str, str | bytes]


def row(path: str, cells: dict[str, str] | None = None, prefix: str = f"{SMALL}/") -> dict[str, str]:
    told = {"Path": f"{prefix}{path}", "Sex": "Female", "Age": "68", "Frontal/Lateral": "Frontal", "AP/PA": "AP"}
    return told | (cells or {})


def table(*rows: dict[str, str], columns: list[str] = HEADER) -> str:
    return "\n".join([",".join(columns), *(",".join(each.get(name, "") for name in columns) for each in rows)]) + "\n"


def labels() -> Files:
    return {"train.csv": table(row(TRAIN)), "valid.csv": table(row(VALID))}


def archive(root: Path, files: Files) -> ChexpertSource:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return ChexpertSource(Folder.at(str(root)))


def one_record(root: Path, cells: dict[str, str] | None = None) -> StudyRecord:
    source = archive(root, labels() | {TRAIN: "x", "train.csv": table(row(TRAIN, cells))})
    source.check()
    (record,) = source.records()
    return record


def test_the_four_kinds_of_cells_are_kept_apart(tmp_path: Path) -> None:
    cells = {"Edema": "1.0", "Fracture": "0.0", "Pleural Effusion": "-1.0", "No Finding": ""}
    assert one_record(tmp_path, cells).findings == {"Edema": 1, "Fracture": 0, "Pleural Effusion": -1}


def test_everything_else_arrives_too(tmp_path: Path) -> None:
    record = one_record(tmp_path)
    assert (record.path, record.row, record.split) == (TRAIN, 2, None)
    assert (record.patient_id, record.study_id) == ("patient00001", "patient00001/study1")
    assert (record.view, record.sex, record.age_years) == ("AP", "F", 68.0)


@pytest.mark.parametrize(
    ("side", "projection", "view"),
    [("Frontal", "AP", "AP"), ("Frontal", "PA", "PA"), ("Frontal", "LL", None), ("Lateral", "", "LATERAL")],
)
def test_views(tmp_path: Path, side: str, projection: str, view: str | None) -> None:
    assert one_record(tmp_path, {"Frontal/Lateral": side, "AP/PA": projection}).view == view


@pytest.mark.parametrize(
    ("sex", "age", "told"),
    [("Unknown", "0", (None, None)), ("Male", "0", ("M", 0.0)), ("Unknown", "30", (None, 30.0))],
)
def test_age_0_is_unknown_where_the_sex_is(tmp_path: Path, sex: str, age: str, told: tuple[str, float]) -> None:
    record = one_record(tmp_path, {"Sex": sex, "Age": age})
    assert (record.sex, record.age_years) == told


@pytest.mark.parametrize("name", ["test.csv", "test_labels.csv"])
@pytest.mark.parametrize("prefix", ["CheXpert-v1.0/", ""])
def test_parts_are_official_splits_and_test_has_labels_alone(tmp_path: Path, name: str, prefix: str) -> None:
    lateral = TEST.replace("view1_frontal", "view2_lateral")
    rows = [row(TEST, {"Edema": "1"}, prefix), row(lateral, None, prefix)]
    files = labels() | {name: table(*rows, columns=["Path", *CHEXPERT_OBSERVATIONS])}
    source = archive(tmp_path, files | dict.fromkeys((TRAIN, VALID, TEST, lateral), "x"))
    assert source.official_splits == {Split.VAL, Split.TEST}
    assert source.check().missing == 0
    told = [(record.path, record.split, record.view, record.row) for record in source.records()]
    assert told == [
        (TRAIN, None, "AP", 2),
        (VALID, Split.VAL, "AP", 2),
        (TEST, Split.TEST, None, 2),
        (lateral, Split.TEST, "LATERAL", 3),
    ]


def test_without_its_labels_the_test_part_is_not_official_and_its_images_are_told(tmp_path: Path) -> None:
    source = archive(tmp_path, labels() | {TEST: "x", TRAIN: "x", f"{TRAIN}.txt": "x"})
    assert source.official_splits == {Split.VAL}
    told = source.check()
    assert (told.records, told.label_rows, told.missing) == (2, 2, 1)
    assert told.missing_names == (VALID.removeprefix("valid/"),)
    train, stranger = source.records()
    assert (train.path, train.rejection) == (TRAIN, None)
    assert (stranger.path, stranger.patient_id) == (TEST, None)
    assert stranger.rejection is not None
    assert stranger.rejection.reason is Reason.NO_LABEL


@pytest.mark.parametrize("root", ["", f"{SMALL}/", "CheXpert-v1.0/"])
def test_the_archive_may_be_the_sets_folder_or_its_parent(tmp_path: Path, root: str) -> None:
    packed = gzip.compress(table(row(TRAIN)).encode())
    files: Files = {"train.csv.gz": packed, "valid.csv": table(row(VALID)), TRAIN: "x"}
    source = archive(tmp_path, {f"{root}{name}": content for name, content in files.items()})
    source.check()
    assert [record.path for record in source.records()] == [f"{root}{TRAIN}"]


def test_the_full_size_zips_may_stay_in_their_folders(tmp_path: Path) -> None:
    first, second = "CheXpert-v1.0 batch 1 (validate & csv)", "CheXpert-v1.0 batch 2 (train 1)"
    files: Files = {f"{first}/{name}": content for name, content in labels().items()}
    files |= {f"{first}/{VALID}": "x", f"{second}/{TRAIN.removeprefix('train/')}": "x", "other/a.jpg": "x"}
    source = archive(tmp_path, files)
    assert source.check().missing == 0
    told = [(record.patient_id, record.split) for record in source.records()]
    assert told == [("patient64541", Split.VAL), ("patient00001", None)]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("Edema", "2"),
        ("Support Devices", "yes"),
        ("Path", "train/patient00001/view1_frontal.jpg"),
        ("Sex", "F"),
        ("Age", "-1"),
        ("Age", "old"),
        ("Frontal/Lateral", "Front"),
        ("AP/PA", "Lateral"),
    ],
)
def test_a_wrong_cell_is_told_by_file_row_and_column(tmp_path: Path, column: str, cell: str) -> None:
    wrong = row(VALID.replace("view1", "view2"), {column: cell})
    with pytest.raises(SourceError, match=rf"(?s)'valid\.csv'.*row 3, column '{column}'"):
        archive(tmp_path, labels() | {TRAIN: "x", "valid.csv": table(row(VALID), wrong)}).check()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.csv": table(row(TRAIN), row(TRAIN))}, r"several rows.* 2, 3 "),
        ({"valid.csv": table(row(TRAIN))}, r"row 2 of train\.csv, row 2 of valid\.csv"),
        ({"valid.csv": table(row(VALID), columns=HEADER[:-1])}, "no column 'Support Devices'"),
        ({"train.csv": table(row(TRAIN), columns=["Path", "Gender", *HEADER[2:]])}, "no column 'Sex'"),
    ],
)
def test_label_files_that_contradict_the_layout_are_told(tmp_path: Path, files: Files, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        archive(tmp_path, labels() | {TRAIN: "x"} | files).check()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.txt": "x"}, r"expected train\.csv and valid\.csv"),
        (labels(), "expected images in train"),
        ({"train.csv": table(row(TRAIN)), TRAIN: "x"}, r"no valid\.csv beside train\.csv"),
        ({f"{SMALL}/train.csv": "x", "CheXpert-v1.0/train.csv": "x"}, "several times: CheXpert-v1.0, CheXpert-v1.0-sm"),
        ({"mimic-cxr-2.0.0-split.csv": "x"}, "is source=mimic_cxr_jpg meant"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, files: Files, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        archive(tmp_path, files).check()
