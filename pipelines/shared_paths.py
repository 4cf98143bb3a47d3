"""Sees that the machines of a cluster reach what a job names by a local path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from pyspark import SparkContext

from pipelines.errors import ConfigError
from pipelines.folders import Folder

Ask: TypeAlias = Callable[[Sequence[str]], Iterable[Sequence[str]]]
"""Asks machines which of some paths they lack; one answer each."""


def is_local_master(context: SparkContext) -> bool:
    """Whether Spark's tasks run in this machine's one process; local-cluster's do not."""
    master = str(context.master)
    return master == "local" or master.startswith("local[")


def check_shared(named: Mapping[str, str], ask: Ask) -> None:
    """See that every machine reaches what is named.

    Whether a path lies on a shared mount can't be told from its looks, so the machines are asked for it.

    Args:
        named: a path or URI that is there → how the config says it, KEY=VALUE.
        ask: asks the machines.

    Raises:
        ConfigError: naming what one of them at least does not see.
    """
    paths = {_on_this_machine(location): said for location, said in named.items()}
    paths.pop(None, None)
    asked = [path for path in paths if path is not None]
    unseen = {path for answer in ask(asked) for path in answer} if asked else set()
    if unseen:
        raise ConfigError(
            f"not every machine of the cluster sees {', '.join(paths[path] for path in sorted(unseen))}. Use a folder "
            "that all of them mount at one absolute path, or one that all reach by a URI (s3://…, hdfs://…)."
        )


def ask_executors(context: SparkContext, tasks: int) -> Ask:
    """Asks the executors of Spark by so many tasks, which usually are as many as there are executors, or more."""

    def ask(paths: Sequence[str]) -> Iterable[Sequence[str]]:
        return context.parallelize(range(tasks), tasks).map(partial(_lacks, list(paths))).collect()

    return ask


def lacking(paths: Sequence[str]) -> list[str]:
    """Those of some paths that are not here."""
    return [path for path in paths if not Path(path).exists()]


def _lacks(paths: Sequence[str], _: int) -> list[str]:
    return lacking(paths)


def _on_this_machine(location: str) -> str | None:
    """The path that a location stands for; None where it is on a file system of its own."""
    if "://" not in location:
        return location
    return Folder(location).path if location.startswith(("file://", "local://")) else None
