"""Images inside .npz files: read one by one on the executors, by paths that lead into the file."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import math
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from pyspark import TaskContext

from pipelines.archives import FileImages
from pipelines.folders import Folder
from pipelines.session import scratch_folder

_PATH = re.compile(r"(?P<file>[^/]+\.npz)/(?P<split>[^/]+)/(?P<index>\d+)")
#: A member's own header in a ZIP file, up to its name; the last two fields are the lengths of name and extra field
#: (PKWARE's APPNOTE 6.3.10, section 4.3.7).
_LOCAL_HEADER = struct.Struct("<26xHH")
_COPY_BYTES = 2**20


class DamagedNpzError(OSError):
    """The bytes of an .npz file contradict its format."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"the .npz file can't be read ({cause}); it is damaged: copy it again from its source")


@dataclass(frozen=True)
class _Member:
    """An array of images, and the file in which its values lie one after another."""

    file: Folder
    start: int
    """Where in the file the values begin."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class NpzImages:
    """The images of an archive's .npz files, behind paths `FILE.npz/SPLIT/INDEX` into their arrays `SPLIT_images`.

    Of stored members only the bytes that are asked for are read. Deflated ones can't be entered in the middle: each is
    inflated once, into a scratch file that all workers of an executor share and that Spark removes with the executor
    (outside Spark: a file of this process, removed at its end).
    """

    archive: Folder

    @property
    def starts_jvm(self) -> bool:
        """See Images."""
        return FileImages(self.archive, 0).starts_jvm

    def __reduce__(self) -> tuple[type[NpzImages], tuple[Folder]]:
        """What one process has opened is no use to another."""
        return NpzImages, (self.archive,)

    def prepare(self, paths: Iterable[str]) -> None:
        """Inflate what these paths lead to, which takes a minute for gigabytes, before anything counts their seconds.

        What is missing or damaged is told when it is read.

        Raises:
            OSError: the storage fails, or the scratch folder's disk is full.
        """
        for file, split in {(match["file"], match["split"]) for match in map(_PATH.fullmatch, paths) if match}:
            with suppress(FileNotFoundError, DamagedNpzError):
                self._member(file, split)

    def read(self, path: str) -> bytes:
        """The image as a .npy file (format version 1.0), the same bytes for the same pixels.

        Raises:
            FileNotFoundError: there is no such .npz file, array or index.
            DamagedNpzError: as it says.
            OSError: the storage fails.
        """
        match = _PATH.fullmatch(path)
        if not match:
            raise FileNotFoundError("the path leads into no .npz file; it should be FILE.npz/SPLIT/INDEX")
        member = self._member(match["file"], match["split"])
        index, shape = int(match["index"]), member.shape[1:]
        if index >= member.shape[0]:
            raise FileNotFoundError("the array has fewer images; list the archive again")
        size = math.prod(shape) * member.dtype.itemsize
        start = member.start + index * size
        values = member.file.filesystem.cat_file(member.file.path, start=start, end=start + size)
        if len(values) != size:
            raise DamagedNpzError("it ends too early")
        content = io.BytesIO()
        image = np.frombuffer(values, member.dtype).reshape(shape)
        np.lib.format.write_array(content, image, version=(1, 0), allow_pickle=False)
        return content.getvalue()

    def _member(self, file: str, split: str) -> _Member:
        # Threads that come at the same time may open it twice, which does no harm.
        if (file, split) not in self._members:
            try:
                self._members[file, split] = _open_member(self.archive / file, f"{split}_images.npy")
            except DamagedNpzError as error:
                # Else each of its images would inflate it up to the damage.
                self._members[file, split] = error
                raise
        member = self._members[file, split]
        if isinstance(member, DamagedNpzError):
            raise member
        return member

    @functools.cached_property
    def _members(self) -> dict[tuple[str, str], _Member | DamagedNpzError]:
        return {}


@contextmanager
def open_npz(npz: Folder) -> Iterator[zipfile.ZipFile]:
    """The .npz file, read where it is asked for.

    Raises:
        FileNotFoundError: it is not there.
        DamagedNpzError: also where the damage shows in the body of the context.
        OSError: the storage fails.
    """
    try:
        with npz.filesystem.open(npz.path, "rb") as file, zipfile.ZipFile(file) as archive:
            yield archive
    # NotImplementedError and RuntimeError: compressed or encrypted as no .npz is.
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, RuntimeError) as error:
        raise DamagedNpzError(type(error).__name__) from error


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the array in a .npy file, which is read up to where the values begin.

    Raises:
        ValueError: no .npy file, or one that holds Python objects, a scalar or columns instead of rows.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject or not shape or (fortran_order and len(shape) > 1):
        raise ValueError("no array of numbers in C order")
    return shape, dtype


def read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """A small array of the file, whole.

    Raises:
        KeyError: the file has no such member.
        ValueError: it is no .npy file, or holds Python objects.
    """
    with archive.open(f"{name}.npy") as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def _open_member(npz: Folder, name: str) -> _Member:
    with open_npz(npz) as archive:
        if name not in archive.namelist():
            raise FileNotFoundError("the .npz file has no such array; list the archive again")
        info = archive.getinfo(name)
        with archive.open(info) as file:
            shape, dtype = read_header(file)
            start = file.tell()
        if info.file_size != start + math.prod(shape) * dtype.itemsize:
            raise ValueError("more or fewer bytes than the header declares")
        if info.compress_type == zipfile.ZIP_STORED:
            return _Member(npz, _first_byte(archive, info) + start, shape, dtype)
        return _Member(_inflated(npz, archive, info), start, shape, dtype)


def _first_byte(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where in the ZIP file a member's bytes begin: its own header may be longer than the directory's copy."""
    assert archive.fp is not None
    archive.fp.seek(info.header_offset)
    name_bytes, extra_bytes = _LOCAL_HEADER.unpack(archive.fp.read(_LOCAL_HEADER.size))
    return info.header_offset + _LOCAL_HEADER.size + int(name_bytes) + int(extra_bytes)


def _inflated(npz: Folder, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Folder:
    """The member's bytes in a scratch file; of several workers one inflates and the others wait."""
    # A file that changes under its name has another checksum.
    identity = f"{npz.uri} {info.filename} {info.CRC} {info.file_size}"
    target = _shared_folder() / f"pleura-{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
    with target.with_suffix(".lock").open("wb") as lock:
        # The system takes the lock from a worker that dies.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            part = target.with_suffix(".part")
            with archive.open(info) as packed, part.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, _COPY_BYTES)
            part.rename(target)
    return Folder(str(target))


def _shared_folder() -> Path:
    """In a Spark worker the executor's own scratch folder, which PythonRunner tells; else one of this process."""
    if TaskContext.get() is None:
        return scratch_folder()
    return Path(os.environ["SPARK_LOCAL_DIRS"].partition(",")[0])
