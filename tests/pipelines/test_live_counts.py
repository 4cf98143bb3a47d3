"""What running tasks have done: heard while they run, counted once, and never a reason to fail."""

from __future__ import annotations

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from pipelines import live_counts
from pipelines.live_counts import Done, LiveCounts, Teller


@pytest.fixture
def live(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveCounts]:
    monkeypatch.setattr(live_counts, "SECONDS_BETWEEN", 0.0)
    with LiveCounts(spark) as counts:
        yield counts


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def test_what_a_task_tells_is_heard_before_it_ends(live: LiveCounts) -> None:
    teller = pickle.loads(pickle.dumps(live.teller()))
    teller(3, 100)
    teller(4, 50)
    assert eventually(lambda: live.done == Done(7, 150))
    assert live.first_heard is not None


def test_tasks_of_spark_are_heard(live: LiveCounts, spark: SparkSession) -> None:
    teller = live.teller()

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            teller(batch.num_rows)
            yield batch

    assert spark.range(0, 60, 1, 3).mapInArrow(work, "id long").count() == 60
    assert eventually(lambda: live.done.images == 60)


def test_a_commit_counts_all_of_its_chunk_and_late_words_of_it_are_not_counted_again(live: LiveCounts) -> None:
    first = live.teller()
    first(3)
    assert eventually(lambda: live.done.images == 3)
    live.commit(10)
    assert live.done.images == 10
    first(5)
    second = live.teller()
    second(2)
    assert eventually(lambda: live.done.images == 12)


def test_two_attempts_of_a_task_count_once(live: LiveCounts, monkeypatch: pytest.MonkeyPatch) -> None:
    class Context:
        def __init__(self, attempt: int) -> None:
            self.attemptNumber = lambda: attempt
            self.partitionId = lambda: 4

    for attempt, images in ((0, 6), (1, 2)):
        monkeypatch.setattr(live_counts.TaskContext, "get", lambda attempt=attempt: Context(attempt))
        live.teller()(images)
    assert eventually(lambda: live.done.images == 6)
    time.sleep(0.1)
    assert live.done.images == 6


def test_strangers_are_not_heard(live: LiveCounts) -> None:
    teller = live.teller()
    replace(teller, token="guessed")(1000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for words in (b"", b"nonsense", b"[1]", b'{"a": 1}', b"null", b'["' + b"x" * 5000):
            sender.sendto(words, teller.address)
    teller(1)
    assert eventually(lambda: live.done.images == 1)


def test_nothing_listens_when_all_is_over(spark: SparkSession) -> None:
    with LiveCounts(spark) as counts:
        assert counts.done == Done(0)
    assert "live-counts" not in {thread.name for thread in threading.enumerate()}


def test_a_driver_that_can_not_be_reached_stops_nobody() -> None:
    Teller(("no-such-host.invalid", 9), "token", 0)(1)
    Teller(("127.0.0.1", 9), "token", 0)(1)
