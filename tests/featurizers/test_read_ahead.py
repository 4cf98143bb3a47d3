"""Reading ahead: order is kept, nothing runs away, and threads end with whoever takes what they make."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurizers.read_ahead import map_ahead, read_ahead


@given(st.lists(st.integers()), st.integers(1, 5))
def test_reading_ahead_keeps_all_items_in_order(items: list[int], depth: int) -> None:
    assert list(read_ahead(iter(items), depth)) == items


def test_the_producers_error_is_raised_behind_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise KeyError("lost")

    ahead = read_ahead(items(), 2)
    assert [next(ahead), next(ahead), next(ahead)] == [1, 2, 3]
    with pytest.raises(KeyError, match="lost"):
        next(ahead)
    assert readers() == []


class Endless(Iterator[int]):
    """1, 2, 3 …, counting how many were pulled."""

    pulled = 0

    def __next__(self) -> int:
        self.pulled += 1
        return self.pulled


def test_a_consumer_that_stops_early_ends_the_reading() -> None:
    items = Endless()
    ahead = read_ahead(items, 3)
    assert next(ahead) == 1
    assert len(readers()) == 1
    ahead.close()  # type: ignore[attr-defined]
    assert readers() == []
    stopped_at = items.pulled
    time.sleep(0.05)
    assert items.pulled == stopped_at


def test_an_error_of_the_consumer_ends_the_reading() -> None:
    with pytest.raises(ZeroDivisionError):
        for item in read_ahead(iter(range(1000)), 3):
            assert 1 / (2 - item) > 0
    assert readers() == []


@pytest.mark.parametrize("depth", [1, 3])
def test_reading_stays_at_most_depth_items_ahead(depth: int) -> None:
    items = Endless()
    ahead = read_ahead(items, depth)
    for taken in range(1, 4):
        next(ahead)
        # Time enough to run away.
        time.sleep(0.1)
        assert items.pulled <= taken + depth
    ahead.close()  # type: ignore[attr-defined]


def test_reading_goes_on_while_the_consumer_works() -> None:
    second_read = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        second_read.set()
        yield 2

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 1
    assert second_read.wait(5)
    assert list(ahead) == [2]


def test_a_source_that_can_not_even_be_started_is_told() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(read_ahead(Broken(), 2))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


@given(st.lists(st.integers()), st.integers(1, 3), st.integers(1, 5))
def test_work_ahead_keeps_the_order_of_the_items(items: list[int], threads: int, depth: int) -> None:
    assert list(map_ahead(lambda item: -item, items, threads=threads, depth=depth)) == [-item for item in items]


def test_items_are_worked_on_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=5)
    assert len(list(map_ahead(lambda _: both.wait(), range(4), threads=2, depth=4))) == 4


def test_an_error_of_the_work_reaches_the_caller_and_ends_the_threads() -> None:
    ahead = map_ahead(lambda item: 1 // item, [2, 1, 0, 1], threads=2, depth=2)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert readers() == []


def test_a_generator_of_items_is_closed_when_the_consumer_stops() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    ahead = map_ahead(abs, items(), threads=1, depth=2)
    assert next(ahead) == 0
    ahead.close()
    assert closed.is_set()
