"""Stored crops as batches of pixels: decoded and resized by a few threads, ahead of the training that takes them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurizers.crops import decode_png
from featurizers.embedder import BATCHES_AHEAD, fit
from featurizers.errors import FeaturizerError
from featurizers.radiograph import Pixels
from featurizers.read_ahead import map_ahead


@dataclass(frozen=True, eq=False)
class Batch:
    """The crops of one step.

    A damaged crop makes its batch smaller, down to none: it ends no training, and shifts no later step.

    Attributes:
        rows: int64 (b,), row numbers.
        pixels: uint8 (b, size, size).
        damaged: numbers of the rows whose crops can't be decoded, which are not among `rows`.
    """

    rows: npt.NDArray[np.int64]
    pixels: Pixels
    damaged: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)


def decoded(
    steps: Iterable[Sequence[tuple[int, bytes]]], size: int, *, threads: int = 2
) -> Generator[Batch, None, None]:
    """Decode and resize the crops of every step, in order.

    Args:
        steps: per step (row number, PNG) pairs; consumed in another thread, and closed with the batches.
        size: side of the pixels that come out.
        threads: how many steps are decoded at once. Pillow works outside of Python's lock.

    Yields:
        One batch per step; threads + 4 of them at most wait for their consumer. When it stops, the threads end.
    """

    def decode(step: Sequence[tuple[int, bytes]]) -> Batch:
        pixels = np.empty((len(step), size, size), np.uint8)
        rows: list[int] = []
        damaged: list[int] = []
        for number, png in step:
            try:
                pixels[len(rows)] = fit(decode_png(png), size)
            except FeaturizerError:
                damaged.append(number)
            else:
                rows.append(number)
        return Batch(np.array(rows, np.int64), pixels[: len(rows)], tuple(damaged))

    yield from map_ahead(decode, steps, threads=threads, depth=threads + BATCHES_AHEAD)
