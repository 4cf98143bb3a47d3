"""Kermany's paediatric pneumonia set: `{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg`, labels in folder and file names.

Kermany, Zhang, Goldbaum: Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification,
Mendeley Data, 2018.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.archives import walk
from pipelines.folders import Folder
from pipelines.sources.base import NEGATIVE, POSITIVE, Contents, StudyRecord
from pipelines.sources.label_files import another_layout
from pipelines.splits import Split

CLASSES = ("NORMAL", "PNEUMONIA")
#: Folders that published copies of the set put around its parts.
ROOTS = ("", "chest_xray/", "CellData/chest_xray/")

_PNEUMONIA = re.compile(r"(?P<patient>person\d+)_(?P<cause>virus|bacteria)_", re.IGNORECASE)
_NORMAL = re.compile(r"(?P<patient>(?:NORMAL2-)?IM-\d+)-", re.IGNORECASE)


@dataclass(frozen=True)
class KermanySource:
    """The set in its own folder layout.

    Patients are the `personN` or `IM-N` of the file names, whatever the class. The numbers of train and test are
    independent series (the authors split by patient), so a patient is known by series and number. Some copies carve 16
    images into a `val` folder: they go back to the train series, whose patients' hashes cut the validation part.
    """

    archive: Folder

    @property
    def is_public(self) -> bool:
        """True: `personN` is nobody's identifier."""
        return True

    @property
    def official_splits(self) -> frozenset[Split]:
        """Test, even where its folder is missing: then there is no test, and train is not cut for one."""
        return frozenset({Split.TEST})

    def check(self) -> Contents:
        """Count the files in the class folders."""
        count = sum(1 for _ in self.records())
        if not count:
            folders = "images in train/NORMAL and train/PNEUMONIA (and test/…), directly or under chest_xray/"
            raise another_layout(self.archive, "kermany", folders)
        return Contents(records=count)

    def records(self) -> Iterator[StudyRecord]:
        """All files, part by part and class by class, by name."""
        root = next((root for root in ROOTS if (self.archive / f"{root}train").exists()), "")
        for part in Split:
            for label in CLASSES:
                for file in walk(self.archive, f"{root}{part}/{label}"):
                    patient, findings = describe(label, file.name)
                    is_test = part is Split.TEST
                    yield StudyRecord(
                        path=file.path,
                        patient_id=f"{'test' if is_test else 'train'}/{patient}",
                        findings=findings,
                        split=Split.TEST if is_test else None,
                        version=file.version,
                    )


def describe(label: str, name: str) -> tuple[str, dict[str, int]]:
    """Patient and findings of a file in the folder `label`.

    A name outside the set's patterns is a patient of its own, with the findings that the folder alone tells.
    """
    if label == "NORMAL":
        match = _NORMAL.match(name)
        findings = {"normal": POSITIVE, "pneumonia": NEGATIVE, "viral": NEGATIVE, "bacterial": NEGATIVE}
        return (match["patient"] if match else name), findings
    match = _PNEUMONIA.match(name)
    findings = {"normal": NEGATIVE, "pneumonia": POSITIVE}
    if not match:
        return name, findings
    is_viral = match["cause"].lower() == "virus"
    findings["viral"] = POSITIVE if is_viral else NEGATIVE
    findings["bacterial"] = NEGATIVE if is_viral else POSITIVE
    return match["patient"], findings
