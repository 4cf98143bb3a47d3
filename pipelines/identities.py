"""What the tables may tell of an image's person: keys in place of identifiers, ages above 89 as 90, and the split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pipelines.dicom_header import DicomHeader
from pipelines.pseudonyms import Pseudonymizer
from pipelines.sources.base import StudyRecord
from pipelines.splits import SplitFractions

#: HIPAA's safe harbour groups ages above 89 (45 CFR 164.514(b)(2)(i)(C)); we tell them as 90.
LAST_AGE_TOLD = 89.0
AGE_ABOVE = 90.0
#: No human being has been older; files that say so are mistaken.
OLDEST = 123.0


@dataclass(frozen=True)
class Identities:
    """Turns what a source or a DICOM header tells into columns of the schema LABELS.

    Attributes:
        pseudonymizer: of the data set.
        fractions: of the patients, where no split is official.
        are_public: whether identifiers are public pseudonyms already, so that paths may be told.
    """

    pseudonymizer: Pseudonymizer
    fractions: SplitFractions
    are_public: bool

    def of_record(self, record: StudyRecord) -> dict[str, Any]:
        """The columns, as far as the record tells; without a patient it has no key, no split, and a keyed uri."""
        patient_key = None if record.patient_id is None else self.pseudonymizer.patient(record.patient_id)
        split = record.split or (self.fractions.split_of(patient_key) if patient_key else None)
        return {
            "dataset": self.pseudonymizer.dataset,
            "uri": self._uri(record),
            "patient_key": patient_key,
            "study_key": self.pseudonymizer.study(record.study_id) if record.study_id else None,
            "view": record.view,
            "sex": record.sex,
            "age_years": age_told(record.age_years),
            "findings": list(record.findings.items()),
            "boxes": [vars(box) for box in record.boxes],
            "split": str(split) if split else None,
            "stamp": self.pseudonymizer.stamp(record.path, record.version),
        }

    def of_header(self, told: dict[str, Any], path: str, header: DicomHeader) -> dict[str, Any]:
        """The columns of a DICOM file: what the source told of it, completed by its header."""
        changed = dict(told)
        for name, value in (
            ("view", header.view),
            ("sex", header.sex),
            ("age_years", age_told(header.age_years)),
            ("study_key", self.pseudonymizer.study(header.study_uid) if header.study_uid else None),
        ):
            if changed[name] is None:
                changed[name] = value
        if told["patient_key"] is None:
            # Where a file tells no patient, its study is the nearest to one, and the image itself the last resort.
            identifier = header.patient_id or header.study_uid or header.image_uid or path
            changed["patient_key"] = self.pseudonymizer.patient(identifier)
            changed["split"] = str(self.fractions.split_of(changed["patient_key"]))
        elif not self.are_public and changed["uri"] == path:
            changed["uri"] = self.pseudonymizer.uri(path, *header.identifiers)
        return changed

    def keyed_uri(self, path: str) -> str:
        """What stands for a path of which nothing is known; a public one stands for itself."""
        return as_text(path) if self.are_public else self.pseudonymizer.keyed_uri(path)

    def _uri(self, record: StudyRecord) -> str:
        if self.are_public:
            return as_text(record.path)
        if record.patient_id is None:
            return self.pseudonymizer.keyed_uri(record.path)
        return self.pseudonymizer.uri(record.path, record.patient_id, record.study_id or "")


def as_text(path: str) -> str:
    """A path as text: file names are bytes, and not all of them are UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def age_told(years: float | None) -> float | None:
    """An age as the tables may tell it; None where it is none."""
    if years is None or not 0 <= years <= OLDEST:
        return None
    return AGE_ABOVE if years > LAST_AGE_TOLD else years
