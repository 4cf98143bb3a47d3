"""What must hold in every lake; what does not, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.audit_counts import DatasetCounts, ImageCounts
from pipelines.audit_storage import History, Leftover, Stored

#: How many runs a message names.
RUNS_TOLD = 6


@dataclass(frozen=True)
class LakeBooks:
    """All that an audit finds.

    Attributes:
        lake: its URI.
        datasets: by name, those of which nothing was committed included.
        registered: the data sets that the lake remembers.
        ingests: by data set.
        tables: by path in the lake.
        titles: what a person calls the tables whose paths hold fingerprints, by path.
        images: of studies, features and predictions, by path; empty where nothing was committed.
        runs_with_images_twice: runs of studies with an image that is there more than once.
        staging: folders of rows that are not committed.
        scored_from_images: predictions, by path, some of which are of images that nobody ingested.
    """

    lake: str
    datasets: dict[str, DatasetCounts]
    registered: list[str]
    ingests: dict[str, History]
    tables: dict[str, Stored]
    titles: dict[str, str]
    images: dict[str, ImageCounts]
    runs_with_images_twice: list[str]
    staging: tuple[Leftover, ...]
    scored_from_images: list[str]


@dataclass(frozen=True)
class Fault:
    """Something that must not be so, and what to do about it."""

    cause: str
    remedy: str


def faults_of(books: LakeBooks) -> list[Fault]:
    """Everything that is not in order, the worst first."""
    found = [fault for name, counts in books.datasets.items() for fault in _in_dataset(name, counts, books)]
    return found + [fault for name, images in books.images.items() for fault in _in_images(name, images, books)]


def _in_dataset(name: str, counts: DatasetCounts, books: LakeBooks) -> Iterator[Fault]:
    if lost := lost_inputs(counts, books.ingests.get(name, History())):
        yield Fault(
            f"{name}: {lost:,} inputs that its ingest accounted for are in no table: runs were removed or damaged.",
            "Ingest it again with the same command: what is missing is read anew, and keeps its features.",
        )
    if counts.torn_patients:
        yield Fault(
            f"{name}: {counts.torn_patients:,} patients are in two splits, so that metrics of heads are too good.",
            "Ingest checks for this, so two ran at once with other settings. Ingest the data set into a new lake, and "
            "train its heads there.",
        )
    if counts.in_both or counts.twice:
        cause = " and ".join(
            [f"{counts.in_both:,} inputs are in studies and in quarantine"] * bool(counts.in_both)
            + [f"{counts.twice:,} are in quarantine more than once"] * bool(counts.twice)
        )
        yield Fault(
            f"{name}: {cause}.",
            f"The studies are sound. Remove {books.lake}/quarantine while no job is running and ingest again: what "
            "was in quarantine is read anew.",
        )
    if name not in books.registered:
        yield Fault(
            f"{name}: {books.lake}/_datasets/{name}.json is gone, so nothing guards its key and crop rules.",
            "Restore it from a backup before the next ingest.",
        )


def lost_inputs(counts: DatasetCounts, ingests: History) -> int:
    """Inputs that the newest complete ingest accounted for, and that are in no table now (at least: rows of files
    that were changed or deleted later may hide some)."""
    accounted = ingests.complete.accounted if ingests.complete else 0
    return max(0, accounted - counts.studies - counts.quarantined - counts.restamped)


def _in_images(name: str, images: ImageCounts, books: LakeBooks) -> Iterator[Fault]:
    folder = f"{books.lake}/{name}"
    if name == "studies":
        if images.twice:
            runs = books.runs_with_images_twice
            named = ", ".join(runs[:RUNS_TOLD]) + (", …" if len(runs) > RUNS_TOLD else "")
            yield Fault(
                f"studies: {images.twice:,} images are there more than once, in {named}: two ingests ran at once.",
                f"Remove the later one of such runs from {folder} while no job is running, and ingest again.",
            )
        return
    again = "score" if name.startswith("predictions/") else "extract"
    # What was scored from an archive's images needs no study.
    if images.without_study and name not in books.scored_from_images:
        yield Fault(
            f"{books.titles[name]}: {images.without_study:,} images in it are no study's: runs of studies were "
            "removed or damaged.",
            f"Ingest again with the same commands. If those studies are meant to be gone, remove {folder} and {again} "
            "again.",
        )
    if images.twice:
        yield Fault(
            f"{books.titles[name]}: {images.twice:,} images are in it more than once: two jobs filled it at once.",
            f"Remove {folder} and {again} again, one job at a time.",
        )
