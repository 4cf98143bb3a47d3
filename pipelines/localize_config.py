"""Settings of jobs/localize_findings.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from featurizers.embedder import BATCH_SIZE, GPU_BATCH_SIZE
from featurizers.heat_boxes import LEVEL
from featurizers.saliency import Method
from pipelines.config import Config, SparkConfig, as_list
from pipelines.executor_embedder import COMPILE_PAYS_FROM, Compile, DeviceName
from pipelines.increment import COMMIT_SECONDS

#: Images of the first commit, and the fewest of any.
CHUNK_IMAGES = 4096
#: Every split.
ALL = "all"


class WeightsConfig(Config):
    """Where the extractor's weights are now."""

    weights: str | None = Field(None, description="the extractor's weights; null: those that extract_features was told")


class ReportConfig(Config):
    """What the report shows, and how much is checked."""

    per_class: int = Field(
        6,
        ge=0,
        description="images of each class in the gallery: where there are boxes as many missed as hit, else the most "
        "probable",
    )
    images: Annotated[tuple[str, ...], BeforeValidator(as_list)] = Field(
        (), description="images that are shown besides, with their most probable class: ids, or how they start"
    )
    checks: int = Field(
        24,
        ge=0,
        description="images on which maps are checked: against random networks and labels, and by taking places away; "
        "some 60 passes of the backbone each (occlusion: 300), and a head fitted anew; 0: no checks",
    )
    resamples: int = Field(1000, ge=20, description="of patients, behind every interval")
    seed: int = Field(0, ge=0, description="of resamples, and of what the checks draw")


class LocalizeConfig(SparkConfig):
    """Settings of jobs/localize_findings.py."""

    head: str = Field(description="task/name of a head; its newest run, or, as task/name/run=…, an older one")
    split: Literal["train", "val", "test", "all"] = Field(
        "test", description="whose images; a head has seen those of train, and val chose its settings"
    )
    classes: Annotated[tuple[str, ...], BeforeValidator(as_list)] = Field(
        (), description="classes of the head's task to look for; []: all of them"
    )
    method: Method | None = Field(
        None,
        description="how maps are made: cam (linear heads), grad_cam (those with a gradient), shap (trees), occlusion "
        "(any, at 65 passes an image); null: what suits the head",
    )
    level: float = Field(
        LEVEL,
        gt=0,
        le=1,
        description="a box is drawn around what reaches this share of a heatmap's greatest intensity; Wang et al. 2017 "
        f"take {LEVEL:.3f} (180 of 255)",
    )
    boxes: str | None = Field(
        None,
        description="CSV of annotated boxes: image (its id or uri), finding, and left, top, right, bottom as fractions "
        "of the original, or x, y, width, height in its pixels; null: those of the studies",
    )
    backbone: WeightsConfig = WeightsConfig()
    device: DeviceName = Field("cpu", description="cpu or cuda, as in extract_features")
    batch_size: int | None = Field(
        None,
        gt=0,
        description=f"images per forward pass; null: {BATCH_SIZE} on a CPU, {GPU_BATCH_SIZE} on a GPU, halved until a "
        "batch fits the memory",
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
    report: ReportConfig = ReportConfig()

    @property
    def only_split(self) -> str | None:
        """The one split whose images are localized; None for all."""
        return None if self.split == ALL else self.split
