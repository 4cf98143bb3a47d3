"""The files of an archive: listed as a stream on the driver, read one by one on the executors."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from pipelines.errors import SourceError
from pipelines.folders import Folder

#: Seconds before a failed read is tried again.
RETRY_PAUSES = (0.5, 2.0)

#: Top folders of an object store that are listed one by one.
MOST_LISTINGS = 64

#: What object stores and file systems call the mark that changes with a file's content, the surest first.
_VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)


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


class FileVersions:
    """The versions of an archive's files by their paths, in 16 bytes a file however long the paths are.

    Paths are known by 64-bit digests: of ten million, two alike are a matter of one in 300,000, and cost no more than
    a file that is taken for there until it is read.
    """

    def __init__(self, files: Iterable[ArchiveFile]) -> None:
        digests = np.fromiter(
            ((_digest(file.path), _digest(file.version)) for file in files),
            np.dtype([("path", "u8"), ("version", "u8")]),
        )
        self._digests = np.sort(digests, order="path")

    def __contains__(self, path: str) -> bool:
        return self.get(path) != ""

    def get(self, path: str) -> str:
        """A text that changes when the file does; blank if there is no such file."""
        digest = _digest(path)
        index = int(np.searchsorted(self._digests["path"], np.uint64(digest)))
        if index == len(self._digests) or self._digests["path"][index] != digest:
            return ""
        return f"{self._digests['version'][index]:016x}"


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def walk(root: Folder, under: str = "", excluded: Folder | None = None) -> Iterator[ArchiveFile]:
    """All files below a folder, sorted folder by folder; hidden files and folders are left out.

    Memory holds one folder's names at a time on a local file system. An object store lists a thousand objects a
    request, whatever folders they seem to lie in: there it is one top folder's names, or all where those are many.

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
    except OSError:  # closed to us: one input, whose reading will say so
        yield ArchiveFile(_relative(folder, top), 0, "")
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above:  # a link to a folder that it lies in
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.path == barred:
            continue
        try:
            is_folder, status = entry.is_dir(), entry.stat()
        except OSError:  # a link to nowhere or to itself is an input all the same: reading will say what is wrong
            yield ArchiveFile(_relative(entry.path, top), 0, "")
            continue
        if is_folder:
            yield from _walk_local(top, entry.path, barred, above | {identity})
        else:
            yield ArchiveFile(_relative(entry.path, top), status.st_size, f"{status.st_size} {status.st_mtime_ns}")


def _walk_remote(
    filesystem: fsspec.AbstractFileSystem, top: str, start: str, barred: str | None
) -> Iterator[ArchiveFile]:
    entries = sorted(filesystem.ls(start, detail=True), key=lambda entry: str(entry["name"]))
    if sum(entry["type"] == "directory" for entry in entries) > MOST_LISTINGS:
        # A request a patient would take hours.
        entries = [{"name": start, "type": "directory"}]
    for entry in entries:
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


class Images(Protocol):
    """How an executor gets at an archive's images."""

    @property
    def starts_jvm(self) -> bool:
        """Whether reading starts a JVM in the reading process, which asks for more address space than it will use."""

    def prepare(self, paths: Iterable[str]) -> None:
        """Do what must come before any of these paths is read, and takes longer than one image may."""

    def read(self, path: str) -> bytes:
        """The bytes behind a record's path.

        Raises:
            FileNotFoundError, IsADirectoryError, NotADirectoryError: there is no such file.
            OSError: the storage refuses it, or fails.
        """


@dataclass(frozen=True)
class FileImages:
    """An image a file."""

    archive: Folder
    max_bytes: int
    """No more than one byte above this is read of a file; decoding refuses it then."""

    @property
    def starts_jvm(self) -> bool:
        """libhdfs does."""
        return self.archive.uri.startswith(("hdfs://", "viewfs://"))

    def prepare(self, paths: Iterable[str]) -> None:
        """Look whether the archive is there: a mount that one machine lacks must not look like missing files.

        Raises:
            SourceError: if it is not.
        """
        if not self.archive.exists():
            raise SourceError(
                f"an executor does not find the archive '{self.archive.uri}'. Mount it on every machine, or name it "
                "by a URI that all of them reach."
            )

    def read(self, path: str) -> bytes:
        """See Images; storage that fails is asked again, twice."""
        for pause in RETRY_PAUSES:
            try:
                return self._read_once(path)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
                raise
            except OSError:
                # Storage that is busy or away for a moment must not cost a good image its place.
                time.sleep(pause)
        return self._read_once(path)

    def _read_once(self, path: str) -> bytes:
        if "://" not in self.archive.uri:
            with Path(f"{self.archive.uri}/{path}").open("rb", buffering=0) as local:
                # Python takes memory for all that it is asked to read, and a file of its own size is soon there again.
                wanted = min(os.fstat(local.fileno()).st_size, self.max_bytes) + 1
                content = local.read(wanted)
                # A network's mount may give less than there is.
                while len(content) < wanted and (more := local.read(wanted - len(content))):
                    content += more
                return content
        filesystem, root = fsspec.core.url_to_fs(self.archive.uri)
        with filesystem.open(f"{root}/{path}", "rb") as file:
            return bytes(file.read(self.max_bytes + 1))
