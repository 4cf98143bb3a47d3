"""Folders and their committed runs, on any file system that Hadoop and fsspec both read."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec

from pipelines.errors import ConfigError, LakeError

SUCCESS = "_SUCCESS"
RUN_PREFIX = "run="
#: In a run that stands for others: their names. One commit brings it in and takes them out.
REPLACES = "_replaces.json"
_RUN_TIME = "%Y%m%dT%H%M%S%f"


def new_run_id() -> str:
    """A run's name: sorts by time, and no two jobs share one."""
    return f"{datetime.now(UTC):{_RUN_TIME}}-{secrets.token_hex(4)}"


def run_age(run_id: str) -> timedelta:
    """How long ago a run began, by its name."""
    return datetime.now(UTC) - datetime.strptime(run_id.partition("-")[0], _RUN_TIME).replace(tzinfo=UTC)


@contextlib.contextmanager
def writing(folder: Folder) -> Iterator[None]:
    """Storage that refuses what the body writes in a folder is told as such.

    Raises:
        LakeError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise LakeError(
            f"'{folder.uri}' can't be written: {error.strerror or error}. Make room there, or check who may write, and "
            "run the same command again: what was committed is kept."
        ) from error


@dataclass(frozen=True)
class Folder:
    """A folder anywhere fsspec reaches, addressed by an absolute URI or path."""

    uri: str

    @classmethod
    def at(cls, location: str) -> Folder:
        """The folder at a URI, or at a local path (made absolute: executors have other working folders).

        Raises:
            ConfigError: if nothing here can reach such a URI.
        """
        folder = cls(location.rstrip("/") if "://" in location else str(Path(location).absolute()))
        try:
            folder.filesystem  # noqa: B018  looks the file system up
        except (ImportError, ValueError, OSError) as error:
            cause = str(error).partition("\n")[0]
            raise ConfigError(
                f"'{location}' can't be reached: {cause}. Check its spelling, or install what its scheme needs (s3fs, "
                "gcsfs, adlfs, …; for hdfs:// a Hadoop client and JAVA_HOME)."
            ) from error
        return folder

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rpartition("/")[2]

    @property
    def hadoop_uri(self) -> str:
        """The URI for Spark, which would look for a bare path on the cluster's default file system."""
        return self.uri if "://" in self.uri else f"file://{self.uri}"

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec file system that holds it."""
        return fsspec.core.url_to_fs(self.uri)[0]

    @property
    def path(self) -> str:
        """The path inside its file system."""
        return str(fsspec.core.url_to_fs(self.uri)[1])

    def exists(self) -> bool:
        """Whether it is there."""
        return bool(self.filesystem.exists(self.path))

    def names(self) -> list[str]:
        """The sorted names of what lies directly in it; empty when it is not there."""
        try:
            # `refresh` lists anew where a file system caches; others ignore it.
            entries = self.filesystem.ls(self.path, detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return bytes(self.filesystem.cat_file(f"{self.path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole: a reader sees all of it or nothing.

        Raises:
            LakeError: if the storage refuses it.
        """
        filesystem = self.filesystem
        # Object stores put a file at once; on others a rename makes it appear whole.
        part = f"{self.path}/.{name}.{secrets.token_hex(4)}"
        with writing(self):
            filesystem.makedirs(self.path, exist_ok=True)
            try:
                filesystem.pipe_file(part, content)
                filesystem.mv(part, f"{self.path}/{name}")
            except OSError:
                with contextlib.suppress(OSError):
                    filesystem.rm(part)
                raise

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `content` as readable JSON."""
        self.write(name, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's object."""
        content = json.loads(self.read(name))
        if not isinstance(content, dict):
            raise LakeError(
                f"'{self.uri}/{name}' holds no JSON object; it was not written by Pleura. Restore or remove it."
            )
        return content

    def remove(self) -> None:
        """Remove it and all in it, if it is there."""
        if self.exists():
            self.filesystem.rm(self.path, recursive=True)

    def new_run(self) -> Folder:
        """The folder of a run that is not committed yet."""
        return self / f"{RUN_PREFIX}{new_run_id()}"

    def runs(self) -> list[Folder]:
        """The committed runs in it that no later one replaces, oldest first."""
        committed: list[Folder] = []
        replaced: set[str] = set()
        for name in self.names():
            if name.startswith(RUN_PREFIX):
                run = self / name
                content = run.names()
                if SUCCESS in content:
                    committed.append(run)
                    replaced.update(run.replaced() if REPLACES in content else ())
        return [run for run in committed if run.name not in replaced]

    def dead_runs(self) -> list[Folder]:
        """Runs that no reader sees: those of jobs that were killed, or that still run, and those that were replaced."""
        alive = {run.name for run in self.runs()}
        return [self / name for name in self.names() if name.startswith(RUN_PREFIX) and name not in alive]

    def commit(self) -> None:
        """Make this run visible to readers."""
        self.write(SUCCESS, b"")

    def replace(self, runs: Sequence[Folder]) -> None:
        """Say of this run, before it is committed, that it stands for others: with its commit they are gone.

        What those stood for, this one stands for too, or it would come back with them gone.
        """
        names = {run.name for run in runs}
        for run in runs:
            names.update(run.replaced())
        self.write_json(REPLACES, {"runs": sorted(names), "at": datetime.now(UTC).isoformat()})

    def replaced_at(self) -> datetime:
        """When this run took the place of others; of a run that stands for none, when it began."""
        told = self.read_json(REPLACES).get("at") if REPLACES in self.names() else None
        return datetime.fromisoformat(told) if told else datetime.now(UTC) - run_age(self.name.removeprefix(RUN_PREFIX))

    def replaced(self) -> list[str]:
        """The names of the runs that this one stands for."""
        return list(self.read_json(REPLACES)["runs"]) if REPLACES in self.names() else []
