"""Runs a function in a child process, so that a decoder that crashes, hangs or eats memory costs one item."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Generic, Self, TypeVar

import psutil

Item = TypeVar("Item")
Result = TypeVar("Result")

_FORK = multiprocessing.get_context("fork")
#: mallopt(3): M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (at its highest), bytes; M_ARENA_MAX: threads share one heap.
_MALLOPT = {-1: 256 * 2**20, -3: 32 * 2**20, -8: 1}


@dataclass(frozen=True)
class Death:
    """What became of an item on which the child ended.

    Attributes:
        signal: the signal that ended it; None if it left by itself.
    """

    signal: signal.Signals | None

    @property
    def was_too_slow(self) -> bool:
        """Whether its time was up."""
        return self.signal is signal.SIGALRM


class Alarm:
    """The child's own clock: unless it is set anew or stopped in time, the system ends the child.

    The default action of SIGALRM ends a process also while a C library runs, where no Python handler would.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def set(self) -> None:
        """The next item begins."""
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def stop(self) -> None:
        """No item is worked on."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class Isolated(Generic[Item, Result]):
    """A context that maps a generator function over items in a forked child; a new child replaces one that died.

    Args:
        function: gives one result for each item, in order, as it is worked on; it may read ahead. An exception of
            its own ends the child, and counts as its death.
        seconds: how long a result may take.
        memory: bytes that the child may ask for beyond what it has when it starts; what goes over raises MemoryError
            in it, or ends it. None: no limit. Not enforced where the system has no such limit (macOS).
    """

    def __init__(
        self, function: Callable[[Sequence[Item]], Iterable[Result]], seconds: float, memory: int | None
    ) -> None:
        self._function, self._seconds, self._memory = function, seconds, memory
        self._child: BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def map(self, items: Sequence[Item]) -> Iterator[Result | Death]:
        """One result or Death for each item, in order.

        The child begins at once, and works while the caller does other things before it asks for the results; they
        must all be taken before the next call.
        """
        rest = list(items)
        return self._results(rest, self._send(rest))

    def _results(self, rest: list[Item], is_fresh: bool) -> Iterator[Result | Death]:
        done = 0
        while done < len(rest):
            assert self._pipe is not None
            try:
                yield self._pipe.recv()
                done += 1
            except (EOFError, ConnectionError):
                death = self._bury()
                if done == 0 and not is_fresh:
                    # It may have died of what came before: the first item gets a child of its own.
                    is_fresh = self._send(rest)
                    continue
                yield death
                rest, done = rest[done + 1 :], 0
                if rest:
                    is_fresh = self._send(rest)

    def _send(self, items: list[Item]) -> bool:
        """Give the child its items; returns whether it is a new one."""
        if self._pipe is not None:
            try:
                self._pipe.send(items)
                return False
            except ConnectionError:  # it died with nothing to do
                self._end()
        self._pipe, theirs = _FORK.Pipe()
        self._child = _FORK.Process(target=self._serve, args=(theirs, self._pipe), daemon=True)
        self._child.start()
        theirs.close()
        self._pipe.send(items)
        return True

    def _serve(self, pipe: Connection, parents_end: Connection) -> None:
        # While the child holds the other end too, it would never see that its parent has gone.
        parents_end.close()
        # Ctrl-C is for the parent, which ends this process by closing the pipe.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A crash is told as a quarantine row, not as a stack in somebody's log.
        faulthandler.disable()
        if self._memory is not None:
            _limit_memory(self._memory)
        _keep_freed_memory()
        alarm = Alarm(self._seconds)
        # The pipe breaks when the parent is gone, and then nobody waits for anything.
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                items = pipe.recv()
                alarm.set()
                for result in self._function(items):
                    alarm.stop()
                    pipe.send(result)
                    alarm.set()
                alarm.stop()

    def _bury(self) -> Death:
        assert self._child is not None
        self._child.join()
        code = self._child.exitcode or 0
        self._end()
        return Death(signal.Signals(-code) if code < 0 else None)

    def _end(self) -> None:
        if self._pipe is not None and self._child is not None:
            self._pipe.close()
            # It may be in the middle of an item that nobody waits for any more.
            self._child.kill()
            self._child.join()
        self._pipe = self._child = None


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, up to some images' worth, for the next one.

    By default glibc hands blocks of megabytes back to the system and takes them anew, page by page and zeroed: for
    2048² images of 16 bits that was 4,000 page faults each, a quarter of the time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


def _limit_memory(extra: int) -> None:
    try:
        size = psutil.Process().memory_info().vms + extra
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
    except (OSError, ValueError):  # the system knows no such limit
        return
