"""The jobs as users start them: spark-submit and python, from another folder, with real exit codes."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py") if not file.stem.startswith("_"))
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")


def start(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PLEURA_PSEUDONYM_KEY"}
    environment |= {"PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"} | variables
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)


def python(job: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return start(sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments, cwd=cwd)


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Runs a job in this process, where what it imports is there already."""

    def run(job: str, *arguments: str) -> None:
        script = ROOT / "jobs" / f"{job}.py"
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(script.parent))
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script), run_name="__main__")

    before = signal.getsignal(signal.SIGINT)
    yield run
    # A job takes Ctrl-C over for good.
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("job", JOBS)
def test_help_teaches(
    job: str, run_here: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first of them as a user starts it, too."""
    if job == JOBS[0]:
        done = python(job, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert f"jobs/{job}.py" in done.stdout
    run_here(job, "--help")
    told = capsys.readouterr().out
    assert "example" in told
    assert f"jobs/{job}.py" in told
    assert "<str, required>" in told


def test_the_whole_way_by_spark_submit_with_relative_paths(tmp_path: Path) -> None:
    def submit(job: str, *arguments: str) -> str:
        done = start(str(SPARK_SUBMIT), str(ROOT / "jobs" / f"{job}.py"), *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    submit("make_phantoms", "out=archive", "studies=60", "long_side=128", "seed=5")
    assert "60" in submit("ingest_studies", "source=kermany", "archive=archive", "lake=lake", "val_fraction=0.3")
    assert re.search(r"(?m)^new features +60$", submit("extract_features", "lake=lake", "backbone.weights=random"))
    assert "test: balanced accuracy" in submit("train_head", "lake=lake", "task=binary", "head=logistic")
    assert "new predictions  60" in submit("score_studies", "lake=lake", "heads=binary/logistic")
    tables = {path.name for path in (tmp_path / "lake").iterdir() if not path.name.startswith("_")}
    assert tables == {"studies", "features", "heads", "predictions"}


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        ("ingest_studies", ["source=kermany", "archive=nowhere", "lake=x"], "no archive"),
        ("ingest_studies", ["source=kermany", "archive=.", "lak=x"], "did you mean lake"),
        ("extract_features", ["lake=nowhere"], "no lake"),
        ("extract_features", ["lake=x", "device=tpu"], "device: there is no such device; say cpu, cuda or cuda:N"),
        ("train_head", ["lake=nowhere", "task=binary", "head=mlp"], "no lake"),
        ("localize_findings", ["lake=nowhere", "head=binary/mlp"], "no lake"),
        ("score_studies", ["lake=nowhere", "heads=binary/mlp"], "no lake"),
        ("compare_heads", ["lake=nowhere", "heads=binary/mlp"], "no lake"),
        ("cross_validate_heads", ["lake=nowhere", "tasks=binary"], "no lake"),
        ("audit_lake", ["lake=nowhere"], "no lake"),
        ("explore_dataset", ["lake=nowhere"], "no lake"),
        ("make_phantoms", ["out=x", "studies=0"], "studies"),
        ("evaluate_lungs", ["pairs=nowhere", "out=x"], "there is no folder"),
        ("train_segmenter", ["pairs=nowhere", "out=x"], "there is no folder"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    job: str,
    arguments: list[str],
    message: str,
    run_here: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        run_here(job, *arguments)
    told = capsys.readouterr()
    assert left.value.code == 2
    assert message in told.err
    assert "Traceback" not in told.err
    assert told.out == ""
    assert not (tmp_path / "x").exists()


def test_so_it_is_as_a_user_starts_it(tmp_path: Path) -> None:
    done = python("extract_features", "lake=nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "no lake" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
