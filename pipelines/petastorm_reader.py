"""The same crops through petastorm, for who has its pipelines already; an optional extra, in an environment of its own.

petastorm 0.13.1, its last release, needs pyarrow up to 14.0.2 and numpy below 2, which Spark 4.1 can't run with.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.read_ahead import read_ahead
from pipelines.crop_feed import STUDIES_REMEDY
from pipelines.crop_reader import WINDOW, Step, rows_per_lane
from pipelines.crop_rows import CropRows
from pipelines.errors import ConfigError, LakeError
from pipelines.folders import Folder

#: Crops among which the next one is drawn: as many as the other reader's windows hold with eight lanes.
_SHUFFLED = 8 * WINDOW
_ROW_GROUPS_AHEAD = 2


@dataclass(frozen=True, eq=False)
class PetastormReader:
    """Reads whole row groups in a shuffled order, each process its own ones, through a shuffle buffer.

    Seed and epoch decide the order, which is its own and differs with the number of processes. As processes have row
    groups and not rows of their own, one that runs out begins anew and one that has more leaves some out, so that all
    have as many steps; alone, a process reads every chosen row once.

    Attributes:
        folder, rows, batch_size, seed: as of `ParquetReader`.

    Raises:
        ConfigError: where petastorm does not run.
    """

    folder: Folder
    rows: CropRows
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        _petastorm()

    def read(
        self, epoch: int, chosen: npt.NDArray[np.int64], *, rank: int = 0, world: int = 1, skip_steps: int = 0
    ) -> Generator[Step, None, None]:
        """As `CropReader.read`; steps that are left out are read all the same.

        Raises:
            ConfigError: if the batch can't be shared out evenly.
            LakeError: if a file is gone or damaged, or there are fewer row groups than processes.
        """
        rows_per_lane(self.batch_size, world)
        return self._read(epoch, chosen, rank, world, skip_steps)

    def _read(
        self, epoch: int, chosen: npt.NDArray[np.int64], rank: int, world: int, skip_steps: int
    ) -> Generator[Step, None, None]:
        left = math.ceil(chosen.size / world)
        with contextlib.closing(self._endless(epoch, chosen, rank, world)) as crops:
            for step in range(math.ceil(chosen.size / self.batch_size)):
                share = list(itertools.islice(crops, min(self.batch_size // world, left)))
                left -= len(share)
                if step >= skip_steps:
                    yield share

    def _endless(
        self, epoch: int, chosen: npt.NDArray[np.int64], rank: int, world: int
    ) -> Generator[tuple[int, bytes], None, None]:
        """This process's crops, shuffled, pass after pass."""
        numbers, times = np.unique(chosen, return_counts=True)
        wanted = dict(
            zip(self.rows.image_ids[numbers].tolist(), zip(numbers.tolist(), times.tolist(), strict=True), strict=True)
        )
        files = [self.rows.files[file] for file in np.unique(self.rows.file[numbers])]
        for again in itertools.count():
            rng = np.random.default_rng((self.seed, epoch, again))
            found = False
            with contextlib.closing(self._row_groups(files, rng, rank, world)) as groups:
                for crop in _shuffled(_chosen(groups, wanted), rng):
                    found = True
                    yield crop
            if not found:
                raise _too_few_row_groups(rank, world)

    def _row_groups(
        self, files: list[str], rng: np.random.Generator, rank: int, world: int
    ) -> Generator[Any, None, None]:
        """Columns `image_id` and `crop` of one row group after the other, read ahead in a thread."""
        filesystem = self.folder.filesystem
        with _told_as_ours(), contextlib.ExitStack() as stack:
            there = sum(pq.read_metadata(file, filesystem=filesystem).num_row_groups for file in files)
            if there < world:
                raise _too_few_row_groups(rank, world)
            reader = _petastorm()(
                # Files, not their folder: it may hold runs that are not committed.
                [filesystem.unstrip_protocol(file) for file in files],
                schema_fields=["^image_id$", "^crop$"],
                # Workers of its other pools give row groups in any order. All pools may end an epoch too early: they
                # ask whether work is left and whether more will come one after the other, and lose what comes between.
                # So the epoch never ends, and its row groups are counted here.
                reader_pool_type="dummy",
                num_epochs=None,
                shuffle_row_groups=True,
                # 0 would mean none to petastorm.
                seed=int(rng.integers(1, 2**32)),
                cur_shard=rank,
                shard_count=world,
            )
            stack.callback(reader.stop)
            own = itertools.islice(reader, len(range(rank, there, world)))
            yield from stack.enter_context(contextlib.closing(read_ahead(own, _ROW_GROUPS_AHEAD)))


def _petastorm() -> Callable[..., Any]:
    """petastorm's `make_batch_reader`, if it runs here."""
    try:
        from petastorm import make_batch_reader  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise ConfigError(
            f"reader=petastorm can't be used here ({error}). It is the extra 'petastorm': petastorm 0.13.1, which "
            "needs pyarrow up to 14.0.2, numpy below 2 and setuptools below 70, in an environment of its own "
            "(.ci/petastorm_environment makes one). Or take reader=parquet, which needs nothing more."
        ) from error
    make: Callable[..., Any] = make_batch_reader
    return make


def _too_few_row_groups(rank: int, world: int) -> LakeError:
    return LakeError(
        f"petastorm has no row group with a crop to train on for process {rank + 1} of {world}. Start fewer "
        "processes, or take reader=parquet."
    )


@contextlib.contextmanager
def _told_as_ours() -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise LakeError(
            f"petastorm can't read the lake's studies: {' '.join(str(error).split())}. If a file is damaged, "
            f"{STUDIES_REMEDY}."
        ) from error


def _chosen(groups: Iterable[Any], wanted: dict[str, tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """(row number, PNG) of the rows that are wanted, as often as they are."""
    for group in groups:
        for image_id, crop in zip(group.image_id.tolist(), group.crop, strict=True):
            number, times = wanted.get(image_id, (0, 0))
            yield from itertools.repeat((number, crop or b""), times)


def _shuffled(crops: Iterable[tuple[int, bytes]], rng: np.random.Generator) -> Iterator[tuple[int, bytes]]:
    """The crops in an order drawn through a buffer."""
    buffer: list[tuple[int, bytes]] = []
    for crop in crops:
        buffer.append(crop)
        if len(buffer) == _SHUFFLED:
            place = int(rng.integers(_SHUFFLED))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    rng.shuffle(buffer)
    yield from buffer
