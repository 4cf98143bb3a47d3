"""How much memory a process can still have: the machine's, or less where a control group says so."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pipelines import matrices
from pipelines.matrices import available_memory

#: More than any machine has.
UNLIMITED = 2**60


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 100 bytes left, whose control groups a test writes."""
    monkeypatch.setattr(matrices, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(matrices, "_OWN_CGROUP", tmp_path / "own")
    memory = psutil.virtual_memory()._replace(available=100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_control_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert available_memory() == 100


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("max", "max", 100),
        (UNLIMITED, "max", 100),
        (60, "max", 60 - 30 + 5 + 7),
        (60, 50, 50 - 40 + 5 + 7),
        (10, "max", 0),
    ],
)
def test_a_group_and_all_around_it_limit(tmp_path: Path, inner: object, outer: object, expected: int) -> None:
    write(tmp_path, own="0::/jobs/mine")
    pages = "anon 3\nactive_file 5\ninactive_file 7"
    write(tmp_path / "cgroup" / "jobs" / "mine", memory__max=inner, memory__current=30, memory__stat=pages)
    write(tmp_path / "cgroup" / "jobs", memory__max=outer, memory__current=40, memory__stat=pages)
    write(tmp_path / "cgroup", memory__stat=pages)
    if inner == 10:
        write(tmp_path / "cgroup" / "jobs" / "mine", memory__current=50)
    assert available_memory() == expected


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path, own="12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n0::/docker/abc")
    write(
        tmp_path / "cgroup" / "memory",
        memory__limit_in_bytes=60,
        memory__usage_in_bytes=30,
        memory__stat="total_active_file 1\ntotal_inactive_file 2",
    )
    assert available_memory() == 33
