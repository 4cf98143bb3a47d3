"""Lakes whose crops are all different, small and quick to write, without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_studies import study, write_lake

from classifiers.tasks import Task
from featurizers.crops import encode_png
from pipelines.lake import Lake

MASS = Task.exclusive("mass", ("No Finding", "Mass"))


def crop(number: int, side: int = 12) -> bytes:
    """A PNG that no other image has."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8))


def mass_study(number: int, side: int = 12, **columns: Any) -> dict[str, Any]:
    """A study with its own crop; every third has a mass."""
    is_mass = number % 3 == 0
    findings = {"No Finding": int(not is_mass), "Mass": int(is_mass)}
    return study(number, crop=crop(number, side), findings=findings, **columns)


def write_crop_lake(folder: Path, images: int = 100, *, files: int = 3, row_group: int = 7, side: int = 12) -> Lake:
    """A lake of this many train images in files of about equal length."""
    numbers: Sequence[Any] = np.array_split(np.arange(images), files)
    return write_lake(folder, [[mass_study(int(n), side) for n in part] for part in numbers], row_group=row_group)
