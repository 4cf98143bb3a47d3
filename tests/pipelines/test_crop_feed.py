"""Crops are read in order, from all row groups or some."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.crop_feed import STUDIES_REMEDY, CropReader
from pipelines.errors import LakeError
from pipelines.row_groups import row_groups


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number in range(3):
        ids = [f"{number}-{row}" for row in range(70)]
        table = pa.table({"image_id": ids, "other": ids, "crop": [each.encode() for each in ids]})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=32)
        paths.append(str(tmp_path / f"{number}.parquet"))
    return paths


def test_all_crops_are_read_in_order_with_their_bytes_counted(files: list[str]) -> None:
    groups = row_groups([files[0], f"file://{files[1]}", files[2]], STUDIES_REMEDY)
    assert [group.rows for group in groups] == [32, 32, 6] * 3
    reader = CropReader(groups)
    found = list(reader)
    assert [image_id for image_id, _ in found] == [f"{number}-{row}" for number in range(3) for row in range(70)]
    assert all(crop == image_id.encode() for image_id, crop in found)
    assert reader.bytes_read == sum(len(crop) for _, crop in found)


def test_some_row_groups_of_a_file_can_be_read_alone(files: list[str]) -> None:
    assert [image_id for image_id, _ in CropReader(row_groups(files, STUDIES_REMEDY)[1:3])] == [
        f"0-{row}" for row in range(32, 70)
    ]


def test_a_damaged_file_is_told_with_what_to_do(files: list[str], tmp_path: Path) -> None:
    groups = row_groups(files, STUDIES_REMEDY)
    Path(files[1]).write_bytes(b"no Parquet")
    for read in (lambda: row_groups(files, STUDIES_REMEDY), lambda: list(CropReader(groups))):
        with pytest.raises(LakeError, match=r"1\.parquet' can't be read.*ingest its archive again"):
            read()


def test_null_is_a_damaged_crop_and_not_the_end_of_the_job(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"], "crop": pa.array([None], pa.binary())}), tmp_path / "f.parquet")
    assert list(CropReader(row_groups([str(tmp_path / "f.parquet")], STUDIES_REMEDY))) == [("a", None)]
