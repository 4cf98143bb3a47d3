"""One at a time: a note in a folder that says who is at work there, and that goes stale when nobody is."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil

from pipelines.errors import LakeError
from pipelines.folders import Folder, new_run_id

BEAT_SECONDS = 30.0
#: Another one that looked before this one's note was there has written its own by then.
SETTLED_SECONDS = 0.2
#: A note that nobody has renewed for so long is that of a job that is gone.
STALE = timedelta(minutes=5)


class Lease:
    """Of one work in a folder, while nobody else has taken it over."""

    def __init__(self, folder: Folder, work: str) -> None:
        self._folder, self._work = folder, work
        self._file = f"_{work}.json"
        self._me = new_run_id()

    def check(self) -> None:
        """Ask whether the work is still ours, before something is kept for good.

        Raises:
            LakeError: if another job took it over, because nothing was heard of this one for too long.
        """
        if self._noted() != self._me:
            raise LakeError(
                f"another {self._work} took over in '{self._folder.uri}': this one was not heard of for "
                f"{STALE.seconds // 60} minutes or more, or its note there was removed. What it did since its last "
                "commit is not kept; run the same command again when the other one is done."
            )

    def _noted(self) -> str | None:
        note = _read(self._folder, self._file)
        return note["id"] if note else None

    def note(self) -> None:
        """Say that we are at work."""
        now = datetime.now(UTC).isoformat()
        told = {"id": self._me, "host": socket.gethostname(), "pid": os.getpid(), "alive": now}
        self._folder.write_json(self._file, told)

    def beat(self, stop: threading.Event) -> None:
        """Say so again and again, as long as nobody else does."""
        while not stop.wait(BEAT_SECONDS):
            try:
                if self._noted() != self._me:
                    return
                self.note()
            except Exception:  # noqa: S112  a store that fails in its own way is asked again at the next beat
                continue

    def give_back(self) -> None:
        """Remove our note; another job's stays."""
        if self._noted() == self._me:
            (self._folder / self._file).remove()


@contextmanager
def lease(folder: Folder, work: str, refusal: str) -> Iterator[Lease]:
    """Be the only one at some work in a folder while the body runs.

    Of two that start in the same moment the one that wrote its note last goes on, where writing takes less than
    `SETTLED_SECONDS`: not every store can create a file only if there is none.

    Args:
        folder: what is worked on.
        work: one word for it, which names the note.
        refusal: why a second one must not begin.

    Raises:
        LakeError: if another one is at work.
    """
    file = f"_{work}.json"
    if holder := _holder(folder, file):
        raise LakeError(
            f"another {work} is at work here ({holder}): {refusal}. Wait for it; if it is gone, try again in "
            f"{STALE.seconds // 60} minutes, or remove '{folder.uri}/{file}'."
        )
    held = Lease(folder, work)
    stop = threading.Event()
    held.note()
    time.sleep(SETTLED_SECONDS)
    try:
        held.check()
    except LakeError as error:
        raise LakeError(f"another {work} began here in the same moment: {refusal}. Wait for it.") from error
    beating = threading.Thread(target=held.beat, args=(stop,), name="lease", daemon=True)
    beating.start()
    try:
        yield held
    finally:
        stop.set()
        beating.join()
        held.give_back()


def _read(folder: Folder, file: str) -> dict[str, Any] | None:
    try:
        return folder.read_json(file) if file in folder.names() else None
    except FileNotFoundError:  # given back meanwhile
        return None


def _holder(folder: Folder, file: str) -> str | None:
    """Who is at work; None if nobody is, or is any more."""
    note = _read(folder, file)
    if note is None or datetime.now(UTC) - datetime.fromisoformat(note["alive"]) > STALE:
        return None
    if note["host"] == socket.gethostname() and not psutil.pid_exists(note["pid"]):
        return None
    return f"process {note['pid']} on {note['host']}"
