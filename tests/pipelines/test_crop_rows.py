"""Finding crops: each row is where it is said to be, with its own target, and no crop is read for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from crop_lake import MASS, mass_study, write_crop_lake
from synthetic_studies import SHARES, draw_studies, study, write_lake, write_run

from classifiers.errors import TaskError
from classifiers.tasks import Rule, Task
from pipelines.crop_rows import CropRows, find_crops
from pipelines.errors import LakeError
from pipelines.lake import Lake
from pipelines.splits import Split

FINDINGS = Task("findings", tuple(Rule(name, any=(name,)) for name in SHARES), multi_label=True)


def stored(rows: CropRows) -> Iterator[tuple[str, bytes]]:
    """image_id and crop that lie where each row is said to be."""
    for file, group, row in zip(rows.file, rows.row_group, rows.row, strict=True):
        there = pq.ParquetFile(rows.files[file]).read_row_group(int(group)).slice(int(row), 1).to_pylist()[0]
        yield there["image_id"], there["crop"]


def test_every_row_lies_where_it_is_said_to(tmp_path: Path) -> None:
    studies = draw_studies(150, seed=1)
    lake = write_lake(tmp_path / "lake", [studies[:40], [], studies[40:95]], row_group=13)
    write_run(lake.studies, [studies[95:]], row_group=100)
    by_id = {row["image_id"]: row for row in studies}
    rows = find_crops(lake, FINDINGS)
    assert len(rows) + sum(rows.unanswered.values()) == len(studies)
    assert [image_id for image_id, _ in stored(rows)] == rows.image_ids.tolist()
    patients: dict[tuple[str, str], set[int]] = {}
    for number, (image_id, crop) in enumerate(stored(rows)):
        row = by_id[image_id]
        assert crop == row["crop"]
        np.testing.assert_array_equal(rows.targets[number], FINDINGS.targets([row["findings"]])[0])
        assert rows.datasets[number] == row["dataset"]
        assert number in rows.of(Split(row["split"]))
        patients.setdefault((row["dataset"], row["patient_key"]), set()).add(int(rows.patients[number]))
    assert all(len(numbers) == 1 for numbers in patients.values())
    assert len(set.union(*patients.values())) == len(patients)


def test_what_the_task_does_not_answer_is_counted_and_left_out(tmp_path: Path) -> None:
    unknown = [study(number, split=split) for number, split in enumerate(("train", "val", "val"))]
    lake = write_lake(tmp_path / "lake", [[*unknown, mass_study(5), mass_study(6, split="test")]])
    rows = find_crops(lake, MASS)
    assert rows.image_ids.tolist() == [study(5)["image_id"], study(6)["image_id"]]
    assert rows.row.tolist() == [3, 4]
    assert rows.unanswered == {Split.TRAIN: 1, Split.VAL: 2, Split.TEST: 0}
    assert [rows.of(split).tolist() for split in Split] == [[0], [], [1]]


def test_runs_that_are_not_committed_are_not_seen(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "lake", 10)
    write_run(lake.studies, [[mass_study(50)]])
    (newest,) = (run for run in lake.studies.folder.runs()[1:])
    Path(newest.path, "_SUCCESS").unlink()
    assert len(find_crops(lake, MASS)) == 10


def test_no_crop_is_read(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "lake", 30, files=1)
    (path,) = lake.studies.files()
    told = pq.read_metadata(path)
    with Path(path).open("r+b") as file:
        for group in range(told.num_row_groups):
            columns = (told.row_group(group).column(index) for index in range(told.num_columns))
            (crops,) = (column for column in columns if column.path_in_schema == "crop")
            file.seek(crops.dictionary_page_offset or crops.data_page_offset)
            file.write(bytes(crops.total_compressed_size))
    assert len(find_crops(lake, MASS)) == 30


def test_a_task_of_findings_that_are_not_there(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "lake", 10)
    with pytest.raises(TaskError, match="Hernia"):
        find_crops(lake, Task.exclusive("other", ("Hernia", "Edema")))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"split": "val"}, "no study is in the train split"),
        ({"findings": {"No Finding": -1, "Mass": -1}}, "none of the 4 images of the train split answers task 'mass'"),
        ({"split": "spare"}, "4 studies are in none of the splits"),
        ({"image_id": "twice"}, "3 studies .* have the image_id of another"),
    ],
)
def test_lakes_that_nothing_can_be_learned_from(tmp_path: Path, columns: dict[str, object], told: str) -> None:
    lake = write_lake(tmp_path / "lake", [[mass_study(number) | columns for number in range(4)]])
    with pytest.raises(LakeError, match=told):
        find_crops(lake, MASS)


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    lake: Lake = write_crop_lake(tmp_path / "lake", 10)
    damaged = list(lake.studies.files())[1]
    Path(damaged).write_bytes(b"PAR1 no more")
    with pytest.raises(LakeError, match=r"part-1\.parquet' can't be read.*ingest its archive again"):
        find_crops(lake, MASS)
