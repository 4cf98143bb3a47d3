"""Compaction: the same vectors in fewer runs, in one moment, whoever reads or kills."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.compact import KEPT, CompactConfig, compact
from pipelines.errors import LakeError
from pipelines.folders import REPLACES, Folder
from pipelines.lake import Lake
from pipelines.lease import lease
from pipelines.stored_features import as_matrix
from pipelines.tables import FEATURES, Table
from pipelines.task_files import STAGING

pytestmark = pytest.mark.usefixtures("spark")
DIM = 8
Vectors = dict[tuple[str, int], tuple[float, ...]]


@pytest.fixture
def lake(ingested_lake: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "lake"
    shutil.copytree(ingested_lake, copy, ignore=shutil.ignore_patterns("features", "heads", "predictions"))
    return copy


def features(lake: Path, extractor: str = "ab" * 32) -> Table:
    return Lake.open(str(lake)).features(extractor)


def add_run(table: Table, start: int, rows: int) -> Folder:
    vectors = np.random.default_rng(start).normal(size=(rows, DIM)).astype(np.float32)
    ids = [f"{number:064x}" for number in range(start, start + rows)]
    return table.append_arrow(pa.table([ids, [0] * rows, list(vectors)], schema=FEATURES))


def vectors(table: Table) -> Vectors:
    rows = table.to_arrow(FEATURES.names)
    keys = zip(rows["image_id"].to_pylist(), rows["variant"].to_pylist(), strict=True)
    found = dict(zip(keys, map(tuple, as_matrix(rows["features"]).tolist()), strict=True))
    assert len(found) == rows.num_rows
    return found


def run(lake: Path, **settings: object) -> str:
    return str(compact(CompactConfig.model_validate({"lake": str(lake)} | settings)))


def test_small_runs_become_one_with_the_same_vectors(lake: Path) -> None:
    table = features(lake)
    for start in range(0, 50, 10):
        add_run(table, start, 10)
    before = vectors(table)
    told = run(lake)
    assert len(table.folder.runs()) == 1
    assert vectors(table) == before
    assert "5 runs, 5 files" in told
    assert "now 1 run, 1 file" in told
    assert "nothing to merge" in run(lake)


def test_large_runs_stay_as_they_are_and_part_their_neighbours(lake: Path) -> None:
    table = features(lake)
    small, large = [add_run(table, start, 5) for start in (0, 10)], add_run(table, 20, 40)
    later = [add_run(table, start, 5) for start in (100, 110)]
    before = vectors(table)
    run(lake, run_vectors=30)
    left = {each.name for each in table.folder.runs()}
    assert large.name in left
    assert len(left) == 3
    assert not left & {each.name for each in small + later}
    assert vectors(table) == before


def test_what_was_replaced_stays_a_day_for_its_readers_and_then_goes(lake: Path) -> None:
    table = features(lake)
    old = [add_run(table, start, 5) for start in (0, 10)]
    run(lake)
    assert all(each.exists() for each in old)
    assert "0 old runs" in run(lake)
    (merged,) = table.folder.runs()
    note = merged.read_json(REPLACES)
    merged.write_json(REPLACES, note | {"at": (datetime.now(UTC) - 1.01 * KEPT).isoformat()})
    before = vectors(table)
    assert "2 old runs" in run(lake)
    assert not any(each.exists() for each in old)
    assert vectors(table) == before


def test_runs_of_jobs_that_were_killed_long_ago_go_and_those_under_way_stay(lake: Path) -> None:
    table = features(lake)
    add_run(table, 0, 5)
    old, new = (
        table.folder / f"run={datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%S%f}-abcdabcd" for days in (8, 6)
    )
    for each in (old, new):
        (each / STAGING).write("part.parquet", b"half")
    run(lake)
    assert (old.exists(), new.exists()) == (False, True)


def test_two_compactions_at_once_are_refused(lake: Path) -> None:
    table = features(lake)
    add_run(table, 0, 5)
    with lease(table.folder, "compact", "in this test"), pytest.raises(LakeError, match="another compact is at work"):
        run(lake)


def test_a_compaction_that_dies_before_its_commit_changes_nothing(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = features(lake)
    for start in (0, 10):
        add_run(table, start, 5)
    before = vectors(table)

    def die(_: Folder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            run(lake)
    assert vectors(table) == before
    assert len(table.folder.runs()) == 2
    run(lake)
    assert vectors(table) == before
    assert len(table.folder.runs()) == 1


def test_a_damaged_file_is_told_and_nothing_is_replaced(lake: Path) -> None:
    table = features(lake)
    runs = [add_run(table, start, 5) for start in (0, 10)]
    Path(runs[1].path, "part-00000.parquet").write_bytes(b"no Parquet")
    with pytest.raises(LakeError, match="can't be read"):
        run(lake)
    assert table.folder.runs() == runs


def test_one_extractor_may_be_chosen(lake: Path) -> None:
    one, other = features(lake, "ab" * 32), features(lake, "cd" * 32)
    for table in (one, other):
        for start in (0, 10):
            add_run(table, start, 5)
    run(lake, extractor="cd")
    assert (len(one.folder.runs()), len(other.folder.runs())) == (2, 1)
    with pytest.raises(LakeError, match="no features of extractor 'ef'"):
        run(lake, extractor="ef")
