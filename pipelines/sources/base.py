"""What every source gives: records of images, streamed, with nothing read but names and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipelines.splits import Split

#: Values of a finding in `studies.findings`.
POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1


@dataclass(frozen=True)
class StudyRecord:
    """One image as its archive tells of it. Holds identifiers: it never leaves ingest."""

    path: str
    """Where the file lies, relative to the archive's root, with forward slashes."""
    patient_id: str
    findings: Mapping[str, int]
    """Finding → 1 positive, 0 negative, -1 uncertain; absent: not mentioned."""
    study_id: str | None = None
    view: str | None = None
    sex: str | None = None
    age_years: float | None = None
    split: Split | None = None
    """The official split; None lets the patient's hash decide."""


class Source(Protocol):
    """An archive in one data set's published layout."""

    @property
    def is_public(self) -> bool:
        """Whether its identifiers are public pseudonyms already, so that no secret key is needed."""

    @property
    def has_official_test(self) -> bool:
        """Whether test is official, so that the patients' hash divides only train and val."""

    def check(self) -> int:
        """Look for every mistake that can be found without reading an image.

        Returns:
            The number of images that `records` will give.

        Raises:
            SourceError: naming the mistakes and their remedy, never an identifier.
        """

    def records(self) -> Iterator[StudyRecord]:
        """All images, in a stable order, streamed."""
