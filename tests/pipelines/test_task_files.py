"""Files of tasks: what counts becomes a run, and nothing else is ever read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import task_files
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.tables import FEATURES
from pipelines.task_files import STAGING, WRITTEN, TaskWriter, Written, answer, commit_files, unless_committed


@pytest.fixture
def table(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "features"))


def batch(start: int, rows: int) -> pa.RecordBatch:
    vectors = [np.full(16, number, np.float32) for number in range(start, start + rows)]
    ids = [str(number) for number in range(start, start + rows)]
    return pa.RecordBatch.from_arrays(
        [pa.array(ids), pa.array([0] * rows, pa.int32()), pa.array(vectors, FEATURES.field("features").type)],
        schema=FEATURES,
    )


def attempt(run: Folder, start: int, rows: int, *, of: int = 7) -> list[Written]:
    with TaskWriter(run, FEATURES) as writer:
        for at in range(start, start + rows, of):
            writer.write(batch(at, min(of, start + rows - at)))
    return writer.written


def told(*attempts: list[Written]) -> pa.Table:
    return pa.Table.from_batches([answer(each) for each in attempts], WRITTEN)


def ids(run: Folder) -> list[int]:
    files = sorted(Path(run.path).glob("*.parquet"))
    return [int(each) for file in files for each in pq.read_table(file)["image_id"].to_pylist()]


def test_rows_of_all_tasks_are_in_the_run_in_their_order(table: Folder) -> None:
    run = table.new_run()
    answers = told(attempt(run, 0, 30), [], attempt(run, 30, 20))
    assert table.runs() == []
    assert commit_files(run, answers, lambda rows: None) == 50
    assert [each.name for each in table.runs()] == [run.name]
    assert ids(run) == list(range(50))
    assert STAGING not in run.names()


def test_only_attempts_that_answered_count(table: Folder) -> None:
    run = table.new_run()
    lost = attempt(run, 0, 30)
    assert lost
    commit_files(run, told(attempt(run, 0, 30)), lambda rows: None)
    assert ids(run) == list(range(30))
    # One that did not hear of it, and writes when all is over.
    attempt(run, 0, 30)
    assert ids(run) == list(range(30))
    assert [each.name for each in table.runs()] == [run.name]


def test_an_attempt_that_fails_leaves_no_file_that_anybody_names(table: Folder) -> None:
    run = table.new_run()
    with pytest.raises(ZeroDivisionError), TaskWriter(run, FEATURES) as writer:
        writer.write(batch(0, 5))
        raise ZeroDivisionError
    assert writer.written == []


def test_large_work_goes_to_several_files_and_row_groups(table: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_files, "ROW_GROUP_BYTES", batch(0, 10).nbytes)
    monkeypatch.setattr(task_files, "ROWS_PER_FILE", 40)
    run = table.new_run()
    written = attempt(run, 0, 100, of=5)
    assert [each.rows for each in written] == [40, 40, 20]
    commit_files(run, told(written), lambda rows: None)
    assert ids(run) == list(range(100))
    groups = pq.read_metadata(f"{run.path}/part-00000.parquet")
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [10] * 4


def test_an_attempt_that_still_writes_does_not_stop_the_commit(table: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = table.new_run()
    answers = told(attempt(run, 0, 30))

    def not_empty(_: Folder) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(Folder, "remove", not_empty)
    commit_files(run, answers, lambda rows: None)
    assert [each.name for each in table.runs()] == [run.name]
    assert ids(run) == list(range(30))


def test_what_a_chunk_that_failed_has_written_goes_unless_it_was_committed(table: Folder) -> None:
    failed, done = table.new_run(), table.new_run()
    for run in (failed, done):
        with pytest.raises(KeyboardInterrupt), unless_committed(run):
            answers = told(attempt(run, 0, 3))
            if run is done:
                commit_files(run, answers, lambda rows: None)
            raise KeyboardInterrupt
    assert (failed.exists(), done.exists()) == (False, True)


def test_a_check_that_fails_commits_nothing(table: Folder) -> None:
    run = table.new_run()

    def refuse(rows: int) -> None:
        raise LakeError(f"{rows} rows")

    with pytest.raises(LakeError, match="30 rows"):
        commit_files(run, told(attempt(run, 0, 30)), refuse)
    assert table.runs() == []


def test_a_run_without_rows_is_a_run(table: Folder) -> None:
    run = table.new_run()
    assert commit_files(run, told([]), lambda rows: None) == 0
    assert [each.name for each in table.runs()] == [run.name]


def test_a_lost_file_is_told_and_nothing_is_committed(table: Folder) -> None:
    run = table.new_run()
    with pytest.raises(LakeError, match="can't be written: No such file"):
        commit_files(run, told(attempt(run, 0, 3), [Written("gone.parquet", 1)]), lambda rows: None)
    assert table.runs() == []


def test_storage_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(LakeError, match=r"can't be written: .*what was committed is kept"),
        TaskWriter(Folder.at(str(tmp_path / "file")), FEATURES) as writer,
    ):
        writer.write(batch(0, 5))
