"""ChestX-ray14's layout: labels, boxes, the official test list, and images at several sizes."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurizers.reasons import Reason
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import FindingBox, StudyRecord
from pipelines.sources.chestxray14 import BOX_SIDE, CHESTXRAY14_LABELS, ChestXray14Source, box_fractions
from pipelines.splits import Split

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
HEADER_V2020 = HEADER_2017.rstrip(",").replace("Gender", "Sex")
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
ROW = {"image": "00000001_000.png", "labels": "No Finding", "follow_up": "0", "patient": "1", "age": "58", "sex": "M"}


def entry(**cells: str) -> str:
    row = ROW | {"view": "PA"} | cells
    return ",".join([*row.values(), "2682", "2749", "0.143", "0.143"])


def image(patient: int, follow_up: int = 0) -> dict[str, str]:
    name = f"{patient:08d}_{follow_up:03d}.png"
    return {"image": name, "patient": str(patient), "follow_up": str(follow_up)}


def table(*rows: str, header: str = HEADER_V2020) -> str:
    return "\n".join([header, *rows]) + "\n"


def archive(root: Path, files: dict[str, str | bytes]) -> ChestXray14Source:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return ChestXray14Source(Folder.at(str(root)))


def only(source: ChestXray14Source) -> StudyRecord:
    source.check()
    (record,) = source.records()
    return record


def one_image(root: Path, entries: str, **more: str) -> ChestXray14Source:
    files = {"images/00000001_000.png": "x", "Data_Entry_2017_v2020.csv": entries}
    return archive(root, files | {f"{name}.csv": content for name, content in more.items()})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Data_Entry_2017.csv", table(entry(age="058Y") + ",", header=HEADER_2017).encode()),
        ("Data_Entry_2017_v2020.csv", table(entry()).replace("\n", "\r\n").encode()),
        ("Data_Entry_2017_v2020.csv.gz", gzip.compress(table(entry()).encode())),
    ],
)
def test_both_versions_of_the_label_file_say_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    record = only(archive(tmp_path, {"images_001/images/00000001_000.png": b"x", name: content}))
    assert (record.path, record.row) == ("images_001/images/00000001_000.png", 2)
    assert (record.patient_id, record.study_id) == ("1", "1_0")
    assert (record.view, record.sex, record.age_years, record.split) == ("PA", "M", 58.0, None)


def test_the_newer_label_file_wins(tmp_path: Path) -> None:
    source = one_image(tmp_path, table(entry(labels="Hernia")), Data_Entry_2017=table(entry(), header=HEADER_2017))
    assert only(source).findings["Hernia"] == 1


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("No Finding", {"No Finding"}),
        ("Hernia", {"Hernia"}),
        ("Cardiomegaly|Pleural_Thickening", {"Cardiomegaly", "Pleural_Thickening"}),
    ],
)
def test_what_is_not_mentioned_is_negative(tmp_path: Path, text: str, positive: set[str]) -> None:
    findings = only(one_image(tmp_path, table(entry(labels=text)))).findings
    assert set(findings) == {*CHESTXRAY14_LABELS, "No Finding"}
    assert {finding for finding, value in findings.items() if value == 1} == positive
    assert set(findings.values()) == {0, 1}


@pytest.mark.parametrize(
    ("cell", "years"),
    [("58", 58.0), ("058Y", 58.0), ("006M", 0.5), ("0", 0.0), ("414", None), ("411Y", None), ("120", 120.0)],
)
def test_ages_come_in_years_and_impossible_ones_not_at_all(tmp_path: Path, cell: str, years: float | None) -> None:
    assert only(one_image(tmp_path, table(entry(age=cell)))).age_years == years


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        ({"labels": "Mass|Pneumonitis"}, "Finding Labels"),
        ({"labels": "No Finding|Mass"}, "Finding Labels"),
        ({"labels": ""}, "Finding Labels"),
        ({"follow_up": "x"}, "Follow-up #"),
        ({"patient": ""}, "Patient ID"),
        ({"age": "old"}, "Patient Age"),
        ({"sex": "PA"}, "Patient Gender"),
        ({"view": "LL"}, "View Position"),
        ({"image": ""}, "Image Index"),
    ],
)
def test_a_wrong_cell_is_told_though_its_image_is_not_there(tmp_path: Path, cells: dict[str, str], column: str) -> None:
    entries = table(entry(), entry(**(image(2) | cells)))
    with pytest.raises(SourceError, match=rf"(?s)'Data_Entry_2017_v2020\.csv'.*row 3, column '{column}'"):
        one_image(tmp_path, entries).check()


def test_a_cell_too_many_moves_the_others_and_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"row 3, column 'Finding Labels'"):
        one_image(tmp_path, table(entry(), entry(**image(2)).replace("No Finding", ",Mass"))).check()


def test_an_image_in_two_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"several rows.* 2, 4 "):
        one_image(tmp_path, table(entry(), entry(**image(2)), entry(labels="Mass"))).check()


def test_all_image_files_come_once_in_a_stable_order_and_missing_ones_are_counted(tmp_path: Path) -> None:
    rows = [entry(**image(patient)) for patient in range(1, 26)]
    source = archive(
        tmp_path,
        {
            "images_002/images/00000001_000.png": "x",
            "images_001/images/00000002_000.png": "x",
            "images_001/images/99999999_000.png": "x",
            "images_001/images/00000003_000.jpg": "x",
            "images_001/images/notes.txt": "x",
            "images_001.tar.gz": "x",
            "other/00000004_000.png": "x",
            "Data_Entry_2017.csv": table(*rows, header=HEADER_2017.rstrip(",")),
        },
    )
    told = source.check()
    records = list(source.records())
    assert [record.path for record in records] == [
        "images_001/images/00000002_000.png",
        "images_001/images/00000003_000.jpg",
        "images_001/images/99999999_000.png",
        "images_002/images/00000001_000.png",
    ]
    assert [record.patient_id for record in records] == ["2", None, None, "1"]
    for stranger in records[1:3]:
        assert stranger.rejection is not None
        assert stranger.rejection.reason is Reason.NO_LABEL
    assert (told.records, told.label_rows, told.missing) == (4, 25, 23)
    assert told.missing_names == tuple(image(patient)["image"] for patient in range(3, 23))


def test_of_an_image_at_several_sizes_the_largest_file_is_kept(tmp_path: Path) -> None:
    source = archive(
        tmp_path,
        {
            "images_1024/00000001_000.png": "large",
            "images_64/00000001_000.png": "s",
            "images_224/00000001_000.png": "mid",
            "images_64/00000002_000.png": "s",
            "Data_Entry_2017_v2020.csv": table(entry(), entry(**image(2))),
        },
    )
    assert source.check().records == 4
    records = {record.path: record for record in source.records()}
    kept = {path for path, record in records.items() if record.rejection is None}
    assert kept == {"images_1024/00000001_000.png", "images_64/00000002_000.png"}
    twin = records["images_64/00000001_000.png"]
    assert twin.rejection is not None
    assert twin.rejection.reason is Reason.DUPLICATE
    assert "images_1024/00000001_000.png" in twin.rejection.detail
    assert twin.patient_id == "1"


def test_the_official_test_list_is_kept_and_the_rest_left_to_the_hash(tmp_path: Path) -> None:
    files = {
        "images/00000001_000.png": "x",
        "images/00000002_000.png": "x",
        "Data_Entry_2017_v2020.csv": table(entry(), entry(**image(2))),
        "test_list.txt": "00000002_000.png\n",
        "train_val_list.txt": "00000001_000.png",
    }
    source = archive(tmp_path, files)
    assert source.official_splits == {Split.TEST}
    assert [record.split for record in source.records()] == [None, Split.TEST]


def test_without_lists_the_hash_decides_all(tmp_path: Path) -> None:
    source = one_image(tmp_path, table(entry()))
    assert source.official_splits == frozenset()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train_val_list.txt": "00000001_000.png"}, "no test_list.txt"),
        ({"test_list.txt": "00000001_000.png\nimages/00000001_000.png\n"}, r"line 2 of 'test_list\.txt'"),
        ({"test_list.txt": "00000001_001.png\n"}, r"row 2 of .*, row 3 of "),
    ],
)
def test_lists_that_cannot_be_kept_are_told(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    entries = table(entry(), entry(**image(1, 1)))
    files = {"images/00000001_000.png": "x", "Data_Entry_2017_v2020.csv": entries}
    with pytest.raises(SourceError, match=message):
        archive(tmp_path, files | lists).check()


def test_boxes_are_fractions_under_the_labels_own_names(tmp_path: Path) -> None:
    boxes = table(
        "00000001_000.png,Infiltrate,256,512,128,256",
        "00000001_000.png,Mass,1000.5,0,100,1024",
        "00000002_000.png,Nodule,1,1,1,1",
        header=BOX_HEADER,
    )
    entries = table(entry(labels="Infiltration|Mass"), entry(**image(2)))
    assert only(one_image(tmp_path, entries, BBox_List_2017=boxes)).boxes == (
        FindingBox("Infiltration", 0.25, 0.5, 0.375, 0.75),
        FindingBox("Mass", 1000.5 / 1024, 0.0, 1.0, 1.0),
    )


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("00000009_000.png,Mass,1,1,1,1", "Image Index"),
        ("00000001_000.png,Pneumonitis,1,1,1,1", "Finding Label"),
        ("00000001_000.png,Mass,1,1,1", "Bbox"),
        ("00000001_000.png,Mass,1,1,1,many", "Bbox"),
        ("00000001_000.png,Mass,1,1,inf,1", "Bbox"),
        ("00000001_000.png,Mass,1,1,-1,1", "Bbox"),
        ("00000001_000.png,Mass,1024,1,5,1", "Bbox"),
    ],
)
def test_a_wrong_box_is_told_by_row_and_column(tmp_path: Path, row: str, column: str) -> None:
    boxes = table("00000001_000.png,Mass,1,1,1,1", row, header=BOX_HEADER)
    with pytest.raises(SourceError, match=rf"(?s)'BBox_List_2017\.csv'.*row 3, column '{column}"):
        one_image(tmp_path, table(entry()), BBox_List_2017=boxes).check()


SIDE = st.floats(-2 * BOX_SIDE, 2 * BOX_SIDE)


@given(st.lists(st.tuples(SIDE, SIDE, SIDE.map(abs), SIDE.map(abs)), min_size=1, max_size=5))
def test_boxes_never_leave_the_image(sides: list[tuple[float, float, float, float]]) -> None:
    left, top, right, bottom = box_fractions(np.array(sides)).T
    assert ((left >= 0) & (left <= right) & (right <= 1)).all()
    assert ((top >= 0) & (top <= bottom) & (bottom <= 1)).all()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"images/00000001_000.png": "x"}, r"expected Data_Entry_2017_v2020\.csv or"),
        ({"Data_Entry_2017_v2020.csv": table(entry())}, "expected images below"),
        ({"chest_xray/train/NORMAL/IM-0001.jpeg": "x"}, "is source=kermany meant"),
        ({"images/a.png": "x", "Data_Entry_2017.csv": "Image,Finding Labels\n"}, "'Image Index'; is 'Image' meant"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        archive(tmp_path, dict(files)).check()


#: Images per label, of Data_Entry_2017_v2020.csv.
PUBLISHED = {
    "No Finding": 60361,
    "Infiltration": 19894,
    "Effusion": 13317,
    "Atelectasis": 11559,
    "Nodule": 6331,
    "Mass": 5782,
    "Pneumothorax": 5302,
    "Consolidation": 4667,
    "Pleural_Thickening": 3385,
    "Cardiomegaly": 2776,
    "Emphysema": 2516,
    "Edema": 2303,
    "Fibrosis": 1686,
    "Pneumonia": 1431,
    "Hernia": 227,
}


@pytest.mark.real
def test_the_real_label_files_have_their_published_counts(real_data: Path) -> None:
    labels = ChestXray14Source(Folder.at(str(real_data / "nih_chestxray14"))).labels
    assert len(labels.positions) == len(labels.findings) == 112120
    counts = Counter(name for findings in labels.findings for name, value in findings.items() if value == 1)
    assert counts == PUBLISHED
    assert len(set(labels.patients)) == 30805
    assert sum(map(len, labels.boxes.values())) == 984


@pytest.mark.real
def test_the_real_images_come_once_each(real_data: Path) -> None:
    source = ChestXray14Source(Folder.at(str(real_data / "nih_chestxray14")))
    told = source.check()
    records = list(source.records())
    assert (told.records, told.label_rows, told.missing) == (len(records), 112120, 112120 - 773)
    kept = [record for record in records if record.rejection is None]
    assert len(kept) == len({record.path.rpartition("/")[2] for record in records}) == 773
    assert {record.rejection.reason for record in records if record.rejection} == {Reason.DUPLICATE}
