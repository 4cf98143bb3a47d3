"""How near ingest comes to its bare functions: images/s from files to committed studies, against a process pool.

Run from the repository's root, with nothing else on the machine:
  python tests/benchmarks/bench_ingest.py [--archive DIR] [--images 2000]

Both sides read, decode, crop and encode the same files, one process per core, in one run. Without --archive the files
are phantoms in Kermany's layout.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import _root  # noqa: F401

from featurizers.crops import crop_lungs, encode_png
from featurizers.decode import decode_radiograph
from pipelines.folders import Folder
from pipelines.ingest import IngestConfig, ingest
from pipelines.lake import Lake
from pipelines.phantoms import PhantomsConfig, make_phantoms
from pipelines.sources.kermany import KermanySource


def bare(path: str) -> int:
    """What ingest does with one file, without Spark and without a lake."""
    return len(encode_png(crop_lungs(decode_radiograph(Path(path).read_bytes()).pixels).pixels))


def pool_images_per_second(paths: list[str]) -> float:
    """The bare functions in one process per core; starting the processes is not counted."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(bare, paths[:64], chunksize=8))
        start = time.monotonic()
        list(pool.map(bare, paths, chunksize=32))
        return len(paths) / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", help="an archive in Kermany's layout")
    parser.add_argument("--images", type=int, default=2000, help="phantoms to draw without --archive")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pleura-bench-"))
    try:
        archive = arguments.archive or str(folder / "archive")
        if not arguments.archive:
            make_phantoms(PhantomsConfig(out=archive, studies=arguments.images, long_side=256))
        paths = [f"{archive}/{record.path}" for record in KermanySource(Folder.at(archive)).records()]
        before = pool_images_per_second(paths)
        print(ingest(IngestConfig(source="kermany", archive=archive, lake=str(folder / "lake"))))
        after = pool_images_per_second(paths)
        studies = Lake.open(str(folder / "lake")).studies.folder
        (job,) = (studies / "_jobs").names()
        seconds = (studies / "_jobs" / job).read_json("run.json")["timings"]["ingest"]
        pool = (before + after) / 2
        print(f"\nbare functions in a pool  {pool:7.1f} images/s (before {before:.1f}, after {after:.1f})")
        speed = len(paths) / seconds
        print(f"ingest without Spark's start {speed:6.1f} images/s  ratio {speed / pool:.2f}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
