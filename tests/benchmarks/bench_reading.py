"""Reading labelled features against pyarrow reading the column bare: their speeds' ratio, and how memory grows.

Run from the repository's root:  python tests/benchmarks/bench_reading.py [--images 40000] [--dim 2048] [--pairs 9]

The features are drawn into a temporary lake, in files as extraction writes them, and lie in the page cache for both.
`read_labelled` does all of its work: it lists files, joins, works out targets, fills a matrix per split, and looks for
NaN; pyarrow reads the column into one Arrow table. They take turns, and the median of the pairs' ratios counts. Memory
is what one read adds to the peak of a fresh process; of `spilled`, it is pages of files, which the kernel can drop.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import _root  # noqa: F401
import pyarrow.parquet as pq
from feature_lake import EXTRACTOR, draw_feature_lake, feature_files

from classifiers.tasks import get_task
from pipelines.labelled import read_labelled
from pipelines.lake import Lake

TASK = "chestxray14"


def bare(lake: Lake) -> object:
    """What everybody would do who only wants the numbers."""
    return pq.read_table(feature_files(lake), columns=["features"])


def labelled(lake: Lake) -> object:
    """What training does."""
    return read_labelled(lake, EXTRACTOR, get_task(TASK), memory=2**63)


def spilled(lake: Lake) -> object:
    """The same where no memory is allowed."""
    return read_labelled(lake, EXTRACTOR, get_task(TASK), memory=0)


READERS: dict[str, Callable[[Lake], object]] = {"bare": bare, "labelled": labelled, "spilled": spilled}


def seconds(read: Callable[[Lake], object], lake: Lake) -> float:
    start = perf_counter()
    rows = read(lake)
    taken = perf_counter() - start
    del rows
    return taken


def grown(reader: str, lake: Path) -> float:
    """MiB that one read adds to the peak of a process of its own."""
    command = [sys.executable, __file__, "--role", reader, "--lake", str(lake)]
    return float(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def peak() -> float:
    """Peak resident memory of this process, MiB."""
    # Not `getrusage`, whose peak a process takes over from the one that started it.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--role", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--lake", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        before = peak()
        rows = READERS[arguments.role](Lake.open(str(arguments.lake)))
        print(json.dumps(peak() - before))
        del rows
        return
    with tempfile.TemporaryDirectory(prefix="pleura-bench-") as folder:
        lake = draw_feature_lake(Path(folder) / "lake", arguments.images, arguments.dim)
        for read in (bare, labelled):
            read(lake)
        turns = [{name: seconds(read, lake) for name, read in READERS.items()} for _ in range(arguments.pairs)]
        size = arguments.images * arguments.dim * 4 / 2**20
        print(f"{arguments.images:,} × {arguments.dim:,} float32, {size:,.0f} MiB; medians of {arguments.pairs} turns")
        for name in READERS:
            taken = median(turn[name] for turn in turns)
            ratio = median(turn["bare"] / turn[name] for turn in turns)
            print(
                f"{name:9} {taken:6.2f} s  {arguments.images / taken:9,.0f} images/s  {ratio:5.2f} of bare  "
                f"peak memory +{grown(name, Path(folder) / 'lake'):,.0f} MiB"
            )


if __name__ == "__main__":
    main()
