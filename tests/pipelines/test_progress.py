"""Progress: what the line tells, where it is one live line and where log lines, and that it hides no error."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import progress
from pipelines.progress import Progress, clock, progress_line, tell


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "seconds", "line"),
    [
        (3120, 5216, 69.2, "extract  3,120/5,216 images  59%  45.1 images/s  0:46 left"),
        (0, 5216, 3.0, "extract  0/5,216 images  0%  0.0 images/s"),
        (0, 5216, 0.0, "extract  0/5,216 images  0%  0.0 images/s"),
        (5216, 5216, 115.7, "extract  5,216/5,216 images  100%  45.1 images/s  1:56 in all"),
        (1_000_000, 2_000_000, 20_000.0, "extract  1,000,000/2,000,000 images  50%  50.0 images/s  5:33:20 left"),
        (3000, None, 1.5, "extract  3,000 images  2,000.0 images/s"),
        (0, 0, 0.2, "extract  0/0 images  0.0 images/s  0:00 in all"),
    ],
    ids=["half", "none yet", "no time yet", "done", "hours", "unknown total", "nothing to do"],
)
def test_the_line(done: int, total: int | None, seconds: float, line: str) -> None:
    assert progress_line("extract", done, total, seconds) == line


def test_what_else_is_counted_is_named_and_has_no_speed_where_each_takes_long() -> None:
    assert progress_line("fit", 3, 4, 1.0, "settings") == "fit  3/4 settings  75%  3.0 settings/s  0:00 left"
    assert progress_line("fit", 1, 4, 60.0, "settings") == "fit  1/4 settings  25%  3:00 left"


def test_a_hundred_per_cent_means_all() -> None:
    assert "100%" not in progress_line("extract", 99_999, 100_000, 10.0)


@given(st.integers(0, 10**7), st.integers(1, 10**7), st.floats(0.001, 10**6))
def test_time_left_is_told_while_something_is_left(done: int, total: int, seconds: float) -> None:
    line = progress_line("extract", done, total, seconds)
    assert line.endswith(" in all") == (done >= total)
    assert line.endswith(" left") == (0 < done < total)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (9, "0:09"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3599.9, "1:00:00"),
        (3600, "1:00:00"),
        (86_399, "23:59:59"),
        (360_000, "100:00:00"),
    ],
)
def test_the_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@given(st.floats(0, 10**7))
def test_the_clock_can_be_read_back(seconds: float) -> None:
    parts = [int(part) for part in clock(seconds).split(":")]
    assert all(part < 60 for part in parts[1:])
    read = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    assert abs(read - seconds) <= 0.5


def test_a_log_gets_lines_and_a_last_one_with_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.02)
    stream = io.StringIO()
    done = 0
    with Progress("extract", 50, lambda: done, stream=stream):
        for images in (10, 30, 50):
            done = images
            wait_for(f"{images}/50", stream)
    text = stream.getvalue()
    assert "\r" not in text
    assert text.endswith("\n")
    lines = text.splitlines()
    counts = [int(found.group(1)) for line in lines if (found := re.match(r"extract  (\d+)/50 images", line))]
    assert len(counts) == len(lines) > 3
    assert counts == sorted(counts)
    assert {10, 30, 50} <= set(counts)
    assert lines[-1].endswith("in all")


def test_short_work_still_gets_its_last_line() -> None:
    stream = io.StringIO()
    with Progress("list", None, lambda: 12_345, stream=stream):
        pass
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("list  12,345 images")


def test_a_terminal_gets_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.02)
    stream = Terminal()
    done = 0
    with Progress("extract", 50, lambda: done, stream=stream):
        for images in (10, 50):
            done = images
            wait_for(f"{images}/50", stream)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.count("\r") >= 3
    assert shown_on_terminal(text).startswith("extract  50/50 images  100%")


def test_a_shorter_line_leaves_nothing_of_the_longer_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.01)
    stream = Terminal()
    done = 1_000_000
    with Progress("count", None, lambda: done, stream=stream):
        wait_for("1,000,000", stream)
        done = 1
        wait_for("count  1 images", stream)
    assert re.fullmatch(r"count  1 images  [\d.]+ images/s", shown_on_terminal(stream.getvalue()).rstrip())


def wait_for(text: str, stream: io.StringIO) -> None:
    """Until `text` is written, or some seconds have passed: the test's asserts tell the rest."""
    end = time.monotonic() + 5
    while text not in stream.getvalue() and time.monotonic() < end:
        time.sleep(0.005)


def shown_on_terminal(text: str) -> str:
    """What stands on a terminal's line after `text`: each carriage return goes back to the first column."""
    line = ""
    for written in text.rstrip("\n").split("\r"):
        line = written + line[len(written) :]
    return line


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_an_error_goes_through_and_the_last_line_tells_how_far_it_got(stream: io.StringIO) -> None:
    with pytest.raises(ZeroDivisionError), Progress("extract", 50, lambda: 17, stream=stream):
        raise ZeroDivisionError
    assert "17/50" in stream.getvalue()
    assert stream.getvalue().endswith("\n")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_without_a_stream_it_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("extract", 1, lambda: 1):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1/1 images" in captured.err


def test_what_has_no_count_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell("starting Spark")
    assert capsys.readouterr() == ("", "starting Spark\n")
