"""Each message appears where the numbers warrant it, with those numbers, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_studies import study, write_lake

from pipelines.exploration.counts import Scope, count_files, study_files
from pipelines.exploration.notes import notes
from pipelines.exploration.survey import Survey

Told = dict[str, str]
Tell = Callable[[Sequence[dict[str, Any]]], Told]
SPLITS = ("train", "val", "test")


@pytest.fixture
def tell(tmp_path: Path) -> Tell:
    """The messages about a lake with these rows, by subject."""

    def told(rows: Sequence[dict[str, Any]]) -> Told:
        lake = write_lake(tmp_path / "lake", [rows])
        counts = count_files(study_files(lake.studies.folder), Scope(None, 1, 0), lambda _: None)
        return {note.about: note.text.replace("\N{NO-BREAK SPACE}", " ") for note in notes(Survey(counts))}

    return told


def sound(images: int = 600, **columns: Any) -> list[dict[str, Any]]:
    """Studies that give no reason for any caution."""
    return [
        study(
            n,
            split=SPLITS[n % 3],
            findings={"a": n // 3 % 2, "b": n // 6 % 2},
            view="AP" if n // 12 % 2 else "PA",
            sex="F" if n // 24 % 2 else "M",
            age_years=20 + n % 50,
        )
        | columns
        for n in range(images)
    ]


def test_sound_numbers_give_no_caution(tell: Tell) -> None:
    assert set(tell(sound())) == {"Rarest finding", "Patients"}


def test_the_rarest_finding_and_its_ratio(tell: Tell) -> None:
    rows = [row | {"findings": {"a": 1, "rare": int(n < 4), "never": 0}} for n, row in enumerate(sound())]
    told = tell(rows)
    assert told["Rarest finding"].startswith("rare: positive on 4 of 600 images (0.7 %).")
    assert "a, is positive on 600 images, 150.0 times as many" in told["Rarest finding"]
    assert told["Never positive"].startswith("never: ")


def test_a_constant_answer_that_is_nearly_always_right(tell: Tell) -> None:
    rows = [row | {"findings": row["findings"] | {"rare": int(n < 30)}} for n, row in enumerate(sound())]
    assert "On the test images" in (told := tell(rows)["Accuracy misleads"])
    assert "rare (95.0 %)" in told


def test_too_few_of_a_class_in_val_or_test(tell: Tell) -> None:
    rows = sound()
    for row in rows:
        if row["split"] == "val":
            row["findings"] = {"a": 1, "b": 0}
    told = tell(rows)
    assert "a (0 without it), b (0 positive)" in told["Too few in val"]
    assert "Too few in test" not in told
    assert "a (train 50.0 %, val 100.0 %, test 50.0 %)" in told["Splits differ"]


def test_a_missing_split(tell: Tell) -> None:
    assert "no test images" in tell([row for row in sound() if row["split"] != "test"])["Missing split"]


def test_patients_in_two_splits(tell: Tell) -> None:
    rows = sound()
    rows[1]["patient_key"] = rows[0]["patient_key"]
    assert tell(rows)["Patients in two splits"].startswith("1 of 599 patients have")


def test_several_images_of_a_patient(tell: Tell) -> None:
    told = tell([row | {"patient_key": f"{n % 3} {n // 9}"} for n, row in enumerate(sound())])
    assert "3.0 images per patient" in told["Images are not patients"]


def test_a_finding_of_one_data_set_only(tell: Tell) -> None:
    rows = sound()
    for row in rows[300:]:
        row["dataset"] = "second"
        del row["findings"]["b"]
    assert "b (only in first)" in tell(rows)["Not recorded everywhere"]


def test_view_sex_and_age_that_go_with_a_finding(tell: Tell) -> None:
    rows = sound()
    for row in rows:
        if row["findings"]["a"]:
            row |= {"view": "AP", "sex": "F", "age_years": 80.0}
    told = tell(rows)
    assert "a (100 % against" in told["View as a shortcut"]
    assert "a (100 % against" in told["Sex as a shortcut"]
    assert "a (80 years)" in told["Age as a shortcut"]
    assert all("b (" not in told[name] for name in ("View as a shortcut", "Sex as a shortcut"))


def test_a_difference_that_chance_explains_is_no_shortcut(tell: Tell) -> None:
    rows = sound(36)
    for n, row in enumerate(rows):
        row |= {"findings": {"a": n % 2}, "view": "AP" if (n % 2 and n % 4 == 1) or n % 6 == 0 else "PA"}
    assert "View as a shortcut" not in tell(rows)


def test_uncertain_and_unknown(tell: Tell) -> None:
    rows = [row | {"sex": None, "age_years": None if n % 10 == 0 else 30.0} for n, row in enumerate(sound())]
    for row in rows[:60]:
        row["findings"] = {"a": -1, "b": 0}
    told = tell(rows)
    assert "a (10.0 %)" in told["Uncertain labels"]
    assert "No image has a known sex:" in told["Never known"]
    assert "age (10.0 %)" in told["Often not known"]


def test_crops_without_lungs(tell: Tell) -> None:
    rows = sound()
    for row in rows[:60]:
        row |= {"cropper": "whole_image", "lung_quality": 0.0}
    told = tell(rows)
    assert "60 images (10.0 %)" in told["Lungs not found"]
    assert "Not cropped" not in told


def test_a_lake_that_was_not_to_be_cropped(tell: Tell) -> None:
    told = tell([row | {"cropper": "whole_image", "lung_quality": None} for row in sound()])
    assert "600 images (100.0 %) are whole, as ingest was told" in told["Not cropped"]
    assert "Lungs not found" not in told


def test_no_findings_at_all(tell: Tell) -> None:
    assert "No findings" in tell([row | {"findings": {}} for row in sound()])
