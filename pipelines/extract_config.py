"""Settings of jobs/extract_features.py."""

from __future__ import annotations

from pydantic import Field

from featurizers.backbones import BACKBONES
from featurizers.embedder import BATCH_SIZE, GPU_BATCH_SIZE, MEMORY_MB
from featurizers.extractor import Precision, Storage
from pipelines.augmented_copies import CopiesConfig
from pipelines.config import Config, SparkConfig
from pipelines.executor_embedder import COMPILE_PAYS_FROM, Compile, DeviceName
from pipelines.increment import COMMIT_SECONDS
from pipelines.stored_backbones import DEFAULT_BACKBONE

#: Images of the first commit, and the fewest of any.
CHUNK_IMAGES = 4096


class BackboneConfig(Config):
    """Which network, with which weights."""

    name: str | None = Field(
        None,
        description=f"its architecture: {', '.join(BACKBONES)} or timm:NAME, with options such as resnet50:size=128; "
        f"null: what the weights state, else {DEFAULT_BACKBONE}",
    )
    weights: str = Field(
        "imagenet",
        description="imagenet (torchvision's own), random (untrained, for trials), a file with a state dict, or "
        "lake://backbones/NAME, fine-tuned in this lake",
    )
    seed: int = Field(0, description="of random weights")


class ExtractConfig(SparkConfig):
    """Settings of jobs/extract_features.py."""

    backbone: BackboneConfig = BackboneConfig()
    precision: Precision = Field(Precision.BF16, description="arithmetic of the backbone; part of the fingerprint")
    storage: Storage = Field(
        Storage.FLOAT32,
        description="what the features' numbers are rounded to; float16 files are smaller; part of the fingerprint",
    )
    device: DeviceName = Field(
        "cpu",
        description="cpu, cuda or cuda:N; on a cluster cuda alone: each task takes the one GPU that Spark gave it",
    )
    batch_size: int | None = Field(
        None,
        gt=0,
        description=f"images per forward pass; null: {BATCH_SIZE} on a CPU, {GPU_BATCH_SIZE} on a GPU, halved until a "
        "batch fits the memory",
    )
    memory_mb: int | None = Field(
        None,
        gt=0,
        description=f"memory for one batch's activations; null: {MEMORY_MB:,} on a CPU, half of what is free on a GPU",
    )
    compile: Compile = Field(
        Compile.AUTO,
        description=f"compile the backbone; auto: from {COMPILE_PAYS_FROM:,} images per worker, given a compiler",
    )
    chunk_images: int | None = Field(
        None,
        gt=0,
        description="images per commit, one file of studies at least: what a restart repeats at most; null: what takes "
        f"{COMMIT_SECONDS // 60} minutes, {CHUNK_IMAGES:,} at least",
    )
    copies: CopiesConfig = CopiesConfig()
