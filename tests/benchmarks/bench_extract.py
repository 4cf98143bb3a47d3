"""How near extraction comes to the bare backbone: images/s from crops to committed features, against a bare loop.

Run from the repository's root, with nothing else on the machine:
  python tests/benchmarks/bench_extract.py [--lake LAKE] [--images 3000]

Both sides use the same compiled backbone, batch and threads, in one run. Without --lake the crops are phantoms'.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import shutil
import tempfile
import time
from pathlib import Path

import _root  # noqa: F401
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.backbones import get_backbone, load_weights
from featurizers.crops import decode_png, encode_png
from featurizers.embedder import Embedder
from featurizers.extractor import Precision
from featurizers.phantoms import draw_phantom
from pipelines.extract import ExtractConfig, extract
from pipelines.extract_config import BackboneConfig
from pipelines.lake import Lake
from pipelines.tables import STUDIES, Table

PHANTOMS = 48
SECONDS_OF_BARE_LOOP = 15.0


def write_phantom_lake(folder: Path, images: int) -> Lake:
    """A lake of `images` distinct crops: some phantoms, each with fresh noise."""
    lake = Lake.create(str(folder))
    run = lake.studies.folder.new_run()
    Path(run.path).mkdir(parents=True)
    rng = np.random.default_rng(0)
    drawn = [draw_phantom(seed, size=(224, 224)).pixels for seed in range(PHANTOMS)]
    rows_per_file = 1024
    findings = [("normal", 1), ("pneumonia", 0)]
    for start in range(0, images, rows_per_file):
        crops = [
            encode_png(np.clip(drawn[i % PHANTOMS] + rng.normal(0, 4, (224, 224)), 0, 255).astype(np.uint8))
            for i in range(start, min(start + rows_per_file, images))
        ]
        ids = [hashlib.sha256(crop).hexdigest() for crop in crops]
        rows = {"image_id": ids, "crop": crops, "split": ["train"] * len(crops), "findings": [findings] * len(crops)}
        columns = [pa.array(rows.get(f.name, [None] * len(crops)), f.type) for f in STUDIES]
        pq.write_table(pa.table(columns, schema=STUDIES), f"{run.path}/part-{start:08}.parquet", row_group_size=512)
    run.commit()
    return lake


def copy_studies(source: Lake, folder: Path, images: int) -> Lake:
    """A lake with some studies of another."""
    lake = Lake.create(str(folder))
    table = source.studies.to_arrow(STUDIES.names).slice(0, images)
    run = lake.studies.folder.new_run()
    Path(run.path).mkdir(parents=True)
    for start in range(0, len(table), 1024):
        pq.write_table(table.slice(start, 1024), f"{run.path}/part-{start:08}.parquet", row_group_size=512)
    run.commit()
    return lake


def read_crops(table: Table, number: int) -> list[np.ndarray]:
    """Some decoded crops."""
    return [decode_png(crop) for crop in table.to_arrow(["crop"])["crop"].slice(0, number).to_pylist()]


def bare_images_per_second(embedder: Embedder, crops: list[np.ndarray]) -> float:
    """The same backbone, batch by batch, from memory."""
    size = embedder.batch_size
    batches = [np.stack(crops[i : i + size]) for i in range(0, len(crops) - size + 1, size)]
    done, start = 0, time.monotonic()
    for batch in itertools.cycle(batches):
        embedder.forward(batch)
        done += size
        if time.monotonic() - start > SECONDS_OF_BARE_LOOP:
            break
    return done / (time.monotonic() - start)


def cosine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row."""
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", help="take the studies of this lake")
    parser.add_argument("--images", type=int, default=3000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pleura-bench-"))
    try:
        if arguments.lake:
            lake = copy_studies(Lake.open(arguments.lake), folder / "lake", arguments.images)
        else:
            lake = write_phantom_lake(folder / "lake", arguments.images)
        crops = read_crops(lake.studies, 512)
        weights = load_weights(get_backbone("resnet50"), "random")

        few = crops[:256]
        exact = Embedder("resnet50", weights, precision=Precision.FP32).embed(few)
        eager = Embedder("resnet50", weights).embed(few)
        embedder = Embedder("resnet50", weights, compiled=True)
        start = time.monotonic()
        embedder.warm_up()
        compiling = time.monotonic() - start
        compiled = embedder.embed(few)
        print(f"cosine to fp32 on {len(few)} crops, smallest (with the mean vector taken off: smallest, mean)")
        for name, vectors in (("eager bf16", eager), ("compiled bf16", compiled)):
            centred = cosine(exact - exact.mean(0), vectors - exact.mean(0))
            print(f"  {name:13} {cosine(exact, vectors).min():.6f} ({centred.min():.4f}, {centred.mean():.4f})")

        before = bare_images_per_second(embedder, crops)
        summary = extract(
            ExtractConfig(lake=str(lake.folder.uri), backbone=BackboneConfig(weights="random"), compile="always")
        )
        after = bare_images_per_second(embedder, crops)
        print(summary)
        features = lake.features(lake.choose_extractor(None)).folder
        (job,) = (features / "_jobs").names()
        record = (features / "_jobs" / job).read_json("run.json")
        images, timings = record["counts"]["images"], record["timings"]
        seconds, setup = timings["extract"], timings["model_setup"]
        # The machine's speed drifts: the loop is timed before and after.
        bare = (before + after) / 2
        steady, whole = images / (seconds - setup), images / seconds
        print(f"\nbare compiled loop     {bare:6.1f} images/s (before {before:.1f}, after {after:.1f})")
        print(f"extraction, steady     {steady:6.1f} images/s  ratio {steady / bare:.2f}")
        print(f"extraction, all of it  {whole:6.1f} images/s  ratio {whole / bare:.2f}")
        print(f"  {images:,} images; {setup:.0f} s to load and compile, {compiling:.0f} s for the bare loop before it")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
