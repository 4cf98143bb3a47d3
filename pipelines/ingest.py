"""Archive to studies: every input ends in `studies` or in `quarantine`, in committed chunks, with balanced books."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from featurizers.crops import CropSettings, Fit, describe_crops
from featurizers.finders import open_finder
from featurizers.lungs import LungFinder
from featurizers.radiograph import DecodeLimits
from featurizers.reasons import Reason
from pipelines.archives import FileImages
from pipelines.config import Config, SparkConfig
from pipelines.datasets import Dataset, claim
from pipelines.errors import ConfigError, SourceError
from pipelines.folders import Folder
from pipelines.identities import Identities
from pipelines.ingest_worker import StudyReader, WorkerLimits
from pipelines.intake import Books, Intake
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.lease import lease
from pipelines.listing import Listing, ahead
from pipelines.npz_images import NpzImages
from pipelines.policy import Policy
from pipelines.progress import Progress, clock
from pipelines.pseudonyms import PUBLIC_KEY, Pseudonymizer, secret_key
from pipelines.session import spark_session
from pipelines.sources.base import NEGATIVE, POSITIVE, Contents, Source
from pipelines.sources.chestxray14 import ChestXray14Source
from pipelines.sources.chexpert import ChexpertSource
from pipelines.sources.dicom import DicomSource
from pipelines.sources.kermany import KermanySource
from pipelines.sources.manifest import ManifestSource
from pipelines.sources.medmnist import MedMnistSource
from pipelines.sources.mimic_cxr_jpg import MimicCxrJpgSource
from pipelines.splits import Split, SplitFractions
from pipelines.tables import cropper_told

#: Inputs whose stamps are looked up in the tables at once: some 100 MB on the driver.
LISTED_AT_ONCE = 262_144

SourceName = Literal["kermany", "chestxray14", "chexpert", "mimic_cxr_jpg", "medmnist", "dicom", "manifest"]
Treatment = Literal["quarantine", "ingest"]
_PUBLISHED: dict[str, Callable[[Folder], Source]] = {
    "kermany": KermanySource,
    "chestxray14": ChestXray14Source,
    "chexpert": ChexpertSource,
    "mimic_cxr_jpg": MimicCxrJpgSource,
    "medmnist": MedMnistSource,
}

_CROP, _LIMITS = CropSettings(), DecodeLimits()


class CropConfig(Config):
    """How the lungs are cropped."""

    finder: Literal["segmenter", "atlas", "projection", "none"] = Field(
        "segmenter",
        description="segmenter, atlas or projection tells where the lungs are; none: every image is kept whole",
    )
    weights: str | None = Field(
        None, description="finder=segmenter: local safetensors file; null: the weights that come with Pleura"
    )
    atlas: str | None = Field(None, description="finder=atlas: local folder with images/ and their lung masks/")
    size: int = Field(_CROP.size, ge=32, le=2048, description="side of the stored square crop, pixels")
    margin: float = Field(_CROP.margin, ge=0, le=1, description="added on each side, as a fraction of the lung box")
    min_quality: float | None = Field(
        _CROP.min_quality,
        ge=0,
        le=1,
        description="below this lung_quality the whole image is kept; null: as the finder recommends",
    )
    fit: Fit = Field(
        _CROP.fit,
        description="how a box becomes a square: stretch it, square: show what is beside it, or pad it with black",
    )
    mask_out: bool = Field(_CROP.mask_out, description="black outside the lungs; needs finder=segmenter or atlas")

    def settings(self) -> CropSettings:
        """What the crops are like."""
        return CropSettings(self.size, self.margin, self.min_quality, self.fit, self.mask_out)

    def open_finder(self) -> LungFinder | None:
        """What tells where the lungs are, with all that it needs in memory.

        Raises:
            ConfigError: if settings contradict each other.
            FeaturizerError: if the atlas or the weights can't be read.
        """
        if self.mask_out and self.finder in ("projection", "none"):
            raise ConfigError(
                f"crop.mask_out=true needs the lungs' outline, which crop.finder={self.finder} does not tell. Take "
                "crop.finder=segmenter or atlas, or leave crop.mask_out out."
            )
        if (self.atlas is None) == (self.finder == "atlas"):
            raise ConfigError("crop.finder=atlas and crop.atlas=FOLDER belong together: give both, or neither.")
        if self.weights is not None and self.finder != "segmenter":
            raise ConfigError(
                f"crop.finder={self.finder} has no weights: take crop.finder=segmenter, or leave crop.weights out."
            )
        if self.finder == "none":
            return None
        return open_finder(
            self.finder,
            atlas=Path(self.atlas) if self.atlas else None,
            weights=Path(self.weights) if self.weights else None,
        )


class LimitsConfig(Config):
    """What is refused before it costs memory."""

    max_pixels: int = Field(
        _LIMITS.max_pixels, gt=0, description="largest width times height that a header may declare"
    )
    max_bytes: int = Field(_LIMITS.max_bytes, gt=0, description="largest file, bytes")
    min_side: int = Field(_LIMITS.min_side, gt=0, description="smallest width and height, pixels")
    max_seconds: float = Field(60, gt=0, description="longest time to read, decode and crop one image")
    max_memory_mb: int = Field(
        2048, ge=256, description="most memory that a worker may ask for beyond what it starts with, MB"
    )


class PolicyConfig(Config):
    """What becomes of images that are no frontal radiographs of a chest, or may show a name."""

    not_chest: Treatment = Field(
        "quarantine", description="DICOM of another modality or body part, or that does not tell what it shows"
    )
    not_frontal: Treatment = Field("quarantine", description="lateral views, by label or DICOM header")
    burned_in_annotation: Treatment = Field("quarantine", description="DICOM that says its pixels hold text")

    def of(self, source: str) -> Policy:
        """The policy for the images of a source."""
        admitted = frozenset(reason for reason in Reason if getattr(self, reason, None) == "ingest")
        return Policy(admitted, images_are_chosen=source == "manifest")


class IngestConfig(SparkConfig):
    """Settings of jobs/ingest_studies.py."""

    source: SourceName = Field(description="the archive's layout")
    archive: str = Field(description="the archive's root: a folder or URI")
    manifest: str | None = Field(
        None,
        description="source=manifest: CSV or Parquet of the images; null: the only one in the archive's top folder",
    )
    labels: str | None = Field(
        None,
        description="source=dicom: CSV or Parquet of findings by SOPInstanceUID, StudyInstanceUID or AccessionNumber; "
        "null: the only one in the archive's top folder, if there is one; none: no labels",
    )
    dataset: str | None = Field(
        None, pattern=r"^\w[\w.-]*$", description="name in the dataset column; null: the source's name"
    )
    pseudonym_key_file: str | None = Field(
        None, description="file with the secret key of the pseudonyms; null: the variable PLEURA_PSEUDONYM_KEY"
    )
    val_fraction: float = Field(0.15, ge=0, lt=1, description="part of the patients that is cut off for validation")
    test_fraction: float = Field(
        0.15, ge=0, lt=1, description="part of the patients that is cut off for test where no split is official"
    )
    crop: CropConfig = CropConfig()
    limits: LimitsConfig = LimitsConfig()
    policy: PolicyConfig = PolicyConfig()
    strict: bool = Field(False, description="make it an error when label rows have no image in the archive")
    retry: bool = Field(False, description="read the inputs in quarantine once more, and no others")
    chunk_images: int = Field(8192, gt=0, description="images per commit: what a restart repeats at most")


@dataclass(frozen=True)
class Overview:
    """What a lake holds of one data set: studies by split, cropper, and finding and value; inputs in quarantine."""

    quarantined: int
    splits: Counter[str] = field(default_factory=Counter)
    croppers: Counter[str] = field(default_factory=Counter)
    findings: Counter[tuple[str, int]] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Plan:
    """What is settled before any work starts."""

    config: IngestConfig
    source: Source
    contents: Contents
    identities: Identities
    policy: Policy
    finder: LungFinder | None


def ingest(config: IngestConfig) -> JobRecord:
    """Run the job.

    Raises:
        ConfigError, SourceError, FeaturizerError: before any work starts; SourceError at the end too, if strict=true
            finds labels without an image that only the images' headers could tell.
        LakeError: if another ingest is at work, the books do not balance, or a patient would be in two splits.
    """
    plan = _plan(config)
    lake = Lake.create(config.lake)
    with lease(lake.folder, "ingest", "two at once would take images in twice"):
        return _ingest(plan, lake)


def _ingest(plan: _Plan, lake: Lake) -> JobRecord:
    config = plan.config
    dataset = plan.identities.pseudonymizer.dataset
    crops = describe_crops(config.crop.settings(), plan.finder)
    key_check = plan.identities.pseudonymizer.key_check
    claim(lake, dataset, Dataset(Folder.at(config.archive).uri, key_check, crops))
    lake.sweep_staging()
    record = JobRecord("ingest_studies", config)
    # The listing holds paths, which may hold names; it passes through Spark's scratch folders.
    with spark_session("ingest_studies", config.master, encrypted_scratch=True) as spark:
        intake = Intake(spark, lake, _reader(plan), plan.identities, record, retry=config.retry)
        contents = _take_in_all(plan, lake, intake, record)
        overview = _overview(spark, lake, dataset)
    record.extra["contents"] = asdict(contents)
    record.extra["complete"] = True
    record.write_beside(lake.studies.folder)
    record.summary = _summary(lake, record, contents, overview)
    if config.strict and contents.missing:
        raise SourceError(
            f"strict=true, and {_missing(contents)}. What was read is in the lake. Complete the archive, or leave "
            f"strict out.\n{record.summary}"
        )
    return record


def _plan(config: IngestConfig) -> _Plan:
    if config.val_fraction + config.test_fraction >= 1:
        raise ConfigError("val_fraction + test_fraction leave nothing to train on; together they must stay below 1.")
    source = open_source(config, Lake.at(config.lake).folder)
    key = PUBLIC_KEY if source.is_public else secret_key(config.pseudonym_key_file)
    finder = config.crop.open_finder()
    contents = source.check()
    if config.strict and contents.missing:
        raise SourceError(f"strict=true, and {_missing(contents)}. Complete the archive, or leave strict out.")
    fractions = SplitFractions(
        0.0 if Split.VAL in source.official_splits else config.val_fraction,
        0.0 if Split.TEST in source.official_splits else config.test_fraction,
    )
    identities = Identities(Pseudonymizer(key, config.dataset or config.source), fractions, source.is_public)
    return _Plan(config, source, contents, identities, config.policy.of(config.source), finder)


def _take_in_all(plan: _Plan, lake: Lake, intake: Intake, record: JobRecord) -> Contents:
    """Read what is new of the archive, window by window, and commit it chunk by chunk.

    Returns:
        What the archive holds, with the label rows that, as only the images' headers tell, have no image.
    """
    listing = Listing(plan.source, plan.identities, plan.policy)
    staging = lake.new_staging()
    passed = 0
    try:
        with record.time("ingest"), Progress("ingest", plan.contents.records, lambda: passed + intake.done()):
            if isinstance(plan.source, DicomSource) and plan.source.has_labels:
                intake.stage_labels(plan.source, staging)
            for listed in ahead(listing.windows(LISTED_AT_ONCE)):
                window = intake.look_up(listed)
                passed += window.known + window.left
                record.count("inputs", listed.num_rows)
                record.count("known", window.known)
                record.count("left alone", window.left)
                for start in range(0, window.fresh.num_rows, plan.config.chunk_images):
                    chunk = window.fresh.slice(start, plan.config.chunk_images)
                    _count(record, intake.take_in(chunk, window.quarantined))
                    # After every chunk: a killed job leaves no run that nothing tells about.
                    record.write_beside(lake.studies.folder)
        missing, rows = intake.unmatched_labels()
        if not missing:
            return plan.contents
        return dataclasses.replace(plan.contents, missing=missing, missing_names=tuple(f"row {row}" for row in rows))
    finally:
        staging.remove()


def _count(record: JobRecord, books: Books) -> None:
    record.count("studies", books.studies)
    record.count("unchanged", books.unchanged)
    record.count("without patient id", books.without_patient_id)
    record.count("without label row", books.without_labels)
    for reason, number in sorted(books.reasons.items()):
        record.count(f"quarantine: {reason}", number)
    if books.conflicts:
        record.count("duplicates with conflicting labels", books.conflicts)


def open_source(config: IngestConfig, lake: Folder) -> Source:
    """The adapter of config.source on config.archive.

    Raises:
        SourceError: if there is no such archive.
    """
    archive = Folder.at(config.archive)
    if not archive.exists():
        raise SourceError(f"there is no archive at '{archive.uri}'. Check archive=…")
    match config.source:
        case "manifest":
            return ManifestSource(archive, config.manifest)
        case "dicom":
            return DicomSource(archive, config.labels, excluded=lake)
        case _:
            return _PUBLISHED[config.source](archive)


def _reader(plan: _Plan) -> StudyReader:
    archive, limits, source = Folder.at(plan.config.archive), plan.config.limits, plan.source
    is_npz = isinstance(source, MedMnistSource)
    return StudyReader(
        images=NpzImages(archive) if is_npz else FileImages(archive, limits.max_bytes),
        identities=plan.identities,
        policy=plan.policy,
        limits=WorkerLimits(
            DecodeLimits(limits.max_pixels, limits.max_bytes, limits.min_side),
            seconds=limits.max_seconds,
            memory=limits.max_memory_mb * 2**20,
        ),
        crop=plan.config.crop.settings(),
        finder=plan.finder,
    )


def _missing(contents: Contents) -> str:
    named = ""
    if contents.missing_names:
        more = ", …" if contents.missing > len(contents.missing_names) else ""
        named = f": {', '.join(contents.missing_names)}{more}"
    return f"{contents.missing:,} of {contents.label_rows:,} label rows have no image in the archive{named}"


def _overview(spark: SparkSession, lake: Lake, dataset: str) -> Overview:
    studies = lake.studies.read(spark).where(F.col("dataset") == dataset)
    told = studies.select(F.explode("findings").alias("finding", "value"))
    overview = Overview(quarantined=lake.quarantine.count_by("dataset")[(dataset,)])
    for row in studies.groupBy("split", cropper_told()).count().collect():
        overview.splits[row["split"]] += row["count"]
        overview.croppers[row["cropper"]] += row["count"]
    for row in told.groupBy("finding", "value").count().collect():
        overview.findings[row["finding"], row["value"]] += row["count"]
    return overview


def _summary(lake: Lake, record: JobRecord, contents: Contents, overview: Overview) -> str:
    counts, seconds = record.counts, record.timings["ingest"]
    read = counts["inputs"] - counts["known"] - counts["left alone"]
    rows: dict[str, object] = {
        "inputs": counts["inputs"],
        "known from before": counts["known"],
        **({"new, left for an ingest": counts["left alone"]} if counts["left alone"] else {}),
        "new studies": counts.get("studies", 0),
        **{name: number for name, number in counts.items() if name.startswith(("quarantine: ", "duplicates "))},
        **({"same bytes, new date": counts["unchanged"]} if counts.get("unchanged") else {}),
        **({"missing images": _missing(contents)} if contents.missing else {}),
        **(
            {"without Patient ID": f"{counts['without patient id']:,} studies; each stands for a patient of its own"}
            if counts.get("without patient id")
            else {}
        ),
        **(
            {"without a label row": f"{counts['without label row']:,} of the new studies: no findings"}
            if counts.get("without label row")
            else {}
        ),
        **(
            {"labels": "images that are known keep the labels of their first reading"}
            if contents.label_rows and counts["known"]
            else {}
        ),
        "time": f"{clock(seconds)} ({read / seconds:,.1f} images/s)" if read else "nothing new to read",
        "": "",
        "studies of this data set": ", ".join(
            f"{name} {overview.splits[name]:,}" for name in Split if name in overview.splits
        )
        or "none",
        "crops": ", ".join(f"{name} {number:,}" for name, number in sorted(overview.croppers.items())) or "none",
        "findings +/-": ", ".join(
            f"{name} {overview.findings[name, POSITIVE]:,}/{overview.findings[name, NEGATIVE]:,}"
            for name in sorted({name for name, _ in overview.findings})
        )
        or "none",
        "in quarantine": f"{overview.quarantined:,}"
        + ("; retry=true reads them again" if overview.quarantined else ""),
        "lake": lake.folder.uri,
    }
    return summary_text("Ingested studies", rows)
