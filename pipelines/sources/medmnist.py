"""ChestMNIST and PneumoniaMNIST of MedMNIST: `.npz` files that hold the images and labels of all three parts.

Yang et al.: MedMNIST v2, a large-scale lightweight benchmark for 2D and 3D biomedical image classification, Scientific
Data 10, 2023.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from pipelines.archives import ArchiveFile, walk
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.npz_images import open_npz, read_array, read_header
from pipelines.sources.base import NEGATIVE, POSITIVE, Contents, StudyRecord
from pipelines.sources.chestxray14 import CHESTXRAY14_LABELS
from pipelines.sources.label_files import another_layout
from pipelines.splits import Split

#: By the number of their column. ChestMNIST holds images of ChestX-ray14, and its labels 0 to 13 (MedMNIST's info.py)
#: are that set's, in the same order; PneumoniaMNIST's one label is 1 pneumonia, 0 normal.
_LABELS = {"chestmnist": CHESTXRAY14_LABELS, "pneumoniamnist": ("pneumonia",)}
_NAME = re.compile(r"(?P<set>chestmnist|pneumoniamnist).*\.npz")


@dataclass(frozen=True)
class MedMnistSource:
    """The sets' files in the archive's top folder, each in one of its sizes.

    A record's path leads into its file: `chestmnist.npz/train/17`, which `NpzImages` reads. The files do not tell whose
    an image is, so each is a patient of its own.
    """

    archive: Folder

    @property
    def is_public(self) -> bool:
        """True: nobody is told."""
        return True

    @property
    def official_splits(self) -> frozenset[Split]:
        """All three."""
        return frozenset(Split)

    def check(self) -> Contents:
        """Read all labels, and of the images how many there are."""
        count = 0
        for file in self._files:
            try:
                count += self._check_file(file)
            except OSError as error:
                raise SourceError(f"'{file.path}' is of no use: {error}") from error
        return Contents(records=count, label_rows=count)

    def records(self) -> Iterator[StudyRecord]:
        """All images, file by file, part by part."""
        for file in self._files:
            name = _set_of(file)
            for split in Split:
                with open_npz(self.archive / file.path) as npz:
                    labels = read_array(npz, f"{split}_labels")
                for index, row in enumerate(labels):
                    yield StudyRecord(
                        path=f"{file.path}/{split}/{index}",
                        patient_id=f"{name}/{split}/{index}",
                        findings=_findings(name, row),
                        split=split,
                        version=file.version,
                    )

    @functools.cached_property
    def _files(self) -> list[ArchiveFile]:
        if self.archive.filesystem.isfile(self.archive.path):
            raise SourceError(f"'{self.archive.uri}' is a file, but an archive is a folder. Give its folder: archive=…")
        files = [file for file in walk(self.archive) if _NAME.fullmatch(file.path)]
        if not files:
            raise another_layout(self.archive, "medmnist", "chestmnist.npz or pneumoniamnist.npz, or a larger size")
        for name in _LABELS:
            sizes = [file.path for file in files if _set_of(file) == name]
            if len(sizes) > 1:
                raise SourceError(
                    f"{', '.join(sizes)} hold the same images in several sizes. Leave one of them in the archive, or "
                    "give each a folder, a dataset=… and a lake of its own."
                )
        return files

    def _check_file(self, file: ArchiveFile) -> int:
        """The number of images, once every part is found to be as it should."""
        count = 0
        with open_npz(self.archive / file.path) as npz:
            for split in Split:
                missing = {f"{split}_images.npy", f"{split}_labels.npy"} - set(npz.namelist())
                if missing:
                    raise SourceError(
                        f"'{file.path}' has no {' and no '.join(sorted(missing))}, as MedMNIST's files have. "
                        "Download it again."
                    )
                count += _check_part(npz, file, split)
        return count


def _check_part(npz: ZipFile, file: ArchiveFile, split: Split) -> int:
    labels = read_array(npz, f"{split}_labels")
    with npz.open(f"{split}_images.npy") as images:
        shape, dtype = read_header(images)
    wanted = len(_LABELS[_set_of(file)])
    if labels.ndim != 2 or labels.shape[1] != wanted or not np.isin(labels, (0, 1)).all():
        raise SourceError(
            f"the labels of {split} in '{file.path}' should be {wanted} column(s) of 0 and 1, but have the shape "
            f"{labels.shape} or other values. Is it another set under this name? Download it again."
        )
    if len(shape) != 3 or dtype != np.uint8 or shape[0] != len(labels):
        raise SourceError(
            f"the images of {split} in '{file.path}' should be {len(labels):,} of grey bytes, one for each label, but "
            f"are {shape} of {dtype}. Download it again."
        )
    return len(labels)


def _set_of(file: ArchiveFile) -> str:
    match = _NAME.fullmatch(file.path)
    assert match is not None
    return match["set"]


def _findings(name: str, row: npt.NDArray[np.integer]) -> dict[str, int]:
    findings = {label: POSITIVE if value else NEGATIVE for label, value in zip(_LABELS[name], row, strict=True)}
    if name == "pneumoniamnist":
        findings["normal"] = NEGATIVE if findings["pneumonia"] else POSITIVE
    return findings
