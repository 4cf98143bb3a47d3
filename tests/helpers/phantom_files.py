"""Writes phantom archives, and reads their label files back."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

from pipelines.phantoms import PhantomArchive, PhantomsConfig, write_phantoms


def write(out: Path, layout: str, studies: int = 12, **settings: int | None) -> PhantomArchive:
    config = PhantomsConfig.model_validate(
        {"out": str(out), "layout": layout, "studies": studies, "long_side": 64 if layout == "medmnist" else 96}
        | settings
    )
    return write_phantoms(config, lambda done, total: None)


def rows(path: Path) -> list[dict[str, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
