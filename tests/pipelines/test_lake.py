"""The lake: what is found in it and what its errors tell; only committed runs count."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.tables import FEATURES, Table

FIRST = "aaaa1111" * 8
SECOND = "aaaa2222" * 8
THIRD = "bbbb3333" * 8


@pytest.fixture(params=["path", "memory"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a lake may be made, on a disk and on a file system that is none."""
    if request.param == "memory":
        uri = f"memory://lake-{secrets.token_hex(4)}"
        yield uri
        Folder.at(uri).remove()
    else:
        yield str(tmp_path / "my lake")


@pytest.fixture
def lake(location: str) -> Lake:
    """A lake with one committed run of studies."""
    lake = Lake.create(location)
    lake.studies.folder.new_run().commit()
    return lake


def add_features(lake: Lake, *extractors: str) -> None:
    for extractor in extractors:
        lake.features(extractor).folder.new_run().commit()


def add_run(table: Table, image_ids: list[str], *, committed: bool) -> None:
    run = table.folder.new_run()
    run.filesystem.makedirs(run.path)
    rows = [{"image_id": image_id, "variant": 0, "features": [1.0, 2.0]} for image_id in image_ids]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), f"{run.path}/part-0.parquet", filesystem=run.filesystem)
    if committed:
        run.commit()


def test_a_lake_that_is_not_there_is_told_with_its_place(location: str) -> None:
    with pytest.raises(LakeError, match=r"no lake at '.*lake.*'.*lake=.*ingest_studies"):
        Lake.open(location)
    assert not Folder.at(location).exists()


def test_a_relative_lake_is_told_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LakeError, match=str(tmp_path / "lake")):
        Lake.open("lake")


def test_a_lake_without_committed_studies_is_told(location: str) -> None:
    lake = Lake.create(location)
    with pytest.raises(LakeError, match=r"no ingested studies.*ingest_studies\.py lake="):
        Lake.open(location)
    lake.studies.folder.new_run().write("part-0.parquet", b"half")
    with pytest.raises(LakeError, match="no ingested studies"):
        Lake.open(location)


def test_a_lake_with_studies_opens(lake: Lake, location: str) -> None:
    assert Lake.open(location) == lake


def test_making_a_lake_keeps_what_is_in_it(lake: Lake, location: str) -> None:
    Lake.create(location)
    assert len(lake.studies.folder.runs()) == 1


def test_a_lake_without_features_says_what_makes_them(lake: Lake) -> None:
    assert lake.extractors() == []
    for wanted in (None, FIRST):
        with pytest.raises(LakeError, match=r"holds no features.*extract_features"):
            lake.choose_extractor(wanted)


def test_features_count_once_they_are_committed(lake: Lake) -> None:
    lake.features(FIRST).folder.new_run().write("part-0.parquet", b"half")
    lake.features(SECOND).folder.write_json("_extractor.json", {"fingerprint": SECOND})
    assert lake.extractors() == []
    add_features(lake, THIRD)
    assert lake.extractors() == [THIRD]
    assert lake.choose_extractor(None) == THIRD


@pytest.mark.parametrize("wanted", [FIRST, FIRST[:8], FIRST[:5]], ids=["whole", "8 digits", "5 digits"])
def test_an_extractor_is_chosen_by_the_start_of_its_fingerprint(wanted: str, lake: Lake) -> None:
    add_features(lake, FIRST, SECOND, THIRD)
    assert lake.choose_extractor(wanted) == FIRST


@pytest.mark.parametrize("wanted", [None, "aaaa"], ids=["none", "common start"])
def test_a_choice_that_is_not_clear_lists_the_extractors(wanted: str | None, lake: Lake) -> None:
    add_features(lake, FIRST, SECOND, THIRD)
    with pytest.raises(LakeError, match=r"several extractors.*extractor=") as told:
        lake.choose_extractor(wanted)
    assert FIRST[:12] in str(told.value)
    assert SECOND[:12] in str(told.value)


@pytest.mark.parametrize("wanted", ["cccc", FIRST[4:8], FIRST + "0"], ids=["other", "middle", "too long"])
def test_an_extractor_that_is_not_there_is_told_with_those_that_are(wanted: str, lake: Lake) -> None:
    add_features(lake, FIRST, THIRD)
    with pytest.raises(LakeError, match=f"no features of extractor '{wanted}'") as told:
        lake.choose_extractor(wanted)
    assert FIRST[:12] in str(told.value)
    assert THIRD[:12] in str(told.value)


def test_heads_are_listed_once_they_are_committed(lake: Lake) -> None:
    assert lake.heads() == []
    lake.head_runs("binary", "killed").new_run().write("head.json", b"{}")
    for task, name in (("three_class", "mlp"), ("binary", "xgboost"), ("binary", "mlp")):
        lake.head_runs(task, name).new_run().commit()
    lake.head_runs("binary", "mlp").new_run().commit()
    assert lake.heads() == ["binary/mlp", "binary/xgboost", "three_class/mlp"]


def test_a_stray_file_among_the_heads_is_no_head(lake: Lake) -> None:
    lake.head_runs("binary", "mlp").new_run().commit()
    (lake.folder / "heads").write(".DS_Store", b"x")
    (lake.folder / "heads" / "binary").write("notes.txt", b"x")
    assert lake.heads() == ["binary/mlp"]


def test_tables_lie_where_the_design_says(lake: Lake) -> None:
    root = lake.folder.uri
    assert lake.studies.folder.uri == f"{root}/studies"
    assert lake.quarantine.folder.uri == f"{root}/quarantine"
    assert lake.features(FIRST).folder.uri == f"{root}/features/extractor={FIRST}"
    assert lake.predictions(SECOND).folder.uri == f"{root}/predictions/head={SECOND}"
    assert lake.head_runs("binary", "mlp").uri == f"{root}/heads/binary/mlp"


def test_no_two_jobs_share_a_staging_folder_and_no_reader_looks_there(lake: Lake) -> None:
    first, second = lake.new_staging(), lake.new_staging()
    assert first != second
    # Spark's readers pass over names that start so.
    assert first.name.startswith("_")
    assert first.uri.startswith(lake.folder.uri)


def test_readers_see_the_rows_of_committed_runs_in_order(lake: Lake) -> None:
    table = lake.features(FIRST)
    add_run(table, ["a", "b"], committed=True)
    add_run(table, ["killed"], committed=False)
    add_run(table, ["c"], committed=True)
    rows = table.to_arrow(["image_id", "features"])
    assert rows["image_id"].to_pylist() == ["a", "b", "c"]
    assert rows.schema == pa.schema([FEATURES.field("image_id"), FEATURES.field("features")])


def test_an_empty_table_has_its_columns(lake: Lake) -> None:
    rows = lake.features(FIRST).to_arrow(["image_id", "variant"])
    assert rows.num_rows == 0
    assert rows.column_names == ["image_id", "variant"]
