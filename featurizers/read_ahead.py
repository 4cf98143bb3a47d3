"""Threads that stay ahead of whoever takes what they make: reading, and work on what was read."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def read_ahead(items: Iterable[ItemT], depth: int) -> Generator[ItemT, None, None]:
    """`items`, produced by a thread that stays at most `depth` ahead; its error is raised here.

    The thread ends with the iterator: also when the consumer stops early.
    """
    ready: queue.SimpleQueue[tuple[ItemT] | BaseException | None] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stop = threading.Event()

    def produce() -> None:
        try:
            iterator = iter(items)
            while not stop.is_set():
                if free.acquire(timeout=0.1):
                    ready.put((next(iterator),))
        except StopIteration:
            ready.put(None)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            ready.put(error)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            free.release()
    finally:
        stop.set()
        thread.join()


def map_ahead(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, threads: int, depth: int
) -> Generator[ResultT, None, None]:
    """`function(item)` of every item, in order: one thread reads the items, others work on them.

    Args:
        function: called in `threads` threads; they help where it works outside of Python's lock.
        items: consumed in another thread, and closed with the results where they are a generator.
        threads: how many items are worked on at once.
        depth: items that are read and not taken yet, at most.
    """

    def submitted() -> Iterator[Future[ResultT]]:
        for item in items:
            yield pool.submit(function, item)

    with contextlib.ExitStack() as stack:
        if isinstance(items, Generator):
            stack.enter_context(contextlib.closing(items))
        pool = stack.enter_context(ThreadPoolExecutor(threads, "work-ahead"))
        for future in stack.enter_context(contextlib.closing(read_ahead(submitted(), depth))):
            yield future.result()
