"""The DICOM source: every file of a tree, whatever its name, and the labels that join to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.dicom import DicomSource


def source(folder: Path, labels: str | None = None, excluded: Path | None = None) -> DicomSource:
    return DicomSource(Folder.at(str(folder)), labels, Folder.at(str(excluded)) if excluded else None)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_all_files_but_directories_hidden_ones_and_the_lake(tmp_path: Path) -> None:
    write(tmp_path, "b/IM1", "a/x.dcm", "a/notes.txt", "DICOMDIR", "a/dicomdir", ".cache/y", "a/.z", "lake/studies/p")
    found = source(tmp_path, excluded=tmp_path / "lake")
    assert [record.path for record in found.records()] == ["a/notes.txt", "a/x.dcm", "b/IM1"]
    assert found.check().records == 3
    assert all(record.patient_id is None for record in found.records())


def test_a_folder_that_links_to_its_parent_ends(tmp_path: Path) -> None:
    write(tmp_path, "a/IM1")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [record.path for record in source(tmp_path).records()] == ["a/IM1"]


def test_labels_are_joined_by_the_most_exact_key(tmp_path: Path) -> None:
    write(tmp_path, "IM1")
    (tmp_path / "labels.csv").write_text(
        "AccessionNumber,SOPInstanceUID,view,Mass,Edema\n7,1.2.3,PA,1,\n7,1.2.4,PA,-1,0\n"
    )
    found = source(tmp_path)
    assert found.check().label_rows == 2
    assert found.label_key == "SOPInstanceUID"
    assert [(row.key, row.findings, row.row) for row in found.label_rows()] == [
        ("1.2.3", {"Mass": 1}, 2),
        ("1.2.4", {"Mass": -1, "Edema": 0}, 3),
    ]
    # The table is no input.
    assert [record.path for record in found.records()] == ["IM1"]


def test_labels_can_be_left_aside(tmp_path: Path) -> None:
    write(tmp_path, "IM1")
    (tmp_path / "labels.csv").write_text("nothing\nof use\n")
    found = source(tmp_path, "none")
    assert found.check().label_rows == 0
    assert not found.has_labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("patient,Mass\nJones,1\n", "needs a column SOPInstanceUID, StudyInstanceUID or AccessionNumber"),
        ("AccessionNumber,view\n1,PA\n", "no column of a finding"),
        ("AccessionNumber,Mass,Mass\n1,1,1\n", "'Mass' stands there twice"),
        ("AccessionNumber,Mass\n1,yes\n", "row 2, column 'Mass'"),
        ("AccessionNumber,Mass\n,1\n", "row 2, column 'AccessionNumber': is blank"),
        ("AccessionNumber,Mass\n1,1\n2,0\n1,0\n", r"several rows .* 2, 4 "),
        ("AccessionNumber,Mass\n", "no rows"),
    ],
)
def test_labels_that_can_not_be_used_are_told(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, "IM1")
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        source(tmp_path).check()
    assert "Jones" not in str(caught.value)


def test_several_tables_are_a_question(tmp_path: Path) -> None:
    write(tmp_path, "IM1", "a.csv", "b.csv")
    with pytest.raises(SourceError, match=r"a\.csv, b\.csv.*labels=FILE"):
        source(tmp_path).check()


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no files"):
        source(tmp_path).check()
