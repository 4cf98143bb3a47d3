"""A lake's rows, counted by Spark: sums and a few examples leave the executors, never rows, and no crop is read."""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it

from pipelines.intake import CONFLICT
from pipelines.lake import Lake
from pipelines.sources.base import NEGATIVE, POSITIVE, UNCERTAIN
from pipelines.splits import Split
from pipelines.tables import Table, cropper_told


@dataclass(frozen=True)
class Example:
    """An input in quarantine."""

    uri: str
    detail: str


@dataclass
class Rejects:
    """Inputs in quarantine for one reason.

    Attributes:
        inputs: how many.
        conflicts: those of them (duplicates) whose labels differ from those of the image that is kept.
        examples: a few, conflicts first.
    """

    inputs: int = 0
    conflicts: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Values:
    """How many images mention a finding, by what they say."""

    positive: int = 0
    negative: int = 0
    uncertain: int = 0


@dataclass
class DatasetCounts:
    """What the tables hold of one data set.

    Attributes:
        images, patients: by split.
        torn_patients: patients in more than one split.
        views, croppers: images by view ("not told" where nothing does) and by how they were cropped.
        findings: by name and split.
        reasons: quarantine by reason code.
        restamped: inputs that were written anew with the same bytes.
        changed: inputs in quarantine whose uri is that of a study, made when the file had another content.
        in_both: inputs that are in quarantine and in studies with the same content.
        twice: inputs that are in quarantine more than once.
    """

    images: dict[str, int] = field(default_factory=dict)
    patients: dict[str, int] = field(default_factory=dict)
    torn_patients: int = 0
    views: dict[str, int] = field(default_factory=dict)
    croppers: dict[str, int] = field(default_factory=dict)
    findings: dict[str, dict[str, Values]] = field(default_factory=dict)
    reasons: dict[str, Rejects] = field(default_factory=dict)
    restamped: int = 0
    changed: int = 0
    in_both: int = 0
    twice: int = 0

    @property
    def studies(self) -> int:
        """Rows of studies."""
        return sum(self.images.values())

    @property
    def quarantined(self) -> int:
        """Rows of quarantine."""
        return sum(rejects.inputs for rejects in self.reasons.values())


@dataclass(frozen=True)
class ImageCounts:
    """How the images of one table stand to those of studies.

    Attributes:
        rows: of the table, augmented copies included.
        lacking: studies that have none, and are not known to get none.
        without_study: images that are no study's.
        twice: images with several rows, augmented copies aside.
    """

    rows: int
    lacking: int
    without_study: int
    twice: int


def count_datasets(spark: SparkSession, lake: Lake, examples: int) -> dict[str, DatasetCounts]:
    """Count studies and quarantine, data set by data set.

    Args:
        spark: running.
        lake: read only.
        examples: told of each reason at most.
    """
    datasets: defaultdict[str, DatasetCounts] = defaultdict(DatasetCounts)
    studies, quarantine = lake.studies.read(spark), lake.quarantine.read(spark)
    if lake.studies.folder.runs():
        _count_images(studies, datasets)
        _count_patients(studies, datasets)
        _count_findings(studies, datasets)
    if lake.quarantine.folder.runs():
        _count_reasons(quarantine, datasets)
        if examples:
            _choose_examples(quarantine, examples, datasets)
        _compare(quarantine, studies, datasets)
    if lake.restamped.folder.runs():
        for row in lake.restamped.read(spark).groupBy("dataset").count().collect():
            datasets[row["dataset"]].restamped = row["count"]
    return dict(datasets)


def _count_images(studies: DataFrame, datasets: Mapping[str, DatasetCounts]) -> None:
    for row in studies.groupBy("dataset", "split", "view", cropper_told()).count().collect():
        counts = datasets[row["dataset"]]
        for by, name in (
            (counts.images, row["split"]),
            (counts.views, row["view"] or "not told"),
            (counts.croppers, row["cropper"]),
        ):
            by[name] = by.get(name, 0) + row["count"]


def _count_patients(studies: DataFrame, datasets: Mapping[str, DatasetCounts]) -> None:
    is_in = {str(split): F.max((F.col("split") == str(split)).cast("int")) for split in Split}
    patients = studies.groupBy("dataset", "patient_key").agg(*(value.alias(name) for name, value in is_in.items()))
    splits = functools.reduce(operator.add, map(F.col, is_in))
    sums = [F.sum(name).alias(name) for name in is_in]
    torn = F.sum((splits > 1).cast("int")).alias("torn")
    for row in patients.groupBy("dataset").agg(*sums, torn).collect():
        counts = datasets[row["dataset"]]
        counts.patients = {name: row[name] for name in is_in if row[name]}
        counts.torn_patients = row["torn"]


def _count_findings(studies: DataFrame, datasets: Mapping[str, DatasetCounts]) -> None:
    told = studies.select("dataset", "split", F.explode("findings").alias("finding", "value"))
    of = {
        name: F.sum((F.col("value") == value).cast("int")).alias(name)
        for name, value in (("positive", POSITIVE), ("negative", NEGATIVE), ("uncertain", UNCERTAIN))
    }
    for row in told.groupBy("dataset", "finding", "split").agg(*of.values()).orderBy("finding").collect():
        by_split = datasets[row["dataset"]].findings.setdefault(row["finding"], {})
        by_split[row["split"]] = Values(*(row[name] for name in of))


def _count_reasons(quarantine: DataFrame, datasets: Mapping[str, DatasetCounts]) -> None:
    is_conflict = F.col("detail").contains(CONFLICT).cast("int")
    counted = quarantine.groupBy("dataset", "reason").agg(
        F.count(F.lit(1)).alias("inputs"), F.sum(is_conflict).alias("conflicts")
    )
    for row in counted.orderBy("dataset", F.desc("inputs"), "reason").collect():
        datasets[row["dataset"]].reasons[row["reason"]] = Rejects(row["inputs"], row["conflicts"])


def _choose_examples(quarantine: DataFrame, number: int, datasets: Mapping[str, DatasetCounts]) -> None:
    # Spark cuts each partition to the first rows before anything is shuffled.
    order = Window.partitionBy("dataset", "reason").orderBy(F.col("detail").contains(CONFLICT).desc(), "uri")
    chosen = quarantine.withColumn("place", F.row_number().over(order)).where(F.col("place") <= number)
    for row in chosen.select("dataset", "reason", "uri", "detail").orderBy("dataset", "reason", "place").collect():
        datasets[row["dataset"]].reasons[row["reason"]].examples.append(Example(row["uri"], row["detail"]))


def _compare(quarantine: DataFrame, studies: DataFrame, datasets: Mapping[str, DatasetCounts]) -> None:
    """Find inputs in two places: Spark sends quarantine to studies, not the other way, where it is the smaller one."""
    inputs = quarantine.groupBy("dataset", "uri", "stamp").agg((F.count(F.lit(1)) > 1).alias("is_twice"))
    made = studies.select("dataset", "uri", F.col("stamp").alias("study_stamp"))
    met = (
        inputs.join(made, ["dataset", "uri"])
        .groupBy("dataset", "uri", "stamp")
        .agg(F.max(F.col("stamp") == F.col("study_stamp")).alias("is_study"))
    )
    twice = inputs.where("is_twice").select("dataset", F.lit("twice").alias("what"))
    kind = F.when(F.col("is_study"), "in_both").otherwise("changed").alias("what")
    for row in twice.unionAll(met.select("dataset", kind)).groupBy("dataset", "what").count().collect():
        setattr(datasets[row["dataset"]], row["what"], row["count"])


def count_images(
    spark: SparkSession, studies: Table, others: Mapping[str, Table], without: Mapping[str, Table]
) -> dict[str, ImageCounts]:
    """Compare the images of tables with those of studies, in one shuffle.

    Args:
        spark: running.
        studies: of the lake; told under the name "studies".
        others: features and predictions, by name; read in this order, so that later stages come first: what a
            running job adds meanwhile has its study all the same.
        without: of some of these, the images that are known to get no row, which do not lack one.
    """
    names = [*others, "studies"]
    tables = [*others.values(), studies]
    rows = [_images(table, number, spark) for number, table in enumerate(tables)]
    rows += [
        _images(without[name], number, spark).withColumns({"is_original": F.lit(False), "is_row": F.lit(False)})
        for number, name in enumerate(names)
        if name in without
    ]
    number, study = range(len(names)), len(names) - 1
    per_image = (
        functools.reduce(DataFrame.unionAll, rows)
        .groupBy("image_id")
        .agg(
            *(F.sum(((F.col("table") == n) & F.col("is_row")).cast("long")).alias(f"rows{n}") for n in number),
            *(F.max((F.col("table") == n) & ~F.col("is_row")).alias(f"without{n}") for n in number),
            *(F.sum(((F.col("table") == n) & F.col("is_original")).cast("long")).alias(f"own{n}") for n in number),
        )
    )
    is_there = [F.col(f"own{n}") > 0 for n in number]
    sums = []
    for n in number:
        sums += [
            F.sum(f"rows{n}").alias(f"rows{n}"),
            F.sum((is_there[study] & ~is_there[n] & ~F.col(f"without{n}")).cast("long")).alias(f"lacking{n}"),
            F.sum((~is_there[study] & is_there[n]).cast("long")).alias(f"without_study{n}"),
            F.sum((F.col(f"own{n}") > 1).cast("long")).alias(f"twice{n}"),
        ]
    told = per_image.agg(*sums).collect()[0]
    return {
        name: ImageCounts(*(told[f"{what}{n}"] or 0 for what in ("rows", "lacking", "without_study", "twice")))
        for n, name in enumerate(names)
    }


def _images(table: Table, number: int, spark: SparkSession) -> DataFrame:
    is_original = F.col("variant") == 0 if "variant" in table.schema.names else F.lit(True)
    return table.read(spark).select(
        "image_id", F.lit(number).alias("table"), is_original.alias("is_original"), F.lit(True).alias("is_row")
    )


def runs_with_images_twice(spark: SparkSession, studies: Table) -> list[str]:
    """The names of the runs of studies that hold an image which is there more than once."""
    located = studies.read(spark).select("image_id", F.col("_metadata.file_path").alias("file"))
    run = F.regexp_extract("file", r"(run=[^/]+)", 1)
    runs = located.groupBy("image_id").agg(F.count(F.lit(1)).alias("rows"), F.collect_set(run).alias("runs"))
    found = runs.where("rows > 1").select(F.explode("runs").alias("run")).distinct().orderBy("run")
    return [row["run"] for row in found.collect()]
