"""Any archive with a table of its images: CSV or Parquet with `path`, `patient_id` and one column per finding."""

from __future__ import annotations

import difflib
import functools
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import NEGATIVE, POSITIVE, UNCERTAIN, StudyRecord
from pipelines.splits import Split

REQUIRED = ("path", "patient_id")
OPTIONAL = ("study_id", "view", "sex", "age", "split")
SUFFIXES = (".csv", ".csv.gz", ".parquet")
#: How alike a finding's column must be to one of ours to be taken for a slip of the pen.
SLIP_SIMILARITY = 0.75
MAX_MISTAKES = 20
ROWS_PER_BATCH = 8192
MAX_AGE = 150

_FINDING_VALUES = {"1": POSITIVE, "0": NEGATIVE, "-1": UNCERTAIN, "1.0": POSITIVE, "0.0": NEGATIVE, "-1.0": UNCERTAIN}
_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O", "U": None, "UNKNOWN": None}
_VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "RL": "LATERAL", "LAT": "LATERAL"}


@dataclass(frozen=True)
class ManifestSource:
    """The images that a manifest's `path` column names, relative to the archive's root.

    Findings' cells: 1 positive, 0 negative, -1 uncertain, blank not mentioned.
    """

    archive: Folder
    manifest: str | None
    """The manifest's path, relative to the archive or absolute; None: the only table in the archive's top folder."""

    @property
    def is_public(self) -> bool:
        """False: nobody knows what stands in a stranger's table."""
        return False

    @property
    def has_official_test(self) -> bool:
        """Whether the manifest's split column says anything."""
        return self._has_splits

    def check(self) -> int:
        """The number of rows, once every cell was looked at."""
        self._check_columns()
        mistakes: list[str] = []
        rows = 0
        seen: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        paths: list[npt.NDArray[np.uint64]] = []
        for start, frame in self._frames():
            rows = start + len(frame)
            mistakes += _mistakes(frame, start, self._findings)
            if mistakes:
                break
            paths.append(pd.util.hash_array(frame["path"].to_numpy(dtype=object)))
            if "split" in frame:
                seen = np.unique(np.concatenate([seen, _patient_splits(frame)]))
        if mistakes:
            listing = "\n".join(f"  {mistake}" for mistake in mistakes[:MAX_MISTAKES])
            raise SourceError(
                f"the manifest '{self._name}' has cells that can't be read (the header is row 1):\n{listing}\n"
                "Mend them (later rows may hold more), or leave a cell blank where nothing is known."
            )
        self._check_one_row_per_path(np.concatenate(paths) if paths else seen)
        self._check_one_split_per_patient(seen)
        if not rows:
            raise SourceError(f"the manifest '{self._name}' has no rows. Check archive=… and manifest=…")
        return rows

    def records(self) -> Iterator[StudyRecord]:
        """One record per row, in the manifest's order."""
        for _, frame in self._frames():
            for row in frame.to_dict("records"):
                yield StudyRecord(
                    path=row["path"].replace("\\", "/"),
                    patient_id=row["patient_id"],
                    study_id=row.get("study_id") or None,
                    view=_VIEWS.get(row.get("view", "").upper()),
                    sex=_SEXES.get(row.get("sex", "").upper()),
                    age_years=float(row["age"]) if row.get("age") else None,
                    split=Split(row["split"].lower()) if row.get("split") else None,
                    findings={name: _FINDING_VALUES[row[name]] for name in self._findings if row[name]},
                )

    @functools.cached_property
    def _name(self) -> str:
        if self.manifest:
            return self.manifest
        candidates = [name for name in self.archive.names() if name.endswith(SUFFIXES) and not name.startswith(".")]
        if len(candidates) == 1:
            return candidates[0]
        found = f"it holds {', '.join(candidates)}" if candidates else "it holds none"
        raise SourceError(
            f"'{self.archive.uri}' should hold one manifest ({', '.join(SUFFIXES)}), but {found}. "
            "Name it: manifest=FILE."
        )

    @functools.cached_property
    def _file(self) -> Folder:
        is_absolute = "://" in self._name or posixpath.isabs(self._name)
        file = Folder(self._name) if is_absolute else self.archive / self._name
        if not file.exists():
            raise SourceError(f"there is no manifest '{file.uri}'. Check manifest=… (relative to archive=…).")
        return file

    @functools.cached_property
    def _columns(self) -> list[str]:
        with self._readable():
            if self._name.endswith(".parquet"):
                return list(pq.read_schema(self._file.path, filesystem=self._file.filesystem).names)
            with self._open_csv() as file:
                header = file.readline().decode("utf-8-sig")
            return list(pacsv.read_csv(pa.BufferReader(header.encode())).schema.names)

    @functools.cached_property
    def _has_splits(self) -> bool:
        return "split" in self._columns and any((frame["split"] != "").any() for _, frame in self._frames())

    @functools.cached_property
    def _findings(self) -> list[str]:
        return [name for name in self._columns if name not in REQUIRED + OPTIONAL]

    def _check_columns(self) -> None:
        known = REQUIRED + OPTIONAL
        problems: list[str] = []
        strangers = {name.strip().lower(): name for name in self._columns if name not in known}
        for name in known:
            near = difflib.get_close_matches(name, strangers, n=1, cutoff=SLIP_SIMILARITY)
            if name in REQUIRED and name not in self._columns:
                problems.append(f"no column '{name}'" + (f"; is '{strangers[near[0]]}' meant?" if near else ""))
            elif name not in self._columns and near:
                problems.append(f"the column '{strangers[near[0]]}' looks like '{name}' misspelt")
        twice = sorted({name for name in self._columns if self._columns.count(name) > 1})
        problems += [f"the column '{name}' stands there twice" for name in twice]
        if not problems and not self._findings:
            problems.append("no column of a finding")
        if problems:
            raise SourceError(
                f"the manifest '{self._name}' has the wrong columns:\n"
                + "\n".join(f"  {problem}" for problem in problems)
                + f"\nRequired: {', '.join(REQUIRED)}. Optional: {', '.join(OPTIONAL)}. All other columns are findings."
            )

    def _check_one_row_per_path(self, hashes: npt.NDArray[np.uint64]) -> None:
        """`hashes`: 8 bytes for every row, in order."""
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        if (counts > 1).any():
            rows = np.flatnonzero(hashes == hashes[first[counts > 1][0]]) + 2
            raise SourceError(
                f"{(counts > 1).sum():,} path(s) of the manifest '{self._name}' stand in several rows; one image has "
                f"one row. The first one's rows: {', '.join(map(str, rows[:MAX_MISTAKES]))} (the header is row 1). "
                "Remove the rows that are too many."
            )

    def _check_one_split_per_patient(self, seen: npt.NDArray[np.uint64]) -> None:
        patients, counts = np.unique(seen >> np.uint64(2), return_counts=True)
        torn = patients[counts > 1]
        if not torn.size:
            return
        rows: list[str] = []
        for start, frame in self._frames():
            there = np.isin(_patient_splits(frame) >> np.uint64(2), torn[:1])
            rows += [str(start + int(index) + 2) for index in np.flatnonzero(there)]
        raise SourceError(
            f"{torn.size} patient(s) of the manifest '{self._name}' stand in more than one split; "
            "splits belong to patients.\n"
            f"The first one's rows: {', '.join(rows[:MAX_MISTAKES])} (the header is row 1).\n"
            "Give every row of a patient the same split, or leave the column out: then the patient's hash decides."
        )

    def _frames(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """(index of the first row, rows as trimmed text; blank where nothing stands)."""
        start = 0
        for batch in self._batches():
            frame = pd.DataFrame(
                {
                    name: ["" if value is None else str(value).strip() for value in column.to_pylist()]
                    for name, column in zip(batch.schema.names, batch.columns, strict=True)
                },
                dtype=object,
            )
            yield start, frame
            start += len(frame)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with self._readable():
            if self._name.endswith(".parquet"):
                with pq.ParquetFile(self._file.path, filesystem=self._file.filesystem) as table:
                    yield from table.iter_batches(batch_size=ROWS_PER_BATCH)
            else:
                # Text keeps leading zeros of identifiers; numbers are parsed where numbers are meant.
                as_text = pacsv.ConvertOptions(
                    column_types={name: pa.string() for name in self._columns}, strings_can_be_null=True
                )
                with self._open_csv() as file:
                    yield from pacsv.open_csv(file, convert_options=as_text)

    def _open_csv(self) -> IO[bytes]:
        compression = "gzip" if self._name.endswith(".gz") else None
        file: IO[bytes] = self._file.filesystem.open(self._file.path, compression=compression)
        return file

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise SourceError(
                f"the manifest '{self._name}' can't be read as a table ({type(error).__name__}). "
                "It must be UTF-8 CSV with a header row, or Parquet."
            ) from error


def _patient_splits(frame: pd.DataFrame) -> npt.NDArray[np.uint64]:
    """62 bits of the patient's hash and 2 bits of the split: 8 bytes a patient, however many there are."""
    hashes = pd.util.hash_array(frame["patient_id"].to_numpy(dtype=object))
    codes = frame["split"].str.lower().map({str(split): code for code, split in enumerate(Split)}).fillna(3)
    return (hashes << np.uint64(2)) | codes.to_numpy().astype(np.uint64)


def _mistakes(frame: pd.DataFrame, start: int, findings: list[str]) -> Iterator[str]:
    """One line per wrong cell, by row and column; never the cell itself, which may hold anything."""
    rules = {
        "path": (frame["path"].map(_is_inside), "must name a file inside the archive"),
        "patient_id": (frame["patient_id"] != "", "is blank"),
    }
    if "view" in frame:
        rules["view"] = (frame["view"].str.upper().isin(["", *_VIEWS]), "must be PA, AP or LATERAL")
    if "sex" in frame:
        rules["sex"] = (frame["sex"].str.upper().isin(["", *_SEXES]), "must be M, F or O")
    if "age" in frame:
        ages = pd.to_numeric(frame["age"], errors="coerce")
        rules["age"] = ((frame["age"] == "") | ages.between(0, MAX_AGE), f"must be years, 0 to {MAX_AGE}")
    if "split" in frame:
        rules["split"] = (frame["split"].str.lower().isin(["", *map(str, Split)]), "must be train, val or test")
    for name in findings:
        rules[name] = (
            frame[name].isin(["", *_FINDING_VALUES]),
            "is taken for a finding, so must be 1, 0, -1 or blank; leave the column out if it is none",
        )
    for name, (is_right, rule) in rules.items():
        wrong = np.flatnonzero(~is_right.to_numpy(dtype=bool)) + start + 2
        if wrong.size:
            more = f" and {wrong.size - 1:,} more" if wrong.size > 1 else ""
            yield f"row {wrong[0]}{more}, column '{name}': {rule}"


def _is_inside(path: str) -> bool:
    normal = posixpath.normpath(path.replace("\\", "/"))
    return path != "" and not posixpath.isabs(normal) and normal.split("/")[0] != ".."
