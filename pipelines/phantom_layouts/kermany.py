"""The paediatric pneumonia set (Kermany et al. 2018)."""

from __future__ import annotations

import numpy as np
from PIL import Image

from featurizers.phantoms import Finding, Habitus
from pipelines.phantom_layouts.base import TEST_EVERY, Order, Shot, any_size, drawn, images_per_patient
from pipelines.splits import Split


def write_kermany(order: Order) -> list[Shot]:
    """Write `chest_xray/{train,test}/{NORMAL,PNEUMONIA}/*.jpeg`."""
    shots = _plan(order.rng(0), order.images)
    for split in (Split.TRAIN, Split.TEST):
        for label in ("NORMAL", "PNEUMONIA"):
            (order.out / "chest_xray" / split / label).mkdir(parents=True)
    rng = order.rng(4)
    for shot, phantom in drawn(order, shots, any_size):
        # A few of the real files are grey pictures saved in colour.
        mode = "RGB" if rng.random() < 0.04 else "L"
        Image.fromarray(phantom.pixels).convert(mode).save(order.out / shot.path, quality=90)
    return shots


def _plan(rng: np.random.Generator, images: int) -> list[Shot]:
    """26 % normal, 26 % viral and the rest bacterial, as in the real set; patients keep to one split."""
    viral = normal = round(0.26 * images)
    shots: list[Shot] = []
    patient, running = 0, {Finding.VIRAL: 0, Finding.BACTERIAL: 0}
    for kind, quota in (
        (Finding.NORMAL, normal),
        (Finding.VIRAL, viral),
        (Finding.BACTERIAL, images - normal - viral),
    ):
        for position, count in enumerate(images_per_patient(rng, quota, more=0.25)):
            patient += 1
            split = Split.TEST if position % TEST_EVERY == 2 else Split.TRAIN
            prefix = "NORMAL2-IM" if rng.random() < 0.5 else "IM"
            age = int(rng.integers(1, 6))
            folder = f"chest_xray/{split}/{'NORMAL' if kind is Finding.NORMAL else 'PNEUMONIA'}"
            for follow_up in range(count):
                if kind is Finding.NORMAL:
                    name = f"{prefix}-{patient:04d}-{follow_up + 1:04d}"
                else:
                    running[kind] += 1
                    name = f"person{patient}_{'virus' if kind is Finding.VIRAL else 'bacteria'}_{running[kind]}"
                path = f"{folder}/{name}.jpeg"
                shots.append(Shot(path, patient, follow_up, (kind,), Habitus.CHILD, age, split))
    return shots
