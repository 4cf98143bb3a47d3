"""How near ingest comes to its bare functions: images/s from files to committed studies, against a process pool.

Run from the repository's root, with nothing else on the machine:
  python tests/benchmarks/bench_ingest.py [--images N] [--kinds jpeg png dicom small] [--csv FILE]

For each kind of file both sides read, decode, crop and encode the same files in one run, one process per core:
  jpeg   about 1 megapixel, 8 bits
  png    1024 x 1024, 8 bits
  dicom  2048 x 2048, 12 bits, not compressed
  small  224 x 224 JPEG: what a copy of a public set holds, where Spark's own costs show most
Ingest is timed as its run.json tells it: from the first listed input to the last commit. The start of Spark and of its
workers is left out, as is the pool's: each side works on some of the files first. The peak memory of a Python worker
with the child that does its work is told beside.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import _root  # noqa: F401
import numpy as np
import psutil
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from featurizers.crops import CropSettings, crop_lungs, encode_png
from featurizers.decode import decode_radiograph
from featurizers.finders import open_finder
from featurizers.lungs import LungFinder
from featurizers.phantoms import draw_phantom
from pipelines.ingest import IngestConfig, ingest
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.session import spark_session

#: Drawing costs a second an image; each drawing is written many times, every time with bytes of its own.
DRAWINGS = 12
#: Files that both sides work on before the clock starts: Python workers start, and the JVM compiles its code.
WARM_UP = 64


def jpeg(shape: tuple[int, int]) -> Callable[[int], bytes]:
    """Writes drawings of a shape as JPEG; a comment makes each file's bytes its own."""
    drawn = [Image.fromarray(draw_phantom(seed, size=shape).pixels) for seed in range(DRAWINGS)]

    def write(number: int) -> bytes:
        buffer = io.BytesIO()
        drawn[number % DRAWINGS].save(buffer, "JPEG", quality=92, comment=str(number))
        return buffer.getvalue()

    return write


def png() -> Callable[[int], bytes]:
    """Writes 1024² PNGs; the first pixels make each file's bytes its own."""
    drawn = [draw_phantom(seed, size=(1024, 1024)).pixels for seed in range(DRAWINGS)]

    def write(number: int) -> bytes:
        pixels = drawn[number % DRAWINGS].copy()
        pixels[0, :4] = list(number.to_bytes(4, "big"))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    return write


def dicom() -> Callable[[int], bytes]:
    """Writes 2048² DICOM files of 12 bits, with the noise of a detector below the picture's 8."""
    rng = np.random.default_rng(0)
    drawn = []
    for seed in range(DRAWINGS):
        fine = rng.integers(0, 16, (2048, 2048), dtype=np.uint16)
        drawn.append(draw_phantom(seed, size=(2048, 2048)).pixels.astype(np.uint16) * np.uint16(16) + fine)
    return lambda number: dicom_file(number, drawn[number % DRAWINGS])


def dicom_file(number: int, pixels: np.ndarray) -> bytes:
    """One chest radiograph of 12 bits, not compressed."""
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.Modality, dataset.BodyPartExamined = f"P{number}", "CR", "CHEST"
    dataset.Rows, dataset.Columns = 2048, 2048
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


#: Source, how many files by default (some ten seconds of work), and what writes them.
KINDS: dict[str, tuple[str, int, Callable[[], Callable[[int], bytes]]]] = {
    "jpeg": ("kermany", 4000, lambda: jpeg((880, 1160))),
    "png": ("kermany", 1500, png),
    "dicom": ("dicom", 1200, dicom),
    "small": ("kermany", 6000, lambda: jpeg((224, 224))),
}


def bare(path: str) -> int:
    """What ingest does with one file, without Spark and without a lake."""
    pixels = decode_radiograph(Path(path).read_bytes()).pixels
    return len(encode_png(crop_lungs(pixels, CropSettings(), finder()).pixels))


@cache
def finder() -> LungFinder:
    """The one that ingest uses unless told otherwise."""
    return open_finder("segmenter")


def pool_images_per_second(paths: list[str]) -> float:
    """The bare functions in one process per core; starting the processes is not counted."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(bare, paths[:WARM_UP], chunksize=8))
        start = time.monotonic()
        list(pool.map(bare, paths, chunksize=32))
        return len(paths) / (time.monotonic() - start)


class WorkerMemory:
    """A context that watches the Python processes below Spark's JVM: their own memory (USS), the largest sum of one
    worker and its child."""

    def __enter__(self) -> WorkerMemory:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark.daemon" in " ".join(process.cmdline()):
                        family = [process, *process.children()] if process.parent() else []
                        own = [each.memory_info().rss for each in family[:1]] + [
                            each.memory_full_info().uss for each in family[1:]
                        ]
                        self.peak = max(self.peak, sum(own) if len(own) <= 2 else 0)
                except psutil.Error:
                    continue


@dataclass(frozen=True)
class Figure:
    """One kind's result."""

    kind: str
    images: int
    pool: float
    ingest: float
    ratio: float
    worker_mb: float


def config(source: str, archive: Path, folder: Path) -> IngestConfig:
    """An ingest of the archive into a lake of its own."""
    lake = str(folder / f"{archive.name}-lake")
    return IngestConfig.model_validate({"source": source, "archive": str(archive), "lake": lake})


def measure(kind: str, images: int, folder: Path) -> Figure:
    """Write the files, run both sides, remove the files."""
    source, _, maker = KINDS[kind]
    write = maker()
    place = folder / kind / ("train/NORMAL" if source == "kermany" else "studies")
    place.mkdir(parents=True)
    paths = []
    for number in range(images):
        path = place / (f"IM-{number:05d}-0001.jpeg" if source == "kermany" else f"IM{number:06d}")
        path.write_bytes(write(number))
        paths.append(str(path))
    warm = folder / f"{kind}-warm"
    (warm / place.relative_to(folder / kind)).mkdir(parents=True)
    for path in paths[:WARM_UP]:
        shutil.copy(path, warm / Path(path).relative_to(folder / kind))
    ingest(config(source, warm, folder))
    before = pool_images_per_second(paths)
    with WorkerMemory() as memory:
        record = ingest(config(source, folder / kind, folder))
    after = pool_images_per_second(paths)
    assert record.counts["studies"] == images, record.counts
    print(f"{kind}: { ({name: round(seconds, 1) for name, seconds in record.timings.items()}) }")
    shutil.rmtree(folder / kind)
    pool, speed = (before + after) / 2, images / record.timings["ingest"]
    return Figure(kind, images, round(pool, 1), round(speed, 1), round(speed / pool, 2), round(memory.peak / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="files of each kind; default: some ten seconds of work")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--csv", help="also write the table to this file")
    arguments = parser.parse_args()
    os.environ.setdefault(KEY_VARIABLE, "a key for a benchmark, no secret")
    folder = Path(tempfile.mkdtemp(prefix="pleura-bench-"))
    try:
        with spark_session("bench_ingest", None):
            figures = [measure(kind, arguments.images or KINDS[kind][1], folder) for kind in arguments.kinds]
    finally:
        shutil.rmtree(folder)
    print(f"\n{'kind':8}{'images':>8}{'pool/s':>10}{'ingest/s':>10}{'ratio':>8}{'worker MB':>11}")
    for figure in figures:
        row = f"{figure.kind:8}{figure.images:>8,}{figure.pool:>10.1f}{figure.ingest:>10.1f}{figure.ratio:>8.2f}"
        print(f"{row}{figure.worker_mb:>11,.0f}")
    if arguments.csv:
        with Path(arguments.csv).open("w", newline="") as file:
            table = csv.DictWriter(file, list(asdict(figures[0])))
            table.writeheader()
            table.writerows(asdict(figure) for figure in figures)


if __name__ == "__main__":
    main()
