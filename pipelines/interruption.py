"""Ctrl-C: at any moment one line, one exit code, and nothing left running."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_INTERRUPTED = 130
INTERRUPTED = "\ninterrupted: what was committed is kept; run the same command again.\n"
#: What is put away after Ctrl-C takes a second or two; a storage or a cluster that hangs is not waited for.
PATIENCE_SECONDS = 10.0
_STDERR = 2
#: Set by the first Ctrl-C; the process ends with it.
_asked = threading.Event()


def leave_when_interrupted() -> None:
    """From now on Ctrl-C ends the process at once: a job that is being loaded has nothing to put away.

    Under spark-submit the terminal sends it to the JVM as well, which would end first, and with it all that we print:
    it is told to leave it to us, as it is where pyspark starts it.
    """
    signal.signal(signal.SIGINT, _leave)
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        from pyspark import SparkContext  # noqa: PLC0415  takes a while, in which Ctrl-C is heeded already

        SparkContext._ensure_initialized()
        assert SparkContext._jvm is not None
        signals = SparkContext._jvm.sun.misc
        signals.Signal.handle(signals.Signal("INT"), signals.SignalHandler.SIG_IGN)


@contextmanager
def interruptible() -> Iterator[None]:
    """While the body runs, Ctrl-C tells the line at once and raises KeyboardInterrupt; a second one ends the process.

    Raises:
        KeyboardInterrupt: instead of whatever else the body raises after Ctrl-C: what waited for a call, a socket or a
            process that was interrupted has an error of its own for it.
    """
    before = signal.signal(signal.SIGINT, _unwind)
    try:
        yield
    except BaseException as error:
        if _asked.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _unwind(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, _leave)
    _asked.set()
    _tell()
    # Also for an interruption that a destructor swallows, as Python has them do.
    last_resort = threading.Timer(PATIENCE_SECONDS, os._exit, (EXIT_INTERRUPTED,))
    last_resort.daemon = True
    last_resort.start()
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    _tell()
    os._exit(EXIT_INTERRUPTED)


def _tell() -> None:
    """Say so, and let nobody say anything after it: libraries log that their connections break."""
    with suppress(OSError):  # nobody listens any more
        # Not by sys.stderr, which may be in the middle of a line.
        os.write(_STDERR, INTERRUPTED.encode())
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)
