"""Folders: small files appear whole, runs are there once committed, the same on a disk and on a remote file system."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipelines import folders
from pipelines.errors import ConfigError, LakeError
from pipelines.folders import SUCCESS, Folder, new_run_id


@pytest.fixture(params=["path", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A folder that is not there yet: by path, by URI, and on a file system that is no disk."""
    if request.param == "memory":
        root = f"memory://{secrets.token_hex(4)}"
        yield Folder.at(f"{root}/a folder")
        Folder.at(root).remove()
    else:
        yield Folder.at(f"{'file://' if request.param == 'file' else ''}{tmp_path}/a folder")


def test_what_is_written_is_read(folder: Folder) -> None:
    assert not folder.exists()
    assert folder.names() == []
    (folder / "deep").write("data.bin", b"\x00\xffpixels")
    folder.write("empty", b"")
    assert folder.exists()
    assert (folder / "deep").read("data.bin") == b"\x00\xffpixels"
    assert folder.read("empty") == b""
    assert folder.names() == ["deep", "empty"]


def test_writing_again_replaces(folder: Folder) -> None:
    folder.write("weights", b"a long first version")
    folder.write("weights", b"second")
    assert folder.read("weights") == b"second"
    assert folder.names() == ["weights"]


def test_json_goes_in_and_out(folder: Folder) -> None:
    content: dict[str, object] = {"job": "ingest", "counts": {"études": 3}, "runs": [], "seed": None}
    folder.write_json("run.json", content)
    assert folder.read_json("run.json") == content
    # For people too.
    assert "études" in folder.read("run.json").decode()


@pytest.mark.parametrize("content", [b"[1, 2]", b"3", b"null", b'"text"'])
def test_json_that_is_no_object_is_told_with_its_place(content: bytes, folder: Folder) -> None:
    folder.write("run.json", content)
    with pytest.raises(LakeError, match=r"a folder/run\.json' holds no JSON object.*[Rr]emove"):
        folder.read_json("run.json")


def test_reading_what_is_not_there_is_an_error(folder: Folder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")


def test_removing_takes_all_of_it_and_nothing_else(folder: Folder) -> None:
    (folder / "gone" / "deep").write("file", b"x")
    (folder / "gone too").write("file", b"x")
    (folder / "gone").remove()
    (folder / "never was").remove()
    assert folder.names() == ["gone too"]
    assert not (folder / "gone").exists()


def test_a_run_is_there_once_it_is_committed(folder: Folder) -> None:
    run = folder.new_run()
    assert folder.runs() == []
    run.write("part-0.parquet", b"rows")
    assert folder.runs() == []
    run.commit()
    assert folder.runs() == [run]
    assert SUCCESS in run.names()
    assert run.read("part-0.parquet") == b"rows"


def test_runs_are_listed_oldest_first_and_only_the_committed(folder: Folder) -> None:
    made = []
    for number in range(6):
        run = folder.new_run()
        run.write("rows", str(number).encode())
        made.append(run)
    for run in reversed(made[::2]):
        run.commit()
    assert folder.runs() == made[::2]
    assert [run.read("rows") for run in folder.runs()] == [b"0", b"2", b"4"]


def test_a_run_takes_the_place_of_others_as_it_is_committed(folder: Folder) -> None:
    first, second, third = (folder / f"run=2026010{day}T000000000000-{day}" for day in (1, 2, 3))
    first.commit()
    second.replace([first])
    assert folder.runs() == [first]
    second.commit()
    assert folder.runs() == [second]
    assert folder.dead_runs() == [first]
    # The first one was not removed: a later run that takes the second one's place must not bring it back.
    third.replace([second])
    third.commit()
    second.remove()
    assert folder.runs() == [third]


def test_a_committed_run_that_is_removed_is_no_run(folder: Folder) -> None:
    first, second = folder.new_run(), folder.new_run()
    first.commit()
    second.commit()
    first.remove()
    assert folder.runs() == [second]


def test_only_runs_are_runs(folder: Folder) -> None:
    """Job records and staging carry their own marks beside the runs."""
    for name in ("_jobs", "extractor=ab", "running"):
        (folder / name).commit()
    folder.write("run=file", b"no folder")
    assert folder.runs() == []


def test_a_run_keeps_its_place_in_its_name(folder: Folder) -> None:
    run = folder.new_run()
    run.commit()
    (listed,) = folder.runs()
    assert listed.name == run.name
    assert listed.name.startswith("run=")
    assert listed.uri == f"{folder.uri}/{run.name}"


def test_a_local_path_becomes_absolute_and_a_uri_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.at("lake") == Folder(str(tmp_path / "lake"))
    assert Folder.at(f"{tmp_path}/lake/") == Folder(str(tmp_path / "lake"))
    assert Folder.at("memory://bucket/lake/") == Folder("memory://bucket/lake")


@pytest.mark.parametrize(("uri", "remedy"), [("s3a://bucket/lake", "s3fs"), ("foo://x", "foo")])
def test_a_uri_that_nothing_here_reads_is_told(uri: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        Folder.at(uri)


def test_spark_is_told_that_a_local_path_is_local(tmp_path: Path) -> None:
    assert Folder.at(str(tmp_path / "a b")).hadoop_uri == f"file://{tmp_path}/a b"
    assert Folder.at("memory://lake").hadoop_uri == "memory://lake"
    assert Folder.at("lake").name == "lake"


def test_a_folder_by_path_and_by_uri_is_the_same_place(tmp_path: Path) -> None:
    Folder.at(f"file://{tmp_path}/lake").write("here", b"1")
    assert Folder.at(str(tmp_path / "lake")).read("here") == b"1"


def test_a_writer_that_dies_half_way_leaves_nothing_that_a_reader_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.at(str(tmp_path))
    folder.write("head.json", b"first version")

    def write_half(_: LocalFileSystem, path: str, value: bytes, **__: object) -> None:
        Path(path).write_bytes(value[: len(value) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file", write_half)
    for name in ("head.json", SUCCESS + ".json"):
        with pytest.raises(LakeError, match="no space"):
            folder.write(name, b"second version")
    assert folder.read("head.json") == b"first version"
    assert [name for name in folder.names() if not name.startswith(".")] == ["head.json"]


def test_a_run_whose_commit_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.at(str(tmp_path))
    run = folder.new_run()
    run.write("rows", b"1")

    def fail(*_: object, **__: object) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr(LocalFileSystem, "mv", fail)
    with pytest.raises(LakeError, match="stale"):
        run.commit()
    assert folder.runs() == []


def test_a_reader_sees_one_version_or_the_other_and_never_a_part(tmp_path: Path) -> None:
    folder = Folder.at(str(tmp_path))
    versions = [b"a" * 2_000_000, b"b" * 1_000_000]
    folder.write("weights", versions[0])
    stop = threading.Event()

    def write() -> None:
        for version in itertools.cycle(versions):
            if stop.is_set():
                return
            folder.write("weights", version)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {folder.read("weights") for _ in range(100)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(versions)


def test_run_ids_never_repeat_even_in_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2026, 3, 1, 12, tzinfo=UTC)

    monkeypatch.setattr(folders, "datetime", Stopped)
    assert len({new_run_id() for _ in range(1000)}) == 1000


@given(st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)), st.timedeltas(timedelta(microseconds=1), timedelta(9)))
def test_run_ids_sort_by_time(first: datetime, later: timedelta) -> None:
    times = iter([first, first + later])

    class Told(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return next(times)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "datetime", Told)
        assert new_run_id() < new_run_id()


def test_a_run_id_is_a_plain_name() -> None:
    """It stands in paths, in partition names and in URIs: no character that any of them would quote."""
    name = new_run_id()
    assert name.replace("-", "").isalnum()
    assert fsspec.core.url_to_fs(f"memory://lake/run={name}")[1] == f"/lake/run={name}"
