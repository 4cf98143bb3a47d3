"""Images of two kinds that a small network tells apart, as a trainer's data: for tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from featurizers.finetuning.trainer import Batch

SIDE = 16


def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (number, SIDE, SIDE) of noise, and their classes: those of class 1 are bright on their left half."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 140, (number, SIDE, SIDE))
    classes = rng.integers(0, 2, number)
    images[classes == 1, :, : SIDE // 2] += 60
    return images.astype(np.uint8), classes.astype(np.int64)


@dataclass
class DrawnBatches:
    """As many drawn images as are wanted; each process of `world` takes every world-th of a batch."""

    batch_size: int = 16
    batches: int = 6
    rank: int = 0
    world: int = 1
    seed: int = 0
    labels: int = 0
    #: Every second epoch is longer, as where sampling hangs on the draw.
    uneven: bool = False
    one_class: bool = False
    shown: list[tuple[int, int]] = field(default_factory=list)

    def updates(self, epoch: int) -> int:
        return self.batches + (epoch % 2 if self.uneven else 0)

    def training(self, epoch: int, skip: int) -> Iterator[Batch]:
        for number in range(skip, self.updates(epoch)):
            self.shown.append((epoch, number))
            images, classes = draw(self.batch_size, hash((self.seed, epoch, number)) % 2**32)
            places = np.arange(self.rank, self.batch_size, self.world)
            yield Batch(images[places], self._targets(classes)[places], places)

    def validation(self) -> Iterator[Batch]:
        images, classes = draw(60, 12345)
        mine = np.arange(self.rank, 60, self.world)
        for part in np.array_split(mine, 3):
            yield Batch(images[part], self._targets(classes * (not self.one_class))[part], part)

    def _targets(self, classes: np.ndarray) -> np.ndarray:
        if not self.labels:
            return classes
        targets = np.zeros((classes.size, self.labels), np.int8)
        targets[:, 0] = classes
        targets[::2, 1] = 1
        targets[::5, 1] = -1
        return targets
