"""The quarantine's reasons: one list, that README tells in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurizers.reasons import NoVector, Reason

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", Reason)
def test_readme_tells_each_reason_and_its_meaning(reason: Reason) -> None:
    assert f"| `{reason}` | {reason.meaning} |" in README


@pytest.mark.parametrize("reason", NoVector)
def test_readme_tells_why_a_crop_has_no_vector(reason: NoVector) -> None:
    assert f"`{reason}`" in README


def test_a_code_is_a_reason_and_writes_as_itself() -> None:
    assert Reason("empty_file") is Reason.EMPTY_FILE
    assert f"{Reason.EMPTY_FILE}" == "empty_file"
