"""Room for matrices: memory where they fit, otherwise files in a temporary folder that are mapped."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from pipelines.errors import LakeError

#: What is left is for those who compute on the matrices.
SHARE_OF_AVAILABLE = 0.5
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


class MatrixRoom:
    """Gives float32 matrices, all in memory or all in files.

    The files lie in a private folder under TMPDIR. A file goes when nobody holds its matrix any more, with `close()`,
    or as the process ends, whichever comes first; a process that is killed leaves the folder behind.

    Attributes:
        spilled: bytes that lie in files; 0 where all is in memory.

    Args:
        size: bytes of all matrices that will be asked for.
        memory: bytes that they may take in memory; None: half of what this process can still have.

    Raises:
        LakeError: if neither memory nor disk has the room.
    """

    def __init__(self, size: int, memory: int | None = None) -> None:
        self._memory = int(available_memory() * SHARE_OF_AVAILABLE) if memory is None else memory
        self.spilled = size if size > self._memory else 0
        self._files: list[weakref.finalize[[Path], Any]] = []
        if self.spilled:
            folder = tempfile.gettempdir()
            if shutil.disk_usage(folder).free < size:
                raise self._no_room(folder)
            self._folder = Path(tempfile.mkdtemp(prefix="pleura-matrices-"))

    def empty(self, rows: int, columns: int) -> NDArray[np.float32]:
        """A matrix whose content is not set yet: float32 (rows, columns).

        Raises:
            LakeError: if the disk filled up meanwhile.
        """
        if not self.spilled:
            return np.empty((rows, columns), np.float32)
        path = self._folder / f"{len(self._files)}.float32"
        with path.open("w+b") as file:
            try:
                # A disk that fills up later would kill the process at the next write to the mapping.
                os.posix_fallocate(file.fileno(), 0, rows * columns * np.dtype(np.float32).itemsize)
            except OSError as error:
                self.close()
                _remove(path)
                raise self._no_room(str(self._folder.parent)) from error
            matrix = np.memmap(file, np.float32, "r+", shape=(rows, columns))
        # Views of the matrix hold its mapping, not the matrix itself.
        self._files.append(weakref.finalize(matrix.base, _remove, path))
        return matrix

    def close(self) -> None:
        """Remove the files; matrices that are still held stay readable."""
        for remove in self._files:
            remove()

    def _no_room(self, folder: str) -> LakeError:
        return LakeError(
            f"the features take {_shown(self.spilled)}, more than the {_shown(self._memory)} of memory that they may "
            f"take, and '{folder}' has {_shown(shutil.disk_usage(folder).free)} left for them. Allow more memory "
            "(memory=BYTES), set TMPDIR to a folder on a larger disk, or train on fewer images."
        )


def available_memory() -> int:
    """Bytes that this process can still have, by the machine and by the control groups that it is in."""
    return min([int(psutil.virtual_memory().available), *_left_in_cgroups(_CGROUPS, _OWN_CGROUP)])


def _left_in_cgroups(mounted: Path, own: Path) -> list[int]:
    """Of each control group that limits this process's memory, the bytes left.

    File pages are counted as left: the kernel drops them when memory is asked for.

    Args:
        mounted: where control groups are mounted (version 2, or the folder of version 1's controllers).
        own: the file that tells this process's groups, lines of `number:controllers:path`.
    """
    left: list[int] = []
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, limit, used, prefix = mounted, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, used, prefix = (
                mounted / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_",
            )
        else:
            continue
        # In a container the path may be the host's; then only the root is there, and it is the container's own group.
        group = root / path.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            if (folder / limit).exists() and (told := (folder / limit).read_text().strip()) != "max":
                stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
                pages = sum(int(stat.get(f"{prefix}{kind}", 0)) for kind in ("active_file", "inactive_file"))
                left.append(max(0, int(told) - int((folder / used).read_text()) + pages))
    return left


def _remove(file: Path) -> None:
    """Remove a file, and its folder with the last one."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def _shown(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
