"""How well and how fast the lungs are found and cropped, on radiographs with human lung masks.

`--data DIR` holds `lung_masks/{pairs.csv,images,masks}` (mask value 255: lung) and, optionally,
`kermany_full_resolution/`, whose JPEGs of about one megapixel are timed too. Patients are split into halves by the
CRC-32 of their id: templates, priors and weights of `featurizers/lungs.py` come from the tuning half (even), the
figures from the held-out half (odd).
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

import _root  # noqa: F401
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.stats import spearmanr

from featurizers.crops import CropSettings, crop_lungs, encode_png
from featurizers.decode import decode_radiograph
from featurizers.lungs import WHOLE_IMAGE, LungBox, locate_lungs

DEFAULT_DATA = Path(__file__).parents[2].parent / "shared" / "data"


class Pair(NamedTuple):
    """One radiograph with its human lung mask."""

    data: bytes
    mask: npt.NDArray[np.bool_]  # (rows, columns)
    label: str
    held_out: bool

    @property
    def human_box(self) -> LungBox:
        """The bounding box of the mask."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        height, width = self.mask.shape
        return LungBox(columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)


class Score(NamedTuple):
    """How one box fits one mask."""

    iou: float
    lost: float
    quality: float


def read_pairs(folder: Path) -> list[Pair]:
    with (folder / "pairs.csv").open() as file:
        return [
            Pair(
                (folder / "images" / row["image"]).read_bytes(),
                np.asarray(Image.open(folder / "masks" / row["mask"])) == 255,
                row["label"],
                zlib.crc32(row["patient"].encode()) % 2 == 1,
            )
            for row in csv.DictReader(file)
        ]


def box_iou(a: LungBox, b: LungBox) -> float:
    width = max(min(a.right, b.right) - max(a.left, b.left), 0.0)
    height = max(min(a.bottom, b.bottom) - max(a.top, b.top), 0.0)
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def lost_share(mask: npt.NDArray[np.bool_], box: LungBox) -> float:
    """Share of the lung's pixels whose centre lies outside the box."""
    rows, columns = (np.arange(n) + 0.5 for n in mask.shape)
    inside_rows = (rows >= box.top * mask.shape[0]) & (rows <= box.bottom * mask.shape[0])
    inside_columns = (columns >= box.left * mask.shape[1]) & (columns <= box.right * mask.shape[1])
    return 1 - mask[np.ix_(inside_rows, inside_columns)].sum() / mask.sum()


def score_constant(pairs: list[Pair], box: LungBox) -> list[Score]:
    kept = box.expanded(CropSettings().margin)
    return [Score(box_iou(box, pair.human_box), lost_share(pair.mask, kept), float("nan")) for pair in pairs]


def score_located(pairs: list[Pair]) -> list[Score]:
    """IoU of the lung box; lung lost by the crop at the default settings, its fallback included."""
    scores = []
    for pair in pairs:
        pixels = decode_radiograph(pair.data).pixels
        location, crop = locate_lungs(pixels), crop_lungs(pixels)
        scores.append(Score(box_iou(location.box, pair.human_box), lost_share(pair.mask, crop.box), location.quality))
    return scores


def line(name: str, scores: list[Score]) -> str:
    iou, lost, quality = np.array(scores).T
    rho = spearmanr(quality, iou).statistic if np.isfinite(quality).all() else float("nan")
    return (
        f"{name:<28}{len(scores):>5}{iou.mean():>8.3f}{np.percentile(iou, 5):>8.3f}{100 * lost.mean():>9.2f}"
        f"{100 * (lost > 0.01).mean():>8.1f}{100 * (lost > 0.05).mean():>8.1f}{rho:>8.2f}"
    )


def milliseconds(call: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return 1000 * min(times)


def time_files(name: str, files: list[bytes]) -> str:
    rows = []
    for data in files:
        pixels = decode_radiograph(data).pixels
        crop = crop_lungs(pixels).pixels
        decode, locate = (
            milliseconds(lambda d=data: decode_radiograph(d)),
            milliseconds(lambda p=pixels: locate_lungs(p)),
        )
        both, encode = milliseconds(lambda p=pixels: crop_lungs(p)), milliseconds(lambda c=crop: encode_png(c))
        rows.append((pixels.size / 1e6, decode, locate, both - locate, encode, decode + both + encode, locate / decode))
    values = [median(column) for column in zip(*rows, strict=True)]
    return f"{name:<28}{len(files):>5}" + "".join(f"{value:>9.2f}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_DATA, help="folder with lung_masks/ (default: %(default)s)"
    )
    data: Path = parser.parse_args().data

    pairs = read_pairs(data / "lung_masks")
    held_out = [pair for pair in pairs if pair.held_out]
    human = np.array([edges(pair.human_box) for pair in pairs if not pair.held_out])
    mean_box = LungBox(*map(float, human.mean(axis=0)))

    print(f"held-out half: {len(held_out)} of {len(pairs)} radiographs; lung lost at margin {CropSettings().margin}")
    print(f"{'':<28}{'n':>5}{'IoU':>8}{'IoU p5':>8}{'lost %':>9}{'>1 % %':>8}{'>5 % %':>8}{'rho':>8}")
    print(line("whole image", score_constant(held_out, WHOLE_IMAGE)))
    print(line("mean box of tuning half", score_constant(held_out, mean_box)))
    located = score_located(held_out)
    print(line("projection", located))
    for label in sorted({pair.label for pair in held_out}):
        chosen = [score for score, pair in zip(located, held_out, strict=True) if pair.label == label]
        print(line(f"projection, {label}", chosen))

    print("\nmilliseconds, median over files of the best of 5")
    columns = ("MP", "decode", "locate", "crop", "encode", "all", "loc/dec")
    print(f"{'':<28}{'n':>5}" + "".join(f"{column:>9}" for column in columns))
    print(time_files("long side ≤ 512, JPEG", [pair.data for pair in held_out[:60]]))
    small = sorted((data / "kermany").glob("chest_xray/train/*/*.jpeg"))[::100]
    full = sorted((data / "kermany_full_resolution").glob("chest_xray/train/*/*.jpeg"))
    megapixel = [path for path in full if 0.7e6 < np.prod(Image.open(path).size) < 1.4e6]
    for name, paths in (("224 px, JPEG", small), ("0.7 to 1.4 MP, JPEG", megapixel)):
        if paths:
            print(time_files(name, [path.read_bytes() for path in paths]))


def edges(box: LungBox) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


if __name__ == "__main__":
    main()
