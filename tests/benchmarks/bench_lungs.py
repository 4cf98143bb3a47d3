"""How fast the lungs are found and cropped: milliseconds per image on one core, for every finder that opens.

Radiographs are phantoms of the sizes asked for, stored as JPEG; the atlas holds phantoms too. How well the lungs are
found is measured by `jobs/evaluate_lungs.py`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import get_args

import _root  # noqa: F401
import numpy as np
import torch
from PIL import Image

from featurizers.crops import CropSettings, crop_lungs, encode_png
from featurizers.decode import decode_radiograph
from featurizers.errors import FeaturizerError
from featurizers.finders import FinderName, open_finder
from featurizers.lungs import LungFinder, Lungs
from featurizers.phantoms import draw_phantom
from featurizers.radiograph import Pixels

#: Width × height in pixels, and the one whose decoding finding is compared with.
SIZES = ("224x224", "512x512", "1024x1024", "2048x2048", "3072x2048")
MEGAPIXEL = "1024x1024"
#: Gives 1.3 bits a pixel; Kermany's JPEGs have 0.6 to 2.5.
JPEG_QUALITY = 90
#: As in the published atlas method: a few dozen pairs.
ATLAS_PAIRS = 40
#: Calls are repeated so long, but no fewer than `FEWEST` times; the fastest counts.
SECONDS, FEWEST = 0.4, 3


@dataclass(frozen=True)
class Known:
    """A finder that has found already: what is left of cropping is the crop."""

    name: str
    lungs: Lungs
    min_quality: float = 0.0
    description: str = "known"

    def find(self, pixels: Pixels) -> Lungs:
        return self.lungs


def milliseconds(call: Callable[[], object]) -> float:
    times: list[float] = []
    while len(times) < FEWEST or sum(times) < SECONDS:
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return 1000 * min(times)


def draw_jpeg(size: str) -> bytes:
    width, height = map(int, size.split("x"))
    buffer = BytesIO()
    Image.fromarray(draw_phantom(3, ["viral"], (height, width)).pixels).save(
        buffer, format="JPEG", quality=JPEG_QUALITY
    )
    return buffer.getvalue()


def write_atlas(folder: Path) -> Path:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number in range(ATLAS_PAIRS):
        phantom = draw_phantom(100 + number, ["normal"], (256, 288))
        Image.fromarray(phantom.pixels).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.where(phantom.lung_mask, np.uint8(255), np.uint8(0))).save(
            folder / "masks" / f"{number}.png"
        )
    return folder


def open_all() -> list[LungFinder]:
    finders = []
    with tempfile.TemporaryDirectory(prefix="pleura-bench-") as folder:
        atlas = write_atlas(Path(folder))
        for name in get_args(FinderName):
            try:
                finders.append(open_finder(name, atlas=atlas if name == "atlas" else None))
            except FeaturizerError as error:
                print(f"{name} is left out: {error}")
    return finders


def time_size(size: str, finders: list[LungFinder], megapixel: float) -> None:
    data = draw_jpeg(size)
    pixels = decode_radiograph(data).pixels
    decode = milliseconds(lambda: decode_radiograph(data))
    for finder in finders:
        known = Known(finder.name, finder.find(pixels))
        crop = crop_lungs(pixels, CropSettings(), known).pixels
        find = milliseconds(lambda finder=finder: finder.find(pixels))
        cut = milliseconds(lambda known=known: crop_lungs(pixels, CropSettings(), known))
        encode = milliseconds(lambda crop=crop: encode_png(crop))
        print(
            f"{size:>10}  {finder.name:<12}{decode:>8.2f}{find:>9.2f}{cut:>8.2f}{encode:>8.2f}"
            f"{decode + find + cut + encode:>9.2f}{find / megapixel:>10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="WIDTHxHEIGHT (default: %(default)s)")
    sizes: list[str] = parser.parse_args().sizes

    # One core for everything: libraries that count the machine's cores would start a thread on each.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    finders = open_all()
    data = draw_jpeg(MEGAPIXEL)
    megapixel = milliseconds(lambda: decode_radiograph(data))
    print(f"decoding a JPEG of {MEGAPIXEL} takes {megapixel:.2f} ms: the 1 of the last column")
    columns = f"{'decode':>8}{'find':>9}{'crop':>8}{'encode':>8}{'all':>9}{'find/1MP':>10}"
    print(f"\nmilliseconds per image on one core, the fastest of several\n{'size':>10}  {'finder':<12}{columns}")
    for size in sizes:
        time_size(size, finders, megapixel)


if __name__ == "__main__":
    main()
