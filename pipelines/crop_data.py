"""The batches of a fine-tuning: which images an epoch shows, in what order, from Parquet or from memory."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from classifiers.balance import Balance, rebalance
from featurizers.backbones import BackboneSpec
from featurizers.finetuning import batches
from featurizers.finetuning.trainer import Batch
from pipelines.crop_order import epoch_order, lanes_for
from pipelines.crop_reader import WINDOW, CropReader, ParquetReader, Step
from pipelines.finetune_config import FinetuneConfig, Reader, Sampling
from pipelines.lake import Lake
from pipelines.petastorm_reader import PetastormReader
from pipelines.progress import Progress
from pipelines.splits import Split
from pipelines.training_rows import TrainingRows

_BYTES_PER_MB: Final = 2**20
#: Steps decoded at once; Pillow works outside of Python's lock, and the network has the other cores.
_THREADS: Final = 2


class CropData:
    """Feeds a trainer; a context that gives back threads and files.

    Where the decoded crops fit into memory they are decoded once, before the first epoch; else they are read and
    decoded anew in every epoch, ahead of the network.

    Attributes:
        rows: all images, by split.
        spec: of the backbone that looks at them.
        batch_size: images of a batch, over all processes.
        rank, world: which of how many processes this is.
    """

    def __init__(self, lake: Lake, rows: TrainingRows, spec: BackboneSpec, config: FinetuneConfig) -> None:
        self.rows, self.spec, self.batch_size = rows, spec, config.batch_size
        is_alone = not distributed.is_initialized()
        self.rank, self.world = (0, 1) if is_alone else (distributed.get_rank(), distributed.get_world_size())
        self._config = config
        self._train = rows.places[Split.TRAIN]
        self._parquet = ParquetReader(lake.studies.folder, rows.crops, config.batch_size, config.seed)
        self._reader: CropReader = self._parquet
        if config.reader is Reader.PETASTORM:
            self._reader = PetastormReader(lake.studies.folder, rows.crops, config.batch_size, config.seed)
        self._damaged: set[int] = set()
        self._decoded = self._decode_all() if self._fits() else None

    def damaged_everywhere(self) -> int:
        """How many crops could not be decoded and were left out, by any process; all of them must ask."""
        found: list[set[int]] = [set()] * self.world
        if self.world > 1:
            distributed.all_gather_object(found, self._damaged)
        return len(self._damaged.union(*found))

    def updates(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return self._config.updates_per_epoch or self._updates_of(epoch)

    def images(self, epoch: int) -> int:
        """How many images an epoch shows, over all processes; a little less where crops are damaged."""
        if self._config.updates_per_epoch is not None:
            return self.batch_size * self._config.updates_per_epoch
        return len(self._chosen(epoch))

    def training(self, epoch: int, skip: int) -> Iterator[Batch]:
        """This process's part of the epoch's batches, without the first `skip`."""
        if self._config.updates_per_epoch is None:
            yield from self._pass(epoch, skip)
            return
        # Epochs are cut out of an endless line of passes over the images, so that all have their turn.
        number, left = 0, epoch * self.updates(epoch) + skip
        while left >= self._updates_of(number):
            left -= self._updates_of(number)
            number += 1
        wanted = self.updates(epoch) - skip
        while wanted:
            for batch in self._pass(number, left):
                yield batch
                wanted -= 1
                if not wanted:
                    return
            number, left = number + 1, 0

    def validation(self) -> Iterator[Batch]:
        """This process's share of the val split."""
        return self._ordered(self.rows.places[Split.VAL])

    def judged(self, splits: Sequence[Split]) -> Iterator[Batch]:
        """This process's share of some splits."""
        return self._ordered(np.concatenate([self.rows.places[split] for split in splits]))

    def close(self) -> None:
        """Forget what is decoded."""
        self._decoded = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _chosen(self, number: int) -> NDArray[np.int64]:
        """The rows that a pass shows; one that is shown twice stands twice."""
        if self._config.sampling is Sampling.NONE:
            return self._train
        targets = self.rows.crops.targets[self._train]
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        nothing = np.empty((targets.shape[0], 0), np.float32)
        return self._train[rebalance(nothing, targets, Balance(self._config.sampling.value), seed).rows]

    @functools.lru_cache(maxsize=4096)  # noqa: B019  it lives as long as the training
    def _updates_of(self, number: int) -> int:
        return self._parquet.steps(len(self._chosen(number)), self.world)

    def _pass(self, number: int, skip: int) -> Iterator[Batch]:
        chosen = self._chosen(number)
        if self._decoded is not None:
            yield from self._from_memory(self._order(number, chosen, skip))
            return
        steps = self._reader.read(number, chosen, rank=self.rank, world=self.world, skip_steps=skip)
        yield from self._from_steps(steps)

    def _order(self, number: int, chosen: NDArray[np.int64], skip: int) -> Iterator[NDArray[np.int64]]:
        """Per step, this process's row numbers, as `ParquetReader.read` gives them."""
        lanes = lanes_for(self.world)
        per_lane = self.batch_size // lanes
        seed = self._config.seed
        order = epoch_order(self.rows.crops, chosen, seed=seed, epoch=number, lanes=lanes, window=WINDOW)
        for start in range(skip * per_lane, order.shape[1], per_lane):
            yield order[self.rank :: self.world, start : start + per_lane].ravel()

    def _from_memory(self, order: Iterator[NDArray[np.int64]]) -> Iterator[Batch]:
        assert self._decoded is not None
        for numbers in order:
            there = np.array([number not in self._damaged for number in numbers.tolist()], np.bool_)
            kept = numbers[there]
            pixels = self._decoded[self._slots[kept]]
            yield Batch(pixels, self.rows.crops.targets[kept], self._places(numbers.size)[there])

    def _from_steps(self, steps: Generator[Step, None, None]) -> Iterator[Batch]:
        coming: deque[list[int]] = deque()

        def noted() -> Generator[Step, None, None]:
            with contextlib.closing(steps):
                for step in steps:
                    coming.append([number for number, _ in step])
                    yield step

        with contextlib.closing(batches.decoded(noted(), self.spec.input_size, threads=_THREADS)) as decoded:
            for batch in decoded:
                numbers = coming.popleft()
                self._damaged.update(batch.damaged)
                there = np.array([number not in batch.damaged for number in numbers], np.bool_)
                places = self._places(len(numbers))[there]
                yield Batch(batch.pixels, self.rows.crops.targets[batch.rows], places)

    def _places(self, size: int) -> NDArray[np.int64]:
        """Where a step's images of this process stand in the whole batch: lane by lane."""
        lanes = np.arange(self.rank, lanes_for(self.world), self.world)
        per_lane = self.batch_size // lanes_for(self.world)
        within = np.arange(-(-size // lanes.size))
        return (lanes[:, None] * per_lane + within).ravel()[:size]

    def _ordered(self, rows: NDArray[np.int64]) -> Iterator[Batch]:
        """This process's share of some rows, with their numbers for places."""
        if self._decoded is not None:
            kept = np.array(
                [
                    number
                    for number in np.array_split(np.sort(rows), self.world)[self.rank].tolist()
                    if number not in self._damaged
                ],
                np.int64,
            )
            for start in range(0, kept.size, self.batch_size):
                numbers = kept[start : start + self.batch_size]
                yield Batch(self._decoded[self._slots[numbers]], self.rows.crops.targets[numbers], numbers)
            return
        steps = self._parquet.read_rows(rows, rank=self.rank, world=self.world)
        with contextlib.closing(batches.decoded(steps, self.spec.input_size, threads=_THREADS)) as decoded:
            for batch in decoded:
                self._damaged.update(batch.damaged)
                yield Batch(batch.pixels, self.rows.crops.targets[batch.rows], batch.rows)

    def _fits(self) -> bool:
        """Whether the decoded crops fit; petastorm is asked for its own sake, so that it reads every epoch."""
        size = len(self.rows.crops) * self.spec.input_size**2
        return self._config.reader is Reader.PARQUET and size <= self._config.cache_mb * _BYTES_PER_MB

    def _decode_all(self) -> NDArray[np.uint8]:
        every = np.sort(np.concatenate(list(self.rows.places.values())))
        side = self.spec.input_size
        self._slots = np.full(len(self.rows.crops), -1, np.int64)
        self._slots[every] = np.arange(every.size)
        pixels = np.zeros((every.size, side, side), np.uint8)
        done = 0
        steps = self._parquet.read_rows(every)
        decoded = contextlib.closing(batches.decoded(steps, side, threads=_THREADS))
        # One bar is enough, though every process decodes.
        bar = contextlib.nullcontext() if self.rank else Progress("decode", every.size, lambda: done)
        with bar, decoded as each:
            for batch in each:
                self._damaged.update(batch.damaged)
                pixels[self._slots[batch.rows]] = batch.pixels
                done += len(batch) + len(batch.damaged)
        return pixels
