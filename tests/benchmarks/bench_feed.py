"""Whether training waits for its crops: images/s of the readers, and of reading, decoding and resizing.

Run from the repository's root:  python tests/benchmarks/bench_feed.py [--lake LAKE --task TASK] [--device cuda]

Each is told against pyarrow reading the same column bare, and against training ResNet-50 at 128 px in bf16 on one
batch that stays where it is. They take turns in one run, and the median of the turns' ratios counts. The files lie in
the page cache for all. petastorm takes part where it runs: .venv-petastorm/bin/python instead of python. Without
--lake the crops are phantoms'.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import _root  # noqa: F401
import numpy as np
import pyarrow.parquet as pq
import torch
from bench_extract import phantom_crops, write_lake
from torch import nn

from classifiers.tasks import get_task
from featurizers.backbones import build_untrained, get_backbone
from featurizers.finetuning.batches import decoded
from featurizers.grey_input import takes_grey
from pipelines.crop_reader import CropReader, ParquetReader
from pipelines.crop_rows import CropRows, find_crops
from pipelines.errors import ConfigError
from pipelines.lake import Lake
from pipelines.petastorm_reader import PetastormReader

BATCH_SIZE = 32
BACKBONE = "resnet50:size=128"
BARE, TRAINING = "pyarrow, bare", f"training {BACKBONE} bf16"


def bare(lake: Lake) -> int:
    """What everybody would do who only wants the bytes, a file at a time."""
    filesystem = lake.studies.folder.filesystem
    return sum(pq.read_table(path, columns=["crop"], filesystem=filesystem).num_rows for path in lake.studies.files())


def read(reader: CropReader, rows: CropRows, epochs: Iterator[int]) -> int:
    """One epoch of bytes."""
    return sum(len(step) for step in reader.read(next(epochs), np.arange(len(rows))))


def decode(reader: CropReader, rows: CropRows, epochs: Iterator[int], size: int, images: int) -> int:
    """The pixels of some steps, of rows in an epoch's order as training takes them."""
    steps = reader.read(next(epochs), np.arange(len(rows)))
    batches = decoded(steps, size, threads=len(os.sched_getaffinity(0)))
    done = sum(len(batch) for batch in itertools.islice(batches, images // BATCH_SIZE))
    batches.close()
    return done


def trainer(device: str, seconds: float) -> Callable[[], int]:
    """Training steps on one batch, for some seconds."""
    spec = get_backbone(BACKBONE)
    network = nn.Sequential(takes_grey(build_untrained(spec), spec), nn.Linear(spec.feature_dim, 2)).to(device)
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters())
    side = spec.input_size
    pixels = torch.randint(0, 256, (BATCH_SIZE, 1, side, side), dtype=torch.uint8, device=device)
    targets = torch.randint(0, 2, (BATCH_SIZE,), device=device)

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast(pixels.device.type, torch.bfloat16):
            logits = network(pixels.float() / 255)
        loss = nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        optimiser.step()
        # Read, or a GPU would still be at it.
        return float(loss.detach())

    def train() -> int:
        start, steps = perf_counter(), 0
        while perf_counter() - start < seconds:
            step()
            steps += 1
        return steps * BATCH_SIZE

    step()
    return train


def speed(work: Callable[[], int]) -> float:
    start = perf_counter()
    return work() / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", help="read the crops of this lake")
    parser.add_argument("--task", default="binary")
    parser.add_argument("--images", type=int, default=4000, help="phantoms to draw")
    parser.add_argument("--decoded", type=int, default=2000, help="images to decode per turn")
    parser.add_argument("--seconds", type=float, default=8.0, help="training per turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pleura-bench-") as folder:
        if arguments.lake:
            lake = Lake.open(arguments.lake)
        else:
            lake = Lake.open(str(write_lake(Path(folder) / "lake", phantom_crops(), arguments.images)))
        rows, epochs = find_crops(lake, get_task(arguments.task)), itertools.count()
        parquet = ParquetReader(lake.studies.folder, rows, BATCH_SIZE)
        works: dict[str, Callable[[], int]] = {
            BARE: lambda: bare(lake),
            "reader=parquet": lambda: read(parquet, rows, epochs),
        }
        try:
            petastorm = PetastormReader(lake.studies.folder, rows, BATCH_SIZE)
        except ConfigError as error:
            print(error)
        else:
            works["reader=petastorm"] = lambda: read(petastorm, rows, epochs)
        for size in (128, 224):
            works[f"… parquet, decoded at {size}"] = lambda size=size: decode(
                parquet, rows, epochs, size, arguments.decoded
            )
        works[TRAINING] = trainer(arguments.device, arguments.seconds)
        bare(lake)
        turns = [{name: speed(work) for name, work in works.items()} for _ in range(arguments.turns)]
    print(f"{rows!r}; medians of {arguments.turns} turns; {len(os.sched_getaffinity(0))} cores")
    for name in works:
        against = [median(turn[name] / turn[other] for turn in turns) for other in (BARE, TRAINING)]
        print(
            f"{name:34} {median(turn[name] for turn in turns):9,.0f} images/s  "
            f"{against[0]:6.2f} of bare  {against[1]:8.2f} of training"
        )


if __name__ == "__main__":
    main()
