"""The files of an archive, listed as a stream: names, sizes and times, and nothing of their content."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.folders import Folder

#: What object stores and file systems call the mark that changes with a file's content, the surest first.
_VERSION_FIELDS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated")


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file.

    Attributes:
        path: relative to the archive's root, with forward slashes.
        size: bytes.
        version: text that changes when the file does: its size, and its time or the store's checksum of it.
    """

    path: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


def walk(root: Folder, under: str = "", excluded: Folder | None = None) -> Iterator[ArchiveFile]:
    """All files below a folder, sorted folder by folder; hidden files and folders are left out.

    Memory holds one folder's names at a time on a local file system, and one top folder's on an object store, which
    lists a thousand objects a request, whatever folders they seem to lie in.

    Args:
        root: the archive; paths are relative to it.
        under: where to start, relative to the root; nothing is listed if it is not there.
        excluded: a folder that is none of the archive's even where it lies inside (the lake).
    """
    # A listing that the file system keeps would grow with the archive.
    filesystem, top = fsspec.core.url_to_fs(root.uri, use_listings_cache=False)
    start = f"{top}/{under}".rstrip("/")
    barred = excluded.path if excluded else None
    if isinstance(filesystem, LocalFileSystem):
        yield from _walk_local(top, start, barred, frozenset())
    elif filesystem.isdir(start):
        yield from _walk_remote(filesystem, top, start, barred)


def _walk_local(top: str, folder: str, barred: str | None, above: frozenset[tuple[int, int]]) -> Iterator[ArchiveFile]:
    try:
        status = Path(folder).stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder that it lies in
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.path == barred:
            continue
        if entry.is_dir():
            yield from _walk_local(top, entry.path, barred, above | {identity})
        else:
            try:
                status = entry.stat()
            except OSError:  # a dangling link is an input all the same: reading will say what is wrong
                yield ArchiveFile(_relative(entry.path, top), 0, "")
                continue
            yield ArchiveFile(_relative(entry.path, top), status.st_size, f"{status.st_size} {status.st_mtime_ns}")


def _walk_remote(
    filesystem: fsspec.AbstractFileSystem, top: str, start: str, barred: str | None
) -> Iterator[ArchiveFile]:
    for entry in sorted(filesystem.ls(start, detail=True), key=lambda entry: str(entry["name"])):
        found = {entry["name"]: entry}
        if entry["type"] == "directory":
            found = filesystem.find(entry["name"], detail=True)
        for name in sorted(found):
            path = _relative(str(name), top)
            is_barred = barred is not None and str(name).startswith(f"{barred}/")
            if not is_barred and not any(part.startswith(".") for part in path.split("/")):
                yield ArchiveFile(path, int(found[name].get("size") or 0), _version(found[name]))


def _version(entry: dict[str, Any]) -> str:
    mark = next((entry[field] for field in _VERSION_FIELDS if entry.get(field)), "")
    return f"{entry.get('size')} {mark}"


def _relative(path: str, top: str) -> str:
    return path[len(top) :].lstrip("/")
