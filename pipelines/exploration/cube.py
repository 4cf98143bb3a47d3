"""Counts by combinations of values that add up: small tables, whatever number of rows they were counted from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Cube:
    """How many rows have each combination of some columns' values.

    Attributes:
        table: the key columns (null is a value like others), then `n`, int64; no combination stands twice.
    """

    table: pa.Table

    @classmethod
    def of(cls, rows: pa.Table, *keys: str) -> Self:
        """Count `rows` by the columns `keys`."""
        counted = rows.group_by(list(keys), use_threads=False).aggregate([([], "count_all")])
        return cls(counted.rename_columns([*keys, "n"]))

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> Self:
        """The sum of cubes of the same keys."""
        table = pa.concat_tables(part.table for part in parts)
        return cls(_summed(table, table.column_names[:-1]))

    @property
    def total(self) -> int:
        """How many rows were counted."""
        return int(pc.sum(self.table["n"], min_count=0).as_py())

    def where(self, **values: object) -> Cube:
        """The part with these values; a list stands for any of its values."""
        table = self.table
        for key, value in values.items():
            options = pa.array(value if isinstance(value, list) else [value], table.schema.field(key).type)
            table = table.filter(pc.is_in(table[key], value_set=options))
        return Cube(table)

    def by(self, *keys: str) -> dict[tuple[Any, ...], int]:
        """Counts by some of the keys."""
        columns = [column.to_pylist() for column in _summed(self.table, list(keys)).columns]
        return {tuple(values): n for *values, n in zip(*columns, strict=True)}

    def over(self, key: str) -> dict[Any, int]:
        """Counts by one of the keys."""
        return {value: n for (value,), n in self.by(key).items()}


def _summed(table: pa.Table, keys: list[str]) -> pa.Table:
    return table.group_by(keys, use_threads=False).aggregate([("n", "sum")]).rename_columns([*keys, "n"])
