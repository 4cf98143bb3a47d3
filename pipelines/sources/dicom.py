"""Any folder tree of DICOM files, as a PACS exports them; findings from an optional table of labels.

Files are known by their bytes, not by their names. Whose an image is and what it shows stands in its header, so an
executor reads it there; the driver sees names alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipelines.archives import walk
from pipelines.dicom_header import LABEL_KEYS, LabelKey
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.sources.base import Contents, StudyRecord
from pipelines.sources.label_table import FINDING_VALUES, LabelTable, finding_rule, mistakes
from pipelines.splits import Split

#: What else a table may hold that is no finding: the header tells it, or it is a manifest's.
IGNORED = ("path", "patient_id", "study_id", "view", "sex", "age", "split")
NO_LABELS = "none"
_DIRECTORY_NAME = "DICOMDIR"


@dataclass(frozen=True)
class LabelRow:
    """What the table says of one image or study: the value of its key, findings and row as in StudyRecord."""

    key: str
    findings: dict[str, int]
    row: int


@dataclass(frozen=True)
class DicomSource:
    """Every file of the tree but DICOMDIRs, hidden files, the table of labels, and the lake if it lies inside."""

    archive: Folder
    labels: str | None
    """The table's path, relative to the archive or absolute; None: the only one in its top folder, if there is one;
    `none`: no labels."""
    excluded: Folder | None = None

    @property
    def is_public(self) -> bool:
        """False: headers and paths name patients."""
        return False

    @property
    def official_splits(self) -> frozenset[Split]:
        """None: the patients' hash decides."""
        return frozenset()

    def check(self) -> Contents:
        """Count the files, and look at every cell of the labels."""
        rows = 0
        if self._table is not None:
            keys: list[npt.NDArray[np.uint64]] = []
            for start, frame in self._table.frames():
                rows = start + len(frame)
                rules = {name: finding_rule(frame[name]) for name in self._findings}
                rules[self.label_key] = (frame[self.label_key] != "", "is blank")
                if found := list(mistakes(rules, start)):
                    raise self._table.refuse(found)
                keys.append(pd.util.hash_array(frame[self.label_key].to_numpy(dtype=object)))
            if not rows:
                raise SourceError(f"the table '{self._table.name}' has no rows. Check labels=…, or give labels=none.")
            self._table.check_unique(self.label_key, np.concatenate(keys))
        count = sum(1 for _ in self.records())
        if not count:
            raise SourceError(f"'{self.archive.uri}' holds no files. Check archive=…")
        return Contents(count, rows)

    def records(self) -> Iterator[StudyRecord]:
        """All files, folder by folder, by name."""
        label_file = self._table.file.uri if self._table else None
        for file in walk(self.archive, excluded=self.excluded):
            if file.name.upper() != _DIRECTORY_NAME and f"{self.archive.uri}/{file.path}" != label_file:
                yield StudyRecord(path=file.path, patient_id=None, findings={}, version=file.version)

    @property
    def has_labels(self) -> bool:
        """Whether there is a table of labels."""
        return self._table is not None

    @functools.cached_property
    def label_key(self) -> LabelKey:
        """The attribute by which rows and images are joined.

        Raises:
            SourceError: if the table has no column of a key, or none of a finding.
        """
        assert self._table is not None
        key = next((key for key in LABEL_KEYS if key in self._table.columns), None)
        if key is None:
            raise SourceError(
                f"the table '{self._table.name}' can't be joined to DICOM files: it needs a column "
                f"{', '.join(LABEL_KEYS[:-1])} or {LABEL_KEYS[-1]}, spelt so. Name another one with labels=FILE, or "
                "give labels=none."
            )
        twice = sorted({name for name in self._table.columns if self._table.columns.count(name) > 1})
        if twice or not self._findings:
            fault = f"the column '{twice[0]}' stands there twice" if twice else "it has no column of a finding"
            raise SourceError(f"the table '{self._table.name}' can't be used: {fault}. Mend it, or give labels=none.")
        return key

    def label_rows(self) -> Iterator[LabelRow]:
        """The table's rows, streamed; none without a table."""
        if self._table is None:
            return
        for start, frame in self._table.frames():
            for index, row in enumerate(frame.to_dict("records")):
                findings = {name: FINDING_VALUES[row[name]] for name in self._findings if row[name]}
                yield LabelRow(row[self.label_key], findings, start + index + 2)

    @functools.cached_property
    def _table(self) -> LabelTable | None:
        return None if self.labels == NO_LABELS else LabelTable.find(self.archive, self.labels, "labels")

    @functools.cached_property
    def _findings(self) -> list[str]:
        assert self._table is not None
        return [name for name in self._table.columns if name not in (*LABEL_KEYS, *IGNORED)]
