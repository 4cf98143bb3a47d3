"""What every job script shares: exit codes, one message for a mistake, a traceback for the unforeseen, the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import Field
from pyspark.errors import PythonException
from pyspark.sql import SparkSession

from classifiers.errors import ClassifierError
from featurizers.errors import DecodeError, FeaturizerError, WeightsError
from featurizers.reasons import Reason
from pipelines import __version__
from pipelines.config import Config
from pipelines.errors import ConfigError, LakeError, SourceError
from pipelines.folders import Folder
from pipelines.job import (
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    JobRecord,
    run_job,
    summary_text,
    told_by_executor,
    versions,
)

ROOT = Path(__file__).resolve().parents[2]

FRAMES = """
  An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "/opt/spark/python/lib/pyspark.zip/pyspark/worker.py", line 3455, in main
    process()
  File "/tmp/spark-1/userFiles-2/pleura.zip/pipelines/extract.py", line 176, in _embedder
    embedder = Embedder(
               ^^^^^^^^^
  File "/tmp/spark-1/userFiles-2/pleura.zip/featurizers/embedder.py", line 253, in check_device
    raise FeaturizerError(f"device={name} was asked for")
"""


class Example(Config):
    """Settings of the job below."""

    lake: str = Field(description="where")
    images: int = Field(3, gt=0, description="how many")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a verb as jobs/example.py does: exit code, standard output, standard error."""

    def run(verb: Callable[[Example], str], *arguments: str) -> tuple[int, str, str]:
        script = tmp_path / "jobs" / "example.py"
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        capsys.readouterr()
        try:
            run_job(str(script), "Do it.", Example, verb)
            code = 0
        except SystemExit as left:
            assert isinstance(left.code, int)
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def fail_with(error: BaseException) -> Callable[[Example], str]:
    def verb(_: Example) -> str:
        raise error

    return verb


def test_a_job_that_is_done_prints_its_summary(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "example.yaml").write_text("lake: from-the-file\nimages: 5\n")
    done = run(lambda config: f"{config.lake}, {config.images}", "images=7")
    assert done == (0, "from-the-file, 7\n", "")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("two keys exclude each other.\n  a: leave it out"),
        LakeError("there is no lake"),
        SourceError("the label file has no column 'view'"),
        WeightsError("the weights do not fit"),
        DecodeError(Reason.EMPTY_FILE, "the file is empty"),
        ClassifierError("one class only"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_is_told_in_one_message(error: Exception, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run(fail_with(error), "lake=x")
    assert code == EXIT_USER_ERROR == 2
    assert out == ""
    assert err.strip() == f"error: {error}"


def test_every_mistake_in_the_config_is_told_before_any_work(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run(fail_with(AssertionError("the verb ran")), "images=0", "lak=x")
    assert code == 2
    assert out == ""
    for told in ("3 mistakes", "images:", "lak: no such key; did you mean lake?", "lake: missing"):
        assert told in err


def test_help_goes_to_standard_output(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run(fail_with(AssertionError("the verb ran")), "--help")
    assert code == 0
    assert err == ""
    for told in ("Do it.", "jobs/example.py", "conf/example.yaml", "lake", "images", "default 3", "how many"):
        assert told in out


def test_an_interrupted_job_says_what_is_kept(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run(fail_with(KeyboardInterrupt()), "lake=x")
    assert code == EXIT_INTERRUPTED == 130
    assert out == ""
    assert "what was committed is kept" in err


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), PythonException(FRAMES + "KeyError: 'crop'")])
def test_an_error_that_nobody_foresaw_is_not_dressed_up(
    error: Exception, run: Callable[..., tuple[int, str, str]]
) -> None:
    with pytest.raises(type(error)) as raised:
        run(fail_with(error), "lake=x")
    assert raised.value is error


@pytest.mark.parametrize("action", ["write", "collect"])
def test_our_error_on_a_real_executor_is_told_in_one_message(
    action: str, run: Callable[..., tuple[int, str, str]], spark: SparkSession, tmp_path: Path
) -> None:
    def refuse(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                raise FeaturizerError("device=cuda was asked for. Use device=cpu.")
            yield batch

    def verb(_: Example) -> str:
        rows = spark.range(4).mapInArrow(refuse, "id long")
        if action == "write":
            rows.write.parquet(str(tmp_path / "rows"))
        return str(rows.collect())

    code, out, err = run(verb, "lake=x")
    assert code == 2
    assert out == ""
    assert err.strip().splitlines()[-1] == "error: device=cuda was asked for. Use device=cpu."
    assert "Traceback" not in err


def test_an_unforeseen_error_on_a_real_executor_keeps_its_traceback(
    run: Callable[..., tuple[int, str, str]], spark: SparkSession
) -> None:
    def divide(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"id": [1 // (batch.num_rows - batch.num_rows)]})

    with pytest.raises(PythonException, match="ZeroDivisionError"):
        run(lambda _: str(spark.range(4).mapInArrow(divide, "id long").collect()), "lake=x")


@pytest.mark.parametrize("name", ["featurizers.errors.FeaturizerError", "pipelines.errors.LakeError"])
def test_the_message_is_taken_out_of_an_executors_traceback(name: str) -> None:
    assert told_by_executor(f"{FRAMES}{name}: device=cuda was asked for. Use device=cpu.\n") == (
        "device=cuda was asked for. Use device=cpu."
    )


def test_of_chained_errors_the_last_is_told() -> None:
    chained = (
        f"{FRAMES}featurizers.errors.FeaturizerError: the first\n\n"
        "The above exception was the direct cause of the following exception:\n"
        f"{FRAMES}pipelines.errors.LakeError: the second\n"
    )
    assert told_by_executor(chained) == "the second"


@pytest.mark.parametrize(
    "last",
    ["KeyError: 'crop'", "torch.OutOfMemoryError: CUDA out of memory", "otherlib.errors.LakeError: not ours", ""],
)
def test_anothers_error_is_not_taken_for_ours(last: str) -> None:
    assert told_by_executor(f"{FRAMES}{last}\n") is None


def test_anothers_error_raised_while_handling_ours_is_not_taken_for_ours() -> None:
    chained = (
        f"{FRAMES}featurizers.errors.DecodeError: corrupt_image: the file is cut off\n\n"
        "During handling of the above exception, another exception occurred:\n"
        f"{FRAMES}ZeroDivisionError: division by zero\n"
    )
    assert told_by_executor(chained) is None


def test_a_message_of_several_lines_is_told_whole() -> None:
    """The remedy often stands in the second line."""
    message = "torchvision's ImageNet weights can't be downloaded here.\nPass the file: backbone.weights=resnet50.pth"
    assert told_by_executor(f"{FRAMES}featurizers.errors.WeightsError: {message}\n") == message


def start(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)


def test_an_unforeseen_error_leaves_with_exit_code_1_and_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    script = tmp_path / "jobs" / "example.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from pipelines.config import LakeConfig\nfrom pipelines.job import run_job\n"
        "run_job(__file__, 'Divide.', LakeConfig, lambda config: str(1 / 0))\n"
    )
    done = start(sys.executable, str(script), "lake=x", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_real_job_tells_all_mistakes_of_its_command_line_at_once(tmp_path: Path) -> None:
    job = str(ROOT / "jobs" / "train_head.py")
    done = start(sys.executable, job, "lake=x", "tusk=binary", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    for told in ("3 mistakes", "tusk: no such key; did you mean task?", "task: missing", "head: missing"):
        assert told in done.stderr


def test_what_a_job_records(tmp_path: Path) -> None:
    record = JobRecord("extract_features", Example(lake="x"))
    record.count("images", 3)
    record.count("images", 4)
    record.count("failed", 0)
    for _ in range(2):
        with record.time("plan"):
            pass
    record.extra["extractor"] = "ab"
    table = Folder.at(str(tmp_path / "features"))
    record.write_beside(table)
    written = json.loads((tmp_path / "features" / "_jobs" / record.id / "run.json").read_text())
    assert written["job"] == "extract_features"
    assert written["config"] == {"lake": "x", "images": 3}
    assert written["counts"] == {"images": 7, "failed": 0}
    assert written["extractor"] == "ab"
    assert written["timings"]["plan"] >= 0
    assert written["seconds"] >= 0
    assert written["started"] <= written["finished"]
    assert written["versions"] == versions()
    # Beside the runs, not among them.
    assert table.runs() == []


def test_an_error_does_not_lose_the_time_it_took() -> None:
    record = JobRecord("extract_features", Example(lake="x"))
    with pytest.raises(ZeroDivisionError), record.time("extract"):
        raise ZeroDivisionError
    assert "extract" in record.timings


def test_two_records_of_one_job_lie_apart() -> None:
    assert JobRecord("train_head", Example(lake="x")).id != JobRecord("train_head", Example(lake="x")).id


def test_versions_tell_what_can_change_a_result() -> None:
    found = versions()
    assert found["pleura"] == __version__
    assert found["python"] == sys.version.split()[0]
    assert {"torch", "torchvision", "pyspark", "numpy", "scikit-learn", "xgboost", "pillow", "pydicom"} <= found.keys()
    assert all(found.values())


def test_a_summary_is_a_title_and_aligned_rows() -> None:
    text = summary_text("Extracted features", {"new features": 1234567, "time": "0:46", "share": 0.5})
    assert text.splitlines() == [
        "",
        "Extracted features",
        "──────────────────",
        "new features  1,234,567",
        "time          0:46",
        "share         0.5",
    ]


def test_a_summary_of_nothing_is_its_title() -> None:
    assert summary_text("Done", {}).splitlines() == ["", "Done", "────"]
