"""Isolation: an item on which the child crashes, hangs or eats memory costs that item and nothing else."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from pipelines.isolation import Death, Isolated

MEMORY = 256 * 2**20


def work(items: Sequence[str]) -> Iterator[str]:
    for item in items:
        match item:
            case "crash":
                ctypes.string_at(0)
            case "hang":
                time.sleep(3600)
            case "leave":
                os._exit(3)
            case "eat":
                try:
                    yield str(len(bytearray(4 * MEMORY)))
                except MemoryError:
                    yield "refused"
            case _:
                yield item * 2


def test_results_come_in_order_and_one_child_does_them_all() -> None:
    def tell(items: Sequence[int]) -> Iterator[tuple[int, int]]:
        for item in items:
            yield item, os.getpid()

    with Isolated(tell, 60, MEMORY) as isolated:
        results = [*isolated.map(range(50)), *isolated.map(range(50, 70))]
    assert [result[0] for result in results if not isinstance(result, Death)] == list(range(70))
    (pid,) = {result[1] for result in results if not isinstance(result, Death)}
    assert pid != os.getpid()


@pytest.mark.parametrize("fatal", ["crash", "leave"])
def test_a_crash_costs_its_item_alone(fatal: str) -> None:
    with Isolated(work, 60, MEMORY) as isolated:
        results = list(isolated.map(["a", fatal, "b", fatal, fatal, "c"]))
    assert [result if isinstance(result, str) else "dead" for result in results] == [
        "aa",
        "dead",
        "bb",
        "dead",
        "dead",
        "cc",
    ]
    deaths = [result for result in results if isinstance(result, Death)]
    assert {death.signal for death in deaths} == {signal.SIGSEGV if fatal == "crash" else None}
    assert not any(death.was_too_slow for death in deaths)


def test_a_child_that_died_between_two_calls_is_no_items_fault() -> None:
    def tell(items: Sequence[int]) -> Iterator[int]:
        yield from (os.getpid() for _ in items)

    with Isolated(tell, 60, MEMORY) as isolated:
        (first,) = isolated.map([0])
        assert isinstance(first, int)
        os.kill(first, signal.SIGKILL)
        # Whether the pipe is seen to be broken when the items are sent or when results are awaited is a race.
        for _ in range(3):
            results = list(isolated.map([1, 2]))
            assert all(isinstance(result, int) for result in results)
            os.kill(int(str(results[0])), signal.SIGKILL)


def test_a_hang_ends_when_its_time_is_up() -> None:
    with Isolated(work, 1, MEMORY) as isolated:
        first, hung, last = isolated.map(["a", "hang", "b"])
    assert (first, last) == ("aa", "bb")
    assert isinstance(hung, Death)
    assert hung.was_too_slow


def test_time_between_items_does_not_count() -> None:
    with Isolated(work, 2, MEMORY) as isolated:
        results = []
        for result in isolated.map(["a", "b"]):
            results.append(result)
            time.sleep(2.5)
        assert [*results, *isolated.map(["c"])] == ["aa", "bb", "cc"]


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="the system does not limit a process's memory")
def test_memory_is_bounded() -> None:
    with Isolated(work, 60, MEMORY) as isolated:
        assert list(isolated.map(["eat", "b"])) == ["refused", "bb"]


def test_no_child_outlives_the_context() -> None:
    with Isolated(lambda items: (os.getpid() for _ in items), 60, MEMORY) as isolated:
        (pid,) = isolated.map([1])
    assert isinstance(pid, int)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
