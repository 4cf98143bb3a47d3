"""One ingest at a time: a note in the lake that says who is at work, and that goes stale when nobody is."""

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

FILE = "_ingest.json"
BEAT_SECONDS = 30.0
#: A note that nobody has renewed for so long is that of a job that is gone.
STALE = timedelta(minutes=5)


@contextmanager
def lease(folder: Folder) -> Iterator[None]:
    """Be the only ingest of a lake while the body runs.

    Two that start within the same moment on an object store, which has no exclusive creation, may both believe so; jobs
    that overlap, such as a night's that runs into the next, do not.

    Raises:
        LakeError: if another one is at work.
    """
    if FILE in folder.names() and (holder := _holder(folder)):
        raise LakeError(
            f"another ingest is writing to this lake ({holder}): two at once would take images in twice. Wait for it; "
            f"if it is gone, try again in {STALE.seconds // 60} minutes, or remove '{folder.uri}/{FILE}'."
        )
    me = new_run_id()
    stop = threading.Event()

    def note() -> None:
        now = datetime.now(UTC).isoformat()
        folder.write_json(FILE, {"id": me, "host": socket.gethostname(), "pid": os.getpid(), "alive": now})

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
        (folder / FILE).remove()


def _holder(folder: Folder) -> str | None:
    """Who is at work; None if nobody is any more."""
    note = folder.read_json(FILE)
    if datetime.now(UTC) - datetime.fromisoformat(note["alive"]) > STALE:
        return None
    if note["host"] == socket.gethostname() and not psutil.pid_exists(note["pid"]):
        return None
    return f"process {note['pid']} on {note['host']}"
