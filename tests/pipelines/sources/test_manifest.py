"""Manifests: what they may hold, and every mistake that is told before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.manifest import ManifestSource
from pipelines.splits import Split

ROWS = [
    {"path": "a/1.png", "patient_id": "007", "view": "PA", "sex": "F", "age": "61", "Effusion": "1", "Mass": "0"},
    {"path": "a/2.dcm", "patient_id": "008", "view": "", "sex": "", "age": "", "Effusion": "-1", "Mass": ""},
]


def source(folder: Path, rows: Sequence[Mapping[str, str]], name: str = "labels.csv") -> ManifestSource:
    frame = pd.DataFrame(rows)
    if name.endswith(".parquet"):
        frame.to_parquet(folder / name)
    else:
        frame.to_csv(folder / name, index=False)
    return ManifestSource(Folder.at(str(folder)), None)


def with_cells(**cells: str) -> list[dict[str, str]]:
    return [ROWS[0] | cells, ROWS[1] | dict.fromkeys(set(cells) - set(ROWS[0]), "")]


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz", "labels.parquet"])
def test_every_column_arrives(tmp_path: Path, name: str) -> None:
    manifest = source(tmp_path, ROWS, name)
    assert manifest.check().records == 2
    first, second = manifest.records()
    assert (first.path, first.patient_id, first.view, first.sex, first.age_years) == ("a/1.png", "007", "PA", "F", 61.0)
    assert first.findings == {"Effusion": 1, "Mass": 0}
    assert second.findings == {"Effusion": -1}
    assert (second.view, second.sex, second.age_years, second.study_id) == (None, None, None, None)


def test_numbers_in_parquet_are_findings_too(tmp_path: Path) -> None:
    frame = pd.DataFrame({"path": ["1.png", "2.png"], "patient_id": [1, 2], "Mass": [1.0, None], "Edema": [0, -1]})
    frame.to_parquet(tmp_path / "labels.parquet")
    manifest = ManifestSource(Folder.at(str(tmp_path)), None)
    assert manifest.check().records == 2
    assert [record.findings for record in manifest.records()] == [{"Mass": 1, "Edema": 0}, {"Edema": -1}]


@pytest.mark.parametrize(("text", "split"), [("train", Split.TRAIN), ("Val", Split.VAL), ("test", Split.TEST)])
def test_a_split_column_is_official(tmp_path: Path, text: str, split: Split) -> None:
    manifest = source(tmp_path, [ROWS[0] | {"split": text}])
    manifest.check()
    assert manifest.official_splits == {split}
    assert next(iter(manifest.records())).split is split


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"path": "file"}, "no column 'path'"),
        ({"patient_id": "patientid"}, "no column 'patient_id'; is 'patientid' meant"),
        ({"view": "veiw"}, "'veiw' looks like 'view' misspelt"),
        ({"sex": "Sex"}, "'Sex' looks like 'sex' misspelt"),
    ],
)
def test_missing_and_misspelt_columns_are_told(tmp_path: Path, rename: dict[str, str], message: str) -> None:
    rows = [{rename.get(name, name): cell for name, cell in row.items()} for row in ROWS]
    with pytest.raises(SourceError, match=message):
        source(tmp_path, rows).check()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"path": ""}, "row 2, column 'path'"),
        ({"path": "/etc/passwd"}, "row 2, column 'path'"),
        ({"path": "a/../../b.png"}, "row 2, column 'path'"),
        ({"patient_id": ""}, "row 2, column 'patient_id': is blank"),
        ({"view": "SIDE"}, "row 2, column 'view'"),
        ({"sex": "7"}, "row 2, column 'sex'"),
        ({"age": "old"}, "row 2, column 'age'"),
        ({"age": "-4"}, "row 2, column 'age'"),
        ({"split": "dev"}, "row 2, column 'split'"),
        ({"Mass": "yes"}, "row 2, column 'Mass'"),
        ({"radiologist": "Dr Jones"}, "row 2, column 'radiologist'"),
    ],
)
def test_a_wrong_cell_is_told_by_row_and_column_and_never_shown(
    tmp_path: Path, cells: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        source(tmp_path, with_cells(**cells)).check()
    assert "Jones" not in str(caught.value)


def test_a_patient_in_two_splits_is_told_by_rows_without_naming_anyone(tmp_path: Path) -> None:
    rows = [
        {"path": f"{number}.png", "patient_id": patient, "split": split, "Mass": "1"}
        for number, (patient, split) in enumerate(
            [("P-55", "train"), ("P-56", "val"), ("P-55", "test"), ("P-56", "val")]
        )
    ]
    with pytest.raises(SourceError, match=r"1 patient\(s\).*\n.*2, 4 ") as caught:
        source(tmp_path, rows).check()
    assert "P-55" not in str(caught.value)


def test_a_path_in_two_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"several rows.* 2, 4 "):
        source(tmp_path, [ROWS[0], ROWS[1], ROWS[0] | {"Mass": "1"}]).check()


def test_a_blank_split_column_is_no_official_split(tmp_path: Path) -> None:
    manifest = source(tmp_path, [row | {"split": ""} for row in ROWS])
    manifest.check()
    assert not manifest.official_splits


def test_no_manifest_or_several_are_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds none"):
        ManifestSource(Folder.at(str(tmp_path)), None).check()
    for name in ("a.csv", "b.csv"):
        source(tmp_path, ROWS, name)
    with pytest.raises(SourceError, match=r"a\.csv, b\.csv"):
        ManifestSource(Folder.at(str(tmp_path)), None).check()
    assert ManifestSource(Folder.at(str(tmp_path)), "a.csv").check().records == 2
    with pytest.raises(SourceError, match="no table"):
        ManifestSource(Folder.at(str(tmp_path)), "c.csv").check()


@pytest.mark.parametrize(
    "content", [b"", b"path,patient_id,Mass\n", b"\xff\xfe\x00bad", b"path,patient_id,Mass\n1,2\n"]
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(SourceError):
        ManifestSource(Folder.at(str(tmp_path)), None).check()
