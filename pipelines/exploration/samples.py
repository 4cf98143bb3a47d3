"""Samples that merge: each keeps the rows with the smallest hashes, so that the order of reading does not matter.

What is kept is the same whatever the files, threads and merges, and of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from pipelines.exploration.cube import Cube

#: Up to so many patients are counted exactly; beyond, the error of an estimate is 1/sqrt(this), 0.4 %.
PATIENTS_KEPT = 2**16
#: Crops that are looked at for grey values, and the row groups that they may come from: reading one crop costs its
#: whole row group (16 MiB), so that 2,000 crops from anywhere would read 32 GB.
CROPS_KEPT = 2000
GROUPS_KEPT = 100

Hashes = npt.NDArray[np.uint64]
_HASHES = 2**64


def hash_texts(texts: pa.ChunkedArray | pa.Array, seed: int = 0) -> Hashes:
    """Uniform 64-bit hashes (n,) of n texts."""
    return pd.util.hash_array(texts.to_numpy(zero_copy_only=False), hash_key=f"{seed:016x}", categorize=False)


@dataclass(frozen=True)
class PatientSample:
    """All images of the patients with the smallest hashes: counts of patients that need no set of all patients.

    The k-minimum-values sketch of Bar-Yossef et al., "Counting distinct elements in a data stream" (RANDOM 2002),
    with the number of images kept for each value (Beyer et al., SIGMOD 2007).

    Attributes:
        cube: images by `patient` (uint64 hash) and `split`.
    """

    cube: Cube

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Sample the patients of rows with `patient_key` and `split`."""
        hashed = pa.table({"patient": pa.array(hash_texts(rows["patient_key"])), "split": rows["split"]})
        return cls(_smallest_patients(Cube.of(hashed, "patient", "split")))

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> Self:
        """The sample of all parts' rows."""
        return cls(_smallest_patients(Cube.merge(part.cube for part in parts)))

    @property
    def is_exact(self) -> bool:
        """Whether it holds every patient."""
        return len(self.images_of_patients()) < PATIENTS_KEPT

    @property
    def scale(self) -> float:
        """How many patients each one of the sample stands for."""
        if self.is_exact:
            return 1.0
        patients = list(self.images_of_patients())
        return (len(patients) - 1) * _HASHES / max(patients) / len(patients)

    def images_of_patients(self) -> dict[int, int]:
        """Images of each patient of the sample."""
        return self.cube.over("patient")

    def patients_by_splits(self) -> dict[tuple[str, ...], int]:
        """Patients of the sample by the splits they are in."""
        splits: dict[int, tuple[str, ...]] = {}
        for patient, split in sorted(self.cube.by("patient", "split"), key=str):
            splits[patient] = (*splits.get(patient, ()), str(split))
        found: dict[tuple[str, ...], int] = {}
        for names in splits.values():
            found[names] = found.get(names, 0) + 1
        return found


def _smallest_patients(cube: Cube) -> Cube:
    hashes = cube.table["patient"].to_numpy()
    distinct = np.unique(hashes)
    if distinct.size <= PATIENTS_KEPT:
        return cube
    return Cube(cube.table.filter(pa.array(hashes <= distinct[PATIENTS_KEPT - 1])))


@dataclass(frozen=True)
class CropSample:
    """Where to find crops for grey values: chosen by hash from some row groups, which are chosen by hash too.

    Attributes:
        table: `group` and `priority` (uint64 hashes), `file` and `row` (where it is).
    """

    table: pa.Table

    @classmethod
    def of(cls, rows: pa.Table) -> Self:
        """Sample rows with those columns."""
        return cls(_smallest_groups(rows.select(["group", "priority", "file", "row"])))

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> Self:
        """The sample of all parts' rows."""
        return cls(_smallest_groups(pa.concat_tables(part.table for part in parts)))

    def places(self) -> list[tuple[int, int]]:
        """(file, row) of the sample."""
        return _places(self.table.sort_by("priority").slice(0, CROPS_KEPT))


def _smallest_groups(table: pa.Table) -> pa.Table:
    groups = table["group"].to_numpy()
    distinct = np.unique(groups)
    return table if distinct.size <= GROUPS_KEPT else table.filter(pa.array(groups <= distinct[GROUPS_KEPT - 1]))


@dataclass(frozen=True)
class Examples:
    """Where to find some images of each finding.

    Attributes:
        table: `finding`, `priority` (uint64 hash), `file` and `row` (where it is).
        kept: rows of each finding.
    """

    table: pa.Table
    kept: int

    @classmethod
    def of(cls, rows: pa.Table, kept: int) -> Self:
        """Sample rows with those columns."""
        return cls(_smallest_of_each(rows.select(["finding", "priority", "file", "row"]), kept), kept)

    @classmethod
    def merge(cls, parts: Iterable[Self]) -> Self:
        """The sample of all parts' rows."""
        parts = list(parts)
        table = pa.concat_tables(part.table for part in parts)
        return cls(_smallest_of_each(table, parts[0].kept), parts[0].kept)

    def places(self, finding: str) -> list[tuple[int, int]]:
        """(file, row) of the examples of a finding, in the order of their hashes."""
        return _places(self.table.filter(pa.array([name == finding for name in self.table["finding"].to_pylist()])))


def _smallest_of_each(table: pa.Table, kept: int) -> pa.Table:
    table = table.sort_by([("finding", "ascending"), ("priority", "ascending")])
    findings = table["finding"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    # Rank within the finding: the position less that of the finding's first row.
    rank = np.arange(findings.size) - np.searchsorted(findings, findings)
    return table.filter(pa.array(rank < kept))


def _places(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True))
