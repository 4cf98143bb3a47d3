"""Crops to batches: in order, resized, ahead of their consumer by a bounded number, and never ended by one bad crop."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from featurizers.crops import encode_png
from featurizers.embedder import fit
from featurizers.finetuning.batches import decoded

SIZE = 8


def pixels(number: int, side: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)


def steps_of(steps: int, per_step: int = 4, side: int = SIZE) -> Iterator[list[tuple[int, bytes]]]:
    for step in range(steps):
        yield [(n, encode_png(pixels(n, side))) for n in range(step * per_step, (step + 1) * per_step)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("side", [SIZE, 20])
def test_every_step_is_a_batch_of_its_own_pixels(threads: int, side: int) -> None:
    batches = list(decoded(steps_of(9, side=side), SIZE, threads=threads))
    assert [batch.rows.tolist() for batch in batches] == [list(range(4 * step, 4 * step + 4)) for step in range(9)]
    for batch in batches:
        assert batch.pixels.dtype == np.uint8
        assert batch.damaged == ()
        np.testing.assert_array_equal(batch.pixels, [fit(pixels(n, side), SIZE) for n in batch.rows])


def test_a_damaged_crop_makes_its_batch_smaller() -> None:
    steps = list(steps_of(3))
    steps[1][2] = (6, steps[1][2][1][:40])
    steps[2] = [(number, b"") for number, _ in steps[2]]
    whole, smaller, empty = decoded(steps, SIZE)
    assert len(whole) == 4
    assert smaller.rows.tolist() == [4, 5, 7]
    np.testing.assert_array_equal(smaller.pixels, [pixels(4), pixels(5), pixels(7)])
    assert smaller.damaged == (6,)
    assert empty.pixels.shape == (0, SIZE, SIZE)
    assert empty.damaged == (8, 9, 10, 11)


def test_a_slow_consumer_bounds_what_waits() -> None:
    taken = []

    def counted() -> Iterator[list[tuple[int, bytes]]]:
        for step in steps_of(40, per_step=1):
            taken.append(step)
            yield step

    for done, _ in enumerate(decoded(counted(), SIZE, threads=2), start=1):
        assert len(taken) <= done + 2 + 4 + 1


def test_threads_end_and_steps_are_closed_when_the_consumer_stops() -> None:
    threads = threading.active_count()
    closed = []

    def endless() -> Iterator[list[tuple[int, bytes]]]:
        try:
            while True:
                yield from steps_of(1)
        finally:
            closed.append(True)

    batches = decoded(endless(), SIZE)
    next(batches)
    batches.close()
    assert closed == [True]
    assert threading.active_count() == threads


def test_an_error_of_the_reader_is_raised_here() -> None:
    def broken() -> Iterator[list[tuple[int, bytes]]]:
        yield from steps_of(2)
        raise OSError("the disk is gone")

    threads = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        list(decoded(broken(), SIZE))
    assert threading.active_count() == threads
