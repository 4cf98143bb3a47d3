"""Radiographs with human lung masks, as folders of images and masks hold them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError, FeaturizerError
from featurizers.lungs import LungMask
from featurizers.radiograph import Pixels

#: Mask value of what the annotator could not tell; anything else from the middle of the range up is lung.
IGNORE = 127
_LUNG = 128
_COLUMNS = ("image", "mask", "patient")


@dataclass(frozen=True)
class MaskPair:
    """One radiograph and its mask, on disk.

    Attributes:
        image, mask: files of the same height and width.
        patient: whose they are; pairs of one patient never fall on both sides of a split.
        label: class that figures are told by; empty where nobody tells.
    """

    image: Path
    mask: Path
    patient: str
    label: str

    def read(self) -> tuple[Pixels, LungMask, LungMask]:
        """The radiograph (rows, columns; uint8, bone bright), where lung was drawn, and where the annotator could tell.

        Raises:
            FeaturizerError: a file can't be read, the two differ in size, or no lung was drawn.
        """
        try:
            pixels = decode_radiograph(self.image.read_bytes()).pixels
            with Image.open(self.mask) as image:
                drawn = np.asarray(image.convert("L"))
        except (OSError, DecodeError, UnidentifiedImageError) as error:
            raise FeaturizerError(
                f"{self.image.name} and its mask {self.mask.name} can't be read ({error}): replace or remove them"
            ) from None
        if drawn.shape != pixels.shape:
            raise FeaturizerError(
                f"{self.mask.name} has {drawn.shape[1]} × {drawn.shape[0]} pixels and its image "
                f"{pixels.shape[1]} × {pixels.shape[0]}: masks are drawn on the image in its own size"
            )
        lung = drawn >= _LUNG
        if not lung.any():
            raise FeaturizerError(f"{self.mask.name} shows no lung (values of {_LUNG} and more): remove the pair")
        return pixels, lung, drawn != IGNORE


def list_pairs(folder: Path) -> Sequence[MaskPair]:
    """The pairs of a folder with `images/` and `masks/`, in order of their names.

    With a `pairs.csv` (columns image, mask, patient and, if there are classes, label) its rows are the pairs. Without
    it a mask belongs to the image of the same name up to the suffix, and every image is a patient of its own.

    Raises:
        FeaturizerError: no such folders, no pairs, a column is missing, or a file of a row is.
    """
    images, masks = folder / "images", folder / "masks"
    if not (images.is_dir() and masks.is_dir()):
        raise FeaturizerError(f"{folder} holds no pairs: put radiographs into images/ and their lung masks into masks/")
    table = folder / "pairs.csv"
    pairs = _of_table(table, images, masks) if table.is_file() else _of_names(images, masks)
    if not pairs:
        raise FeaturizerError(f"{folder} holds no pairs: no mask has the name of an image")
    for pair in pairs:
        if missing := next((file for file in (pair.image, pair.mask) if not file.is_file()), None):
            raise FeaturizerError(f"{table} names {missing.name}, which is not in {missing.parent}: add it")
    return sorted(pairs, key=lambda pair: pair.image.name)


def _of_table(table: Path, images: Path, masks: Path) -> list[MaskPair]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if absent := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise FeaturizerError(f"{table} lacks the column {absent[0]}: it needs {', '.join(_COLUMNS)}")
        return [
            MaskPair(images / row["image"], masks / row["mask"], row["patient"], row.get("label") or "") for row in rows
        ]


def _of_names(images: Path, masks: Path) -> list[MaskPair]:
    by_stem = {file.stem: file for file in masks.iterdir() if not file.name.startswith(".")}
    return [MaskPair(image, by_stem[image.stem], image.stem, "") for image in images.iterdir() if image.stem in by_stem]
