"""CheXpert-v1.0-small (Irvin et al. 2019): `train.csv`, `valid.csv`, `train/patient00001/study1/view1_frontal.jpg`.

A file named lateral holds a frontal phantom squeezed sideways: it stands for a lateral by name only. Fractures and
support devices are in the label files and not in the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from featurizers.phantoms import Habitus
from pipelines.phantom_layouts.base import TEST_EVERY, Order, Shot, csv_bytes, drawn, sideways
from pipelines.phantom_layouts.reports import OBSERVATIONS, Report, plan_studies
from pipelines.splits import Split

ROOT = "CheXpert-v1.0-small"
_HEADER = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *(each.name for each in OBSERVATIONS)])
_FOLDERS = {Split.TRAIN: "train", Split.VAL: "valid"}
#: The short side of the small version's images, and the longest long side, in pixels.
_SHORT_SIDE, _LONGEST_SIDE = 320, 390
#: The last patient of the official train part; the numbers of the valid part follow.
_LAST_TRAIN_PATIENT = 64540


@dataclass(frozen=True)
class _View(Shot):
    report: Report
    projection: str
    """PA or AP; blank for a lateral."""


def write_chexpert(order: Order) -> Sequence[Shot]:
    """Write images and the two label files: train as the labeler read it, valid as radiologists saw it."""
    views = _plan(order.rng(0), order.images)
    rows: dict[Split | None, list[tuple[object, ...]]] = {split: [] for split in _FOLDERS}
    for view, phantom in drawn(order, views, _film):
        target = order.out / view.path
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = phantom.pixels if view.projection else sideways(phantom.pixels)
        Image.fromarray(pixels).save(target, quality=90)
        sex = "Female" if phantom.sex == "F" else "Male"
        side = "Frontal" if view.projection else "Lateral"
        cells = [view.report.cell(each.name) for each in OBSERVATIONS]
        rows[view.split].append((view.path, sex, view.age, side, view.projection, *cells))
    for split, folder in _FOLDERS.items():
        (order.out / ROOT / f"{folder}.csv").write_bytes(csv_bytes(_HEADER, rows[split]))
    return views


def _plan(rng: np.random.Generator, images: int) -> list[_View]:
    views: list[_View] = []
    ages: dict[int, int] = {}
    for study in plan_studies(rng, images):
        is_valid = study.patient % TEST_EVERY == 2
        split = Split.VAL if is_valid else Split.TRAIN
        patient = study.patient + (_LAST_TRAIN_PATIENT if is_valid else 0)
        # 90 stands for everybody older.
        age = ages.setdefault(patient, int(np.clip(rng.normal(60, 17), 18, 90)))
        report = study.report.consensus() if is_valid else study.report
        folder = f"{ROOT}/{_FOLDERS[split]}/patient{patient:05d}/study{study.number}"
        projections = ["AP" if rng.random() < 0.8 else "PA"] + [""] * study.has_lateral
        for number, projection in enumerate(projections, start=1):
            path = f"{folder}/view{number}_{'frontal' if projection else 'lateral'}.jpg"
            views.append(
                _View(path, patient, study.number - 1, report.shown, Habitus.ADULT, age, split, report, projection)
            )
    return views


def _film(order: Order, _: Shot, rng: np.random.Generator) -> tuple[int, int]:
    """Most are wider than high."""
    aspect = rng.uniform(1, _LONGEST_SIDE / _SHORT_SIDE)
    long_side = order.long_side or round(_SHORT_SIDE * aspect)
    short_side = round(long_side / aspect)
    return (short_side, long_side) if rng.random() < 0.7 else (long_side, short_side)
