"""Ctrl-C: one line and exit code 130, whatever it comes upon; real Spark jobs are those of test_extract_faults.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = "interrupted: what was committed is kept; run the same command again."
#: Above what anything here takes on a busy machine.
PATIENCE = 60
#: What a job begins with, and where it tells that Ctrl-C may come now.
START = f"""
    import sys, time
    sys.path.insert(0, {str(ROOT / "jobs")!r})
    import _root
    from pipelines import interruption

    def wait():
        print("now", flush=True)
        time.sleep(600)
    """


def interrupt(script: str, folder: Path, times: int = 1) -> tuple[int, str, float]:
    """Ctrl-C to a script each time that it says so: its exit code, what it wrote, and the seconds that it took."""
    file = folder / "script.py"
    file.write_text(textwrap.dedent(START) + textwrap.dedent(script))
    with subprocess.Popen(
        [sys.executable, str(file), "lake=x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            for _ in range(times):
                assert process.stdout.readline() == "now\n"
                process.send_signal(signal.SIGINT)
            start = time.monotonic()
            _, told = process.communicate(timeout=PATIENCE)
            return process.returncode, told, time.monotonic() - start
        finally:
            process.kill()


def test_while_a_job_is_loaded(tmp_path: Path) -> None:
    code, told, _ = interrupt("wait()", tmp_path)
    assert (code, told.strip()) == (130, LINE)


def test_the_job_puts_away_what_it_has_and_another_error_on_the_way_is_not_told(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from pipelines.config import LakeConfig
        from pipelines.job import run_job

        def verb(config):
            try:
                wait()
            finally:
                Path({str(tmp_path / "put away")!r}).touch()
                raise ConnectionError("the other side is gone")

        run_job(__file__, "Wait.", LakeConfig, verb)
        """
    code, told, _ = interrupt(script, tmp_path)
    assert (code, told.strip()) == (130, LINE)
    assert (tmp_path / "put away").exists()


def test_a_second_one_ends_a_job_that_takes_its_time(tmp_path: Path) -> None:
    script = """
        with interruption.interruptible():
            try:
                wait()
            finally:
                wait()
        """
    code, told, seconds = interrupt(script, tmp_path, times=2)
    assert (code, told.strip()) == (130, LINE)
    assert seconds < 5


def test_one_that_a_destructor_swallows_ends_the_job_all_the_same(tmp_path: Path) -> None:
    script = """
        interruption.PATIENCE_SECONDS = 0.2

        class Swallower:
            def __del__(self):
                wait()

        with interruption.interruptible():
            Swallower()
            time.sleep(600)
        """
    code, told, _ = interrupt(script, tmp_path)
    assert (code, told.strip()) == (130, LINE)


def test_an_error_of_a_job_that_nobody_interrupted_stays_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(START) + "with interruption.interruptible():\n    1 / 0\n")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
