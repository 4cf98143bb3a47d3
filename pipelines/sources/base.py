"""What every source gives: records of images, streamed, with nothing read but names and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from featurizers.reasons import Reason
from pipelines.splits import Split

#: Values of a finding in `studies.findings`.
POSITIVE, NEGATIVE, UNCERTAIN = 1, 0, -1
#: The three values of `studies.view`; None where nothing tells it.
PA, AP, LATERAL = "PA", "AP", "LATERAL"
#: How many missing images a source names.
NAMES_TOLD = 20


@dataclass(frozen=True)
class FindingBox:
    """A box that somebody drew around a finding, as fractions of the image: left and right of its width, top and
    bottom of its height."""

    finding: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Rejection:
    """Why an input can't become a study, known from names and labels alone."""

    reason: Reason
    detail: str
    """What a person needs to mend it; holds no identifier."""


@dataclass(frozen=True)
class StudyRecord:
    """One image as its archive tells of it. Holds identifiers: it never leaves ingest."""

    path: str
    """Where the file lies, relative to the archive's root, with forward slashes."""
    patient_id: str | None
    """None where only the file itself tells (DICOM), or where it is rejected for that nobody tells."""
    findings: Mapping[str, int]
    """Finding → 1 positive, 0 negative, -1 uncertain; absent: not mentioned."""
    boxes: tuple[FindingBox, ...] = ()
    study_id: str | None = None
    view: str | None = None
    sex: str | None = None
    """M, F or O."""
    age_years: float | None = None
    split: Split | None = None
    """The official split; None lets the patient's hash decide."""
    version: str = ""
    """What the archive's listing tells of the file's size and time; see `archives.ArchiveFile.version`."""
    row: int | None = None
    """Number of its row in the label file, the header being row 1."""
    rejection: Rejection | None = None


@dataclass(frozen=True)
class Contents:
    """What an archive holds, as far as names and label files tell.

    Attributes:
        records: how many records `Source.records` will give.
        label_rows: rows of the label files, all of which were parsed.
        missing: label rows whose image is not in the archive.
        missing_names: the first of those, at most `NAMES_TOLD`; holds no identifier (rows, where names might).
    """

    records: int
    label_rows: int = 0
    missing: int = 0
    missing_names: tuple[str, ...] = ()


class Source(Protocol):
    """An archive in one data set's published layout."""

    @property
    def is_public(self) -> bool:
        """Whether its identifiers are public pseudonyms already, so that no secret key is needed."""

    @property
    def official_splits(self) -> frozenset[Split]:
        """The splits that the data set itself defines, so that the patients' hash must not cut them off train."""

    def check(self) -> Contents:
        """Look for every mistake that can be found without reading an image; called once, before `records`.

        Raises:
            SourceError: naming the mistakes and their remedy, never an identifier.
        """

    def records(self) -> Iterator[StudyRecord]:
        """All images, in a stable order, streamed."""
