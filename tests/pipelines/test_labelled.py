"""Features joined with studies: every row is its own image's, nothing is left out in silence, and memory is bounded."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from synthetic_studies import SHARES, draw_studies, study, write_lake, write_run

from classifiers.errors import TaskError
from classifiers.rows import SplitRows
from classifiers.tasks import Rule, Task
from pipelines import stored_features
from pipelines.acquisition import HoldOutBy, HoldOutSettings
from pipelines.errors import LakeError
from pipelines.labelled import Labelled, open_rows, read_labelled
from pipelines.lake import Lake
from pipelines.splits import Split
from pipelines.stored_features import as_matrix

DIM = 5
EXTRACTOR = "e" * 64
MASS = Task.exclusive("mass", ("No Finding", "Mass"))
FINDINGS = Task("findings", tuple(Rule(name, any=(name,)) for name in SHARES), multi_label=True)
IS_MASS = {"No Finding": 0, "Mass": 1}
IS_NORMAL = {"No Finding": 1, "Mass": 0}


def vector(number: int, variant: int = 0) -> list[float]:
    """Numbers that no other image or copy has."""
    return [
        float(number),
        float(variant),
        *np.random.default_rng((number, variant)).random(DIM - 2, np.float32).tolist(),
    ]


def feature(number: int, variant: int = 0, **columns: Any) -> dict[str, Any]:
    return {"image_id": study(number)["image_id"], "variant": variant, "features": vector(number, variant)} | columns


def lake_of(folder: Path, studies: Sequence[Mapping[str, Any]], *runs: Iterable[Sequence[Mapping[str, Any]]]) -> Lake:
    """A lake of these studies, with a run of features for every list of files."""
    lake = write_lake(folder / "lake", [studies])
    for files in runs:
        write_run(lake.features(EXTRACTOR), files, row_group=3)
    return lake


def small_lake(folder: Path, *more: Mapping[str, Any]) -> Lake:
    """Images 0 to 5: two of each split, answered; and more rows of features in the same run."""
    splits = ("train", "train", "val", "val", "test", "test")
    studies = [
        study(number, split=split, findings=IS_MASS if number % 2 else IS_NORMAL) for number, split in enumerate(splits)
    ]
    return lake_of(folder, studies, [[*(feature(number) for number in range(len(studies))), *more]])


def numbers(rows: SplitRows | None) -> list[tuple[int, int]]:
    """Image and variant of every row."""
    assert rows is not None
    return [(int(row[0]), int(row[1])) for row in rows.features]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=["in memory", "spilled"])
def memory(request: pytest.FixtureRequest, scratch: Path) -> int:
    return 0 if request.param == "spilled" else 2**40


@pytest.fixture(params=["whole row groups", "through a buffer"])
def _reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "through a buffer":
        monkeypatch.setattr(stored_features, "_WHOLE_BYTES", 0)
        monkeypatch.setattr(stored_features, "_BUFFER_BYTES", 64)


@pytest.mark.usefixtures("_reading")
@pytest.mark.parametrize("batch_bytes", [1, 7 * DIM * 4, 2**20])
def test_every_row_is_its_own_images(
    tmp_path: Path, memory: int, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_features, "_BATCH_BYTES", batch_bytes)
    studies = draw_studies(240, seed=3)
    order = np.random.default_rng(0).permutation(200).tolist()
    lake = lake_of(
        tmp_path,
        studies,
        [[feature(number) for number in order[:90]], [], [feature(number) for number in order[90:120]]],
        [[feature(number) for number in order[120:]]],
    )
    by_id = {row["image_id"]: (number, row) for number, row in enumerate(studies)}
    with read_labelled(lake, EXTRACTOR, FINDINGS, memory=memory) as labelled:
        patients: dict[tuple[str, str], set[int]] = {}
        total = 0
        for split, rows in labelled.splits.items():
            total += len(rows)
            assert rows.image_ids is not None
            assert rows.patients is not None
            assert rows.features.dtype == np.float32
            for index, image_id in enumerate(rows.image_ids):
                number, row = by_id[str(image_id)]
                np.testing.assert_array_equal(rows.features[index], np.array(vector(number), np.float32))
                np.testing.assert_array_equal(rows.targets[index], FINDINGS.targets([row["findings"]])[0])
                assert row["split"] == split
                assert rows.attributes["sex"][index] == (row["sex"] or "")
                assert rows.attributes["view"][index] == (row["view"] or "")
                assert rows.attributes["data set"][index] == row["dataset"]
                patients.setdefault((row["dataset"], row["patient_key"]), set()).add(int(rows.patients[index]))
        assert total + sum(labelled.unanswered.values()) == 200
        assert labelled.without_features == 40
        # One number per patient, another for every other.
        assert all(len(codes) == 1 for codes in patients.values())
        assert len(set().union(*patients.values())) == len(patients)


def test_rows_that_a_task_does_not_answer_are_counted_and_not_kept(tmp_path: Path) -> None:
    studies = [
        study(0, findings=IS_MASS),
        study(1, findings={"Mass": -1, "No Finding": 0}),
        study(2, findings={}),
        study(3, findings=IS_NORMAL),
        study(4, findings={"Mass": 1, "No Finding": 1}, split="val"),
        study(5, findings=IS_MASS, split="test"),
    ]
    lake = lake_of(tmp_path, studies, [[feature(number) for number in range(6)]])
    labelled = read_labelled(lake, EXTRACTOR, MASS)
    assert numbers(labelled.train) == [(0, 0), (3, 0)]
    assert labelled.train.targets.tolist() == [1, 0]
    assert labelled.val is None
    assert numbers(labelled.test) == [(5, 0)]
    assert labelled.unanswered == {"train": 2, "val": 1, "test": 0}


def test_augmented_copies_are_for_training_alone(tmp_path: Path) -> None:
    copies = [feature(number, variant) for number in (0, 2, 4) for variant in (2, 1)]
    labelled = read_labelled(small_lake(tmp_path, *copies), EXTRACTOR, MASS)
    assert numbers(labelled.train) == [(0, 0), (1, 0), (0, 2), (0, 1)]
    assert labelled.train.targets.tolist() == [0, 1, 0, 0]
    assert numbers(labelled.val) == [(2, 0), (3, 0)]
    assert numbers(labelled.test) == [(4, 0), (5, 0)]
    assert labelled.copies == {"train": 0, "val": 2, "test": 2}
    assert labelled.without_features == 0
    assert labelled.images == "first, 6 images of 6 patients"


def test_who_is_held_out_goes_to_val_without_copies_and_is_told_apart(tmp_path: Path) -> None:
    studies = [
        study(number, split="val" if number >= 20 else "train", width=2000 if 4 <= number < 8 else 1000)
        | {"findings": IS_MASS if number % 2 else IS_NORMAL}
        for number in range(24)
    ]
    copies = [feature(number, 1) for number in (0, 5)]
    lake = lake_of(tmp_path, studies, [[*(feature(number) for number in range(22)), *copies]])
    by_size = HoldOutSettings(HoldOutBy.SIZE, 0.2)
    labelled = read_labelled(lake, EXTRACTOR, MASS, hold_out=by_size)
    assert labelled.held_out.patients == 4
    assert labelled.val is not None
    assert numbers(labelled.val) == [(number, 0) for number in (4, 5, 6, 7, 20, 21)]
    assert labelled.val.attributes["acquisition"].tolist() == ["held out by size"] * 4 + ["as train"] * 2
    assert numbers(labelled.train) == [(number, 0) for number in (*range(4), *range(8, 20))] + [(0, 1)]
    assert "acquisition" not in labelled.train.attributes
    assert labelled.copies == {"train": 0, "val": 1, "test": 0}
    without = read_labelled(lake, EXTRACTOR, MASS)
    assert numbers(without.val) == [(20, 0), (21, 0)]
    assert without.val is not None
    assert "acquisition" not in without.val.attributes


def test_age_bands(tmp_path: Path) -> None:
    ages = [0, 17.9, 18, 39, 40, 59.5, 60, 79, 80, 90, None]
    studies = [study(number, age_years=age, findings=IS_MASS) for number, age in enumerate(ages)]
    lake = lake_of(tmp_path, studies, [[feature(number) for number in range(len(ages))]])
    bands = read_labelled(lake, EXTRACTOR, MASS).train.attributes["age"].tolist()
    assert bands == ["0-17"] * 2 + ["18-39"] * 2 + ["40-59"] * 2 + ["60-79"] * 2 + ["80+"] * 2 + [""]


def test_the_same_patient_key_in_two_data_sets_is_two_patients_and_nobodys_image_its_own(tmp_path: Path) -> None:
    told = [("first", "a"), ("first", "a"), ("second", "a"), ("first", None), ("first", None)]
    studies = [
        study(number, dataset=dataset, patient_key=key, findings=IS_MASS) for number, (dataset, key) in enumerate(told)
    ]
    lake = lake_of(tmp_path, studies, [[feature(number) for number in range(len(told))]])
    patients = read_labelled(lake, EXTRACTOR, MASS).train.patients
    assert patients is not None
    assert patients[0] == patients[1]
    assert len(set(patients.tolist())) == 4


def test_without_room_in_memory_features_lie_in_files_until_they_are_closed(tmp_path: Path, scratch: Path) -> None:
    lake = small_lake(tmp_path)
    size = 6 * DIM * 4
    assert read_labelled(lake, EXTRACTOR, MASS, memory=size).spilled == 0
    with read_labelled(lake, EXTRACTOR, MASS, memory=size - 1) as labelled:
        assert labelled.spilled == size
        assert len(list(scratch.glob("*/*"))) == len(labelled.splits)
        assert sum(file.stat().st_size for file in scratch.glob("*/*")) == size
    assert not list(scratch.iterdir())
    assert numbers(labelled.train) == [(0, 0), (1, 0)]


def test_files_go_when_nobody_holds_their_rows(tmp_path: Path, scratch: Path) -> None:
    held = read_labelled(small_lake(tmp_path), EXTRACTOR, MASS, memory=0).train.features[1:]
    assert len(list(scratch.glob("*/*"))) == 1
    assert held[0, 0] == 1
    del held
    assert not list(scratch.iterdir())


def _full(folder: str) -> SimpleNamespace:
    return SimpleNamespace(free=1)


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "answer"), [(shutil, "disk_usage", _full), (os, "posix_fallocate", _no_space)]
)
def test_without_room_on_disk_either_the_ways_out_are_told(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, answer: Any
) -> None:
    lake = small_lake(tmp_path)
    monkeypatch.setattr(module, name, answer)
    with pytest.raises(LakeError, match=r"memory=.*TMPDIR.*fewer images"):
        read_labelled(lake, EXTRACTOR, MASS, memory=0)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_counted_and_named(
    tmp_path: Path, scratch: Path, memory: int, bad: float
) -> None:
    studies = [study(number, findings=IS_MASS) for number in range(9)]
    damaged = {1, 4, 5, 7, 8}
    rows = [feature(n, features=[*vector(n)[:-1], bad] if n in damaged else vector(n)) for n in range(9)]
    lake = lake_of(tmp_path, studies, [rows])
    with pytest.raises(LakeError) as caught:
        read_labelled(lake, EXTRACTOR, MASS, memory=memory)
    named = ", ".join(study(number)["image_id"] for number in (1, 4, 5))
    assert "5 features" in str(caught.value)
    assert f"{named} and 2 more" in str(caught.value)
    assert "extract again" in str(caught.value)
    assert not list(scratch.iterdir())


def test_large_but_finite_features_pass(tmp_path: Path) -> None:
    largest = float(np.finfo(np.float32).max)
    lake = lake_of(tmp_path, [study(0, findings=IS_MASS)], [[feature(0, features=[largest] * DIM)]])
    assert (read_labelled(lake, EXTRACTOR, MASS).train.features == np.float32(largest)).all()


@pytest.mark.parametrize(
    "lists",
    [
        [[1.0, 2.0], [1.0, 2.0, 3.0]],
        [[1.0, 2.0, 3.0], [1.0], [1.0, 2.0]],  # two numbers on average
        [[1.0, 2.0], [1.0, None]],
        [[1.0], None],
        [[1.0], []],
    ],
)
def test_vectors_of_unlike_lengths_are_refused(tmp_path: Path, lists: list[list[float | None] | None]) -> None:
    studies = [study(number, findings=IS_MASS) for number in range(len(lists))]
    rows = [feature(number, features=values) for number, values in enumerate(lists)]
    for number, files in enumerate(([rows], [[row] for row in rows])):
        lake = lake_of(tmp_path / str(number), studies, files)
        with pytest.raises(LakeError, match="not all of one length"):
            read_labelled(lake, EXTRACTOR, MASS)


def test_features_that_are_there_twice_are_told_with_a_way_out_that_works(tmp_path: Path) -> None:
    lake = small_lake(tmp_path)
    write_run(lake.features(EXTRACTOR), [[feature(3), feature(1)]])
    newest = lake.features(EXTRACTOR).folder.runs()[-1]
    with pytest.raises(LakeError) as caught:
        read_labelled(lake, EXTRACTOR, MASS)
    assert "2 features" in str(caught.value)
    assert study(3)["image_id"] in str(caught.value)
    assert f"Remove {newest.name}" in str(caught.value)
    newest.remove()
    assert len(read_labelled(lake, EXTRACTOR, MASS).train) == 2


def test_features_of_no_study_are_told(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=rf"1 features belong to no study.*{study(77)['image_id']}.*extract them again"):
        read_labelled(small_lake(tmp_path, feature(77)), EXTRACTOR, MASS)


@pytest.mark.parametrize("variant", [None, -1])
def test_features_of_no_variant_are_told(tmp_path: Path, variant: int | None) -> None:
    with pytest.raises(LakeError, match=r"1 features .* tell no variant"):
        read_labelled(small_lake(tmp_path, feature(0) | {"variant": variant}), EXTRACTOR, MASS)


def test_studies_that_are_there_twice_are_told(tmp_path: Path) -> None:
    lake = small_lake(tmp_path)
    write_run(lake.studies, [[study(1, split="test")]])
    with pytest.raises(LakeError, match=r"1 studies .* have the image_id of another.*audit_lake"):
        read_labelled(lake, EXTRACTOR, MASS)


def test_studies_of_no_split_are_told(tmp_path: Path) -> None:
    studies = [study(0, findings=IS_MASS), study(1, findings=IS_MASS, split="holdout"), study(2, split=None)]
    lake = lake_of(tmp_path, studies, [[feature(0)]])
    with pytest.raises(LakeError, match="2 studies are in none of the splits train, val, test"):
        read_labelled(lake, EXTRACTOR, MASS)


@pytest.mark.parametrize(
    ("study_of_it", "message"),
    [
        ({"split": "val", "findings": IS_MASS}, "no study of the train split has features"),
        (
            {"findings": {"Mass": -1, "No Finding": -1}},
            r"none of the 1 features of the train split answers task 'mass'",
        ),
    ],
)
def test_nothing_to_learn_from_is_told(tmp_path: Path, study_of_it: dict[str, Any], message: str) -> None:
    lake = lake_of(tmp_path, [study(0, **study_of_it), study(1, findings=IS_MASS)], [[feature(0)]])
    with pytest.raises(LakeError, match=message):
        read_labelled(lake, EXTRACTOR, MASS)


def test_findings_that_the_lake_does_not_have_are_told_before_features_are_read(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, [study(0, findings={"Masse": 1, "Effusion": 0})], [[feature(0, features=None)]])
    with pytest.raises(TaskError, match="Masse"):
        read_labelled(lake, EXTRACTOR, MASS)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    lake = small_lake(tmp_path)
    (file,) = (tmp_path / "lake" / "features").glob("*/run=*/*.parquet")
    content = bytearray(file.read_bytes())
    content[4:-400] = b"\xff" * (len(content) - 404)
    file.write_bytes(bytes(content))
    with pytest.raises(LakeError, match=rf"{file.name}' can't be read: .*remove its run"):
        read_labelled(lake, EXTRACTOR, MASS)


@pytest.fixture
def notebook(extracted_lake: Path) -> Iterator[Labelled]:
    with open_rows(str(extracted_lake), "three_class") as labelled:
        yield labelled


def test_a_notebook_gets_what_extraction_wrote(extracted_lake: Path, notebook: Labelled) -> None:
    lake = Lake.open(str(extracted_lake))
    stored = lake.features(lake.choose_extractor(None)).to_arrow(["image_id", "features"])
    vectors = dict(zip(stored["image_id"].to_pylist(), as_matrix(stored["features"]), strict=True))
    told = {row["image_id"]: row for row in lake.studies.to_arrow(["image_id", "findings", "split"]).to_pylist()}
    assert set(notebook.splits) == set(Split)
    total = 0
    for split, rows in notebook.splits.items():
        assert rows.image_ids is not None
        total += len(rows)
        assert {told[str(image_id)]["split"] for image_id in rows.image_ids} == {str(split)}
        np.testing.assert_array_equal(rows.features, [vectors[str(image_id)] for image_id in rows.image_ids])
        findings = [dict(told[str(image_id)]["findings"]) for image_id in rows.image_ids]
        np.testing.assert_array_equal(rows.targets, notebook.task.targets(findings))
    assert total + sum(notebook.unanswered.values()) == stored.num_rows
    assert repr(notebook).startswith("<three_class: train ")
    assert "features; kermany, 90 images of " in repr(notebook)


def lists(*values: list[float | None] | None) -> pa.Array:
    return pa.array(values, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (lists([1, 2], [3, 4]), [[1, 2], [3, 4]]),
        (lists([9, 9], [1, 2], [3, 4]).slice(1), [[1, 2], [3, 4]]),
        (pa.chunked_array([lists([1, 2]), lists(), lists([3, 4])]), [[1, 2], [3, 4]]),
        (pa.chunked_array([], pa.list_(pa.float32())), np.empty((0, 0))),
    ],
)
def test_lists_as_a_matrix(column: pa.Array, expected: npt.ArrayLike) -> None:
    matrix = as_matrix(column)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(
    "column",
    [
        lists([1, 2], [3]),
        lists([1, 2], None),
        lists([1, 2], [None, 2]),
        pa.chunked_array([lists([1, 2]), lists([1])]),
    ],
)
def test_lists_that_are_no_matrix_are_refused(column: pa.Array) -> None:
    with pytest.raises(LakeError, match="not all of one length"):
        as_matrix(column)
