"""Folders of phantoms with their lung masks, as `list_pairs` reads them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from featurizers.phantoms import draw_phantom

LABELS = ("normal", "viral", "bacterial")


def write_pairs(folder: Path, pairs: int, *, first: int = 0, per_patient: int = 1, side: int = 96) -> Path:
    """Phantoms of three classes, numbered from `first`, which is their seed too."""
    rows = []
    for number in range(first, first + pairs):
        label, patient = LABELS[number % 3], f"patient-{number // per_patient}"
        phantom = draw_phantom(number, [label], (side, side + 16))
        rows.append((f"film-{number:03}.png", f"outline-{number:03}.png", patient, label))
        write_pair(folder, rows[-1][0], phantom.pixels, rows[-1][1], np.where(phantom.lung_mask, 255, 0))
    return write_table(folder, ("image", "mask", "patient", "label"), rows)


def write_pair(folder: Path, image: str, pixels: np.ndarray, mask: str, drawn: np.ndarray) -> None:
    for name, values in ((f"images/{image}", pixels), (f"masks/{mask}", drawn)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, dtype=np.uint8)).save(folder / name)


def write_table(folder: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder
