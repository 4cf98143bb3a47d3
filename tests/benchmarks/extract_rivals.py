"""What others make of the same crops: one rival of Pleura's extraction per run, as one line of JSON, on 2 CPU cores.

Run from the repository's root, with nothing else on the machine:
  python tests/benchmarks/extract_rivals.py RIVAL --studies DIR --output DIR [--images N]

DIR of --studies holds run=*/part-*.parquet with the columns image_id and crop; --output must not exist yet. Every rival
writes image_id and features (2048 floats of an untrained ResNet-50) to it as Parquet. ray and daft are no dependencies
of Pleura: install them beside it (pip install "ray[data]" aiohttp daft; without aiohttp Ray 2.60 can't list two files).

`seconds` is from a model that is ready to the last file's commit, `setup_seconds` from the program's start to a model
that is ready. The processes that run a model note when theirs is ready, on the machine's one monotonic clock; with two
of them it is the mean of both, so that neither the wait for the other one counts as work nor its work as a wait.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# torch, pyspark, ray and daft are imported where they are used: their imports are part of the setup, the drivers of
# Spark, Ray and Daft do without torch, and a rival runs where another one's engine is missing.
# ruff: noqa: PLC0415
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import torch
    from torch import nn

Vectors = npt.NDArray[np.float32]
#: PNGs to vectors (number of PNGs, 2048).
Model = Callable[[Sequence[bytes]], Vectors]

START = time.monotonic()
ROOT = str(Path(__file__).resolve().parents[2])
CORES = 2
BATCH_SIZE = 32
FEATURES = 2048
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SCHEMA = pa.schema({"image_id": pa.string(), "features": pa.list_(pa.float32())})


# What runs in the processes of the workers


def note_ready(notes: str) -> None:
    """Say that this process has a model ready now."""
    Path(notes, str(os.getpid())).write_text(repr(time.monotonic()))


def build_resnet() -> nn.Module:
    """torchvision's ResNet-50 without its classifier, with the parameters that it draws from seed 0."""
    import torch
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network: nn.Module = resnet50(weights=None)
    network.fc = torch.nn.Identity()
    return network.eval()


def decode(png: bytes) -> npt.NDArray[np.uint8]:
    """(224, 224) greyscale."""
    from PIL import Image

    return np.array(Image.open(io.BytesIO(png)))


def normalise(grey: torch.Tensor) -> torch.Tensor:
    """uint8 (n, 224, 224) to float32 (n, 3, 224, 224), as ImageNet's weights want it."""
    import torch

    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (grey[:, None].expand(-1, 3, -1, -1).float() / 255 - mean) / std


def load_eager(threads: int, notes: str) -> Model:
    """The model as the engines' own examples have it: eager, float32, channels first."""
    import torch

    torch.set_num_threads(threads)
    network = build_resnet()

    def predict(pngs: Sequence[bytes]) -> Vectors:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([decode(png) for png in pngs]))
            return np.asarray(network(normalise(pixels)).numpy(), np.float32)

    note_ready(notes)
    return predict


def load_ours(threads: int, notes: str) -> Model:
    """Pleura's own embedder, compiled: what is left between it and Pleura's extraction is the engine."""
    # Neither the actors of Ray nor the processes of Daft look where the program lies.
    sys.path.insert(0, ROOT)
    from featurizers.backbones import get_backbone, load_weights
    from featurizers.crops import decode_png
    from featurizers.embedder import Embedder

    weights = load_weights(get_backbone("resnet50"), "random", seed=0)
    embedder = Embedder("resnet50", weights, threads=threads, batch_size=BATCH_SIZE, compiled=True)
    embedder.warm_up()
    note_ready(notes)
    return lambda pngs: embedder.embed([decode_png(png) for png in pngs])


# The rivals


def run_predict_batch_udf(files: list[str], output: str, notes: str) -> None:
    """Spark's own UDF for inference, with a model in each of two Python workers."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql import SparkSession
    from pyspark.sql.types import ArrayType, FloatType

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")

    # The PNGs are decoded in here and not in a UDF of their own: 30 KB of PNG pass through Arrow faster than pixels.
    # One thread in each of two workers, which is also what Spark sets with OMP_NUM_THREADS: two eager models with a
    # thread each made 9.9 images/s together, one with two threads 6.5 and 8.6. Ray and Daft have theirs likewise.
    def make_predict() -> Callable[[npt.NDArray[Any]], Vectors]:
        model = load_eager(1, notes)
        return lambda crops: model(list(crops))

    embed = predict_batch_udf(make_predict, return_type=ArrayType(FloatType()), batch_size=BATCH_SIZE)
    builder = SparkSession.builder.master(f"local[{CORES}]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.log.level", "ERROR").getOrCreate()
    try:
        # Without the repartition a worker may get one file more than the other: that is up to a third of the time.
        crops = spark.read.parquet(*files).select("image_id", "crop").repartition(4 * CORES)
        crops.select("image_id", embed("crop").alias("features")).write.parquet(output)
        note_end(notes)
    finally:
        spark.stop()


def run_dataloader(files: list[str], output: str, notes: str) -> None:
    """A loop in plain PyTorch with what it has for speed on a CPU short of compiling: bf16, channels last."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    class Crops(IterableDataset[tuple[str, npt.NDArray[np.uint8]]]):
        """(image_id, pixels); of every other row group if there are two workers."""

        def __iter__(self) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
            worker = get_worker_info()
            groups = [(file, group) for file in files for group in range(pq.read_metadata(file).num_row_groups)]
            for file, group in groups[worker.id :: worker.num_workers] if worker else groups:
                rows = pq.ParquetFile(file).read_row_group(group, columns=["image_id", "crop"])
                for image_id, crop in zip(rows["image_id"].to_pylist(), rows["crop"].to_pylist(), strict=True):
                    yield image_id, decode(crop)

    torch.set_num_threads(CORES)
    network = build_resnet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # One worker decodes many times what the network takes; a second one, tried, is no faster.
    loader = DataLoader(Crops(), batch_size=BATCH_SIZE, num_workers=1)
    Path(output).mkdir(parents=True)
    note_ready(notes)
    with (
        pq.ParquetWriter(f"{output}/part-0.parquet", SCHEMA) as writer,
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        for ids, pixels in loader:
            vectors = network(normalise(pixels).contiguous(memory_format=torch.channels_last)).float().numpy()
            writer.write_table(pa.table([pa.array(ids), to_lists(vectors)], schema=SCHEMA))
    note_end(notes)


def run_ray(files: list[str], output: str, notes: str, *, load: Callable[[int, str], Model], workers: int) -> None:
    """Ray Data: Parquet, a pool of actors that hold the model, Parquet."""
    import ray  # type: ignore[import-not-found]

    class Embed:
        """A model in an actor."""

        def __init__(self) -> None:
            self.model = load(CORES // workers, notes)

        def __call__(self, rows: pa.Table) -> pa.Table:
            vectors = self.model(rows["crop"].to_pylist())
            return pa.table({"image_id": rows["image_id"], "features": to_lists(vectors)})

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    scratch = tempfile.mkdtemp(prefix="ray-")
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="error", _temp_dir=scratch)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        crops = ray.data.read_parquet(files).select_columns(["image_id", "crop"])
        # The reader makes one block of all files that are small, and a block goes to one actor: 3,000 crops all to one.
        features = crops.repartition(target_num_rows_per_block=4 * BATCH_SIZE).map_batches(
            Embed,
            batch_size=BATCH_SIZE,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            # Actors that booked both cores would leave none to the tasks that read and write, and the job would hang.
            num_cpus=1 / workers,
        )
        features.write_parquet(output)
        note_end(notes)
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def run_daft(files: list[str], output: str, notes: str, *, load: Callable[[int, str], Model], workers: int) -> None:
    """Daft: Parquet, a class that holds the model, in processes of its own, Parquet."""
    os.environ.update(DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="true", DAFT_PROGRESS_BAR="0")
    import daft  # type: ignore[import-not-found]

    lists = daft.DataType.list(daft.DataType.float32())

    class Embed:
        """A model in a process."""

        def __init__(self) -> None:
            self.model = load(CORES // workers, notes)

        @daft.method.batch(return_dtype=lists, batch_size=BATCH_SIZE)  # type: ignore[untyped-decorator]
        def vectors(self, crops: Any) -> pa.Array:
            return to_lists(self.model(crops.to_pylist()))

    embed = daft.cls(Embed, max_concurrency=workers, use_process=True)()
    crops = daft.read_parquet(files)
    crops.select("image_id", embed.vectors(crops["crop"]).alias("features")).write_parquet(output)
    note_end(notes)


def to_lists(vectors: Vectors) -> pa.Array:
    """(n, d) as n lists."""
    number, length = vectors.shape
    return pa.ListArray.from_arrays(np.arange(number + 1, dtype=np.int32) * length, vectors.reshape(-1))


# The program


def note_end(notes: str) -> None:
    """Say that all is written now; what an engine takes to shut down is nobody's wait."""
    Path(notes, "end").write_text(repr(time.monotonic()))


def copy_studies(files: list[str], folder: Path, images: int) -> list[str]:
    """Files of the first images only, with as many in a row group and a file as Pleura writes."""
    rows = pq.read_table(files, columns=["image_id", "crop"]).slice(0, images)
    copies = [str(folder / f"part-{start:08}.parquet") for start in range(0, len(rows), 1024)]
    for number, copy in enumerate(copies):
        pq.write_table(rows.slice(1024 * number, 1024), copy, row_group_size=512)
    return copies


def count_vectors(output: str) -> int:
    """How many images have a vector of the right length, without NaN or infinity."""
    features = pq.read_table(output, columns=["features"])["features"]
    whole = [np.asarray(chunk.flatten()).reshape(len(chunk), FEATURES) for chunk in features.chunks]
    return sum(int(np.isfinite(vectors).all(axis=1).sum()) for vectors in whole)


def main() -> None:
    rivals: dict[str, Callable[[list[str], str, str], None]] = {
        "predict_batch_udf": run_predict_batch_udf,
        "dataloader": run_dataloader,
        "ray": lambda *where: run_ray(*where, load=load_eager, workers=CORES),
        "daft": lambda *where: run_daft(*where, load=load_eager, workers=CORES),
        "ray_ours": lambda *where: run_ray(*where, load=load_ours, workers=1),
        "daft_ours": lambda *where: run_daft(*where, load=load_ours, workers=1),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival", choices=rivals)
    parser.add_argument("--studies", type=Path, required=True, help="folder of run=*/part-*.parquet")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument("--images", type=int, help="take only this many")
    arguments = parser.parse_args()
    files = sorted(str(file.resolve()) for file in arguments.studies.glob("run=*/part-*.parquet"))
    if not files:
        sys.exit(f"{arguments.studies} holds no run=*/part-*.parquet: give the folder `studies` of a lake")
    if arguments.output.exists():
        sys.exit(f"{arguments.output} exists: give another --output, or remove it")
    package = arguments.rival.removesuffix("_ours")
    if package in ("ray", "daft") and importlib.util.find_spec(package) is None:
        sys.exit(
            f"{arguments.rival} needs {package}, which is not installed here: pip install 'ray[data]' aiohttp daft"
        )

    scratch = Path(tempfile.mkdtemp(prefix="pleura-rivals-"))
    try:
        notes = scratch / "notes"
        notes.mkdir()
        copying = time.monotonic()
        if arguments.images is not None:
            files = copy_studies(files, scratch, arguments.images)
        start = START + time.monotonic() - copying
        output = str(arguments.output.resolve())
        rivals[arguments.rival](files, output, str(notes))
        end = float((notes / "end").read_text())
        ready = float(np.mean([float(note.read_text()) for note in notes.iterdir() if note.name != "end"]))
        expected, images = sum(pq.read_metadata(file).num_rows for file in files), count_vectors(output)
        if images != expected:
            sys.exit(f"{arguments.rival} wrote {images} whole vectors of {expected} images: its time says nothing")
        seconds = end - ready
        told = {
            "rival": arguments.rival,
            "images": images,
            "seconds": round(seconds, 2),
            "setup_seconds": round(ready - start, 2),
            "images_per_second": round(images / seconds, 2),
        }
        print(json.dumps(told))
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
