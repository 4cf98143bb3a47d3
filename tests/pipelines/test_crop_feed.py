"""Row groups: dealt out evenly and whole, read in order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crop_feed import CropReader, RowGroup, deal, row_groups
from pipelines.errors import LakeError

SIZES = st.lists(st.integers(1, 50), max_size=40)


@given(SIZES, st.integers(1, 12))
def test_every_row_group_is_dealt_once_and_in_order(sizes: list[int], tasks: int) -> None:
    groups = [RowGroup("file", number, images) for number, images in enumerate(sizes)]
    hands = deal(groups, tasks)
    assert [group for hand in hands for group in hand] == groups
    assert len(hands) <= tasks
    assert all(hands)


@given(SIZES, st.integers(1, 12))
def test_no_task_gets_more_than_its_share_and_one_row_group(sizes: list[int], tasks: int) -> None:
    hands = deal([RowGroup("file", number, images) for number, images in enumerate(sizes)], tasks)
    share = sum(sizes) / tasks
    assert all(sum(group.images for group in hand) <= share + max(sizes) for hand in hands)


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
    groups = row_groups([files[0], f"file://{files[1]}", files[2]])
    assert [group.images for group in groups] == [32, 32, 6] * 3
    reader = CropReader(groups)
    found = list(reader)
    assert [image_id for image_id, _ in found] == [f"{number}-{row}" for number in range(3) for row in range(70)]
    assert all(crop == image_id.encode() for image_id, crop in found)
    assert reader.bytes_read == sum(len(crop) for _, crop in found)


def test_some_row_groups_of_a_file_can_be_read_alone(files: list[str]) -> None:
    assert [image_id for image_id, _ in CropReader(row_groups(files)[1:3])] == [f"0-{row}" for row in range(32, 70)]


def test_a_damaged_file_is_told_with_what_to_do(files: list[str], tmp_path: Path) -> None:
    groups = row_groups(files)
    Path(files[1]).write_bytes(b"no Parquet")
    for read in (lambda: row_groups(files), lambda: list(CropReader(groups))):
        with pytest.raises(LakeError, match=r"1\.parquet' can't be read.*ingest its archive again"):
            read()


def test_null_is_a_damaged_crop_and_not_the_end_of_the_job(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image_id": ["a"], "crop": pa.array([None], pa.binary())}), tmp_path / "f.parquet")
    assert list(CropReader(row_groups([str(tmp_path / "f.parquet")]))) == [("a", None)]
