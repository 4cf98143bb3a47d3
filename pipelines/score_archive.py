"""An archive to predictions in one pass: decode, crop, embed, heads; no crop and no vector is kept."""

from __future__ import annotations

import itertools
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it
from pyspark.sql.pandas.types import from_arrow_schema

from featurizers.backbones import Weights
from featurizers.extractor import Extractor
from featurizers.radiograph import DecodeLimits
from pipelines.archives import FileImages
from pipelines.datasets import Dataset, claim_scored, crops_of, dataset_of
from pipelines.errors import LakeError, SourceError
from pipelines.executor_embedder import (
    Concatenation,
    EmbedderSettings,
    Workers,
    check_device_of_workers,
    keep_setups,
    ship_weights,
    worth_compiling,
)
from pipelines.folders import Folder
from pipelines.identities import Identities, as_text
from pipelines.ingest_worker import WorkerLimits
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.listing import ahead
from pipelines.live_counts import LiveCounts
from pipelines.progress import Progress
from pipelines.pseudonyms import KEY_VARIABLE, PUBLIC_KEY, Pseudonymizer, secret_key
from pipelines.rebuild import rebuild_crops, rebuild_extractor
from pipelines.score_config import CHUNK_OF_IMAGES, Paths, ScoreConfig
from pipelines.score_images import INPUTS, LISTED, STAGED_ANSWERS, Digests, ImageReader, ImageScorer
from pipelines.scoring import ANSWERS, HeadTables, ShippedHeads
from pipelines.session import named_jobs
from pipelines.sources.dicom import NO_LABELS, DicomSource
from pipelines.splits import SplitFractions
from pipelines.tables import Table

#: What an archive is called that the lake does not know.
UNKNOWN_ARCHIVE = "scored"
#: Inputs of one Spark task: enough to fill the backbone's batches, few enough that a lost task costs little.
MOST_PER_TASK, FEWEST_PER_TASK, TASKS_PER_WORKER = 512, 64, 2
#: Bytes of the random key where nobody gave one.
_THROWAWAY_KEY_BYTES = 32


@dataclass(frozen=True)
class ArchivePlan:
    """What is settled before any work starts.

    Attributes:
        config: with from=images.
        source: lists the archive.
        files: how many it holds.
        reader: what executors do with a file.
        uri_of: how a path is told, as far as the path tells.
        extractor, weights: of the heads.
        remembered: the archive, for those who hold the key and look for a file; None: the lake knows it already.
    """

    config: ScoreConfig
    source: DicomSource
    files: int
    reader: ImageReader
    uri_of: Callable[[str], str]
    extractor: Extractor
    weights: Weights
    remembered: Dataset | None


def plan_archive(lake: Lake, config: ScoreConfig, extractor: str) -> ArchivePlan:
    """Rebuild the lake's way from a file to a vector, and look at the archive.

    Args:
        lake: whose crop rules and extractor they are.
        config: with from=images.
        extractor: the heads' own.

    Raises:
        LakeError: if the way can't be rebuilt so that it gives this extractor's features.
        FeaturizerError: if the weights or the finder's files can't be read, or there is no such device.
        SourceError: if there is no such archive, or nothing in it.
        ConfigError: if there is no key for the pseudonyms of its paths, or a cluster's tasks can't be given the device.
    """
    assert config.archive is not None
    check_device_of_workers(config.device, config.master)
    crop, finder = rebuild_crops(lake, config.crop)
    described, weights = rebuild_extractor(lake, extractor, config.backbone)
    archive = Folder.at(config.archive)
    if not archive.exists():
        raise SourceError(f"there is no archive at '{archive.uri}'. Check archive=…")
    identities, remembered = _identities(lake, config, archive)
    source = DicomSource(archive, NO_LABELS, excluded=lake.folder)
    limits = config.limits
    reader = ImageReader(
        images=FileImages(archive, limits.max_bytes),
        identities=identities,
        policy=config.policy.of("dicom"),
        limits=WorkerLimits(
            DecodeLimits(limits.max_pixels, limits.max_bytes, limits.min_side),
            seconds=limits.max_seconds,
            memory=limits.max_memory_mb * 2**20,
        ),
        crop=crop.settings(),
        finder=finder,
    )
    files = source.check().records
    return ArchivePlan(config, source, files, reader, _uri_of(identities, config.paths), described, weights, remembered)


def _identities(lake: Lake, config: ScoreConfig, archive: Folder) -> tuple[Identities, Dataset | None]:
    """How the archive's paths are told, and what is to be remembered of it."""
    known = dataset_of(lake, archive.uri)
    name = config.dataset or (known[0] if known else UNKNOWN_ARCHIVE)
    public = Pseudonymizer(PUBLIC_KEY, name)
    if known and known[0] == name and known[1].key_check == public.key_check:
        return Identities(public, SplitFractions(0, 0), are_public=True), None
    if config.paths is Paths.TOLD and not (config.pseudonym_key_file or os.environ.get(KEY_VARIABLE)):
        # What can't be told goes by a pseudonym that nobody can follow.
        unfollowed = Pseudonymizer(secrets.token_bytes(_THROWAWAY_KEY_BYTES), name)
        return Identities(unfollowed, SplitFractions(0, 0), are_public=False), None
    private = Pseudonymizer(secret_key(config.pseudonym_key_file), name)
    here = Dataset(archive.uri, private.key_check, crops_of(lake))
    return Identities(private, SplitFractions(0, 0), are_public=False), here


def _uri_of(identities: Identities, paths: Paths) -> Callable[[str], str]:
    if identities.are_public:
        return as_text
    return identities.pseudonymizer.uri if paths is Paths.TOLD else identities.keyed_uri


def score_archive(
    spark: SparkSession, plan: ArchivePlan, tables: HeadTables, record: JobRecord, inputs: Folder
) -> None:
    """Answer for every image of an archive that lacks an answer of one of the heads, and commit in chunks.

    All files are read: an image is known by its bytes. One that all heads have answered for is not decoded.

    Args:
        spark: running.
        plan: for the archive.
        tables: of the heads; they get the predictions.
        record: told the counts, timings and runs.
        inputs: gets a row of the schema INPUTS for every file, as Parquet.

    Raises:
        LakeError: if the books do not balance, or the archive's name stands for another one.
    """
    lake, config = tables.lake, plan.config
    if plan.remembered:
        claim_scored(lake, plan.reader.identities.pseudonymizer.dataset, plan.remembered)
    setups = spark.sparkContext.accumulator([], Concatenation())
    workers = Workers.of(spark, config.device)
    scorer = ImageScorer(
        reader=replace(plan.reader, finder=None),
        # These go out once; with every chunk's function Spark would keep a copy of them.
        shared=spark.sparkContext.broadcast((plan.reader.finder, _answered(spark, tables))),
        settings=EmbedderSettings(
            backbone=plan.extractor.backbone,
            weights_file=ship_weights(spark, plan.weights),
            weights_source=plan.weights.source,
            fingerprint=plan.extractor.fingerprint,
            precision=plan.extractor.precision,
            crops=plan.extractor.crops,
            device=config.device,
            batch_size=config.batch_size,
            memory_mb=None,
            compile=worth_compiling(config.compile, plan.files, workers, config.device),
            storage=plan.extractor.storage,
        ),
        heads=ShippedHeads.of(spark, tables.heads),
        tell_setup=setups.add,
    )
    with (
        record.time("score"),
        LiveCounts(spark) as live,
        Progress("score", plan.files, lambda: min(plan.files, live.done.images)),
    ):
        for listed in ahead(_listed(plan, config.chunk_images or CHUNK_OF_IMAGES)):
            staging = lake.new_staging()
            try:
                with named_jobs(spark, f"score: files {live.committed + 1:,} to {live.committed + listed.num_rows:,}"):
                    staged = _stage(spark, listed, replace(scorer, tell=live.teller()), workers, staging)
                facts = _balanced(staged, listed.num_rows, tables, record)
                answered = staged.where(F.col("head").isNotNull()).select(*ANSWERS.names)
                # An archive may hold the same bytes twice.
                tables.append(answered.dropDuplicates(["head", "image_id"]), record)
            finally:
                staging.remove()
            live.commit(listed.num_rows)
            _keep(facts, inputs)
    keep_setups(record, setups.value)


def _answered(spark: SparkSession, tables: HeadTables) -> Digests:
    """The images that all heads have answered for, sorted."""
    if not all(table.folder.runs() for table in tables.tables):
        return np.empty(0, "S32")
    ids = tables.done(spark).toArrow()["image_id"].to_pylist()
    return np.sort(np.array([bytes.fromhex(each) for each in ids], "S32"))


def _listed(plan: ArchivePlan, size: int) -> Iterator[pa.Table]:
    rows = (
        {"position": position, "path": os.fsencode(record.path), "uri": plan.uri_of(record.path), "reason": None}
        for position, record in enumerate(plan.source.records())
    )
    while some := list(itertools.islice(rows, size)):
        yield pa.Table.from_pylist(some, LISTED)


def _stage(spark: SparkSession, listed: pa.Table, scorer: ImageScorer, workers: Workers, staging: Folder) -> DataFrame:
    fewest = -(-listed.num_rows // MOST_PER_TASK)
    most = -(-listed.num_rows // FEWEST_PER_TASK)
    tasks = max(fewest, min(workers.number * TASKS_PER_WORKER, most))
    rows = spark.createDataFrame(listed).repartition(tasks)
    # Materialised before anything filters on it: in one plan Spark may run a Python function twice (SPARK-47672).
    answers = rows.mapInArrow(scorer.score_all, from_arrow_schema(STAGED_ANSWERS), profile=workers.profile)
    answers.write.parquet(staging.hadoop_uri)
    return Table(staging, STAGED_ANSWERS).read_files(spark, [staging.hadoop_uri])


def _balanced(staged: DataFrame, listed: int, tables: HeadTables, record: JobRecord) -> pa.Table:
    """What came of a chunk's inputs: one row of the schema INPUTS for each.

    Raises:
        LakeError: unless every input was answered for by all heads, was known, or has a reason.
    """
    heads = F.count("head").alias("heads")
    facts = staged.groupBy(*INPUTS.names).agg(heads, F.count(F.lit(1)).alias("rows")).toArrow()
    now = pc.sum(pc.equal(facts["heads"], len(tables.heads))).as_py() or 0
    without = pc.and_(pc.equal(facts["heads"], 0), pc.equal(facts["rows"], 1))
    refused = facts.filter(pc.and_(without, pc.is_valid(facts["reason"])))
    known = (pc.sum(without).as_py() or 0) - refused.num_rows
    places = pc.count_distinct(facts["position"]).as_py()
    if not facts.num_rows == places == listed == now + refused.num_rows + known:
        raise LakeError(
            f"the books do not balance: {listed:,} files, but {now:,} with predictions, {known:,} known from before "
            f"and {refused.num_rows:,} refused, of {places:,}. This is a fault of Pleura or of the storage, and "
            "nothing of this chunk was committed; please report it."
        )
    record.count("inputs", listed)
    record.count("images", now)
    record.count("known", known)
    record.count("refused", refused.num_rows)
    for reason, number in sorted(Counter(refused["reason"].to_pylist()).items()):
        record.count(f"refused: {reason}", number)
    return facts.select(INPUTS.names).cast(INPUTS).sort_by("position")


def _keep(facts: pa.Table, inputs: Folder) -> None:
    filesystem = inputs.filesystem
    filesystem.makedirs(inputs.path, exist_ok=True)
    first = facts["position"][0].as_py()
    with filesystem.open(f"{inputs.path}/part-{first:012}.parquet", "wb") as file:
        pq.write_table(facts, file)
