"""The tables of the lake: their schemas, and how rows get in and out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it
from pyspark.sql.pandas.types import from_arrow_schema

from featurizers.crops import Cropper
from pipelines.folders import Folder, writing
from pipelines.parquet import parquet_files

#: Row groups of this many bytes let a few hundred crops be read without holding a file of thousands.
ROW_GROUP_BYTES = 16 * 2**20
#: A file is the smallest unit of a resumed job, so it must not grow with the archive.
ROWS_PER_FILE = 2048

_BOX = [("left", pa.float64()), ("top", pa.float64()), ("right", pa.float64()), ("bottom", pa.float64())]

#: Columns of `studies` that the source tells, before any pixel is read. `stamp` is a keyed digest of the file's path,
#: size and time: what tells an input that is known from a new one without reading it.
LABELS = pa.schema(
    [
        ("dataset", pa.string()),
        ("uri", pa.string()),
        ("patient_key", pa.string()),
        ("study_key", pa.string()),
        ("view", pa.string()),
        ("sex", pa.string()),
        ("age_years", pa.float32()),
        ("findings", pa.map_(pa.string(), pa.int8())),
        ("boxes", pa.list_(pa.struct([("finding", pa.string()), *_BOX]))),
        ("split", pa.string()),
        ("stamp", pa.string()),
    ]
)

#: Columns of `studies` that the file tells. `lung_box` is all that the crop shows, as fractions of the original (see
#: featurizers.crops.CropBox); `lung_quality` is null where the lungs were not looked for. `pixel_spacing` is DICOM's:
#: millimetres between rows, between columns.
PIXELS = pa.schema(
    [
        ("crop", pa.binary()),
        ("lung_box", pa.struct(_BOX)),
        ("lung_quality", pa.float32()),
        ("cropper", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bits", pa.int32()),
        ("photometric", pa.string()),
        ("pixel_spacing", pa.list_(pa.float32())),
    ]
)

STUDIES = pa.schema([pa.field("image_id", pa.string()), *LABELS, *PIXELS])

QUARANTINE = pa.schema(
    [
        ("uri", pa.string()),
        ("dataset", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("stamp", pa.string()),
    ]
)

#: Label rows whose DICOM image was found, by the digest that joins the two.
FOUND_LABELS = pa.schema([("dataset", pa.string()), ("label_key", pa.string())])

#: Inputs that were written anew with the same bytes: the stamps under which they are known too.
RESTAMPED = pa.schema([("dataset", pa.string()), ("stamp", pa.string())])

#: The variant of features that is the crop itself; its augmented copies count from 1.
ORIGINAL = 0

FEATURES = pa.schema([("image_id", pa.string()), ("variant", pa.int32()), ("features", pa.list_(pa.float32()))])

#: Crops, or copies of them, that an extractor gives no vector; see featurizers.reasons.NoVector.
UNEMBEDDED = pa.schema(
    [("image_id", pa.string()), ("variant", pa.int32()), ("reason", pa.string()), ("detail", pa.string())]
)

PREDICTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("task", pa.string()),
        ("probabilities", pa.map_(pa.string(), pa.float32())),
        ("decisions", pa.map_(pa.string(), pa.bool_())),
    ]
)

#: Where a head finds a class in an image, whether it decides for it or not: fractions of the original's sides. `peak`
#: is the hottest place, null where nothing speaks for the class, and outside where a crop's padding is hottest; of the
#: boxes the hottest comes first, and `intensity` is its share of the heatmap's greatest.
LOCALIZATIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("class", pa.string()),
        ("probability", pa.float32()),
        ("decision", pa.bool_()),
        ("peak", pa.struct([("x", pa.float64()), ("y", pa.float64())])),
        ("boxes", pa.list_(pa.struct([*_BOX, ("intensity", pa.float32())]))),
    ]
)


@dataclass(frozen=True)
class Table:
    """A folder of Parquet runs of one schema."""

    folder: Folder
    schema: pa.Schema

    def read(self, spark: SparkSession) -> DataFrame:
        """All rows of all committed runs."""
        return self.read_files(spark, [run.hadoop_uri for run in self.folder.runs()])

    def read_files(self, spark: SparkSession, locations: list[str]) -> DataFrame:
        """The rows of some of its runs or files."""
        schema = from_arrow_schema(self.schema)
        if not locations:
            return spark.createDataFrame([], schema)
        return spark.read.schema(schema).parquet(*locations)

    def files(self) -> Iterator[str]:
        """The paths of the Parquet files of all committed runs, run by run, inside the table's file system."""
        for run in self.folder.runs():
            yield from parquet_files(run)

    def append(self, rows: DataFrame, replaced: Sequence[Folder] = ()) -> Folder:
        """Write `rows` as one run; Spark's committer makes it appear at once, when its last task is done.

        Args:
            rows: with the schema's columns.
            replaced: runs whose rows are among these, or are no longer true: they go as this one comes.
        """
        run = self.folder.new_run()
        if replaced:
            run.replace(replaced)
        columns = rows.select(*self.schema.names)
        (
            columns.write.mode("append")
            .option("maxRecordsPerFile", ROWS_PER_FILE)
            .option("parquet.block.size", ROW_GROUP_BYTES)
            .parquet(run.hadoop_uri)
        )
        for old in replaced:
            old.remove()
        return run

    def append_arrow(self, rows: pa.Table) -> Folder:
        """Write a few rows as one run, without Spark."""
        run = self.folder.new_run()
        filesystem = run.filesystem
        with writing(run):
            filesystem.makedirs(run.path, exist_ok=True)
            with filesystem.open(f"{run.path}/part-00000.parquet", "wb") as file:
                pq.write_table(rows.select(self.schema.names).cast(self.schema), file)
        run.commit()
        return run

    def rows_in(self, run: Folder) -> int:
        """How many rows a run holds, as its files tell."""
        filesystem = run.filesystem
        return sum(pq.read_metadata(path, filesystem=filesystem).num_rows for path in parquet_files(run))

    def count_by(self, *columns: str) -> Counter[tuple[Any, ...]]:
        """How many rows there are of each combination of values, read file by file, without Spark."""
        counts: Counter[tuple[Any, ...]] = Counter()
        for path in self.files():
            rows = pq.read_table(path, columns=list(columns), filesystem=self.folder.filesystem)
            groups = rows.group_by(list(columns)).aggregate([([], "count_all")])
            counts.update({tuple(row[c] for c in columns): row["count_all"] for row in groups.to_pylist()})
        return counts

    def to_arrow(self, columns: list[str]) -> pa.Table:
        """Some columns of all committed runs, in memory, without Spark."""
        filesystem = self.folder.filesystem
        schema = pa.schema([self.schema.field(name) for name in columns])
        tables = [pq.read_table(path, columns=columns, filesystem=filesystem).cast(schema) for path in self.files()]
        return pa.concat_tables(tables) if tables else schema.empty_table()


def cropper_told() -> Column:
    """Of a row of `studies`: its cropper, and where the image is whole for want of lungs to trust, that."""
    kept_whole = (F.col("cropper") == Cropper.WHOLE_IMAGE) & F.col("lung_quality").isNotNull()
    told = F.when(kept_whole, F.lit(f"{Cropper.WHOLE_IMAGE} (lung_quality too low)")).otherwise(F.col("cropper"))
    return told.alias("cropper")
