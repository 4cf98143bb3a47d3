"""What ingest has to read: a source's records, pseudonymised, as Arrow rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.pseudonyms import Pseudonymizer
from pipelines.sources import Source, StudyRecord
from pipelines.splits import SplitFractions
from pipelines.tables import LABELS

#: HIPAA's safe harbour groups ages above 89 (45 CFR 164.514(b)(2)(i)(C)); we tell them as 90.
LAST_AGE_TOLD = 89.0
AGE_ABOVE = 90.0

#: Where an input lies goes to the executors, and into no table: a path may carry an identifier.
LISTING = pa.schema([pa.field("position", pa.int64()), pa.field("path", pa.string()), *LABELS])


@dataclass(frozen=True)
class Listing:
    """The inputs of one ingest, in the source's order, streamed in chunks."""

    source: Source
    pseudonymizer: Pseudonymizer
    fractions: SplitFractions

    def chunks(self, size: int) -> Iterator[pa.Table]:
        """Tables of the schema LISTING with at most `size` rows."""
        rows = (self._row(position, record) for position, record in enumerate(self.source.records()))
        while chunk := list(itertools.islice(rows, size)):
            yield pa.Table.from_pylist(chunk, LISTING)

    def _row(self, position: int, record: StudyRecord) -> dict[str, Any]:
        patient_key = self.pseudonymizer.patient(record.patient_id)
        age = record.age_years
        identifiers = () if self.source.is_public else (record.patient_id, record.study_id or "")
        return {
            "position": position,
            "path": record.path,
            "dataset": self.pseudonymizer.dataset,
            "uri": self.pseudonymizer.uri(record.path, *identifiers),
            "patient_key": patient_key,
            "study_key": self.pseudonymizer.study(record.study_id) if record.study_id else None,
            "view": record.view,
            "sex": record.sex,
            "age_years": AGE_ABOVE if age is not None and age > LAST_AGE_TOLD else age,
            "findings": list(record.findings.items()),
            "boxes": [],
            "split": str(record.split or self.fractions.split_of(patient_key)),
        }
