"""petastorm gives the same crops as the default reader, on a lake that Spark wrote; PLEURA_LAKE says where it lies."""

from __future__ import annotations

import itertools
import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from crop_lake import MASS, mass_study, write_crop_lake
from synthetic_studies import write_run

from classifiers.tasks import get_task
from featurizers.finetuning.batches import Batch, decoded
from pipelines.crop_reader import CropReader, ParquetReader, Step
from pipelines.crop_rows import CropRows, find_crops
from pipelines.errors import ConfigError, LakeError
from pipelines.lake import Lake
from pipelines.petastorm_reader import PetastormReader
from pipelines.splits import Split

BATCH_SIZE, SIZE = 16, 64


@pytest.fixture(scope="module")
def lake() -> Lake:
    return Lake.open(os.environ["PLEURA_LAKE"])


@pytest.fixture(scope="module")
def rows(lake: Lake) -> CropRows:
    return find_crops(lake, get_task("three_class"))


@pytest.fixture(scope="module")
def train(rows: CropRows) -> np.ndarray:
    return rows.of(Split.TRAIN)


@pytest.fixture(scope="module")
def readers(lake: Lake, rows: CropRows) -> dict[str, CropReader]:
    there = lake.studies.folder, rows, BATCH_SIZE
    return {"parquet": ParquetReader(*there), "petastorm": PetastormReader(*there)}


def petastorm_of(lake: Lake) -> PetastormReader:
    return PetastormReader(lake.studies.folder, find_crops(lake, MASS), BATCH_SIZE)


def numbers(steps: list[Step]) -> list[int]:
    return [number for step in steps for number, _ in step]


def test_both_read_the_same_crop_of_every_image(
    readers: dict[str, CropReader], rows: CropRows, train: np.ndarray
) -> None:
    assert train.size > 50
    read = {
        name: {str(rows.image_ids[number]): png for step in reader.read(0, train) for number, png in step}
        for name, reader in readers.items()
    }
    assert read["petastorm"] == read["parquet"]
    assert len(read["petastorm"]) == train.size


def test_both_make_batches_of_the_same_pixels(readers: dict[str, CropReader], train: np.ndarray) -> None:
    def pixels(batches: list[Batch]) -> dict[int, bytes]:
        pairs = (pair for batch in batches for pair in zip(batch.rows.tolist(), batch.pixels, strict=True))
        return {number: image.tobytes() for number, image in pairs}

    made = {name: list(decoded(reader.read(0, train), SIZE)) for name, reader in readers.items()}
    assert [len(batch) for batch in made["petastorm"]][:-1] == [BATCH_SIZE] * (len(made["parquet"]) - 1)
    assert sum(len(batch) for batch in made["petastorm"]) == train.size
    assert pixels(made["petastorm"]) == pixels(made["parquet"])


def test_seed_and_epoch_decide_the_order(lake: Lake, rows: CropRows, train: np.ndarray) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return numbers(list(PetastormReader(lake.studies.folder, rows, BATCH_SIZE, seed).read(epoch, train)))

    first = order(0, 0)
    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first
    assert sorted(first) == train.tolist()


def test_going_on_in_the_middle_of_an_epoch(readers: dict[str, CropReader], train: np.ndarray) -> None:
    reader = readers["petastorm"]
    assert list(reader.read(1, train, skip_steps=2)) == list(reader.read(1, train))[2:]


def test_rows_may_be_few_and_repeat(readers: dict[str, CropReader], train: np.ndarray) -> None:
    chosen = train[[0, 5, 0, 0, 9]]
    (step,) = readers["petastorm"].read(0, chosen)
    assert Counter(number for number, _ in step) == Counter(chosen.tolist())


def test_processes_have_row_groups_of_their_own_and_as_many_steps(tmp_path: Path) -> None:
    reader, chosen = petastorm_of(write_crop_lake(tmp_path / "lake", 100)), np.arange(100)
    shares = [list(reader.read(0, chosen, rank=rank, world=2)) for rank in range(2)]
    assert [len(step) for step in shares[0]] == [len(step) for step in shares[1]] == [8] * 6 + [2]
    assert not set(numbers(shares[0])) & set(numbers(shares[1]))


def test_runs_that_are_not_committed_are_not_read(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "a lake", 20)
    write_run(lake.studies, [[mass_study(3) | {"crop": b"of a run that is not committed"}]])
    Path(lake.studies.folder.runs()[-1].path, "_SUCCESS").unlink()
    crops = itertools.chain.from_iterable(petastorm_of(lake).read(0, np.arange(20)))
    assert {png[:4] for _, png in crops} == {b"\x89PNG"}


def test_threads_end_when_it_stops_early(readers: dict[str, CropReader], train: np.ndarray) -> None:
    threads = threading.active_count()
    steps = readers["petastorm"].read(0, train)
    next(steps)
    steps.close()
    assert threading.active_count() == threads


def test_more_processes_than_row_groups(tmp_path: Path) -> None:
    reader = petastorm_of(write_crop_lake(tmp_path / "lake", 20, files=1, row_group=20))
    with pytest.raises(LakeError, match=r"no row group .* for process 2 of 2. Start fewer processes"):
        list(reader.read(0, np.arange(20), rank=1, world=2))


def test_a_share_without_a_crop_to_train_on(tmp_path: Path) -> None:
    reader = petastorm_of(write_crop_lake(tmp_path / "lake", 20, files=1, row_group=10))
    chosen = np.arange(10)
    with pytest.raises(LakeError, match="for process 2 of 2"):
        list(reader.read(0, chosen, rank=1, world=2))


def test_a_damaged_file(tmp_path: Path) -> None:
    lake = write_crop_lake(tmp_path / "lake", 20)
    reader = petastorm_of(lake)
    Path(list(lake.studies.files())[1]).write_bytes(b"PAR1 no more")
    with pytest.raises(LakeError, match=r"petastorm can't read .* ingest its archive again"):
        list(reader.read(0, np.arange(20)))


def test_a_batch_that_can_not_be_shared_out(lake: Lake, rows: CropRows) -> None:
    with pytest.raises(ConfigError, match="must be a multiple of 8"):
        PetastormReader(lake.studies.folder, rows, 12).read(0, np.arange(3))
