"""The lease: one ingest at a time, and none is kept out by one that is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.lease import STALE, lease

WORK = ("ingest", "two at once would take images in twice")
FILE = "_ingest.json"


def note(folder: Folder, pid: int, host: str, age: timedelta = timedelta(0)) -> None:
    folder.write_json(FILE, {"id": "x", "host": host, "pid": pid, "alive": (datetime.now(UTC) - age).isoformat()})


def test_a_second_one_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    lake = Folder.at(str(tmp_path))
    with (
        lease(lake, *WORK),
        pytest.raises(LakeError, match=f"another ingest .*process {os.getpid()}"),
        lease(lake, *WORK),
    ):
        pass
    assert FILE not in lake.names()
    with lease(lake, *WORK):
        pass


def test_works_do_not_keep_each_other_out(tmp_path: Path) -> None:
    with lease(Folder.at(str(tmp_path)), *WORK), lease(Folder.at(str(tmp_path)), "training", "…"):
        pass


def test_one_that_was_killed_on_this_machine_keeps_nobody_out(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    note(Folder.at(str(tmp_path)), gone.pid, socket.gethostname())
    with lease(Folder.at(str(tmp_path)), *WORK):
        pass


@pytest.mark.parametrize("age", [timedelta(0), STALE + timedelta(seconds=1)])
def test_one_on_another_machine_counts_as_long_as_it_is_renewed(tmp_path: Path, age: timedelta) -> None:
    note(Folder.at(str(tmp_path)), 1, "another-machine", age)
    if age > STALE:
        with lease(Folder.at(str(tmp_path)), *WORK):
            pass
    else:
        with pytest.raises(LakeError, match="another-machine"), lease(Folder.at(str(tmp_path)), *WORK):
            pass


def test_one_that_was_taken_over_is_told_before_it_commits_and_leaves_the_others_note(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    with lease(folder, *WORK) as held:
        held.check()
        note = folder.read_json(f"_{WORK[0]}.json")
        folder.write_json(f"_{WORK[0]}.json", note | {"id": "another"})
        with pytest.raises(LakeError, match="took over"):
            held.check()
    assert folder.read_json(f"_{WORK[0]}.json")["id"] == "another"
