"""Archives: every file once, in order, on local disks and object stores, and versions that change with the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.archives import ArchiveFile, FileImages, FileVersions, walk
from pipelines.errors import SourceError
from pipelines.folders import Folder

FILES = ("b/2.png", "a/1.png", "a/deep/er/0.png", "top.csv", ".hidden/x", "a/.y")
LISTED = ["a/1.png", "a/deep/er/0.png", "b/2.png", "top.csv"]


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    folder = Folder.at(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")
    for name in FILES:
        (folder / name.rpartition("/")[0] if "/" in name else folder).write(name.rpartition("/")[2], name.encode())
    return folder


def test_every_file_comes_once_and_in_order(root: Folder) -> None:
    assert [file.path for file in walk(root)] == LISTED
    assert [file.size for file in walk(root)] == [len(name) for name in LISTED]
    assert [file.path for file in walk(root, "a")] == ["a/1.png", "a/deep/er/0.png"]
    assert list(walk(root, "nowhere")) == []


def test_an_excluded_folder_is_left_out(root: Folder) -> None:
    assert [file.path for file in walk(root, excluded=root / "a")] == ["b/2.png", "top.csv"]


def test_a_version_changes_with_the_file(tmp_path: Path) -> None:
    root, file = Folder.at(str(tmp_path)), tmp_path / "x"
    versions = set()
    for content, date in ((b"1", 1), (b"2", 1), (b"22", 1), (b"22", 2)):
        file.write_bytes(content)
        os.utime(file, (date, date))
        (found,) = walk(root)
        versions.add(found.version)
    # The second has the first one's size and date: only its bytes could tell.
    assert len(versions) == 3


def test_a_link_to_nowhere_is_listed_and_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to(tmp_path / "gone")
    root = Folder.at(str(tmp_path))
    assert [file.path for file in walk(root)] == ["x"]
    with pytest.raises(FileNotFoundError):
        FileImages(root, 10).read("x")


def test_a_link_to_itself_is_listed_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "x").write_bytes(b"1")
    assert [file.path for file in walk(Folder.at(str(tmp_path)))] == ["loop", "x"]


def test_many_folders_of_an_object_store_are_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.archives.MOST_LISTINGS", 2)
    root = Folder.at(f"memory://{tmp_path.name}-many")
    for number in range(5):
        (root / f"p{number}").write("x", b"1")
    assert [file.path for file in walk(root)] == [f"p{number}/x" for number in range(5)]


def test_an_archive_that_a_machine_lacks_is_no_archive_of_missing_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Mount it"):
        FileImages(Folder.at(str(tmp_path / "gone")), 10).prepare(["x"])


def test_no_more_is_read_than_the_limit_and_one(root: Folder) -> None:
    assert FileImages(root, 3).read("a/1.png") == b"a/1."
    assert FileImages(root, 100).read("a/1.png") == b"a/1.png"
    with pytest.raises(FileNotFoundError):
        FileImages(root, 3).read("a/none.png")


def test_storage_that_fails_for_a_moment_is_asked_again(root: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter([OSError("busy"), OSError("busy")])
    read_once = FileImages._read_once

    def flaky(images: FileImages, path: str) -> bytes:
        if failure := next(failures, None):
            raise failure
        return read_once(images, path)

    monkeypatch.setattr(FileImages, "_read_once", flaky)
    monkeypatch.setattr("pipelines.archives.RETRY_PAUSES", (0.0, 0.0))
    assert FileImages(root, 100).read("a/1.png") == b"a/1.png"


def test_an_object_that_is_written_anew_has_another_version(tmp_path: Path) -> None:
    root = Folder.at(f"memory://{tmp_path.name}-anew")
    versions = set()
    for content in (b"1", b"2"):
        root.write("x", content)
        (found,) = walk(root)
        versions.add(found.version)
    assert len(versions) == 2


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=30), st.text(min_size=1))
def test_versions_are_found_by_path(versions: dict[str, str], other: str) -> None:
    index = FileVersions(ArchiveFile(path, 1, version) for path, version in versions.items())
    assert all(path in index for path in versions)
    assert (other in index) == (other in versions)
    found = {path: index.get(path) for path in versions}
    assert all((found[a] == found[b]) == (versions[a] == versions[b]) for a in versions for b in versions)
