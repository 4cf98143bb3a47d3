"""ChestMNIST (Yang et al. 2023): ChestX-ray14 made small, all images and labels in one `.npz`.

Yang et al.: MedMNIST v2, a large-scale lightweight benchmark for 2D and 3D biomedical image classification, Scientific
Data 10, 2023.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurizers.phantoms import Finding, Habitus
from pipelines.phantom_layouts.base import Order, Shot, drawn, images_per_patient
from pipelines.phantom_layouts.chestxray14 import draw_findings
from pipelines.splits import Split

#: Sides of the published files, in pixels; the first one's name does not tell it.
SIDES = (28, 64, 128, 224)
#: ChestMNIST's labels 0 to 13.
_LABELS = (
    Finding.ATELECTASIS,
    Finding.CARDIOMEGALY,
    Finding.EFFUSION,
    Finding.INFILTRATION,
    Finding.MASS,
    Finding.NODULE,
    Finding.PNEUMONIA,
    Finding.PNEUMOTHORAX,
    Finding.CONSOLIDATION,
    Finding.EDEMA,
    Finding.EMPHYSEMA,
    Finding.FIBROSIS,
    Finding.PLEURAL_THICKENING,
    Finding.HERNIA,
)
#: Smaller pictures are drawn at this side and made small, as the set's own were.
_SMALLEST_DRAWN = 128


def write_medmnist(order: Order) -> list[Shot]:
    """Write `chestmnist.npz` or `chestmnist_SIDE.npz`, deflated as the published ones are."""
    side = order.long_side or SIDES[0]
    name = "chestmnist.npz" if side == SIDES[0] else f"chestmnist_{side}.npz"
    shots = _plan(order.rng(0), order.images, name)
    images: dict[Split, list[NDArray[np.uint8]]] = {split: [] for split in Split}
    labels: dict[Split, list[list[bool]]] = {split: [] for split in Split}
    for shot, phantom in drawn(order, shots, _square):
        assert shot.split is not None
        images[shot.split].append(np.asarray(Image.fromarray(phantom.pixels).resize((side, side))))
        labels[shot.split].append([label in shot.findings for label in _LABELS])
    members: dict[str, NDArray[np.uint8]] = {}
    for split in Split:
        members[f"{split}_images"] = np.array(images[split], np.uint8).reshape(-1, side, side)
        members[f"{split}_labels"] = np.array(labels[split], np.uint8).reshape(-1, len(_LABELS))
    np.savez_compressed(order.out / name, allow_pickle=False, **members)
    return shots


def _plan(rng: np.random.Generator, images: int, name: str) -> list[Shot]:
    """Seven of ten patients train, two test, one val, as in the set; no file tells them, but they keep to one split."""
    shots = []
    counts = dict.fromkeys(Split, 0)
    for patient, count in enumerate(images_per_patient(rng, images, more=0.6), start=1):
        split = {2: Split.TEST, 3: Split.VAL, 7: Split.TEST}.get(patient % 10, Split.TRAIN)
        age = int(np.clip(rng.normal(48, 17), 18, 92))
        for follow_up in range(count):
            path = f"{name}/{split}/{counts[split]}"
            counts[split] += 1
            shots.append(Shot(path, patient, follow_up, draw_findings(rng), Habitus.ADULT, age, split))
    return shots


def _square(order: Order, _: Shot, __: np.random.Generator) -> tuple[int, int]:
    side = max(order.long_side or 0, _SMALLEST_DRAWN)
    return side, side
