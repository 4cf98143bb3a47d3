"""The listing: what of a source's records may leave ingest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from pipelines.identities import Identities
from pipelines.listing import LISTING, Listing, ahead
from pipelines.policy import Policy
from pipelines.pseudonyms import Pseudonymizer
from pipelines.sources.base import Contents, StudyRecord
from pipelines.splits import Split, SplitFractions


@dataclass(frozen=True)
class Records:
    """A source of given records."""

    given: tuple[StudyRecord, ...]
    is_public: bool = False
    official_splits: frozenset[Split] = frozenset()

    def check(self) -> Contents:
        return Contents(len(self.given))

    def records(self) -> Iterator[StudyRecord]:
        yield from self.given


ONE = StudyRecord(path="a/1.png", patient_id="PID-1", findings={"Mass": 1, "Edema": -1}, study_id="S-9", age_years=40.0)


def listing(*records: StudyRecord) -> Listing:
    identities = Identities(Pseudonymizer(b"k" * 32, "mine"), SplitFractions(0.2, 0.2), are_public=False)
    return Listing(Records(records), identities, Policy(frozenset(), images_are_chosen=False))


def test_chunks_hold_every_record_once_in_order() -> None:
    chunks = list(listing(*(replace(ONE, path=f"{n}.png") for n in range(7))).windows(3))
    assert [chunk.num_rows for chunk in chunks] == [3, 3, 1]
    assert all(chunk.schema == LISTING for chunk in chunks)
    rows = [row for chunk in chunks for row in chunk.to_pylist()]
    assert [row["position"] for row in rows] == list(range(7))
    assert [row["path"] for row in rows] == [f"{n}.png".encode() for n in range(7)]


def test_no_identifier_is_in_any_column_but_the_path() -> None:
    (chunk,) = listing(replace(ONE, path="PID-1/S-9.png")).windows(9)
    (row,) = chunk.to_pylist()
    assert row.pop("path") == b"PID-1/S-9.png"
    assert "PID-1" not in str(row)
    assert "S-9" not in str(row)
    assert dict(row["findings"]) == {"Mass": 1, "Edema": -1}


@pytest.mark.parametrize(
    ("age", "told"), [(None, None), (0.5, 0.5), (89.0, 89.0), (89.5, 90.0), (104.0, 90.0), (414.0, None)]
)
def test_ages_above_89_are_told_as_90(age: float | None, told: float | None) -> None:
    (chunk,) = listing(replace(ONE, age_years=age)).windows(9)
    assert chunk["age_years"].to_pylist() == [told]


def test_an_official_split_wins_and_a_patients_images_go_together() -> None:
    (chunk,) = listing(ONE, replace(ONE, path="2.png"), replace(ONE, split=Split.TEST, patient_id="other")).windows(9)
    first, second, third = chunk["split"].to_pylist()
    assert first == second
    assert third == "test"


def test_a_lateral_view_is_listed_with_its_reason() -> None:
    (window,) = listing(replace(ONE, view="LATERAL")).windows(9)
    assert window["reason"].to_pylist() == ["not_frontal"]


def test_an_image_without_a_patient_has_a_keyed_uri_and_no_split() -> None:
    (window,) = listing(replace(ONE, path="SMITH_JANE/1.SMITH", patient_id=None, study_id=None)).windows(9)
    (row,) = window.to_pylist()
    assert row["patient_key"] is None
    assert row["split"] is None
    assert "SMITH" not in row["uri"]


def test_fetching_ahead_changes_nothing() -> None:
    assert list(ahead(iter(range(1, 9)))) == list(range(1, 9))
