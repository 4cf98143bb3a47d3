"""Stored crops as a training wants them: step by step, in an order that a seed decides, from committed runs only."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.read_ahead import read_ahead
from pipelines.crop_feed import STUDIES_REMEDY
from pipelines.crop_order import epoch_order, lanes_for
from pipelines.crop_rows import CropRows
from pipelines.errors import ConfigError
from pipelines.folders import Folder
from pipelines.parquet import open_parquet

#: Rows of a lane that are shuffled among each other: with eight lanes, a buffer of 4,096 crops.
WINDOW = 512

_CROP: Final = "crop"

#: What a process gets of one step: row number and PNG of each of its crops.
Step = list[tuple[int, bytes]]


class CropReader(Protocol):
    """Where a training's crops come from."""

    def read(
        self, epoch: int, chosen: npt.NDArray[np.int64], *, rank: int = 0, world: int = 1, skip_steps: int = 0
    ) -> Generator[Step, None, None]:
        """The crops of one epoch for one of several processes; all of them get as many steps.

        Args:
            epoch: decides the order, with the reader's seed.
            chosen: int64 (m,), row numbers, in any order; they may repeat.
            rank, world: which of how many processes this is.
            skip_steps: how many steps to leave out, when a training goes on in the middle of an epoch.

        Yields:
            Per step this process's share of `batch_size` crops; the last step may be shorter. Files and threads are
            given back when it ends or is closed.
        """
        ...  # pragma: no cover


def rows_per_lane(batch_size: int, world: int) -> int:
    """How many rows each lane gives to a step.

    Raises:
        ConfigError: if the lanes do not divide the batch.
    """
    lanes = lanes_for(world)
    if batch_size < 1 or batch_size % lanes:
        raise ConfigError(
            f"batch_size={batch_size} can't be shared out evenly. With {world} process{'es' if world > 1 else ''} it "
            f"must be a multiple of {lanes}."
        )
    return batch_size // lanes


@dataclass(frozen=True, eq=False)
class ParquetReader:
    """Reads by plan: each row group is read once for each lane that needs it, just before it is needed.

    Attributes:
        folder: the folder of the table of studies, whose file system `rows.files` are in.
        rows: where the crops lie.
        batch_size: crops of a step, over all processes; a multiple of the lanes (8, for up to 8 processes).
        seed: decides the order.
        window: see `pipelines.crop_order.epoch_order`.
    """

    folder: Folder
    rows: CropRows
    batch_size: int
    seed: int = 0
    window: int = WINDOW
    _footers: dict[int, pq.FileMetaData] = field(default_factory=dict, repr=False)

    def steps(self, chosen: int, world: int = 1) -> int:
        """How many steps an epoch of this many chosen rows has."""
        return math.ceil(math.ceil(chosen / lanes_for(world)) / rows_per_lane(self.batch_size, world))

    def read(
        self, epoch: int, chosen: npt.NDArray[np.int64], *, rank: int = 0, world: int = 1, skip_steps: int = 0
    ) -> Generator[Step, None, None]:
        """As `CropReader.read`; the global batches are the same for 1, 2, 4 and 8 processes.

        Raises:
            ConfigError: if the lanes do not divide the batch.
            LakeError: if a file is gone or damaged.
        """
        order, per_lane = self._own_order(epoch, chosen, rank, world), rows_per_lane(self.batch_size, world)
        return self._read(_Plan.make(self.rows, order[:, skip_steps * per_lane :], per_lane))

    def read_rows(
        self, numbers: npt.NDArray[np.int64], *, rank: int = 0, world: int = 1
    ) -> Generator[Step, None, None]:
        """The crops of some rows as they lie in files, for validation: each once, without shuffling.

        Args:
            numbers: row numbers; those of one process lie side by side, so that it reads few row groups.
            rank, world: which of how many processes this is.
        """
        share = np.array_split(np.sort(numbers), world)[rank]
        return self._read(_Plan.make(self.rows, share[None, :], math.ceil(self.batch_size / world)))

    def memory_bound(self, epoch: int, chosen: npt.NDArray[np.int64], *, rank: int = 0, world: int = 1) -> int:
        """Bytes of crops that `read` holds at most at any time, as the files tell, beside the row group being decoded.

        It grows with lanes, window and the size of row groups, not with the lake.
        """
        order = self._own_order(epoch, chosen, rank, world)
        plan = _Plan.make(self.rows, order, rows_per_lane(self.batch_size, world))
        sizes = [self._group_bytes(visit) for visit in plan.visits]
        total = np.concatenate([[0], np.cumsum(sizes)])
        begun = np.searchsorted([visit.first for visit in plan.visits], np.arange(plan.steps), side="right")
        ended = np.zeros(plan.steps + 1, np.int64)
        np.add.at(ended, [visit.last + 1 for visit in plan.visits], sizes)
        ahead = np.minimum(begun + len(order) + 1, len(sizes))
        return int((total[ahead] - np.cumsum(ended)[:-1]).max(initial=0))

    def _own_order(self, epoch: int, chosen: npt.NDArray[np.int64], rank: int, world: int) -> npt.NDArray[np.int64]:
        lanes = lanes_for(world)
        order = epoch_order(self.rows, chosen, seed=self.seed, epoch=epoch, lanes=lanes, window=self.window)
        return order[rank::world]

    def _read(self, plan: _Plan) -> Generator[Step, None, None]:
        """Make the plan's steps; a thread reads up to one row group per lane ahead."""
        lanes: list[list[_Held]] = [[] for _ in plan.order]
        due = 0
        with contextlib.closing(read_ahead(map(self._load, plan.visits), len(lanes))) as loaded:
            for step, columns in enumerate(plan.columns()):
                while due < len(plan.visits) and plan.visits[due].first <= step:
                    lanes[plan.visits[due].lane].append(next(loaded))
                    due += 1
                yield [
                    (number, next(held.png(number) for held in lane if number in held))
                    for lane, numbers in zip(lanes, columns, strict=True)
                    for number in numbers
                ]
                for lane in lanes:
                    lane[:] = [held for held in lane if held.last > step]

    def _load(self, visit: _Visit) -> _Held:
        file, group = self._place(visit)
        path, filesystem = self.rows.files[file], self.folder.filesystem
        with open_parquet(path, filesystem, self._footers.get(file), remedy=STUDIES_REMEDY) as parquet:
            self._footers[file] = parquet.metadata
            crops = parquet.read_row_group(group, [_CROP], use_threads=False).column(_CROP).combine_chunks()
        # A copy of what is needed, so that rows of other splits and lanes do not stay in memory.
        return _Held(visit, crops.take(pa.array(self.rows.row[visit.numbers])))

    def _group_bytes(self, visit: _Visit) -> int:
        """What all crops of a visit's row group take in memory."""
        file, group = self._place(visit)
        if file not in self._footers:
            with open_parquet(self.rows.files[file], self.folder.filesystem, remedy=STUDIES_REMEDY) as parquet:
                self._footers[file] = parquet.metadata
        told = self._footers[file].row_group(group)
        columns = (told.column(index) for index in range(told.num_columns))
        return int(sum(column.total_uncompressed_size for column in columns if column.path_in_schema == _CROP))

    def _place(self, visit: _Visit) -> tuple[int, int]:
        """The file and the row group of a visit."""
        return int(self.rows.file[visit.numbers[0]]), int(self.rows.row_group[visit.numbers[0]])


@dataclass(frozen=True, eq=False)
class _Visit:
    """One row group while one lane needs it.

    Attributes:
        lane: the lane's place among the process's own.
        first, last: the steps that need it.
        numbers: int64, the rows that they need, ascending, each once.
    """

    lane: int
    first: int
    last: int
    numbers: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What to read when.

    Attributes:
        order: int64 (own lanes, m), row numbers.
        rows_per_step: of each lane.
        visits: all row groups that the lanes need, in the order in which they need them.
    """

    order: npt.NDArray[np.int64]
    rows_per_step: int
    visits: list[_Visit]

    @classmethod
    def make(cls, rows: CropRows, order: npt.NDArray[np.int64], rows_per_step: int) -> Self:
        """The plan for an order."""
        lanes, length = order.shape
        numbers = order.ravel()
        groups, group = np.unique(rows.groups()[numbers], return_inverse=True)
        key = np.repeat(np.arange(lanes), length) * groups.size + group
        # Stable, so that the rows of one lane and row group stay in the order of their steps.
        by_key = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[by_key], prepend=-1))
        visits = [
            _Visit(
                lane=int(own[0]) // length,
                first=int(own[0]) % length // rows_per_step,
                last=int(own[-1]) % length // rows_per_step,
                numbers=np.unique(numbers[own]),
            )
            for own in np.split(by_key, starts[1:])
            if own.size
        ]
        return cls(order, rows_per_step, sorted(visits, key=lambda visit: visit.first))

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return len(range(0, self.order.shape[1], self.rows_per_step))

    def columns(self) -> Iterator[list[list[int]]]:
        """Per step, the row numbers of each lane."""
        for start in range(0, self.order.shape[1], self.rows_per_step):
            columns: list[list[int]] = self.order[:, start : start + self.rows_per_step].tolist()
            yield columns


class _Held:
    """The crops of a visit, in memory."""

    def __init__(self, visit: _Visit, crops: pa.Array) -> None:
        self.last = visit.last
        self._crops = crops
        self._places = {number: place for place, number in enumerate(visit.numbers.tolist())}

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def png(self, number: int) -> bytes:
        """One crop; empty where the lake holds none."""
        png: bytes | None = self._crops[self._places[number]].as_py()
        return png or b""
