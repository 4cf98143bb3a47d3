"""What ingest has to read: a source's records, pseudonymised, as Arrow rows."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from pipelines.identities import Identities
from pipelines.policy import Policy
from pipelines.sources.base import Source, StudyRecord
from pipelines.tables import LABELS

#: Where an input lies, as bytes, which need not be text, goes to the executors, and into no table: a path may carry an
#: identifier. `position` counts the inputs in the source's order, `row` is the label file's. An input with a `reason`
#: is not read.
LISTING = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("path", pa.binary()),
        pa.field("row", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        *LABELS,
    ]
)

#: Rows that are Python objects before they become Arrow, which is far smaller.
ROWS_AT_ONCE = 8192

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """The inputs of one ingest, in the source's order, streamed."""

    source: Source
    identities: Identities
    policy: Policy

    def windows(self, size: int) -> Iterator[pa.Table]:
        """Tables of the schema LISTING with at most `size` rows."""
        rows = (self._row(position, record) for position, record in enumerate(self.source.records()))
        batches: list[pa.RecordBatch] = []
        held = 0
        while some := list(itertools.islice(rows, min(ROWS_AT_ONCE, size - held))):
            batches.append(pa.RecordBatch.from_pylist(some, LISTING))
            held += len(some)
            if held == size:
                yield pa.Table.from_batches(batches)
                batches, held = [], 0
        if batches:
            yield pa.Table.from_batches(batches)

    def _row(self, position: int, record: StudyRecord) -> dict[str, Any]:
        rejection = record.rejection or self.policy.of_view(record)
        return {
            "position": position,
            "path": os.fsencode(record.path),
            "row": record.row,
            "reason": str(rejection.reason) if rejection else None,
            "detail": rejection.detail if rejection else None,
            **self.identities.of_record(record),
        }


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; while one is worked on, the next is fetched in a thread of its own."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
