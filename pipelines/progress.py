"""Tells how far long work is: images done, images/s, time left; one live line on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

TERMINAL_SECONDS = 0.5
LOG_SECONDS = 10.0


class Progress:
    """A context that reports `done()` of `total` while its body runs.

    Args:
        verb: what is being done, as the line's first word.
        total: how many images there are; None when nobody knows yet.
        done: how many are done; called from another thread.
        unit: what is counted, where it is not images.
        note: what else there is to tell now, such as a loss; called from another thread.
    """

    def __init__(
        self,
        verb: str,
        total: int | None,
        done: Callable[[], int],
        stream: TextIO | None = None,
        *,
        unit: str = "images",
        note: Callable[[], str] = str,
    ) -> None:
        self._verb, self._total, self._done, self._unit, self._note = verb, total, done, unit, note
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._width = 0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._tell()
        if self._live:
            self._stream.write("\n")

    def _run(self) -> None:
        while not self._stop.wait(TERMINAL_SECONDS if self._live else LOG_SECONDS):
            self._tell()

    def say(self, line: str) -> None:
        """Write a line that stays, above the live one."""
        with self._writing:
            self._stream.write(("\r" + line.ljust(self._width) if self._live else line) + "\n")
            self._stream.flush()

    def _tell(self) -> None:
        line = progress_line(self._verb, self._done(), self._total, time.monotonic() - self._start, self._unit)
        if note := self._note():
            line = f"{line}  {note}"
        with self._writing:
            if self._live:
                # Blanks wipe what a longer line before this one left behind.
                self._stream.write("\r" + line.ljust(self._width))
                self._width = len(line)
            else:
                self._stream.write(line + "\n")
            self._stream.flush()


def tell(line: str) -> None:
    """Say what is done now, where there is nothing to count."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def progress_line(verb: str, done: int, total: int | None, seconds: float, unit: str = "images") -> str:
    """One line, such as `extract  3,120/5,216 images  59%  45.1 images/s  0:46 left`."""
    speed = done / seconds if seconds > 0 else 0.0
    count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
    parts = [f"{verb}  {count} {unit}"]
    if total:
        parts.append(f"{100 * done // total}%")
    if unit == "images" or speed >= 0.05:  # what takes minutes each has no speed worth telling
        parts.append(f"{speed:,.1f} {unit}/s")
    if total is not None and done >= total:
        parts.append(f"{clock(seconds)} in all")
    elif total is not None and speed > 0:
        parts.append(f"{clock((total - done) / speed)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
