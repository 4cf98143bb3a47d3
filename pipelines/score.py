"""Features to predictions: a head answers its task for every image that has features and no prediction yet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping

import pyarrow as pa
from pydantic import Field
from pyspark import Broadcast

from classifiers.trained import Scores, TrainedHead
from pipelines.config import SparkConfig
from pipelines.increment import Increment
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.progress import clock
from pipelines.session import spark_session
from pipelines.tables import PREDICTIONS
from pipelines.train import as_matrix, load_head

CARD = "_head.json"


class ScoreConfig(SparkConfig):
    """Settings of jobs/score_studies.py."""

    head: str = Field(description="task/name of the head (its newest run), or task/name/run=… for an older one")
    extractor: str | None = Field(
        None,
        description="fingerprint (or its start) of the features to score; null: those that the head was trained on",
    )
    chunk_images: int = Field(1_000_000, gt=0, description="images per commit: what a restart repeats at most")


def score(config: ScoreConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there is no such head, or no features.
        HeadError: if the features are of another extractor than the head's.
    """
    lake = Lake.open(config.lake)
    trained = load_head(lake, config.head)
    extractor = lake.choose_extractor(config.extractor or trained.extractor)
    trained.check_extractor(extractor)
    predictions = lake.predictions(trained.fingerprint)
    record = JobRecord("score_studies", config)
    record.extra |= {"head": trained.fingerprint, "extractor": extractor, "calibration": str(trained.calibration)}
    work = Increment(lake.features(extractor), ("image_id", "features"), predictions)
    with spark_session("score_studies", config.master) as spark:
        files = work.missing(spark)
        record.count("images", sum(file.missing for file in files))
        if files:
            predictions.folder.write_json(CARD, record.extra | {"task": trained.task.name, "config_head": config.head})
            shipped = spark.sparkContext.broadcast(trained.to_files())
            with record.time("score"):
                transform = functools.partial(score_batches, shipped)
                work.fill(spark, files, transform, verb="score", chunk_images=config.chunk_images, record=record)
            record.write_beside(predictions.folder)
        # Exploded map: how often each class was decided, over all predictions of this head.
        decided = predictions.read(spark).selectExpr("explode(decisions) as (class, decided)").where("decided")
        counts = {row["class"]: row["count"] for row in decided.groupBy("class").count().collect()}
    record.summary = _summary(record, trained, counts, predictions.folder.uri)
    return record


def score_batches(
    files: Broadcast[dict[str, bytes]], batches: Iterable[pa.RecordBatch], count: Callable[[int], None]
) -> Iterator[pa.RecordBatch]:
    """On an executor: batches of (image_id, features) to batches of the schema PREDICTIONS.

    Args:
        files: the head's files.
        batches: from Spark.
        count: told how many images are done.
    """
    trained = TrainedHead.from_files(files.value)
    for batch in batches:
        if batch.num_rows:
            scores = trained.score(as_matrix(batch.column("features")))
            yield _to_arrow(trained, batch.column("image_id"), scores)
            count(batch.num_rows)


def _to_arrow(trained: TrainedHead, image_ids: pa.Array, scores: Scores) -> pa.RecordBatch:
    rows, classes = scores.probabilities.shape
    offsets = pa.array(range(0, (rows + 1) * classes, classes), pa.int32())
    names = pa.array(list(trained.task.classes) * rows, pa.string())
    probabilities = pa.array(scores.probabilities.reshape(-1), pa.float32())
    decisions = pa.array(scores.decisions.reshape(-1))
    return pa.RecordBatch.from_arrays(
        [
            image_ids,
            pa.array([trained.task.name] * rows, pa.string()),
            pa.MapArray.from_arrays(offsets, names, probabilities),
            pa.MapArray.from_arrays(offsets, names, decisions),
        ],
        schema=PREDICTIONS,
    )


def _summary(record: JobRecord, trained: TrainedHead, counts: Mapping[str, int], table: str) -> str:
    images = record.counts["images"]
    rows: dict[str, object] = {"head": f"{trained.task.name}/{trained.head_name}", "fingerprint": trained.fingerprint}
    if images:
        seconds = record.timings["score"]
        rows["new predictions"] = images
        rows["time"] = f"{clock(seconds)} ({images / seconds:,.0f} images/s)"
    else:
        rows["new predictions"] = "none: every image with features is scored already"
    rows["decided, in all"] = ", ".join(f"{name} {counts.get(name, 0):,}" for name in trained.task.classes)
    rows["table"] = table
    return summary_text("Scored studies", rows) + "\n\nprobabilities are not calibrated; research use only"
