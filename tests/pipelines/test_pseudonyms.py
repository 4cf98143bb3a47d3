"""Pseudonyms: keyed, stable, apart for each data set, and no identifier left in a uri."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from pipelines.pseudonyms import KEY_VARIABLE, MIN_SUBSTRING, Pseudonymizer, secret_key

MINE = Pseudonymizer(b"k" * 32, "mine")


def test_the_same_patient_gets_the_same_key_only_in_the_same_data_set_under_the_same_secret() -> None:
    key = MINE.patient("12345")
    assert key == Pseudonymizer(b"k" * 32, "mine").patient("12345")
    others = {
        Pseudonymizer(b"x" * 32, "mine").patient("12345"),
        Pseudonymizer(b"k" * 32, "other").patient("12345"),
        MINE.study("12345"),
        MINE.patient("12346"),
    }
    assert key not in others
    assert len(others) == 4


@pytest.mark.parametrize(
    ("path", "identifier"),
    [
        ("p0007_1.png", "0007"),
        ("images/7/1.png", "0007"),
        ("patient1/a.png", "1"),
        ("DOE^JANE/IM1.dcm", "Doe_Jane"),
        ("x/doejane-1.png", "DOE^JANE"),
        ("ab/1.png", "AB"),
    ],
)
def test_a_uri_that_would_hold_an_identifier_is_a_pseudonym(path: str, identifier: str) -> None:
    uri = MINE.uri(path, "", identifier)
    assert re.fullmatch(r"[0-9a-f]{32}\.(png|dcm)", uri)
    assert uri == MINE.uri(path, identifier)
    assert uri != Pseudonymizer(b"x" * 32, "mine").uri(path, identifier)


@pytest.mark.parametrize(("path", "identifier"), [("images/3124.png", "12"), ("tab/1.png", "ab"), ("a.png", "")])
def test_any_other_uri_stays_as_it_is(path: str, identifier: str) -> None:
    assert MINE.uri(path, identifier) == path


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=MIN_SUBSTRING, max_size=12), st.data())
def test_no_identifier_is_left_in_a_uri(identifier: str, data: st.DataObject) -> None:
    # A pseudonym is hexadecimal: by chance it may spell a short identifier of those letters.
    assume(not set(identifier.lower()) <= set("0123456789abcdef"))
    around = st.text("xyz/._-", max_size=8)
    uri = MINE.uri(data.draw(around) + identifier.swapcase() + data.draw(around) + ".png", identifier)
    assert identifier.lower() not in uri.lower()


def test_the_key_comes_from_the_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("f" * 64 + "\n")
    monkeypatch.setenv(KEY_VARIABLE, "e" * 64)
    assert secret_key(str(file)) == b"f" * 64
    assert secret_key(None) == b"e" * 64


def test_without_a_key_the_message_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"secrets\.token_hex"):
        secret_key(None)
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(ConfigError, match="at least 16"):
        secret_key(None)
    with pytest.raises(ConfigError, match="no file"):
        secret_key("nowhere.key")


def test_the_secret_is_not_shown() -> None:
    assert "kkkk" not in repr(MINE)


@pytest.mark.parametrize(
    "path",
    [
        "scan-19430217.png",
        "2019-02-28/a.png",
        "x_2020.12.31_y.dcm",
        "1.2.840.113619.2.55.3",
        "a/b-1.2.840.10008.5.png",
        "31.12.1956.png",
        "born_31121956.png",
        "12-31-1956.png",
        "M\udcfcller.png",
    ],
)
def test_dates_and_uids_are_identifiers_without_being_told(path: str) -> None:
    assert Pseudonymizer(b"k" * 32, "mine").uri(path) != path


@pytest.mark.parametrize(
    "path", ["images_001/00000001_000.png", "20261399.png", "a-1.2.3.png", "IM000123.dcm", "123456789012.png"]
)
def test_other_numbers_are_none(path: str) -> None:
    assert Pseudonymizer(b"k" * 32, "mine").uri(path) == path


@pytest.mark.parametrize(
    ("path", "suffix"),
    [("a.PNG", ".png"), ("a.dcm", ".dcm"), ("1.2.840.113619", ""), ("IM1.SMITH_JOHN", ""), ("IM1", "")],
)
def test_a_pseudonym_keeps_only_an_images_ending(path: str, suffix: str) -> None:
    uri = Pseudonymizer(b"k" * 32, "mine").keyed_uri(path)
    assert re.fullmatch(rf"[0-9a-f]{{32}}{re.escape(suffix)}", uri)


def test_a_stamp_is_of_a_path_and_a_version() -> None:
    keys = Pseudonymizer(b"k" * 32, "mine")
    stamps = {keys.stamp("a", "1"), keys.stamp("a", "2"), keys.stamp("b", "1"), keys.stamp("a1", "")}
    assert len(stamps) == 4
    assert keys.stamp("a", "1") == keys.stamp("a", "1")


def test_accents_and_how_they_are_written_do_not_hide_a_name() -> None:
    keys = Pseudonymizer(b"k" * 32, "mine")
    composed, decomposed = unicodedata.normalize("NFC", "Müller"), unicodedata.normalize("NFD", "Müller")
    for path, name in ((composed, decomposed), (decomposed, composed), ("Muller", composed)):
        assert keys.uri(f"{path}_Hans.dcm", name) != f"{path}_Hans.dcm"
