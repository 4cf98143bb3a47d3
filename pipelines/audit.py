"""A lake's books: counted, compared, and told with what is to be done. Reads only."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Self

from py4j.protocol import Py4JJavaError
from pydantic import Field, model_validator
from pyspark.errors import PySparkException

from pipelines.audit_counts import DatasetCounts, count_datasets, count_images, runs_with_images_twice
from pipelines.audit_faults import LakeBooks, faults_of
from pipelines.audit_report import report_text
from pipelines.audit_storage import (
    feature_tables,
    histories,
    is_scored_from_images,
    quarantines,
    staging,
    stored,
    table_folders,
    table_titles,
)
from pipelines.config import SparkConfig
from pipelines.errors import ConfigError, LakeError
from pipelines.folders import Folder
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.locate import locate
from pipelines.session import spark_session


class AuditConfig(SparkConfig):
    """Settings of jobs/audit_lake.py."""

    examples: int = Field(3, ge=0, le=100, description="inputs in quarantine told of each reason; 0: none")
    out: str | None = Field(None, description="JSON file for the same numbers, outside the lake; null: none")
    locate: str | None = Field(
        None, description="uri of an input: tells its file's path in the archive, and audits nothing"
    )
    dataset: str | None = Field(None, description="with locate: the data set of the uri; null: the only one there is")
    pseudonym_key_file: str | None = Field(
        None,
        description="with locate: file with the key of the data set's ingest; null: the variable PLEURA_PSEUDONYM_KEY",
    )

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.locate and self.out:
            raise ValueError("out: leave it out with locate=…; what that tells may identify, and goes into no file")
        if not self.locate and (self.dataset or self.pseudonym_key_file):
            raise ValueError("dataset, pseudonym_key_file: they go with locate=…; an audit takes neither")
        return self


def audit(config: AuditConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there is no lake; with the whole report, if its books are not in order.
        ConfigError: if `out` lies in the lake, or, with locate, if the key is not that of the ingest.
        SourceError: with locate, if there is no such file.
    """
    lake = _existing(config.lake)
    out = _outside(config.out, lake) if config.out else None
    record = JobRecord("audit_lake", config)
    if config.locate:
        record.summary = locate(lake, config.locate, config.dataset, config.pseudonym_key_file)
        return record
    books = _look(lake, config, record)
    faults = faults_of(books)
    record.summary = report_text(books, faults, record.started)
    for counts in books.datasets.values():
        record.count("inputs", counts.studies + counts.quarantined)
        record.count("studies", counts.studies)
        record.count("quarantined", counts.quarantined)
    record.count("dead runs", sum(len(table.dead) for table in books.tables.values()))
    if out is not None:
        folder, _, name = out.uri.rpartition("/")
        record.extra |= {"in_order": not faults, "faults": [asdict(fault) for fault in faults], **asdict(books)}
        Folder(folder).write_json(name, record.as_dict())
    if faults:
        raise LakeError(f"the books of this lake are not in order; what to look at stands at the end.\n{record}")
    return record


def _existing(location: str) -> Lake:
    lake = Lake.at(location)
    if not lake.folder.exists():
        raise LakeError(f"there is no lake at '{lake.folder.uri}'. Check lake=…")
    parts = {lake.datasets.name, *(name.partition("/")[0] for name, _ in table_folders(lake))}
    if parts.isdisjoint(lake.folder.names()):
        raise LakeError(f"'{lake.folder.uri}' is no lake: no ingest ever began there. Check lake=…")
    return lake


def _outside(location: str, lake: Lake) -> Folder:
    out = Folder.at(location)
    if f"{out.uri}/".startswith(f"{lake.folder.uri}/"):
        raise ConfigError("out lies in the lake, and an audit does not write there. Name a file elsewhere.")
    return out


@contextmanager
def _unreadable_files_told() -> Iterator[None]:
    """Turn Spark's error about a file into one message."""
    try:
        yield
    except (Py4JJavaError, PySparkException) as error:
        file = re.search(r"FAILED_READ_FILE\.(\w+)\].* reading file (.+?)\.  ?[A-Z]", str(error))
        if file is None:
            raise
        if file[1] == "FILE_NOT_EXIST":
            raise LakeError("a running job replaced runs while they were counted. Audit again.") from error
        location = urllib.parse.unquote(file[2]).removeprefix("file://")
        raise LakeError(
            f"'{location}' can't be read: it is damaged, or the storage fails. If asking again does not help, restore "
            "it from a backup; without one, remove its run while no job is running, and give the command that made "
            "it again."
        ) from error


def _look(lake: Lake, config: AuditConfig, record: JobRecord) -> LakeBooks:
    registered = sorted(file.removesuffix(".json") for file in lake.datasets.names())
    tables = feature_tables(lake)
    # Before the counts: what an ingest adds meanwhile may not be taken for lost.
    ingests = histories(lake, set(registered))
    with record.time("count"), spark_session("audit_lake", config.master) as spark, _unreadable_files_told():
        without = quarantines(lake)
        images = count_images(spark, lake.studies, tables, without) if tables or lake.studies.folder.runs() else {}
        datasets = count_datasets(spark, lake, config.examples)
        is_twice = bool(images) and images["studies"].twice > 0
        runs_twice = runs_with_images_twice(spark, lake.studies) if is_twice else []
    names = sorted({*registered, *datasets})
    return LakeBooks(
        lake=lake.folder.uri,
        datasets={name: datasets.get(name, DatasetCounts()) for name in names},
        registered=registered,
        ingests=ingests,
        tables={name: stored(folder) for name, folder in table_folders(lake)},
        titles=table_titles(lake),
        images=images,
        runs_with_images_twice=runs_twice,
        staging=staging(lake),
        # Asked only where it matters, for it reads what every job left.
        scored_from_images=[
            name for name, table in tables.items() if images[name].without_study and is_scored_from_images(table)
        ],
    )
