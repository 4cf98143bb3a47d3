"""Any archive with a table of its images: CSV or Parquet with `path`, `patient_id` and one column per finding."""

from __future__ import annotations

import difflib
import functools
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.archives import FileVersions, walk
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import AP, LATERAL, NAMES_TOLD, PA, Contents, StudyRecord
from pipelines.sources.label_table import (
    FINDING_VALUES,
    MAX_MISTAKES,
    SUFFIXES,
    LabelTable,
    Rule,
    finding_rule,
    mistakes,
)
from pipelines.splits import Split

REQUIRED = ("path", "patient_id")
OPTIONAL = ("study_id", "view", "sex", "age", "split")
#: DICOM's own keys: a table that has them serves source=dicom too; a manifest needs none of them.
IGNORED = ("SOPInstanceUID", "StudyInstanceUID", "AccessionNumber")
#: How alike a finding's column must be to one of ours to be taken for a slip of the pen.
SLIP_SIMILARITY = 0.75
MAX_AGE = 150

_SEXES = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O", "U": None, "UNKNOWN": None}
_VIEWS = {"PA": PA, "AP": AP, "LATERAL": LATERAL, "LL": LATERAL, "RL": LATERAL, "LAT": LATERAL}


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
    def official_splits(self) -> frozenset[Split]:
        """The splits that the manifest's split column names."""
        return self._official_splits

    def check(self) -> Contents:
        """Look at every cell."""
        self._check_columns()
        found: list[str] = []
        rows, missing, missing_names = 0, 0, list[str]()
        seen: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        paths: list[npt.NDArray[np.uint64]] = []
        for start, frame in self._table.frames():
            rows = start + len(frame)
            found += mistakes(_rules(frame, self._findings), start)
            if found:
                break
            there = frame["path"].map(_normal)
            paths.append(pd.util.hash_array(there.to_numpy(dtype=object)))
            lost = [start + index + 2 for index, path in enumerate(there) if path not in self._versions]
            missing += len(lost)
            missing_names += [f"row {row}" for row in lost[: NAMES_TOLD - len(missing_names)]]
            if "split" in frame:
                seen = np.unique(np.concatenate([seen, _patient_splits(frame)]))
        if found:
            raise self._table.refuse(found)
        if paths:
            self._table.check_unique("path", np.concatenate(paths))
        self._check_one_split_per_patient(seen)
        if not rows:
            raise SourceError(f"the manifest '{self._table.name}' has no rows. Check archive=… and manifest=…")
        return Contents(rows, rows, missing, tuple(missing_names))

    def records(self) -> Iterator[StudyRecord]:
        """One record per row, in the manifest's order; a row whose file is missing is an input like the others."""
        for start, frame in self._table.frames():
            for index, row in enumerate(frame.to_dict("records")):
                path = _normal(row["path"])
                yield StudyRecord(
                    path=path,
                    patient_id=row["patient_id"],
                    study_id=row.get("study_id") or None,
                    view=_VIEWS.get(row.get("view", "").upper()),
                    sex=_SEXES.get(row.get("sex", "").upper()),
                    age_years=float(row["age"]) if row.get("age") else None,
                    split=Split(row["split"].lower()) if row.get("split") else None,
                    findings={name: FINDING_VALUES[row[name]] for name in self._findings if row[name]},
                    version=self._versions.get(path),
                    row=start + index + 2,
                )

    @functools.cached_property
    def _table(self) -> LabelTable:
        table = LabelTable.find(self.archive, self.manifest, "manifest")
        if table is None:
            raise SourceError(
                f"'{self.archive.uri}' should hold one manifest ({', '.join(SUFFIXES)}), but it holds none. "
                "Name it: manifest=FILE."
            )
        return table

    @functools.cached_property
    def _versions(self) -> FileVersions:
        return FileVersions(walk(self.archive))

    @functools.cached_property
    def _official_splits(self) -> frozenset[Split]:
        if "split" not in self._table.columns:
            return frozenset()
        named = {cell for _, frame in self._table.frames() for cell in frame["split"].str.lower().unique()}
        return frozenset(Split(cell) for cell in named if cell)

    @functools.cached_property
    def _findings(self) -> list[str]:
        return [name for name in self._table.columns if name not in REQUIRED + OPTIONAL + IGNORED]

    def _check_columns(self) -> None:
        known = REQUIRED + OPTIONAL
        problems: list[str] = []
        strangers = {name.strip().lower(): name for name in self._table.columns if name not in known + IGNORED}
        for name in known:
            near = difflib.get_close_matches(name, strangers, n=1, cutoff=SLIP_SIMILARITY)
            if name in REQUIRED and name not in self._table.columns:
                problems.append(f"no column '{name}'" + (f"; is '{strangers[near[0]]}' meant?" if near else ""))
            elif name not in self._table.columns and near:
                problems.append(f"the column '{strangers[near[0]]}' looks like '{name}' misspelt")
        twice = sorted({name for name in self._table.columns if self._table.columns.count(name) > 1})
        problems += [f"the column '{name}' stands there twice" for name in twice]
        if not problems and not self._findings:
            problems.append("no column of a finding")
        if problems:
            raise SourceError(
                f"the manifest '{self._table.name}' has the wrong columns:\n"
                + "\n".join(f"  {problem}" for problem in problems)
                + f"\nRequired: {', '.join(REQUIRED)}. Optional: {', '.join(OPTIONAL)}. All other columns are findings."
            )

    def _check_one_split_per_patient(self, seen: npt.NDArray[np.uint64]) -> None:
        patients, counts = np.unique(seen >> np.uint64(2), return_counts=True)
        torn = patients[counts > 1]
        if not torn.size:
            return
        rows: list[str] = []
        for start, frame in self._table.frames():
            there = np.isin(_patient_splits(frame) >> np.uint64(2), torn[:1])
            rows += [str(start + int(index) + 2) for index in np.flatnonzero(there)]
        raise SourceError(
            f"{torn.size} patient(s) of the manifest '{self._table.name}' stand in more than one split; "
            "splits belong to patients.\n"
            f"The first one's rows: {', '.join(rows[:MAX_MISTAKES])} (the header is row 1).\n"
            "Give every row of a patient the same split, or leave the column out: then the patient's hash decides."
        )


def _patient_splits(frame: pd.DataFrame) -> npt.NDArray[np.uint64]:
    """62 bits of the patient's hash and 2 bits of the split: 8 bytes a patient, however many there are."""
    hashes = pd.util.hash_array(frame["patient_id"].to_numpy(dtype=object))
    codes = frame["split"].str.lower().map({str(split): code for code, split in enumerate(Split)}).fillna(3)
    return (hashes << np.uint64(2)) | codes.to_numpy().astype(np.uint64)


def _rules(frame: pd.DataFrame, findings: list[str]) -> dict[str, Rule]:
    rules = {
        "path": (frame["path"].map(_is_inside), "must name a file inside the archive, and no hidden one"),
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
    return rules | {name: finding_rule(frame[name]) for name in findings}


def _normal(path: str) -> str:
    return posixpath.normpath(path.replace("\\", "/"))


def _is_inside(path: str) -> bool:
    normal = _normal(path)
    is_hidden = any(part.startswith(".") for part in normal.split("/"))
    return path != "" and not posixpath.isabs(normal) and not is_hidden
