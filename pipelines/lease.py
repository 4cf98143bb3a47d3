"""One at a time: a note in a folder that says who is at work there, and that goes stale when nobody is."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psutil

from pipelines.errors import LakeError
from pipelines.folders import Folder, new_run_id

BEAT_SECONDS = 30.0
#: A note that nobody has renewed for so long is that of a job that is gone.
STALE = timedelta(minutes=5)


@contextmanager
def lease(folder: Folder, work: str, refusal: str) -> Iterator[None]:
    """Be the only one at some work in a folder while the body runs.

    Two that start within the same moment on an object store, which has no exclusive creation, may both believe so; jobs
    that overlap, such as a night's that runs into the next, do not.

    Args:
        folder: what is worked on.
        work: one word for it, which names the note.
        refusal: why a second one must not begin.

    Raises:
        LakeError: if another one is at work.
    """
    file = f"_{work}.json"
    if file in folder.names() and (holder := _holder(folder, file)):
        raise LakeError(
            f"another {work} is at work here ({holder}): {refusal}. Wait for it; if it is gone, try again in "
            f"{STALE.seconds // 60} minutes, or remove '{folder.uri}/{file}'."
        )
    me = new_run_id()
    stop = threading.Event()

    def note() -> None:
        now = datetime.now(UTC).isoformat()
        folder.write_json(file, {"id": me, "host": socket.gethostname(), "pid": os.getpid(), "alive": now})

    def beat() -> None:
        while not stop.wait(BEAT_SECONDS):
            note()

    note()
    beating = threading.Thread(target=beat, name="lease", daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        (folder / file).remove()


def _holder(folder: Folder, file: str) -> str | None:
    """Who is at work; None if nobody is any more."""
    note = folder.read_json(file)
    if datetime.now(UTC) - datetime.fromisoformat(note["alive"]) > STALE:
        return None
    if note["host"] == socket.gethostname() and not psutil.pid_exists(note["pid"]):
        return None
    return f"process {note['pid']} on {note['host']}"
