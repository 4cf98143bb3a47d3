"""How listed inputs get into the lake: which are new, read by Spark, and committed chunk by chunk."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812  the name that Spark's documentation gives it
from pyspark.sql.pandas.types import from_arrow_schema

from featurizers.reasons import Reason
from pipelines.dicom_header import LABEL_KEYS
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.identities import Identities
from pipelines.ingest_worker import STAGED, StudyReader
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.sources.base import NAMES_TOLD
from pipelines.sources.dicom import DicomSource, LabelRow
from pipelines.tables import QUARANTINE, Table

#: Inputs of one Spark task. A task costs some 0.2 s of its own, so few of them; but seconds of work at most, so that
#: progress is seen, a lost one costs little, and every core has some.
MOST_PER_TASK, FEWEST_PER_TASK, TASKS_PER_CORE = 512, 32, 2

LABEL_ROWS_AT_ONCE = 8192
#: In the detail of a duplicate that is labelled otherwise.
CONFLICT = "conflicting labels"

#: What of a staged row decides where it goes: a few hundred bytes, which the driver looks at for a chunk at a time.
_FACTS = [
    "position",
    "row",
    "image_id",
    "dataset",
    "uri",
    "patient_key",
    "findings",
    "split",
    "stamp",
    "reason",
    "detail",
    "label_keys",
    "names_patient",
]
_LABELS = pa.schema([("label_key", pa.string()), ("row", pa.int64()), ("findings", pa.map_(pa.string(), pa.int8()))])


@dataclass(frozen=True)
class Books:
    """What became of the inputs of one chunk.

    Attributes:
        studies, quarantined: rows of the committed runs, as their files tell.
        unchanged: inputs that were written anew with the bytes that the lake has under their uri.
        reasons: of those in quarantine.
        conflicts: duplicates whose labels differ from those of the image that is kept.
        without_labels: studies that no row of a table of labels names, where there is a table.
        without_patient_id: DICOM images whose header names no patient, so that their study stands for one.
    """

    studies: int
    quarantined: int
    unchanged: int
    reasons: Counter[str]
    conflicts: int
    without_labels: int
    without_patient_id: int

    def check(self, inputs: int) -> None:
        """Raises LakeError unless every one of `inputs` is in exactly one place."""
        if self.studies + self.quarantined + self.unchanged != inputs:
            raise LakeError(
                f"the books do not balance: {inputs:,} new inputs, but {self.studies:,} studies, {self.quarantined:,} "
                f"quarantined and {self.unchanged:,} unchanged. This is a fault of Pleura or of the storage: the chunk "
                "is in the lake as far as its runs were committed; please report it."
            )


@dataclass(frozen=True)
class Window:
    """What the lake knows of some listed inputs.

    Attributes:
        fresh: those to read, of the schema LISTING.
        known: how many of the others the lake has, in studies or in quarantine.
        left: how many it has not, and that this job leaves alone (a retry takes no new ones).
        quarantined: uris of this window that are in quarantine now.
    """

    fresh: pa.Table
    known: int
    left: int
    quarantined: frozenset[str]


@dataclass(frozen=True)
class _StagedLabels:
    """Label rows in a folder of the lake, and which of LABEL_KEYS joins them."""

    folder: Folder
    key: int


@dataclass
class _Verdicts:
    """Where the rows of a chunk go, by position."""

    quarantine: list[dict[str, Any]] = field(default_factory=list)
    unchanged: list[dict[str, Any]] = field(default_factory=list)
    not_studies: list[int] = field(default_factory=list)


class Intake:
    """One data set's way into a lake, on a running Spark.

    Args:
        spark: running.
        lake: written to.
        reader: what the executors do with an input.
        identities: of the data set.
        record: told the runs and timings.
        retry: read what is in quarantine and nothing else.
    """

    def __init__(
        self,
        spark: SparkSession,
        lake: Lake,
        reader: StudyReader,
        identities: Identities,
        record: JobRecord,
        *,
        retry: bool,
    ) -> None:
        self._spark, self._lake, self._record, self._retry = spark, lake, record, retry
        # The finder's megabytes go out once: with every chunk's function Spark would keep a copy of them. The rest, in
        # which the key of the pseudonyms is, stays inside the tasks.
        self._finder = spark.sparkContext.broadcast(reader.finder)
        self._reader = replace(reader, finder=None)
        self._identities = identities
        self._dataset = identities.pseudonymizer.dataset
        self._labels: _StagedLabels | None = None
        self._counter = spark.sparkContext.accumulator(0)

    def done(self) -> int:
        """Inputs that executors are done with."""
        return int(self._counter.value)

    # --- what is new ---------------------------------------------------------------------------------------------

    def look_up(self, listed: pa.Table) -> Window:
        """Ask the tables which of some listed inputs they know: once for many, for it reads all their stamps."""
        inputs = self._spark.createDataFrame(self._known_by(listed))
        studies = self._positions(inputs, [self._lake.studies, self._lake.restamped])
        held, settled, stale, quarantined = set[int](), set[int](), set[int](), set[str]()
        admitted = {str(reason) for reason in self._reader.policy.admitted}
        if self._lake.quarantine.folder.runs():
            rows = self._of_dataset(self._lake.quarantine).select("uri", "reason", F.col("stamp").alias("old_stamp"))
            for row in inputs.join(rows, "uri").select("position", "uri", "reason", "stamp", "old_stamp").collect():
                held.add(row["position"])
                quarantined.add(row["uri"])
                if row["stamp"] != row["old_stamp"]:
                    stale.add(row["position"])
                elif row["reason"] not in admitted:
                    settled.add(row["position"])
        everything = set(listed["position"].to_pylist())
        # What quarantine tells of another version is no longer true, also of a file that became a study's again.
        wanted = (held if self._retry else everything - settled) - studies | stale
        known = (everything - wanted) & (studies | held)
        return Window(
            fresh=listed.filter(pc.is_in(listed["position"], pa.array(sorted(wanted), pa.int64()))),
            known=len(known),
            left=len(everything) - len(wanted) - len(known),
            quarantined=frozenset(quarantined),
        )

    def _known_by(self, listed: pa.Table) -> pa.Table:
        """Position, stamp and uri; twice where a header may turn the uri into a keyed one."""
        names = pa.table({name: listed[name] for name in ("position", "stamp", "uri")})
        if self._identities.are_public:
            return names
        keyed = pa.array([self._identities.keyed_uri(os.fsdecode(path)) for path in listed["path"].to_pylist()])
        again = names.set_column(2, "uri", keyed).filter(pc.not_equal(keyed, names["uri"]))
        return pa.concat_tables([names, again])

    def _positions(self, inputs: DataFrame, tables: list[Table]) -> set[int]:
        """Of the inputs whose stamp one of the tables has."""
        found: set[int] = set()
        for table in tables:
            if table.folder.runs():
                stamps = self._of_dataset(table).select("stamp")
                rows = inputs.join(stamps, "stamp", "left_semi").select("position").toArrow()
                found.update(rows["position"].to_pylist())
        return found

    def _of_dataset(self, table: Table) -> DataFrame:
        return table.read(self._spark).where(F.col("dataset") == self._dataset)

    # --- labels that are joined by what a header tells -----------------------------------------------------------

    def stage_labels(self, source: DicomSource, staging: Folder) -> None:
        """Keep a source's label rows, under keyed digests, where executors can join them to images."""
        filesystem = staging.filesystem
        filesystem.makedirs(staging.path, exist_ok=True)
        pseudonym, attribute = self._identities.pseudonymizer.label, source.label_key
        with (
            filesystem.open(f"{staging.path}/labels.parquet", "wb") as file,
            pq.ParquetWriter(file, _LABELS) as writer,
        ):
            for batch in _batched(source.label_rows()):
                rows = [
                    {"label_key": pseudonym(attribute, row.key), "row": row.row, "findings": list(row.findings.items())}
                    for row in batch
                ]
                writer.write_batch(pa.RecordBatch.from_pylist(rows, _LABELS))
        self._labels = _StagedLabels(staging, LABEL_KEYS.index(attribute))

    def unmatched_labels(self) -> tuple[int, list[int]]:
        """How many staged label rows have no image in the lake, and the first of their row numbers."""
        if self._labels is None:
            return 0, []
        found = self._of_dataset(self._lake.found_labels).select("label_key")
        unmatched = self._label_rows(self._labels).join(found, "label_key", "left_anti").select("row").cache()
        number = unmatched.count()
        rows = [row["row"] for row in unmatched.orderBy("row").limit(NAMES_TOLD).collect()]
        unmatched.unpersist()
        return number, rows

    def _label_rows(self, labels: _StagedLabels) -> DataFrame:
        return self._spark.read.schema(from_arrow_schema(_LABELS)).parquet(labels.folder.hadoop_uri)

    def _with_labels(self, staged: DataFrame) -> DataFrame:
        if self._labels is None:
            return staged
        staged = staged.withColumn("label_key", F.col("label_keys")[self._labels.key])
        labels = self._label_rows(self._labels).select("label_key", F.col("findings").alias("told"))
        wanted = labels.join(F.broadcast(staged.select("label_key").distinct()), "label_key", "left_semi")
        joined = staged.join(F.broadcast(wanted), "label_key", "left")
        return joined.withColumn("findings", F.coalesce("told", "findings")).drop("told")

    # --- reading and committing ----------------------------------------------------------------------------------

    def take_in(self, chunk: pa.Table, quarantined: frozenset[str]) -> Books:
        """Read one chunk of fresh inputs and commit what came of it.

        Args:
            chunk: of the schema LISTING.
            quarantined: see Window.

        Raises:
            LakeError: if a patient would be in two splits (nothing of the chunk is committed then), or if the books
                do not balance.
        """
        staging = self._lake.new_staging()
        try:
            with self._record.time("read_and_crop"):
                self._stage(chunk, staging)
            with self._record.time("commit"):
                outdated = quarantined.intersection(self._known_by(chunk)["uri"].to_pylist()) if quarantined else ()
                books = self._commit(staging, sorted(outdated))
        finally:
            staging.remove()
        books.check(chunk.num_rows)
        return books

    def _stage(self, chunk: pa.Table, staging: Folder) -> None:
        reader, finder, counter = self._reader, self._finder, self._counter

        def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            return replace(reader, finder=finder.value).read_all(batches, counter.add)

        cores = self._spark.sparkContext.defaultParallelism
        fewest = -(-chunk.num_rows // MOST_PER_TASK)
        tasks = max(fewest, min(cores * TASKS_PER_CORE, -(-chunk.num_rows // FEWEST_PER_TASK)))
        listed = self._spark.createDataFrame(chunk).repartition(tasks)
        # Materialised before anything filters on it: in one plan Spark may run a Python function twice (SPARK-47672).
        listed.mapInArrow(read, from_arrow_schema(STAGED)).write.parquet(staging.hadoop_uri)

    def _commit(self, staging: Folder, outdated: list[str]) -> Books:
        lake = self._lake
        staged = self._with_labels(Table(staging, STAGED).read_files(self._spark, [staging.hadoop_uri]))
        facts = staged.select(*_FACTS).toArrow().sort_by("position").to_pylist(maps_as_pydicts="strict")
        stored = self._stored(facts)
        self._check_splits(facts, stored)
        verdicts = self._judge(facts, stored)
        # Were the job killed after one of these, the rest of the chunk would be read once more: label keys that are
        # found twice do no harm, and an input that is in quarantine is not in studies.
        found = sorted({key for row in facts for key in row["label_keys"] or () if key})
        self._append(lake.found_labels, [{"dataset": self._dataset, "label_key": key} for key in found])
        quarantined = self._quarantine(verdicts.quarantine, outdated)
        rejected = set(verdicts.not_studies)
        accepted = [row for row in facts if row["position"] not in rejected]
        studies = 0
        if accepted:
            is_study = ~F.col("position").isin(verdicts.not_studies) if verdicts.not_studies else F.lit(True)
            run = lake.studies.append(staged.where(is_study))
            self._record.runs.append(run.uri)
            studies = lake.studies.rows_in(run)
        self._append(lake.restamped, verdicts.unchanged)
        return Books(
            studies=studies,
            quarantined=quarantined,
            unchanged=len(verdicts.unchanged),
            reasons=Counter(row["reason"] for row in verdicts.quarantine),
            conflicts=sum(CONFLICT in row["detail"] for row in verdicts.quarantine),
            without_labels=sum(not row["findings"] for row in accepted) if self._labels else 0,
            without_patient_id=sum(row["names_patient"] is False for row in accepted),
        )

    def _append(self, table: Table, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._record.runs.append(table.append_arrow(pa.Table.from_pylist(rows, table.schema)).uri)

    def _stored(self, facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Studies of the lake with an image or a patient of this chunk."""
        if not self._lake.studies.folder.runs():
            return []
        columns = ["image_id", "dataset", "uri", "patient_key", "findings", "split"]
        studies = self._lake.studies.read(self._spark).select(*columns)
        found = []
        for key in ("image_id", "patient_key"):
            values = sorted({row[key] for row in facts if row[key] and not row["reason"]})
            if values:
                wanted = self._spark.createDataFrame(pa.table({key: values}))
                rows = studies.join(F.broadcast(wanted), key, "left_semi").select(*columns)
                # Of a patient the split is enough, once.
                found.append(rows if key == "image_id" else rows.dropDuplicates(["dataset", "patient_key", "split"]))
        return [row for rows in found for row in rows.toArrow().to_pylist(maps_as_pydicts="strict")]

    def _check_splits(self, facts: list[dict[str, Any]], stored: list[dict[str, Any]]) -> None:
        splits: dict[str, set[str]] = {}
        for row in [*facts, *(row for row in stored if row["dataset"] == self._dataset)]:
            if row["patient_key"] and not row.get("reason"):
                splits.setdefault(row["patient_key"], set()).add(row["split"])
        torn = sum(len(each) > 1 for each in splits.values())
        if torn:
            raise LakeError(
                f"{torn:,} patients of these inputs would be in two splits, or are in another split of the lake; "
                "splits belong to patients. Ingest with the val_fraction, test_fraction and split column of the first "
                "time, or into a new lake."
            )

    def _judge(self, facts: list[dict[str, Any]], stored: list[dict[str, Any]]) -> _Verdicts:
        """`facts` in the order of their positions: of inputs with the same bytes, the first is kept."""
        firsts = {row["image_id"]: row for row in stored}
        verdicts = _Verdicts()
        for row in facts:
            first = None if row["reason"] else firsts.setdefault(row["image_id"], row)
            if first is row:
                continue
            verdicts.not_studies.append(row["position"])
            if first is not None and (first["dataset"], first["uri"]) == (row["dataset"], row["uri"]):
                verdicts.unchanged.append({"dataset": self._dataset, "stamp": row["stamp"]})
                continue
            reason, detail = row["reason"], row["detail"]
            if first is not None:
                reason, detail = str(Reason.DUPLICATE), _duplicate(row, first)
            # The number finds the input where its uri is a pseudonym.
            where = "" if row["row"] is None else f" (row {row['row']})"
            verdicts.quarantine.append(row | {"reason": reason, "detail": f"{detail}{where}"})
        return verdicts

    def _quarantine(self, rejected: list[dict[str, Any]], outdated: list[str]) -> int:
        """Commit the chunk's rejected inputs; what quarantine tells of the chunk's inputs from before goes with it.

        Returns:
            How many of the rows in quarantine are the chunk's, as its files tell.
        """
        table = self._lake.quarantine
        rows = pa.Table.from_pylist([{name: row[name] for name in QUARANTINE.names} for row in rejected], QUARANTINE)
        if outdated:
            # Listed once: exactly what is read is replaced.
            replaced = table.folder.runs()
            is_outdated = (F.col("dataset") == self._dataset) & F.col("uri").isin(outdated)
            kept = table.read_files(self._spark, [run.hadoop_uri for run in replaced]).where(~is_outdated).cache()
            number = kept.count()
            new = self._spark.createDataFrame(rows, from_arrow_schema(QUARANTINE))
            run = table.append(kept.unionByName(new).coalesce(1), replaced)
            kept.unpersist()
        elif rejected:
            number, run = 0, table.append_arrow(rows)
        else:
            return 0
        self._record.runs.append(run.uri)
        return table.rows_in(run) - number


def _duplicate(row: dict[str, Any], first: dict[str, Any]) -> str:
    """What to tell of an input with the bytes of an earlier one."""
    here, there = row["findings"], first["findings"]
    is_elsewhere = first["dataset"] != row["dataset"]
    # Another data set may ask for other findings, and has other keys for its patients.
    compared = here.keys() & there.keys() if is_elsewhere else here.keys() | there.keys()
    differing = sorted(name for name in compared if here.get(name) != there.get(name))
    conflicts = [f"in {', '.join(differing)}"] if differing else []
    if not is_elsewhere and first["patient_key"] != row["patient_key"]:
        conflicts.append("of the patient")
    told = f"; {CONFLICT} {' and '.join(conflicts)}: find out which are right" if conflicts else ""
    where = f" of data set {first['dataset']}" if is_elsewhere else ""
    return f"same bytes as {first['uri']}{where}{told}"


def _batched(rows: Iterable[LabelRow]) -> Iterator[list[LabelRow]]:
    rest = iter(rows)
    while batch := list(itertools.islice(rest, LABEL_ROWS_AT_ONCE)):
        yield batch
