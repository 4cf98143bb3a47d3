"""Lakes in which something is to be seen at a known place: bright squares and dark bars in noise, with their boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from synthetic_studies import study, write_lake

from featurizers.crops import encode_png
from pipelines.extract_config import BackboneConfig
from pipelines.lake import Lake

SIDE = 64
#: Small, untrained, and with a map of 8 × 8: a square's brightness is in its features.
BACKBONE = BackboneConfig(name="simple_cnn:dense=0,dropout=0,filters=8-16-32,size=64", weights="random")
TASK = """
multi_label: true
classes:
  Mass:
  Effusion:
"""
#: What every crop shows of the original: so that places of a crop and of the original are not the same.
SHOWN = {"left": 0.1, "top": 0.2, "right": 0.9, "bottom": 0.8}


def boxed_study(number: int, split: str) -> dict[str, Any]:
    """A study with a mass (a bright square), an effusion (a dark bar), both or neither, and their boxes."""
    rng = np.random.default_rng(number)
    pixels = rng.normal(110, 12, (SIDE, SIDE))
    has = {"Mass": number % 2 == 0, "Effusion": number % 3 == 0}
    boxes = []
    sizes = {"Mass": (12, 12), "Effusion": (8, 24)}
    for name, (height, width) in sizes.items():
        top, left = int(rng.integers(0, SIDE - height)), int(rng.integers(0, SIDE - width))
        if has[name]:
            pixels[top : top + height, left : left + width] = 235 if name == "Mass" else 15
            boxes.append({"finding": name, **_in_original(left, top, left + width, top + height)})
    return study(
        number,
        split=split,
        patient_key=f"{number // 2:064x}",
        findings={name: int(is_there) for name, is_there in has.items()},
        boxes=boxes,
        crop=encode_png(np.clip(pixels, 0, 255).astype(np.uint8)),
        lung_box=SHOWN,
        width=1000,
        height=500,
    )


def write_boxed_lake(folder: Path, images: int = 240) -> Lake:
    """A lake of them in three files: of the patients 3/5 are in train, 1/5 in val, 1/5 in test."""
    splits = ("train", "train", "train", "val", "test")
    rows = [boxed_study(number, splits[number // 2 % 5]) for number in range(images)]
    parts = np.array_split(np.arange(images), 3)
    return write_lake(folder, [[rows[number] for number in part] for part in parts], row_group=20)


def _in_original(left: int, top: int, right: int, bottom: int) -> dict[str, float]:
    wide, high = SHOWN["right"] - SHOWN["left"], SHOWN["bottom"] - SHOWN["top"]
    return {
        "left": SHOWN["left"] + wide * left / SIDE,
        "top": SHOWN["top"] + high * top / SIDE,
        "right": SHOWN["left"] + wide * right / SIDE,
        "bottom": SHOWN["top"] + high * bottom / SIDE,
    }
