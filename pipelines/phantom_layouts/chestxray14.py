"""ChestX-ray14 (Wang et al. 2017): one folder of PNGs, `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv`, two lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from featurizers.phantoms import Finding, Habitus
from pipelines.phantom_layouts.base import TEST_EVERY, Order, Shot, csv_bytes, drawn, images_per_patient
from pipelines.splits import Split

#: Boxes count pixels of this square, whatever the size of the file.
_SIDE = 1024
_DATA_ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
_BBOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
#: The eight findings that have boxes in the official file, under the names that it gives them.
_BOXED = {
    Finding.ATELECTASIS: "Atelectasis",
    Finding.CARDIOMEGALY: "Cardiomegaly",
    Finding.EFFUSION: "Effusion",
    Finding.INFILTRATION: "Infiltrate",
    Finding.MASS: "Mass",
    Finding.NODULE: "Nodule",
    Finding.PNEUMONIA: "Pneumonia",
    Finding.PNEUMOTHORAX: "Pneumothorax",
}
#: Images per finding in the official label file (Data_Entry_2017_v2020.csv, 112,120 images).
_IMAGES = {
    Finding.INFILTRATION: 19894,
    Finding.EFFUSION: 13317,
    Finding.ATELECTASIS: 11559,
    Finding.NODULE: 6331,
    Finding.MASS: 5782,
    Finding.PNEUMOTHORAX: 5302,
    Finding.CONSOLIDATION: 4667,
    Finding.PLEURAL_THICKENING: 3385,
    Finding.CARDIOMEGALY: 2776,
    Finding.EMPHYSEMA: 2516,
    Finding.EDEMA: 2303,
    Finding.FIBROSIS: 1686,
    Finding.PNEUMONIA: 1431,
    Finding.HERNIA: 227,
}
_NO_FINDING_SHARE = 60361 / 112120


def write_chestxray14(order: Order) -> list[Shot]:
    """Write images, labels, boxes and the lists of the official split."""
    shots = _plan(order.rng(0), order.images)
    (order.out / "images").mkdir()
    rng = order.rng(4)
    entries: list[tuple[object, ...]] = []
    boxes: list[tuple[object, ...]] = []
    for shot, phantom in drawn(order, shots, _square):
        name = Path(shot.path).name
        # A few of the real files are grey pictures with colour and an alpha channel.
        mode = "RGBA" if rng.random() < 0.02 else "L"
        Image.fromarray(phantom.pixels).convert(mode).save(order.out / shot.path, compress_level=2)
        labels = "|".join(shot.findings) or "No Finding"
        view = "AP" if rng.random() < (0.55 if shot.findings else 0.3) else "PA"
        original, spacing = ((2500, 2048), 0.168) if view == "AP" else ((2992, 2991), 0.143)
        entries.append(
            (name, labels, shot.follow_up, shot.patient, shot.age, phantom.sex, view, *original, spacing, spacing)
        )
        boxes.extend(
            (
                name,
                _BOXED[box.finding],
                box.left * _SIDE,
                box.top * _SIDE,
                (box.right - box.left) * _SIDE,
                (box.bottom - box.top) * _SIDE,
            )
            for box in phantom.boxes
            if box.finding in _BOXED
        )
    (order.out / "Data_Entry_2017_v2020.csv").write_bytes(csv_bytes(_DATA_ENTRY_HEADER, entries))
    (order.out / "BBox_List_2017.csv").write_bytes(csv_bytes(_BBOX_HEADER, boxes))
    for file, split in (("train_val_list.txt", Split.TRAIN), ("test_list.txt", Split.TEST)):
        names = [Path(shot.path).name for shot in shots if shot.split is split]
        (order.out / file).write_text("\n".join(names), encoding="utf-8", newline="\n")
    return shots


def _plan(rng: np.random.Generator, images: int) -> list[Shot]:
    shots = []
    for patient, count in enumerate(images_per_patient(rng, images, more=0.6), start=1):
        child = rng.random() < 0.04
        age = int(rng.integers(3, 12) if child else np.clip(rng.normal(48, 17), 18, 92))
        findings: tuple[Finding, ...] = ()
        for follow_up in range(count):
            # Disease lasts: a follow-up often shows what the image before it did.
            if follow_up == 0 or rng.random() < 0.6:
                findings = draw_findings(rng)
            habitus = Habitus.CHILD if child else Habitus.ADULT
            split = Split.TEST if patient % TEST_EVERY == 2 else Split.TRAIN
            path = f"images/{patient:08d}_{follow_up:03d}.png"
            shots.append(Shot(path, patient, follow_up, findings, habitus, age + follow_up // 3, split))
    return shots


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """None for 54 % of the images; otherwise one to three, each as frequent as in the official file."""
    if rng.random() < _NO_FINDING_SHARE:
        return ()
    names = tuple(_IMAGES)
    weights = np.array(list(_IMAGES.values()), dtype=np.float64)
    count = int(rng.choice([1, 2, 3], p=[0.62, 0.28, 0.1]))
    chosen = rng.choice(len(names), size=count, replace=False, p=weights / weights.sum())
    return tuple(sorted(names[index] for index in chosen))


def _square(order: Order, _: Shot, __: np.random.Generator) -> tuple[int, int]:
    side = order.long_side or _SIDE
    return side, side
