"""What a lake remembers of each data set, so that the next ingest of the same name means the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from featurizers.extractor import UNKNOWN_CROPS
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.lake import Lake

_CALLED = {"archive": "another archive", "key_check": "another pseudonym key", "crops": "other crop rules"}
#: How to go on where the lake remembers something else.
_REMEDIES = {
    "archive": "give another archive another name (dataset=NAME), or, if this one has only moved, correct the file",
    "key_check": "use the key of the first ingest: under another one every patient would be somebody else",
    "crops": "use the settings of the first ingest, or another lake: features of unlike crops do not compare",
}


@dataclass(frozen=True)
class Dataset:
    """A data set as it was first ingested.

    Attributes:
        archive: URI of the archive's root; uris in the tables are relative to it.
        key_check: shows whether a pseudonym key is the same, and not what it is.
        crops: how its images became crops.
    """

    archive: str
    key_check: str
    crops: str


def claim(lake: Lake, name: str, dataset: Dataset) -> None:
    """Remember the data set, or make sure that it is the one that the lake remembers.

    Raises:
        LakeError: if the name stands for another archive or key there, or the lake's crops are made otherwise.
    """
    folder = lake.datasets
    for file in folder.names():
        compared = ("archive", "key_check", "crops") if file == f"{name}.json" else ("crops",)
        _check(folder, file, dataset, compared, "ingested into")
    if f"{name}.json" not in folder.names():
        folder.write_json(f"{name}.json", asdict(dataset))


def claim_scored(lake: Lake, name: str, dataset: Dataset) -> None:
    """Remember an archive that is only scored, or make sure that it is the one that the lake knows by this name.

    Raises:
        LakeError: if the name stands for another archive or key there.
    """
    file = f"{name}.json"
    for folder, verb in ((lake.datasets, "ingested into"), (lake.scored_archives, "scored with")):
        if file in folder.names():
            _check(folder, file, dataset, ("archive", "key_check"), verb)
            return
    lake.scored_archives.write_json(file, asdict(dataset))


def dataset_of(lake: Lake, archive: str) -> tuple[str, Dataset] | None:
    """The lake's data set of the archive with this URI; None where there is none."""
    for file in lake.datasets.names():
        dataset = Dataset(**lake.datasets.read_json(file))
        if dataset.archive == archive:
            return file.removesuffix(".json"), dataset
    return None


def _check(folder: Folder, file: str, dataset: Dataset, fields: Sequence[str], verb: str) -> None:
    known = Dataset(**folder.read_json(file))
    for field in fields:
        if getattr(known, field) != getattr(dataset, field):
            values = (
                ""
                if field == "key_check"
                else f"\n  there  {getattr(known, field)}\n  here   {getattr(dataset, field)}"
            )
            raise LakeError(
                f"data set '{file.removesuffix('.json')}' was {verb} this lake with {_CALLED[field]}."
                f"{values}\nSo {_REMEDIES[field]} ({(folder / file).uri})."
            )


def crops_of(lake: Lake) -> str:
    """How the crops in a lake were made; claim keeps it the same for all its data sets."""
    files = lake.datasets.names()
    return Dataset(**lake.datasets.read_json(files[0])).crops if files else UNKNOWN_CROPS
