"""Radiographs with human lung masks, as folders of images and masks hold them."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from featurizers.decode import decode_radiograph
from featurizers.errors import FeaturizerError
from featurizers.lungs import LungMask
from featurizers.radiograph import Pixels

#: Tells whose the pairs are, where somebody does.
PAIRS_TABLE = "pairs.csv"
#: Mask value of what the annotator could not tell; anything else from the middle of the range up is lung.
IGNORE = 127
_LUNG = 128
_COLUMNS = ("image", "mask", "patient")

# Tenths of the patients: the first seven train, the next validates, the rest tests.
_TENTHS = 10
_FIRST_VAL, _FIRST_TEST = 7, 8


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
        # Of a damaged mask Pillow raises errors of many kinds.
        except Exception as error:
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
            raise FeaturizerError(
                f"{self.mask.name} shows no lung (values of {_LUNG} and more; its highest is {drawn.max()}): save lung "
                "as 255, or remove the pair"
            )
        return pixels, lung, drawn != IGNORE


def list_pairs(folder: Path) -> Sequence[MaskPair]:
    """The pairs of a folder with `images/` and `masks/`, in order of their names.

    With a `pairs.csv` (columns image, mask, patient and, if there are classes, label) its rows are the pairs. Without
    it a mask belongs to the image of the same name up to the suffix, and every image is a patient of its own.

    Raises:
        FeaturizerError: no such folders, no pairs, a column or a cell of it is missing, or a file of a row is.
    """
    if not folder.is_dir():
        raise FeaturizerError(f"there is no folder {folder}: check the path")
    images, masks = folder / "images", folder / "masks"
    if not (images.is_dir() and masks.is_dir()):
        raise FeaturizerError(f"{folder} holds no pairs: put radiographs into images/ and their lung masks into masks/")
    table = folder / PAIRS_TABLE
    pairs = _of_table(table, images, masks) if table.is_file() else _of_names(images, masks)
    if not pairs:
        raise FeaturizerError(f"{folder} holds no pairs: no mask has the name of an image")
    for pair in pairs:
        if missing := next((file for file in (pair.image, pair.mask) if not file.is_file()), None):
            raise FeaturizerError(f"{table} names {missing.name}, which is not in {missing.parent}: add it")
    return sorted(pairs, key=lambda pair: pair.image.name)


def _of_table(table: Path, images: Path, masks: Path) -> list[MaskPair]:
    pairs = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if absent := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
                raise FeaturizerError(f"{table} lacks the column {absent[0]}: it needs {', '.join(_COLUMNS)}")
            for row in rows:
                if empty := [name for name in _COLUMNS if not row[name]]:
                    raise FeaturizerError(f"{table} has no {empty[0]} in line {rows.line_num}: fill it in")
                label = row.get("label") or ""
                pairs.append(MaskPair(images / row["image"], masks / row["mask"], row["patient"], label))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeaturizerError(f"{table} is no CSV file in UTF-8 ({error}): save it as one") from None
    return pairs


def _of_names(images: Path, masks: Path) -> list[MaskPair]:
    by_stem = {file.stem: file for file in masks.iterdir() if not file.name.startswith(".")}
    return [MaskPair(image, by_stem[image.stem], image.stem, "") for image in images.iterdir() if image.stem in by_stem]


class PairSplit(NamedTuple):
    """Pairs by what they are for; no patient is in two."""

    train: Sequence[MaskPair]
    val: Sequence[MaskPair]
    test: Sequence[MaskPair]


def split_patients(pairs: Sequence[MaskPair]) -> PairSplit:
    """Split pairs by patient: about 70 % train, 10 % val, 20 % test, in the order given.

    The CRC-32 of a patient's id decides, so that a patient stays where he is when others come or go.
    """
    tenths = [zlib.crc32(pair.patient.encode()) % _TENTHS for pair in pairs]

    def between(first: int, end: int) -> list[MaskPair]:
        return [pair for pair, tenth in zip(pairs, tenths, strict=True) if first <= tenth < end]

    return PairSplit(between(0, _FIRST_VAL), between(_FIRST_VAL, _FIRST_TEST), between(_FIRST_TEST, _TENTHS))
