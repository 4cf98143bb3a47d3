"""How fast heads score stored vectors: rows/s of score_batches, against the bare matrix products of the same sizes.

Run from the repository's root, with nothing else on the machine:
  python tests/benchmarks/bench_scoring.py [--rows 112120] [--batch 1024] [--threads N]

From Arrow batches of (image_id, features) to Arrow batches of predictions, in one process, as a Python worker of Spark
does; reading and Spark's own part are left out. Both sides look at the same batches in the same run. The ceiling of
logistic is one product of the features with its weights, that of mlp torch's products of its layers; neither checks,
converts or decides anything.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import _root  # noqa: F401
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

from classifiers.rows import SplitRows
from classifiers.tasks import get_task
from classifiers.trained import TrainedHead
from classifiers.training import train_head
from pipelines.scoring import ROWS_AT_ONCE, ShippedHeads, score_batches
from pipelines.stored_features import as_matrix

DIM = 2048
TRAIN_ROWS = 2000
TASKS = ("three_class", "chestxray14")
REPEATS = 5

Float32Array = npt.NDArray[np.float32]


def vectors(rows: int, seed: int) -> Float32Array:
    """Non-negative, as after a rectifier and an average."""
    return np.abs(np.random.default_rng(seed).standard_normal((rows, DIM), np.float32))


def trained(task_name: str, head: str) -> TrainedHead:
    """A head that saw a few rows with labels by chance: how well it does is not asked here."""
    task = get_task(task_name)
    rng = np.random.default_rng(1)
    shape = (TRAIN_ROWS, len(task.classes))
    targets = (rng.random(shape) < 0.1).astype(np.int8) if task.multi_label else rng.integers(0, shape[1], TRAIN_ROWS)
    rows = SplitRows(
        features=vectors(TRAIN_ROWS, 1),
        targets=targets,
        patients=np.arange(TRAIN_ROWS),
        image_ids=np.array([str(index) for index in range(TRAIN_ROWS)]),
        attributes={},
    )
    params = {"max_epochs": 1} if head == "mlp" else {}
    return train_head(task, head, rows, extractor="e" * 64, params=params, resamples=0)


def batches(features: Float32Array, size: int) -> list[pa.RecordBatch]:
    """As Spark hands them over."""
    made = []
    for start in range(0, len(features), size):
        part = features[start : start + size]
        offsets = pa.array(np.arange(0, part.size + 1, DIM, dtype=np.int32))
        ids = pa.array([f"{start + row:064x}" for row in range(len(part))])
        columns = [ids, pa.ListArray.from_arrays(offsets, pa.array(part.reshape(-1)))]
        made.append(pa.RecordBatch.from_arrays(columns, names=["image_id", "features"]))
    return made


def bare(widths: Sequence[int]) -> Callable[[Float32Array], object]:
    """Products with matrices of these widths, one behind the other."""
    rng = np.random.default_rng(2)
    sizes = list(zip((DIM, *widths), widths, strict=False))
    if len(sizes) == 1:
        weights = rng.standard_normal(sizes[0], np.float32)
        return lambda features: features @ weights
    layers = [torch.from_numpy(rng.standard_normal(size, np.float32)) for size in sizes]

    def forward(features: Float32Array) -> object:
        hidden = torch.from_numpy(features)
        with torch.inference_mode():
            for layer in layers:
                hidden = torch.relu(hidden @ layer)
        return hidden

    return forward


def rows_per_second(rows: int, work: Callable[[], object]) -> float:
    """The best of some repetitions, after one that warms up."""
    work()
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return rows / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=112_120)
    parser.add_argument("--batch", type=int, default=ROWS_AT_ONCE)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    given = batches(vectors(arguments.rows, 0), arguments.batch)
    print(f"{arguments.rows:,} rows of {DIM}, batches of {arguments.batch:,}, {arguments.threads} threads; rows/s")
    with threadpool_limits(arguments.threads):
        for task in TASKS:
            for name in ("logistic", "mlp"):
                head = trained(task, name)
                shipped = ShippedHeads((head.fingerprint,), SimpleNamespace(value=[head.to_files()]))  # type: ignore[arg-type]
                widths = (*head.params.get("hidden", ()), len(head.task.classes))
                ceiling = bare(widths)

                def scored(shipped: ShippedHeads = shipped) -> None:
                    for _ in score_batches(shipped, given, lambda _: None):
                        pass

                def multiplied(ceiling: Callable[[Float32Array], object] = ceiling) -> None:
                    for batch in given:
                        ceiling(as_matrix(batch.column("features")))

                found, most = rows_per_second(arguments.rows, scored), rows_per_second(arguments.rows, multiplied)
                print(f"{task:12} {name:8}  {found:>9,.0f}  bare {most:>11,.0f}  ratio {found / most:.2f}")


if __name__ == "__main__":
    main()
