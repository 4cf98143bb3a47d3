"""Whether memory grows with the archive: peak memory of driver and workers at two sizes, in fresh processes.

Run from the repository's root:  python tests/benchmarks/bench_memory.py [--small 2000] [--factor 4]

The driver: peak RSS of its Python process and live heap of its JVM (after a collection) over a whole ingest of a
manifest on `local-cluster`, where executors are processes of their own. The workers: peak RSS of a process that runs
one task's function over a partition of either size.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import _root  # noqa: F401
import numpy as np
import pandas as pd
import pyarrow as pa

from featurizers.backbones import get_backbone, load_weights
from featurizers.crops import CropSettings, encode_png
from featurizers.embedder import Embedder
from featurizers.finders import open_finder
from featurizers.radiograph import DecodeLimits
from pipelines.archives import FileImages
from pipelines.folders import Folder
from pipelines.identities import Identities
from pipelines.ingest import IngestConfig, ingest
from pipelines.ingest_worker import StudyReader, WorkerLimits
from pipelines.listing import LISTING
from pipelines.policy import Policy
from pipelines.pseudonyms import Pseudonymizer
from pipelines.session import spark_session
from pipelines.splits import SplitFractions

SIDE = 64
BATCH = 64


def crop(seed: int) -> bytes:
    """A distinct small image."""
    return encode_png(np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE), dtype=np.uint8))


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def driver(folder: Path, images: int) -> dict[str, float]:
    """Ingest a manifest of `images` files on executors of their own."""
    archive = folder / f"archive{images}"
    archive.mkdir()
    for number in range(images):
        (archive / f"{number}.png").write_bytes(crop(number))
    rows = {"path": [f"{n}.png" for n in range(images)], "patient_id": [f"p{n}" for n in range(images)], "Mass": "1"}
    pd.DataFrame(rows).to_csv(archive / "labels.csv", index=False)
    os.environ["PLEURA_PSEUDONYM_KEY"] = "k" * 32
    config = IngestConfig(
        source="manifest", archive=str(archive), lake=str(folder / f"lake{images}"), chunk_images=500,
    )  # fmt: skip
    with spark_session("bench_memory", "local-cluster[1,1,1024]") as spark:
        ingest(config)
        runtime = spark._jvm.java.lang.Runtime.getRuntime()  # type: ignore[union-attr]
        spark._jvm.System.gc()  # type: ignore[union-attr]
        heap = (runtime.totalMemory() - runtime.freeMemory()) / 2**20
    return {"driver Python, peak RSS MB": peak_mb(), "driver JVM, live heap MB": heap}


def reader(folder: Path, images: int) -> dict[str, float]:
    """One ingest task over a partition of `images` rows."""
    (folder / "one").mkdir(exist_ok=True)
    (folder / "one" / "x.png").write_bytes(crop(0))

    def batches() -> Iterator[pa.RecordBatch]:
        row = dict.fromkeys(LISTING.names) | {"path": "x.png", "findings": [], "boxes": []}
        for start in range(0, images, BATCH):
            yield pa.RecordBatch.from_pylist([row | {"position": start + i} for i in range(BATCH)], LISTING)

    study_reader = StudyReader(
        FileImages(Folder.at(str(folder / "one")), 2**20),
        Identities(Pseudonymizer(b"", "one"), SplitFractions(0.1, 0.1), are_public=True),
        Policy(frozenset(), images_are_chosen=True),
        WorkerLimits(DecodeLimits(), seconds=60, memory=2**31),
        CropSettings(),
        open_finder("segmenter"),
    )
    rows = sum(batch.num_rows for batch in study_reader.read_all(batches()))
    assert rows >= images
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"ingest worker, peak RSS MB": peak_mb(), "its child, peak RSS MB": child}


def embedder(folder: Path, images: int) -> dict[str, float]:
    """One extraction task over a partition of `images // 10` crops."""
    model = Embedder("resnet50", load_weights(get_backbone("resnet50"), "random"), threads=2)
    png = crop(0)
    done = sum(len(part.keys) for part in model.embed_pngs((n, png) for n in range(images // 10)))
    assert done == images // 10
    return {"extraction worker, peak RSS MB": peak_mb()}


ROLES = {"driver": driver, "reader": reader, "embedder": embedder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        print(json.dumps(ROLES[arguments.role](arguments.folder, arguments.small)))
        return
    folder = Path(tempfile.mkdtemp(prefix="pleura-bench-"))
    try:
        sizes = (arguments.small, arguments.small * arguments.factor)
        print(f"{'':34} {sizes[0]:>9,} {sizes[1]:>9,} images  ratio")
        for role in ROLES:
            small, large = (measure(role, folder, size) for size in sizes)
            for name in small:
                print(f"{name:34} {small[name]:9.0f} {large[name]:9.0f}         {large[name] / small[name]:.2f}")
    finally:
        shutil.rmtree(folder)


def measure(role: str, folder: Path, images: int) -> dict[str, float]:
    """Run a role in a fresh process."""
    command = [sys.executable, __file__, "--role", role, "--folder", str(folder), "--small", str(images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


if __name__ == "__main__":
    main()
