"""The lake: what its tables are called and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pipelines.errors import LakeError
from pipelines.folders import Folder, new_run_id, run_age
from pipelines.tables import (
    FEATURES,
    FOUND_LABELS,
    LOCALIZATIONS,
    PREDICTIONS,
    QUARANTINE,
    RESTAMPED,
    STUDIES,
    UNEMBEDDED,
    Table,
)

GLOB_CHARACTERS = "{}[]*?\\"
STAGING_PREFIX = "_staging-"
#: In a folder of features: what extractor they are of.
EXTRACTOR_CARD = "_extractor.json"
#: In a folder of localizations: what localizer they are of.
LOCALIZER_CARD = "_localizer.json"


@dataclass(frozen=True)
class Lake:
    """The tables of one lake, by name."""

    folder: Folder

    @classmethod
    def at(cls, location: str) -> Lake:
        """The lake at a path or URI, whether it is there or not.

        Raises:
            LakeError: if Spark would take the path for a pattern.
        """
        if found := sorted(set(GLOB_CHARACTERS) & set(location)):
            raise LakeError(
                f"lake='{location}' holds {' '.join(found)}, which Spark reads as a pattern. Rename the folder."
            )
        return cls(Folder.at(location))

    @classmethod
    def create(cls, location: str) -> Lake:
        """The lake at a path or URI, made if it is not there."""
        lake = cls.at(location)
        if lake.folder.filesystem.isfile(lake.folder.path):
            raise LakeError(f"lake='{location}' is a file. Name a folder, new or old.")
        lake.folder.filesystem.makedirs(lake.folder.path, exist_ok=True)
        return lake

    @classmethod
    def open(cls, location: str) -> Lake:
        """The lake at a path or URI.

        Raises:
            LakeError: if nothing was ever ingested there.
        """
        lake = cls.at(location)
        if not lake.folder.exists():
            raise LakeError(
                f"there is no lake at '{lake.folder.uri}'. Check lake=…, or make one with jobs/ingest_studies.py."
            )
        if not lake.studies.folder.runs():
            raise LakeError(
                f"'{lake.folder.uri}' holds no ingested studies. Run jobs/ingest_studies.py lake={location} first."
            )
        return lake

    @property
    def studies(self) -> Table:
        """One row per image."""
        return Table(self.folder / "studies", STUDIES)

    @property
    def quarantine(self) -> Table:
        """One row per input that is no study."""
        return Table(self.folder / "quarantine", QUARANTINE)

    @property
    def restamped(self) -> Table:
        """The later stamps of inputs that were written anew with the same bytes."""
        return Table(self.folder / "_restamped", RESTAMPED)

    @property
    def found_labels(self) -> Table:
        """The label rows of DICOM archives whose image was found."""
        return Table(self.folder / "_found_labels", FOUND_LABELS)

    @property
    def datasets(self) -> Folder:
        """What is remembered of each data set; see pipelines/datasets.py."""
        return self.folder / "_datasets"

    @property
    def scored_archives(self) -> Folder:
        """What is remembered of archives that were scored without being ingested, as of a data set."""
        return self.folder / "_scored_archives"

    def new_staging(self) -> Folder:
        """Where a running job keeps rows that are not committed; no reader looks there."""
        return self.folder / f"{STAGING_PREFIX}{new_run_id()}"

    def sweep_staging(self) -> None:
        """Remove what jobs that were killed more than a week ago left behind; no job takes that long."""
        for name in self.folder.names():
            if name.startswith(STAGING_PREFIX) and run_age(name.removeprefix(STAGING_PREFIX)) > timedelta(days=7):
                (self.folder / name).remove()

    def extractors(self) -> list[str]:
        """The fingerprints of the extractors whose features are here."""
        return _partition_values(self.folder / "features", "extractor=")

    def features(self, extractor: str) -> Table:
        """The features of one extractor."""
        return Table(self.folder / "features" / f"extractor={extractor}", FEATURES)

    def unembedded(self, extractor: str) -> Table:
        """What one extractor gives no vector, and why; readers of Parquet do not look there."""
        return Table(self.features(extractor).folder / "_quarantine", UNEMBEDDED)

    def extractor_card(self, extractor: str) -> Mapping[str, Any]:
        """What an extraction told of its extractor; nothing where it told nothing."""
        folder = self.features(extractor).folder
        return folder.read_json(EXTRACTOR_CARD) if EXTRACTOR_CARD in folder.names() else {}

    def describe_extractor(self, extractor: str) -> str:
        """What is known of an extractor, in one line for a report: backbone, precision, weights, fingerprint."""
        told = self._told_of(extractor)
        return f"{told}, extractor {extractor}" if self.extractor_card(extractor) else f"extractor {extractor}"

    def told_of(self, extractor: str) -> str:
        """An extractor in few words, for people who have several: the start of its fingerprint, and what is known."""
        return f"{extractor[:12]} ({self._told_of(extractor)})"

    def _told_of(self, extractor: str) -> str:
        card = self.extractor_card(extractor)
        return f"{card['backbone']} {card['precision']}, weights {card['weights']}" if card else "nothing told"

    def choose_extractor(self, wanted: str | None) -> str:
        """The fingerprint meant by `wanted` (a prefix will do); the only one there is when None.

        Raises:
            LakeError: if there is none, or the choice is not clear.
        """
        there = self.extractors()
        if not there:
            raise LakeError(f"'{self.folder.uri}' holds no features. Run jobs/extract_features.py first.")
        matching = [fingerprint for fingerprint in there if fingerprint.startswith(wanted or "")]
        if len(matching) == 1:
            return matching[0]
        names = "; ".join(map(self.told_of, there))
        if not matching:
            raise LakeError(f"no features of extractor '{wanted}' in '{self.folder.uri}'. It holds: {names}.")
        raise LakeError(f"'{self.folder.uri}' holds features of several extractors: {names}. Choose one: extractor=….")

    def backbones(self, name: str) -> Folder:
        """The folder of the runs of one fine-tuned backbone."""
        return self.folder / "backbones" / name

    def backbone_names(self) -> list[str]:
        """The names of the fine-tuned backbones that are here."""
        return [name for name in (self.folder / "backbones").names() if self.backbones(name).runs()]

    def head_runs(self, task: str, name: str) -> Folder:
        """The folder of the runs of one head."""
        return self.folder / "heads" / task / name

    def heads(self) -> list[str]:
        """The `task/name` of every head that is here."""
        root = self.folder / "heads"
        return [
            f"{task}/{name}"
            for task in root.names()
            for name in (root / task).names()
            if self.head_runs(task, name).runs()
        ]

    def comparisons(self, name: str) -> Folder:
        """The folder of the runs of one comparison of heads."""
        return self.folder / "comparisons" / name

    def sweeps(self, name: str) -> Folder:
        """The folder of the runs of one sweep of fine-tunings."""
        return self.folder / "sweeps" / name

    def predictions(self, head: str) -> Table:
        """The predictions of the head with this fingerprint."""
        return Table(self.folder / "predictions" / f"head={head}", PREDICTIONS)

    def localizations(self, localizer: str) -> Table:
        """Where the localizer with this fingerprint finds its classes."""
        return Table(self.folder / "localizations" / f"localizer={localizer}", LOCALIZATIONS)

    def unlocalized(self, localizer: str) -> Table:
        """The crops on which it finds nothing, and why; readers of Parquet do not look there."""
        return Table(self.localizations(localizer).folder / "_quarantine", UNEMBEDDED)


def _partition_values(folder: Folder, prefix: str) -> list[str]:
    values = [name.removeprefix(prefix) for name in folder.names() if name.startswith(prefix)]
    return [value for value in values if (folder / f"{prefix}{value}").runs()]
