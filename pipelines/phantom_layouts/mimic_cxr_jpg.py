"""MIMIC-CXR-JPG 2.0.0 (Johnson et al. 2019): `files/p10/p10000032/s50414267/*.jpg` and three gzipped label files.

All numbers, dates and image ids are made up; none is taken from the real set. Pictures are smaller than the real ones
(about 3056 × 2544). A lateral is a frontal phantom squeezed sideways: it stands for a lateral by name only. Fractures
and support devices are in the label files and not in the pictures.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from featurizers.phantoms import Habitus
from pipelines.phantom_layouts.base import Order, Shot, csv_bytes, drawn, sideways
from pipelines.phantom_layouts.reports import OBSERVATIONS, Report, plan_studies
from pipelines.splits import Split

_LABELS = sorted(each.name for each in OBSERVATIONS)
_METADATA_HEADER = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
#: What the set calls its parts.
_SPLITS = {Split.TRAIN: "train", Split.VAL: "validate", Split.TEST: "test"}
#: ViewPosition → the meaning of its code; laterals come under two names.
_VIEW_CODES = {
    "PA": "postero-anterior",
    "AP": "antero-posterior",
    "LATERAL": "lateral",
    "LL": "left lateral",
}
_LONG_SIDE = 1024
_ASPECT = 3056 / 2544


@dataclass(frozen=True)
class _View(Shot):
    dicom_id: str
    subject_id: int
    study_id: int
    report: Report
    position: str
    """ViewPosition."""

    @property
    def is_lateral(self) -> bool:
        return self.position in ("LATERAL", "LL")


def write_mimic_cxr_jpg(order: Order) -> Sequence[Shot]:
    """Write images, labels by study, metadata and split by image."""
    views = _plan(order.rng(0), order.images)
    rng = order.rng(4)
    metadata: list[tuple[object, ...]] = []
    for view, phantom in drawn(order, views, _film):
        pixels = sideways(phantom.pixels) if view.is_lateral else phantom.pixels
        target = order.out / view.path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target, quality=95)
        metadata.append((view.dicom_id, view.subject_id, view.study_id, *_describe(view, pixels.shape, rng)))
    reports = {view.study_id: (view.subject_id, view.report) for view in views}
    labels = (
        (subject_id, study_id, *(report.cell(name) for name in _LABELS))
        for study_id, (subject_id, report) in reports.items()
    )
    splits = (
        (view.dicom_id, view.study_id, view.subject_id, _SPLITS[view.split]) for view in views if view.split is not None
    )
    _write(order, "chexpert", ",".join(["subject_id", "study_id", *_LABELS]), labels)
    _write(order, "metadata", _METADATA_HEADER, metadata)
    _write(order, "split", "dicom_id,study_id,subject_id,split", splits)
    return views


def _write(order: Order, name: str, header: str, rows: Iterable[Sequence[object]]) -> None:
    # Without a time in its header a gzip file has the same bytes every time.
    content = gzip.compress(csv_bytes(header, rows), mtime=0)
    (order.out / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(content)


def _plan(rng: np.random.Generator, images: int) -> list[_View]:
    """Of five patients three are train, one validate and one test, so that small archives have all."""
    studies = list(plan_studies(rng, images))
    subject_ids = 10_000_000 + rng.choice(10_000_000, size=studies[-1].patient, replace=False)
    study_ids = 50_000_000 + rng.choice(10_000_000, size=len(studies), replace=False)
    ages = np.clip(rng.normal(60, 17, size=studies[-1].patient), 18, 90).astype(int)
    views: list[_View] = []
    for study, study_id in zip(studies, study_ids, strict=True):
        subject_id = int(subject_ids[study.patient - 1])
        split = {2: Split.TEST, 4: Split.VAL}.get(study.patient % 5, Split.TRAIN)
        folder = f"files/p{subject_id // 1_000_000}/p{subject_id}/s{study_id}"
        positions = ["AP" if rng.random() < 0.6 else "PA"]
        if study.has_lateral:
            positions.append("LATERAL" if rng.random() < 0.6 else "LL")
        for position in positions:
            dicom_id = "-".join(f"{number:08x}" for number in rng.integers(2**32, size=5))
            views.append(
                _View(
                    path=f"{folder}/{dicom_id}.jpg",
                    patient=study.patient,
                    follow_up=study.number - 1,
                    findings=study.report.shown,
                    habitus=Habitus.ADULT,
                    age=int(ages[study.patient - 1]),
                    split=split,
                    dicom_id=dicom_id,
                    subject_id=subject_id,
                    study_id=int(study_id),
                    report=study.report,
                    position=position,
                )
            )
    return views


def _describe(view: _View, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[object, ...]:
    """The columns of the metadata behind the ids; years are moved to the future, as in the set."""
    procedure = "CHEST (PORTABLE AP)" if view.position == "AP" else "CHEST (PA AND LAT)"
    date = f"{2110 + view.patient % 90}{1 + view.follow_up:02d}15"
    time = f"{rng.integers(24):02d}{rng.integers(60):02d}{rng.integers(60):02d}.{rng.integers(1000):03d}"
    orientation = "Recumbent" if view.position == "AP" and rng.random() < 0.3 else "Erect"
    return (procedure, view.position, *shape, date, time, procedure, _VIEW_CODES[view.position], orientation)


def _film(order: Order, _: Shot, rng: np.random.Generator) -> tuple[int, int]:
    long_side = order.long_side or _LONG_SIDE
    short_side = round(long_side / _ASPECT)
    return (short_side, long_side) if rng.random() < 0.4 else (long_side, short_side)
