"""What lies in a lake besides rows: files and runs of its tables, leftovers of killed jobs, and who ingested when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.folders import RUN_PREFIX, Folder, run_age
from pipelines.lake import EXTRACTOR_CARD, LOCALIZER_CARD, STAGING_PREFIX, Lake
from pipelines.tables import Table


@dataclass(frozen=True)
class Leftover:
    """A folder that no reader looks at.

    Attributes:
        uri: where it is.
        bytes: of all its files.
        age_seconds: since it was begun, by its name; None if that tells no time.
    """

    uri: str
    bytes: int
    age_seconds: float | None


@dataclass(frozen=True)
class Stored:
    """What a table's folder holds: committed runs, their files and bytes, and dead runs."""

    runs: int
    files: int
    bytes: int
    dead: tuple[Leftover, ...]


@dataclass(frozen=True)
class Ingest:
    """What one ingest told of itself.

    Attributes:
        finished: when it last wrote its counts, ISO 8601.
        is_complete: whether it came to its end; False for one that was killed, failed, or still runs.
        counts: as in its summary.
        label_rows, missing: rows of the label files, and those without an image; 0 where it is not complete.
    """

    finished: str
    is_complete: bool
    counts: dict[str, int]
    label_rows: int
    missing: int

    @property
    def accounted(self) -> int:
        """Inputs that were in the tables when it ended."""
        return self.counts["inputs"] - self.counts["left alone"]


@dataclass(frozen=True)
class History:
    """A data set's newest ingest, and the newest one that came to its end."""

    last: Ingest | None = None
    complete: Ingest | None = None


def table_folders(lake: Lake) -> Iterator[tuple[str, Folder]]:
    """All folders with runs, whether one is committed or not, by their paths in the lake."""
    for table in (lake.studies, lake.quarantine, lake.restamped, lake.found_labels):
        yield table.folder.name, table.folder
    root = lake.folder
    for kind, prefix in (("features", "extractor="), ("predictions", "head="), ("localizations", "localizer=")):
        for name in (root / kind).names():
            if name.startswith(prefix):
                yield f"{kind}/{name}", root / kind / name
    for task in (root / "heads").names():
        for name in (root / "heads" / task).names():
            yield f"heads/{task}/{name}", lake.head_runs(task, name)
    for name in (root / "comparisons").names():
        yield f"comparisons/{name}", lake.comparisons(name)


def stored(folder: Folder) -> Stored:
    """One recursive listing, and the marker of every run."""
    # Before the files: a run that is committed in between has none that are not listed.
    committed = {run.name for run in folder.runs()}
    dead = folder.dead_runs()
    sizes = _sizes(folder)
    in_runs = [(path, size) for path, size in sizes.items() if path.partition("/")[0] in committed]
    # Spark's and our own markers are no part of a table.
    files = [size for path, size in in_runs if not path.rpartition("/")[2].startswith(("_", "."))]
    return Stored(
        runs=len(committed),
        files=len(files),
        bytes=sum(files),
        dead=tuple(_leftover(run, RUN_PREFIX, sizes) for run in dead if run.name not in committed),
    )


def staging(lake: Lake) -> tuple[Leftover, ...]:
    """Rows that running jobs have not committed, and that killed ones left behind."""
    folders = [lake.folder / name for name in lake.folder.names() if name.startswith(STAGING_PREFIX)]
    return tuple(
        _leftover(each, STAGING_PREFIX, {f"{each.name}/{k}": v for k, v in _sizes(each).items()}) for each in folders
    )


def histories(lake: Lake, datasets: set[str]) -> dict[str, History]:
    """The newest ingests of each data set; reads back only until all are found."""
    found = dict.fromkeys(datasets, History())
    jobs = lake.studies.folder / "_jobs"
    for job in reversed(jobs.names()):
        if found and all(history.complete for history in found.values()):
            break
        if "run.json" not in (jobs / job).names():
            continue
        told = (jobs / job).read_json("run.json")
        name = told["config"]["dataset"] or told["config"]["source"]
        history = found.get(name, History())
        # Told with the last write only.
        contents = told.get("contents", {"label_rows": 0, "missing": 0})
        ingest = Ingest(
            told["finished"], told.get("complete", False), told["counts"], contents["label_rows"], contents["missing"]
        )
        found[name] = History(history.last or ingest, history.complete or (ingest if ingest.is_complete else None))
    return found


def table_titles(lake: Lake) -> dict[str, str]:
    """What a person calls the tables whose paths hold fingerprints, by their paths in the lake."""
    titles: dict[str, str] = {}
    heads = _head_names(lake)
    for path, folder in table_folders(lake):
        kind, _, fingerprint = (
            path.replace("/extractor=", "/").replace("/head=", "/").replace("/localizer=", "/").partition("/")
        )
        if kind == "features":
            of = _json(folder, EXTRACTOR_CARD)
            told = f"{of['backbone']} {of['precision']}, weights {of['weights']}" if of else "unknown extractor"
            titles[path] = f"features {fingerprint[:12]} ({told})"
        elif kind == "predictions":
            titles[path] = f"predictions {fingerprint[:12]} ({heads.get(fingerprint, 'a head that is gone')})"
        elif kind == "localizations":
            head = _json(folder, LOCALIZER_CARD).get("head", "")
            titles[path] = f"localizations {fingerprint[:12]} ({heads.get(head, 'a head that is gone')})"
    return titles


def _head_names(lake: Lake) -> dict[str, str]:
    """The `task/name` of every trained head by its fingerprint."""
    runs = [(name, run) for name in lake.heads() for run in (lake.folder / "heads" / name).runs()]
    return {_json(run, "run.json").get("head", ""): name for name, run in runs}


def _json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON file's object; empty if it is not there."""
    return folder.read_json(name) if name in folder.names() else {}


def feature_tables(lake: Lake) -> dict[str, Table]:
    """The tables of features and predictions with committed runs, by their paths in the lake, later stages first."""
    heads = [
        name.removeprefix("head=")
        for name in (lake.folder / "predictions").names()
        if name.startswith("head=") and (lake.folder / "predictions" / name).runs()
    ]
    return {f"predictions/head={head}": lake.predictions(head) for head in heads} | {
        f"features/extractor={extractor}": lake.features(extractor) for extractor in lake.extractors()
    }


def quarantines(lake: Lake) -> dict[str, Table]:
    """What extractors give no vector, where there is any, by the path of their features in the lake."""
    tables = {f"features/extractor={extractor}": lake.unembedded(extractor) for extractor in lake.extractors()}
    return {path: table for path, table in tables.items() if table.folder.runs()}


def is_scored_from_images(table: Table) -> bool:
    """Whether a job filled these predictions from an archive's images."""
    jobs = table.folder / "_jobs"
    return any(_json(jobs / job, "run.json").get("config", {}).get("from") == "images" for job in jobs.names())


def _leftover(folder: Folder, prefix: str, sizes: dict[str, int]) -> Leftover:
    try:
        age = run_age(folder.name.removeprefix(prefix)).total_seconds()
    except ValueError:  # somebody gave it a name of his own
        age = None
    size = sum(size for path, size in sizes.items() if path.startswith(f"{folder.name}/"))
    return Leftover(folder.uri, size, age)


def _sizes(folder: Folder) -> dict[str, int]:
    """Bytes of all files below a folder, by their paths in it."""
    filesystem, top = folder.filesystem, folder.path
    found = filesystem.find(top, detail=True) if folder.exists() else {}
    return {str(path)[len(top) :].lstrip("/"): int(entry.get("size") or 0) for path, entry in found.items()}
