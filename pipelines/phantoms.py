"""Phantom archives: drawn radiographs in the layouts of real data sets, so that every job runs without data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from featurizers.phantoms import Finding
from pipelines.config import Config
from pipelines.errors import SourceError
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.phantom_layouts.base import Order, Shot
from pipelines.phantom_layouts.chestxray14 import write_chestxray14
from pipelines.phantom_layouts.chexpert import write_chexpert
from pipelines.phantom_layouts.dicom import write_dicom
from pipelines.phantom_layouts.kermany import write_kermany
from pipelines.phantom_layouts.medmnist import SIDES, write_medmnist
from pipelines.phantom_layouts.mimic_cxr_jpg import write_mimic_cxr_jpg
from pipelines.progress import Progress, clock

LayoutName = Literal["kermany", "chestxray14", "chexpert", "mimic_cxr_jpg", "medmnist", "dicom"]
#: What writes an archive, and tells the images in it.
LAYOUTS: Mapping[LayoutName, Callable[[Order], Sequence[Shot]]] = {
    "kermany": write_kermany,
    "chestxray14": write_chestxray14,
    "chexpert": write_chexpert,
    "mimic_cxr_jpg": write_mimic_cxr_jpg,
    "medmnist": write_medmnist,
    "dicom": write_dicom,
}
#: A process that draws fewer than these is not worth its start.
IMAGES_PER_PROCESS = 20
#: The smallest long side that leaves a chest on the short one.
_SMALLEST_SIDE = 64


class PhantomsConfig(Config):
    """Settings of jobs/make_phantoms.py."""

    out: str = Field(..., min_length=1, description="folder to write; must be new or empty")
    studies: int = Field(200, gt=0, description="number of images")
    layout: LayoutName = Field("kermany", description="whose folders, file names and label files to imitate")
    seed: int = Field(0, ge=0, description="the same seed and settings write the same bytes")
    long_side: int | None = Field(
        None,
        ge=SIDES[0],
        le=4096,
        description=(
            f"long side of every image in pixels, from {_SMALLEST_SIDE} (medmnist: {', '.join(map(str, SIDES))}); "
            "null: the layout's own"
        ),
    )

    @model_validator(mode="after")
    def _fits_the_layout(self) -> Self:
        if self.long_side is None:
            return self
        if self.layout == "medmnist" and self.long_side not in SIDES:
            raise ValueError(f"long_side: medmnist has files of {', '.join(map(str, SIDES))} pixels; take one of them")
        if self.layout != "medmnist" and self.long_side < _SMALLEST_SIDE:
            raise ValueError(f"long_side: a chest needs at least {_SMALLEST_SIDE} pixels in the layout {self.layout}")
        return self


@dataclass(frozen=True)
class FindingCount:
    """How many images of an archive show a finding."""

    finding: str
    images: int


@dataclass(frozen=True)
class PhantomArchive:
    """What was written.

    Attributes:
        out: the archive's root folder.
        studies: number of images.
        files: number of files, label files included.
        patients: number of patients.
        counts: images per finding drawn, the most frequent first; several findings of one image count once each.
    """

    out: str
    studies: int
    files: int
    patients: int
    counts: tuple[FindingCount, ...]


def make_phantoms(config: PhantomsConfig) -> JobRecord:
    """Run the job.

    Raises:
        SourceError: `config.out` is a file, or a folder that is not empty.
    """
    record = JobRecord("make_phantoms", config)
    written = 0

    def report(done: int, _: int) -> None:
        nonlocal written
        written = done

    with record.time("draw"), Progress("draw", config.studies, lambda: written):
        archive = write_phantoms(config, report)
    record.count("studies", archive.studies)
    record.count("files", archive.files)
    record.count("patients", archive.patients)
    for each in archive.counts:
        record.count(f"finding: {each.finding}", each.images)
    Folder.at(config.out).write_json("run.json", record.as_dict())
    seconds = record.timings["draw"]
    rows = {
        "studies": archive.studies,
        "patients": archive.patients,
        **{each.finding: each.images for each in archive.counts},
        "time": f"{clock(seconds)} ({archive.studies / seconds:.1f} images/s)",
        "archive": archive.out,
    }
    record.summary = summary_text(f"Drew phantoms in the layout {config.layout}", rows)
    return record


def write_phantoms(config: PhantomsConfig, report: Callable[[int, int], None]) -> PhantomArchive:
    """Draw an archive of phantoms and write it in a data set's own layout.

    Args:
        config: what to write.
        report: called with (images written, images in all) after each.

    Raises:
        SourceError: `config.out` is a file, or a folder that is not empty.
    """
    out = Path(config.out)
    _refuse_to_overwrite(out)
    order = Order(
        out=out,
        images=config.studies,
        seed=config.seed,
        long_side=config.long_side,
        processes=max(1, min(os.cpu_count() or 1, config.studies // IMAGES_PER_PROCESS)),
        report=report,
    )
    shots = LAYOUTS[config.layout](order)
    counts = Counter(finding.value for shot in shots for finding in (shot.findings or (Finding.NORMAL,)))
    return PhantomArchive(
        out=config.out,
        studies=len(shots),
        files=sum(path.is_file() for path in out.rglob("*")),
        patients=len({shot.patient for shot in shots}),
        counts=tuple(FindingCount(name, n) for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
    )


def _refuse_to_overwrite(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SourceError(f"phantoms can't be written to {out}: it is a file; give `out` a new folder's name")
    if out.is_dir() and any(out.iterdir()):
        raise SourceError(
            f"phantoms can't be written to {out}: it is not empty; give `out` a new folder's name or empty it"
        )
    out.mkdir(parents=True, exist_ok=True)
