"""What every job script shares: config in, one pipeline called, a summary out, errors as one message."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pyspark.errors import PythonException

from pipelines import __version__
from pipelines.config import Config, HelpRequested, read_config
from pipelines.errors import USER_ERRORS
from pipelines.folders import Folder, new_run_id
from pipelines.interruption import EXIT_INTERRUPTED, INTERRUPTED, interruptible

EXIT_USER_ERROR = 2
_VERSIONED = (
    "pyspark",
    "torch",
    "torchvision",
    "pyarrow",
    "numpy",
    "scipy",
    "scikit-learn",
    "xgboost",
    "pydicom",
    "pillow",
    "dask",
)


@dataclass
class JobRecord:
    """What one job did: what `run.json` tells (config, counts, timings, versions) and, as its text, the summary."""

    job: str
    config: Config
    counts: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    summary: str = ""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=new_run_id)

    def __str__(self) -> str:
        return self.summary

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    def time(self, name: str) -> _Stopwatch:
        """A context whose seconds are added to a timing."""
        return _Stopwatch(self.timings, name)

    def as_dict(self) -> dict[str, Any]:
        """The content of `run.json`."""
        now = datetime.now(UTC)
        return {
            "job": self.job,
            "id": self.id,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": now.isoformat(timespec="seconds"),
            "seconds": round((now - self.started).total_seconds(), 3),
            "config": self.config.model_dump(mode="json", by_alias=True),
            "counts": self.counts,
            "timings": {name: round(seconds, 3) for name, seconds in self.timings.items()},
            "runs": self.runs,
            **self.extra,
            "versions": versions(),
        }

    def write_beside(self, table: Folder) -> None:
        """Write `run.json` beside a table's runs, where readers of Parquet do not look (the folder starts with _)."""
        (table / "_jobs" / self.id).write_json("run.json", self.as_dict())


class _Stopwatch:
    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = self._timings.get(self._name, 0.0) + time.monotonic() - self._start


def versions() -> dict[str, str]:
    """Versions of ourselves, of Python and of every library that can change a result."""
    found = {"pleura": __version__, "python": platform.python_version()}
    for name in _VERSIONED:
        found[name] = importlib.metadata.version(name)
    return found


ConfigT = TypeVar("ConfigT", bound=Config)


def run_job(script: str, purpose: str | None, model: type[ConfigT], verb: Callable[[ConfigT], JobRecord]) -> None:
    """The body of a job script: read the config, run the verb, print its summary, leave with an exit code.

    Exit codes: 0 done, 2 a mistake that the one printed message explains, 130 interrupted; anything unforeseen keeps
    its traceback, for the person who mends it.
    """
    script_file = Path(script).resolve()
    default_file = script_file.parents[1] / "conf" / f"{script_file.stem}.yaml"
    try:
        with interruptible(), _mistakes_told():
            config = read_config(model, sys.argv[1:], purpose=purpose or "", default_file=default_file)
            record = verb(config)
    except HelpRequested as help_requested:
        sys.stdout.write(f"{help_requested}\n")
    except KeyboardInterrupt:
        sys.stderr.write(INTERRUPTED)  # once: after Ctrl-C standard error leads nowhere
        sys.exit(EXIT_INTERRUPTED)
    else:
        sys.stdout.write(f"{record}\n")


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """Tell an error that its message explains, and leave."""
    try:
        yield
    except USER_ERRORS as error:
        _leave_with(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _leave_with(f"{error.strerror}: '{error.filename}'. Check the path and its permissions.")
    except PythonException as error:
        if message := told_by_executor(str(error)):
            _leave_with(message)
        raise


def told_by_executor(traceback: str) -> str | None:
    """The message of one of our errors that an executor raised, out of the traceback that Spark hands on."""
    modules = "|".join(re.escape(error.__module__) for error in USER_ERRORS)
    # Only the last traceback counts: an error that another one was handling is not what ended the task.
    last = traceback.rpartition("Traceback (most recent call last):")[2]
    found = re.search(
        rf"^(?:{modules})\.\w+: (.+?)(?:\n\s*\n|\n\s+at |\nJVM stacktrace|\Z)", last, re.MULTILINE | re.DOTALL
    )
    return found[1].rstrip() if found else None


def _leave_with(message: str) -> NoReturn:
    sys.stderr.write(f"\nerror: {message}\n")
    sys.exit(EXIT_USER_ERROR)


def summary_text(title: str, rows: Mapping[str, object]) -> str:
    """A one-screen summary: a title and aligned `name  value` rows."""
    width = max((len(name) for name in rows), default=0)
    lines = ["", title, "─" * len(title)]
    for name, value in rows.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"{name.ljust(width)}  {shown}".rstrip())
    return "\n".join(lines)
