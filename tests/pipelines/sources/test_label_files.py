"""Label files of published sets: reading them, and telling what is wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.label_files import (
    another_layout,
    contents,
    find_file,
    read_lines,
    read_table,
    refuse_repeated,
    refuse_torn_patients,
    refuse_wrong_cells,
)
from pipelines.splits import Split

CSV = b"name,age,more\na.png,007,x\nb.png,,y\n"


def folder(path: Path, **files: bytes) -> Folder:
    for name, content in files.items():
        (path / name.replace("_", ".", 1)).write_bytes(content)
    return Folder.at(str(path))


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", CSV), ("a.csv.gz", gzip.compress(CSV, mtime=0)), ("a.csv", b"\xef\xbb\xbf" + CSV)]
)
def test_cells_come_as_text(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    frame = read_table(Folder.at(str(tmp_path)), name, ("age", "name"), optional=("sex",))
    assert frame.to_dict("list") == {"age": ["007", ""], "name": ["a.png", "b.png"], "sex": ["", ""]}


def test_a_table_in_a_bucket_reads_the_same() -> None:
    fsspec.filesystem("memory").pipe_file("/bucket-of-labels/a.csv.gz", gzip.compress(CSV, mtime=0))
    bucket = Folder.at("memory://bucket-of-labels")
    assert find_file(bucket, "a.csv") == "a.csv.gz"
    assert list(read_table(bucket, "a.csv.gz", ("name",))["name"]) == ["a.png", "b.png"]


def test_the_first_name_that_is_there_is_taken(tmp_path: Path) -> None:
    archive = folder(tmp_path, b_csv=CSV, c_csv=CSV)
    assert find_file(archive, "a.csv", "b.csv", "c.csv") == "b.csv"
    assert find_file(archive, "a.csv") is None


def test_a_synonym_is_renamed(tmp_path: Path) -> None:
    frame = read_table(folder(tmp_path, a_csv=CSV), "a.csv", ("years",), synonyms={"age": "years"})
    assert list(frame["years"]) == ["007", ""]


def test_a_missing_column_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no column 'ages'; is 'age' meant") as caught:
        read_table(folder(tmp_path, a_csv=CSV), "a.csv", ("name", "ages", "Hernia"))
    assert "no column 'Hernia'\n" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", CSV),
        ("a.csv.gz", gzip.compress(CSV * 1000, mtime=0)[:-20]),
        ("a.csv.gz", gzip.compress(CSV * 1000, mtime=0)[:60] + bytes(100)),
        ("a.csv", b""),
        ("a.csv", b"name\n\xff\xfe\n"),
        ("a.csv", b'name\n"Jones\n'),
    ],
    ids=["not packed", "cut off", "damaged", "empty", "not UTF-8", "open quote"],
)
def test_an_unreadable_file_is_refused_and_none_of_it_told(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"'{name}' can't be read .* download it again") as caught:
        read_table(Folder.at(str(tmp_path)), name, ("name",))
    assert "Jones" not in str(caught.value)


def test_lines_lose_what_editors_add(tmp_path: Path) -> None:
    assert read_lines(folder(tmp_path, a_txt=b"\xef\xbb\xbfa.png\r\n\r\nb.png \n"), "a.txt") == ["a.png", "", "b.png"]


def test_wrong_cells_are_counted_and_the_first_is_told() -> None:
    rules = {
        "age": (pd.Series([True, False, False, False]), "must be a number"),
        "sex": (pd.Series([True] * 4), "must be M or F"),
    }
    with pytest.raises(SourceError, match="row 3 and 2 more, column 'age': must be a number") as caught:
        refuse_wrong_cells("a.csv", rules)
    assert "sex" not in str(caught.value)


def test_a_key_in_two_rows_is_told_by_rows() -> None:
    refuse_repeated("a.csv", "name", pd.Series(["x", "y"]))
    with pytest.raises(SourceError, match=r"'name' stand in several rows of the table 'a\.csv'.* 2, 4 ") as caught:
        refuse_repeated("a.csv", "name", pd.Series(["Jones", "y", "Jones"]))
    assert "Jones" not in str(caught.value)


def test_a_patient_in_two_official_splits_is_told_by_rows() -> None:
    patients = np.array(["p1", "p2", "p2", "p1"])
    refuse_torn_patients(patients, [None, Split.TEST, Split.TEST, None], str)
    with pytest.raises(SourceError, match=r"1 patient\(s\).*place 1, place 2") as caught:
        refuse_torn_patients(patients, [None, Split.TEST, None, None], lambda row: f"place {row}")
    assert "p2" not in str(caught.value)


def test_no_more_than_twenty_missing_images_are_named() -> None:
    told = contents(5, np.arange(60) < 10, str)
    assert (told.records, told.label_rows, told.missing) == (5, 60, 50)
    assert told.missing_names == tuple(map(str, range(10, 30)))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("Data_Entry_2017.csv", "chestxray14"),
        ("mimic-cxr-2.0.0-split.csv.gz", "mimic_cxr_jpg"),
        ("CheXpert-v1.0-small", "chexpert"),
        ("chestmnist_64.npz", "medmnist"),
        ("chest_xray", "kermany"),
        ("DICOMDIR", "dicom"),
        ("labels.parquet", "manifest"),
    ],
)
def test_the_source_that_would_fit_is_told(tmp_path: Path, file: str, source: str) -> None:
    (tmp_path / file).touch()
    archive = Folder.at(str(tmp_path))
    assert f"is source={source} meant?" in str(another_layout(archive, "another", "something"))
    # Never the one that was asked for.
    assert f"source={source} meant" not in str(another_layout(archive, source, "something"))
