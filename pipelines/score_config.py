"""Settings of jobs/score_studies.py."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from featurizers.embedder import BATCH_SIZE, GPU_BATCH_SIZE
from pipelines.config import Config, SparkConfig, as_list
from pipelines.executor_embedder import COMPILE_PAYS_FROM, Compile, DeviceName
from pipelines.ingest import LimitsConfig, PolicyConfig

#: Images per commit, unless the config tells.
CHUNK_OF_FEATURES, CHUNK_OF_IMAGES = 1_000_000, 8192


class ScoreFrom(StrEnum):
    """What the heads answer from."""

    FEATURES = "features"
    IMAGES = "images"


class Paths(StrEnum):
    """How `predictions.csv` calls a file."""

    KEYED = "keyed"
    TOLD = "told"


class ScoreBackboneConfig(Config):
    """Where the extractor's weights are now."""

    weights: str | None = Field(
        None, description="from=images: the extractor's weights; null: those that extract_features was told"
    )


class ScoreCropConfig(Config):
    """Where the files of the lake's finder are now."""

    weights: str | None = Field(
        None, description="from=images: the segmenter's weights; null: those that ingest_studies was told"
    )
    atlas: str | None = Field(None, description="from=images: the atlas; null: the one that ingest_studies was told")


class ScoreConfig(SparkConfig):
    """Settings of jobs/score_studies.py."""

    # In Python the key `from` is spelt from_.
    model_config = ConfigDict(populate_by_name=True)

    heads: Annotated[tuple[str, ...], BeforeValidator(as_list)] = Field(
        min_length=1,
        description="task/name of a head, or a list of them, for one pass; the newest run of each, or, as "
        "task/name/run=…, an older one",
    )
    from_: ScoreFrom = Field(
        ScoreFrom.FEATURES,
        alias="from",
        description="features of the lake, or the images of an archive, of which no crops and no features are kept",
    )
    extractor: str | None = Field(
        None,
        description="fingerprint (or its start) of the features to score; null: those that each head was trained on",
    )
    archive: str | None = Field(
        None, description="from=images: folder or URI with DICOM, PNG, JPEG, TIFF or NPY files, in any tree"
    )
    dataset: str | None = Field(
        None,
        pattern=r"^\w[\w.-]*$",
        description="from=images: what the archive is called; null: the lake's data set of it, or else scored",
    )
    paths: Paths = Field(
        Paths.KEYED,
        description="from=images: in predictions.csv a file goes by the pseudonym of its path, or, told, by the path, "
        "unless the file is DICOM or the path holds a date or UID",
    )
    pseudonym_key_file: str | None = Field(
        None, description="from=images: file with the pseudonyms' key; null: the variable PLEURA_PSEUDONYM_KEY"
    )
    backbone: ScoreBackboneConfig = ScoreBackboneConfig()
    crop: ScoreCropConfig = ScoreCropConfig()
    device: DeviceName = Field("cpu", description="from=images: cpu or cuda, as in extract_features")
    batch_size: int | None = Field(
        None,
        gt=0,
        description=f"from=images: images per forward pass; null: {BATCH_SIZE} on a CPU, {GPU_BATCH_SIZE} on a GPU, "
        "halved until a batch fits the memory",
    )
    compile: Compile = Field(
        Compile.AUTO,
        description=f"from=images: compile the backbone; auto: from {COMPILE_PAYS_FROM:,} images per worker, given a "
        "compiler",
    )
    limits: LimitsConfig = LimitsConfig()
    policy: PolicyConfig = PolicyConfig()
    chunk_images: int | None = Field(
        None,
        gt=0,
        description="images per commit: what a restart repeats at most; null: "
        f"{CHUNK_OF_FEATURES} from features, {CHUNK_OF_IMAGES} from images",
    )
    csv_images: int = Field(
        1_000_000, ge=0, description="most images for which predictions.csv is written beside each table; 0: never"
    )

    @model_validator(mode="after")
    def _archive_goes_with_images(self) -> Self:
        if (self.from_ is ScoreFrom.IMAGES) != (self.archive is not None):
            raise ValueError("from=images and archive=… belong together: give both, or neither")
        return self
