"""How fast extraction is: against a bare loop of the same backbone, common practice, other engines and PNG decoding.

Run from the repository's root, with nothing else on the machine:
  python tests/benchmarks/bench_extract.py [--lake LAKE] [--images 5000] [--out extract.csv] [PART …]

Parts, each measured against something in the same run:
  cpu      extraction on this machine's cores / the same compiled backbone in a bare loop over batches in memory
  rivals   the same crops by predict_batch_udf, a DataLoader loop, Ray Data and Daft (extract_rivals.py tells how)
  null     everything but the forward pass / two processes that only decode the crops' PNGs
  growth   the same at 2,000, 20,000 and 200,000 images, with the peak memory of driver and workers
  batches  the compiled loop with 16 and 64 images a batch / with 32
  exact    no speed: how near bf16 vectors, eager and compiled, come to float32's
  bare     no Spark and no Java: Parquet to Parquet in this process / the bare loop; for a GPU: --device cuda

Without parts: cpu and null. Ray and Daft are no dependencies: --python names one that has them beside ours. Without
--lake the crops are phantoms'. More images than there are crops are the same crops again under other ids.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import _root  # noqa: F401
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.backbones import get_backbone, load_weights
from featurizers.crops import decode_png, encode_png
from featurizers.embedder import Embedder
from featurizers.extractor import Precision
from featurizers.phantoms import draw_phantom
from pipelines.crop_feed import STUDIES_REMEDY, CropReader
from pipelines.folders import Folder
from pipelines.row_groups import row_groups
from pipelines.task_files import TaskWriter

PHANTOMS = 512
BACKBONE = "resnet50"
SECONDS_OF_BARE_LOOP = 15.0
GROWTH = (2_000, 20_000, 200_000)
#: FLOP of one ResNet-50 pass at 224 px, twice its 4.09 G multiply-adds (He et al. 2016, arXiv:1512.03385).
RESNET50_FLOP = 2 * 4.09e9
#: Dense bf16, NVIDIA's data sheet of the H100 and H200 SXM.
H200_BF16_FLOPS = 989e12
PARTS = ("cpu", "rivals", "null", "growth", "batches", "exact", "bare")
RIVALS = ("predict_batch_udf", "dataloader", "ray", "daft", "ray_ours", "daft_ours")
IN_OTHER_PYTHON = ("ray", "daft", "ray_ours", "daft_ours")


class Table:
    """The figures, printed as they come and kept as CSV."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, part: str, figure: str, value: float, against: str, baseline: float) -> None:
        """A figure and what it is compared with, both images/s."""
        ratio = value / baseline
        self.rows.append(
            {
                "part": part,
                "figure": figure,
                "images_per_second": round(value, 1),
                "against": against,
                "baseline_images_per_second": round(baseline, 1),
                "ratio": round(ratio, 3),
            }
        )
        print(f"{part:7} {figure:46} {value:9,.1f} images/s  {ratio:6.2f} of {against} ({baseline:,.1f})", flush=True)

    def write(self, file: Path) -> None:
        """As CSV."""
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)


# --- crops ------------------------------------------------------------------------------------------------------------


def phantom_crops() -> list[bytes]:
    """PNGs of phantoms, 224 pixels a side."""
    return [encode_png(draw_phantom(seed, size=(224, 224)).pixels) for seed in range(PHANTOMS)]


def crops_of(lake: str) -> list[bytes]:
    """The crops of a lake."""
    files = sorted(Path(lake, "studies").glob("run=*/*.parquet"))
    return [crop for file in files for crop in pq.read_table(file, columns=["crop"])["crop"].to_pylist()]


def write_lake(folder: Path, crops: list[bytes], images: int) -> Path:
    """A lake of `images` studies; what a study tells beside its crop is left out where the schema lets it be."""
    from pipelines.lake import Lake  # noqa: PLC0415  needs pyspark, and `bare` does not
    from pipelines.tables import STUDIES  # noqa: PLC0415

    lake = Lake.create(str(folder))
    run = lake.studies.folder.new_run()
    Path(run.path).mkdir(parents=True)
    for start in range(0, images, 2048):
        numbers = range(start, min(start + 2048, images))
        told = {
            "image_id": [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers],
            "crop": [crops[number % len(crops)] for number in numbers],
            "split": ["train"] * len(numbers),
            "findings": [[("normal", 1), ("pneumonia", 0)]] * len(numbers),
        }
        columns = [pa.array(told.get(each.name, [None] * len(numbers)), each.type) for each in STUDIES]
        table = pa.table(columns, schema=STUDIES)
        pq.write_table(table, f"{run.path}/part-{start:08}.parquet", row_group_size=512)
    run.commit()
    return folder


# --- ceilings and baselines -------------------------------------------------------------------------------------------


def bare_loop(embedder: Embedder, crops: list[bytes]) -> float:
    """images/s of the same backbone over batches in memory; on a GPU over one that stays on it."""
    size = embedder.batch_size
    pixels = [decode_png(crop) for crop in crops[: max(512, size)]]
    batches = [np.stack(pixels[at : at + size]) for at in range(0, len(pixels) - size + 1, size)]
    done, start = 0, time.monotonic()
    for batch in itertools.cycle(batches):
        if embedder.cuda:
            embedder.cuda.replay()
        else:
            embedder.forward(batch)
        done += size
        if embedder.cuda and done % (64 * size) == 0:
            # Or passes would pile up unseen by the clock.
            embedder.cuda.wait()
        if time.monotonic() - start > SECONDS_OF_BARE_LOOP:
            break
    if embedder.cuda:
        embedder.cuda.wait()
    return done / (time.monotonic() - start)


def _decode(crops: list[bytes]) -> float:
    start = time.perf_counter()
    for crop in crops:
        decode_png(crop)
    return len(crops) / (time.perf_counter() - start)


def decode_limit(crops: list[bytes]) -> float:
    """images/s of two processes that decode PNGs and do nothing else."""
    some = (crops * 10)[:5000]
    with get_context("spawn").Pool(2) as pool:
        pool.map(_decode, [some[:200]] * 2)
        return sum(pool.map(_decode, [some] * 2))


# --- extraction -------------------------------------------------------------------------------------------------------


def extraction(lake: Path, **settings: object) -> dict[str, Any]:
    """Extract, from nothing; the record's counts and timings, and `steady`, images/s from the first images on."""
    from pipelines.extract import ExtractConfig, extract  # noqa: PLC0415  see above

    shutil.rmtree(lake / "features", ignore_errors=True)
    given = {"lake": str(lake), "backbone": {"name": BACKBONE, "weights": "random"}} | settings
    record = extract(ExtractConfig.model_validate(given))
    print(record, flush=True)
    seconds, images = record.timings["extract"], record.counts["images"]
    start = record.timings["until first images"]
    return {"steady": images / (seconds - start), "whole": images / seconds, "start": start, "record": record}


def nulled() -> None:
    """From here on, extractions have everything but the forward pass."""
    import pipelines.extract as module  # noqa: PLC0415  see above

    class Nulled(module.ExtractWorker):  # type: ignore[name-defined,misc]
        # Of this program, so that it travels to the workers as it is.
        def embed(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            def forward(_: Embedder, batch: np.ndarray) -> np.ndarray:
                return np.asarray(batch.reshape(len(batch), -1)[:, 20_000:22_048], np.float32) / 255

            Embedder.forward = forward  # type: ignore[method-assign]
            return super().embed(batches)  # type: ignore[no-any-return]

    module.ExtractWorker = Nulled  # type: ignore[attr-defined,misc]


class PeakMemory:
    """A context that watches the resident memory of this process's children, MB: JVMs and Python workers apart."""

    def __enter__(self) -> PeakMemory:
        self.java = self.python = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            sizes = {"java": 0, "python": 0}
            for process in psutil.Process().children(recursive=True):
                try:
                    kind = "java" if "java" in process.name() else "python"
                    sizes[kind] = max(sizes[kind], process.memory_info().rss // 2**20)
                except psutil.Error:
                    continue
            self.java, self.python = max(self.java, sizes["java"]), max(self.python, sizes["python"])


# --- parts ------------------------------------------------------------------------------------------------------------


def cpu(table: Table, crops: list[bytes], folder: Path, images: int) -> float:
    """Extraction against the bare loop; gives extraction's images/s."""
    lake = write_lake(folder / "cpu", crops, images)
    embedder = Embedder(BACKBONE, load_weights(get_backbone(BACKBONE), "random"), compiled=True)
    embedder.warm_up()
    before = bare_loop(embedder, crops)
    found = extraction(lake, compile="always")
    # The machine's speed drifts: the loop is timed before and after.
    after = bare_loop(embedder, crops)
    bare = statistics.mean((before, after))
    print(f"bare compiled loop: {before:.1f} images/s before, {after:.1f} after; start-up {found['start']:.0f} s")
    table.add("cpu", "extraction, from its first images on", found["steady"], "bare compiled loop", bare)
    table.add("cpu", f"extraction, all of it, {images:,} images", found["whole"], "bare compiled loop", bare)
    return float(found["steady"])


def batches(table: Table, crops: list[bytes]) -> None:
    """The compiled loop by batch size."""
    weights = load_weights(get_backbone(BACKBONE), "random")
    speeds = {}
    for size in (32, 16, 64, 32):
        embedder = Embedder(BACKBONE, weights, compiled=True, batch_size=size)
        embedder.warm_up()
        speeds.setdefault(size, []).append(bare_loop(embedder, crops))
    usual = statistics.mean(speeds.pop(32))
    for size, found in speeds.items():
        table.add("batches", f"compiled loop, {size} images a batch", statistics.mean(found), "32 a batch", usual)


def exact(crops: list[bytes]) -> None:
    """Cosines of bf16 vectors to float32's."""
    weights = load_weights(get_backbone(BACKBONE), "random")
    few = [decode_png(crop) for crop in crops[:256]]
    expected = Embedder(BACKBONE, weights, precision=Precision.FP32).embed(few)
    print(f"cosine to fp32 on {len(few)} crops: smallest (with the mean vector taken off: smallest, mean)")
    for name, compiled in (("eager bf16", False), ("compiled bf16", True)):
        vectors = Embedder(BACKBONE, weights, compiled=compiled).embed(few)
        centred = cosine(expected - expected.mean(0), vectors - expected.mean(0))
        smallest = cosine(expected, vectors).min()
        print(f"  {name:13} {smallest:.6f} ({centred.min():.4f}, {centred.mean():.4f})")


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row."""
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def rivals(
    table: Table, crops: list[bytes], folder: Path, ours: float, *, python: str | None, images: int, names: list[str]
) -> None:
    """Extraction's images/s against what others make of the same crops."""
    lake = write_lake(folder / "rivals", crops, images)
    for name in names:
        if name in IN_OTHER_PYTHON and not python:
            print(f"{name}: left out, for want of --python", flush=True)
            continue
        command = [
            python if name in IN_OTHER_PYTHON and python else sys.executable,
            str(Path(__file__).with_name("extract_rivals.py")),
            name,
            *("--studies", str(lake / "studies"), "--output", str(folder / name)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        told = json.loads(done.stdout.strip().splitlines()[-1])
        table.add("rivals", "extraction", ours, f"{name}, once it is set up", told["images_per_second"])


def null(table: Table, crops: list[bytes], folder: Path, images: int) -> None:
    """Everything but the forward pass against the decoding of PNGs."""
    lake = write_lake(folder / "null", crops, images)
    nulled()
    before = decode_limit(crops)
    found = extraction(lake, master="local[2]", compile="never")
    limit = statistics.mean((before, decode_limit(crops)))
    table.add("null", "extraction without forward pass, steady", found["steady"], "PNGs decoded by 2 processes", limit)


def growth(table: Table, crops: list[bytes], folder: Path) -> None:
    """The same at ten and a hundred times as many images, and the memory that it takes."""
    nulled()
    first = 0.0
    for images in GROWTH:
        lake = write_lake(folder / "growth", crops, images)
        with PeakMemory() as memory:
            # As many commits as a long job has, whatever this machine's speed.
            found = extraction(lake, master="local[2]", compile="never", chunk_images=20_000)
        first = first or found["steady"]
        figure = f"{images:,} images (JVM {memory.java:,} MB, a worker {memory.python:,} MB)"
        table.add("growth", figure, found["steady"], f"{GROWTH[0]:,} images", first)
        shutil.rmtree(lake)


def bare(table: Table, crops: list[bytes], folder: Path, images: int, device: str) -> None:
    """Parquet to Parquet in this process, without Spark and Java."""
    file = folder / "crops.parquet"
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(images)]
    rows = pa.table({"image_id": ids, "crop": [crops[number % len(crops)] for number in range(images)]})
    pq.write_table(rows, file, row_group_size=512)
    embedder = Embedder(BACKBONE, load_weights(get_backbone(BACKBONE), "random"), device=device, compiled=True)
    embedder.warm_up()
    before = bare_loop(embedder, crops)
    schema = pa.schema([("image_id", pa.string()), ("features", pa.list_(pa.float32()))])
    start = time.monotonic()
    with TaskWriter(Folder.at(str(folder / "run=bare")), schema) as writer:
        for embedded in embedder.embed_pngs(CropReader(row_groups([str(file)], STUDIES_REMEDY))):
            offsets = np.arange(0, (len(embedded.keys) + 1) * embedder.feature_dim, embedder.feature_dim, np.int32)
            lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(embedded.features.reshape(-1)))
            writer.write(pa.RecordBatch.from_arrays([pa.array(embedded.keys), lists], schema=schema))
    found = images / (time.monotonic() - start)
    ceiling = statistics.mean((before, bare_loop(embedder, crops)))
    table.add("bare", f"Parquet to Parquet on {device}", found, "bare compiled loop", ceiling)
    print(f"  by stage, s: {embedder.stages}")
    if device != "cpu":
        share = ceiling * RESNET50_FLOP / H200_BF16_FLOPS
        print(f"  the ceiling itself: {ceiling:,.0f} images/s, {share:.1%} of an H200's dense bf16 rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--lake", help="take the crops of this lake")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rival-images", type=int, default=1024)
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--python", help="a Python that has Ray and Daft beside what we need")
    parser.add_argument("--device", default="cpu", help="of part bare")
    parser.add_argument("--out", type=Path, default=Path("extract.csv"))
    given = parser.parse_args()
    parts = given.parts or ["cpu", "null"]
    if wrong := sorted(set(parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(wrong)}")
    crops = crops_of(given.lake) if given.lake else phantom_crops()
    table = Table()
    with tempfile.TemporaryDirectory(prefix="pleura-bench-") as name:
        folder = Path(name)
        if "bare" in parts:
            bare(table, crops, folder, given.images, given.device)
        if "cpu" in parts or "rivals" in parts:
            ours = cpu(table, crops, folder, given.images)
            if "rivals" in parts:
                rivals(table, crops, folder, ours, python=given.python, images=given.rival_images, names=given.rivals)
        if "batches" in parts:
            batches(table, crops)
        if "exact" in parts:
            exact(crops)
        # What follows has no forward pass any more.
        if "null" in parts:
            null(table, crops, folder, 4 * given.images)
        if "growth" in parts:
            growth(table, crops, folder)
    if table.rows:
        table.write(given.out)


if __name__ == "__main__":
    main()
