"""Reading crops by plan: each row gets its own bytes, in the same order however many read, within bounded memory."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pytest
from crop_lake import MASS, crop, mass_study, write_crop_lake
from synthetic_studies import study, write_lake

from pipelines.crop_reader import ParquetReader, Step
from pipelines.crop_rows import CropRows, find_crops
from pipelines.errors import ConfigError, LakeError
from pipelines.lake import Lake

IMAGES = 100


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return write_crop_lake(tmp_path_factory.mktemp("crops") / "lake", IMAGES)


@pytest.fixture(scope="module")
def rows(lake: Lake) -> CropRows:
    return find_crops(lake, MASS)


def reader_of(lake: Lake, rows: CropRows, batch_size: int = 16, window: int = 5) -> ParquetReader:
    return ParquetReader(lake.studies.folder, rows, batch_size, seed=1, window=window)


def numbers(steps: list[Step]) -> list[list[int]]:
    return [[number for number, _ in step] for step in steps]


def assert_own_bytes(steps: list[Step], rows: CropRows) -> None:
    """Every row has the crop that the image of its id was written with."""
    written = {study(number)["image_id"]: crop(number) for number in range(IMAGES)}
    for number, png in itertools.chain.from_iterable(steps):
        assert png == written[str(rows.image_ids[number])]


def test_every_row_gets_its_own_crop(lake: Lake, rows: CropRows) -> None:
    reader = reader_of(lake, rows)
    steps = list(reader.read(0, np.arange(IMAGES)))
    assert len(steps) == reader.steps(IMAGES) == 7
    assert [len(step) for step in steps] == [16] * 6 + [8]
    assert set(itertools.chain.from_iterable(numbers(steps))) == set(range(IMAGES))
    assert_own_bytes(steps, rows)


def test_rows_may_be_few_and_repeat(lake: Lake, rows: CropRows) -> None:
    chosen = np.array([3, 3, 3, 60, 99, 61, 3, 60])
    (step,) = reader_of(lake, rows).read(0, chosen)
    assert sorted(number for number, _ in step) == sorted(chosen)
    assert_own_bytes([step], rows)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_the_batches_of_one(lake: Lake, rows: CropRows, world: int) -> None:
    reader, chosen = reader_of(lake, rows), np.arange(IMAGES)
    alone = list(reader.read(2, chosen))
    shared = [list(reader.read(2, chosen, rank=rank, world=world)) for rank in range(world)]
    for step, parts in zip(alone, zip(*shared, strict=True), strict=True):
        assert sorted(step) == sorted(itertools.chain.from_iterable(parts))
        assert len({len(part) for part in parts}) == 1


@pytest.mark.parametrize("skip", [1, 6, 7])
def test_going_on_in_the_middle_of_an_epoch(lake: Lake, rows: CropRows, skip: int) -> None:
    reader, chosen = reader_of(lake, rows), np.arange(IMAGES)
    assert list(reader.read(3, chosen, skip_steps=skip)) == list(reader.read(3, chosen))[skip:]


@pytest.mark.parametrize("world", [1, 3])
def test_validation_reads_each_row_once_in_order(lake: Lake, rows: CropRows, world: int) -> None:
    wanted = np.arange(5, IMAGES, 2)
    reader = reader_of(lake, rows)
    steps = [step for rank in range(world) for step in reader.read_rows(wanted[::-1], rank=rank, world=world)]
    assert list(itertools.chain.from_iterable(numbers(steps))) == wanted.tolist()
    assert_own_bytes(steps, rows)


def test_a_process_without_a_share_has_no_steps(lake: Lake, rows: CropRows) -> None:
    assert list(reader_of(lake, rows).read_rows(np.array([4]), rank=1, world=2)) == []


def test_memory_is_bounded_by_the_windows_and_not_by_the_lake(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "lake", 800, files=4, row_group=10, side=64)
    rows = find_crops(lake, MASS)
    reader, chosen = reader_of(lake, rows, batch_size=8, window=10), np.arange(800)
    bound = reader.memory_bound(0, chosen)
    crops = sum(len(png) for step in reader.read_rows(chosen) for _, png in step)
    assert bound < crops / 2
    assert reader.memory_bound(0, chosen, rank=1, world=2) < bound
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in reader.read(0, chosen)]
    # A row group that is being decoded lies there twice, and its copy.
    assert max(held) <= bound + 4 * crops / 80
    assert max(held) > bound / 4


def test_nothing_is_left_open_when_it_stops_early(lake: Lake, rows: CropRows) -> None:
    threads = threading.active_count()
    steps = reader_of(lake, rows).read(0, np.arange(IMAGES))
    next(steps)
    steps.close()
    assert threading.active_count() == threads
    assert not [file.path for file in psutil.Process().open_files() if file.path.startswith(lake.folder.path)]


def test_any_file_system(lake: Lake, rows: CropRows) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(lake.folder.path, "/crop-reader/lake", recursive=True)
    try:
        elsewhere = Lake.open("memory://crop-reader/lake")
        there = find_crops(elsewhere, MASS)
        chosen = np.arange(IMAGES)
        assert list(reader_of(elsewhere, there).read(0, chosen)) == list(reader_of(lake, rows).read(0, chosen))
    finally:
        memory.rm("/crop-reader", recursive=True)


def test_a_study_without_a_crop_has_no_bytes(tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [[mass_study(0), mass_study(1) | {"crop": None}]])
    (step,) = reader_of(lake, find_crops(lake, MASS)).read_rows(np.arange(2))
    assert step == [(0, crop(0)), (1, b"")]


def test_a_batch_that_can_not_be_shared_out(lake: Lake, rows: CropRows) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=12 .* With 1 process it must be a multiple of 8"):
        reader_of(lake, rows, batch_size=12).read(0, np.arange(IMAGES))
    with pytest.raises(ConfigError, match="With 3 processes it must be a multiple of 24"):
        reader_of(lake, rows).steps(IMAGES, world=3)


def test_a_run_that_goes_while_it_is_read(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "lake", 40)
    reader = reader_of(lake, find_crops(lake, MASS))
    Path(list(lake.studies.files())[1]).unlink()
    threads = threading.active_count()
    with pytest.raises(LakeError, match=r"part-1\.parquet' can't be read"):
        list(reader.read(0, np.arange(40)))
    assert threading.active_count() == threads
