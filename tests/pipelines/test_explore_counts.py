"""Counting a lake file by file gives what counting all rows at once gives, in a memory that does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from synthetic_studies import draw_studies, study, write_lake

from pipelines.exploration import samples
from pipelines.exploration.counts import Counts, Scope, count_files, study_files
from pipelines.exploration.samples import PatientSample
from pipelines.exploration.survey import Share, Survey, quantile

SCOPE = Scope(dataset=None, examples=3, seed=0)


def count(location: Path, rows: list[dict[str, Any]], *, files: int = 1, row_group: int = 512) -> Counts:
    lake = write_lake(location, [rows[start::files] for start in range(files)], row_group=row_group)
    return count_files(study_files(lake.studies.folder), SCOPE, lambda _: None)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return draw_studies(700, seed=3)


@pytest.fixture(scope="module")
def survey(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Survey:
    # More files than are merged at once, so that merges are merged.
    return Survey(count(tmp_path_factory.mktemp("lakes") / "lake", rows, files=11, row_group=20))


def test_counts_are_those_of_all_rows(rows: list[dict[str, Any]], survey: Survey) -> None:
    counts = survey.counts
    assert counts.images.by("dataset", "split", "view", "sex") == Counter(
        (row["dataset"], row["split"], row["view"], row["sex"]) for row in rows
    )
    assert counts.findings.by("finding", "value", "split") == Counter(
        (name, value, row["split"]) for row in rows for name, value in row["findings"].items()
    )
    assert counts.labels.by("split", "positives") == Counter(
        (row["split"], sum(value == 1 for value in row["findings"].values())) for row in rows
    )
    assert counts.ages.by("sex", "age") == Counter(
        (row["sex"], None if row["age_years"] is None else int(row["age_years"])) for row in rows
    )
    assert counts.widths.over("width") == Counter(row["width"] for row in rows)
    assert counts.crops.over("quality") == Counter(min(int(row["lung_quality"] * 10), 9) for row in rows)
    assert survey.patients == len({row["patient_key"] for row in rows})


@pytest.mark.parametrize(("files", "row_group"), [(1, 700), (5, 64)])
def test_how_rows_lie_in_files_does_not_matter(
    files: int, row_group: int, rows: list[dict[str, Any]], survey: Survey, tmp_path: Path
) -> None:
    counts = count(tmp_path / "lake", rows, files=files, row_group=row_group)
    assert counts.pairs.by(*counts.pairs.table.column_names[:-1]) == survey.counts.pairs.by(
        *counts.pairs.table.column_names[:-1]
    )
    assert counts.patients.images_of_patients() == survey.counts.patients.images_of_patients()
    for name in survey.findings:
        assert counts.examples.table.filter(
            pa.array([n == name for n in counts.examples.table["finding"].to_pylist()])
        )["priority"].to_pylist() == sorted(
            priority
            for found, priority in zip(
                *(survey.counts.examples.table[column].to_pylist() for column in ("finding", "priority")), strict=True
            )
            if found == name
        )


def test_what_is_not_mentioned_is_told_apart_from_what_is_never_recorded(
    rows: list[dict[str, Any]], survey: Survey
) -> None:
    hernia, mass = survey.mentions("Hernia"), survey.mentions("Mass", "test")
    reports = sum(row["dataset"] == "reports" for row in rows)
    assert (hernia.unrecorded, hernia.silent, hernia.uncertain) == (reports, 0, 0)
    values = Counter(row["findings"].get("Mass") for row in rows if row["split"] == "test")
    assert (mass.positive, mass.negative, mass.uncertain, mass.silent) == (
        values[1],
        values[0],
        values[-1],
        values[None],
    )
    assert mass.unrecorded == 0


@pytest.mark.parametrize(
    ("first", "second"), [("Infiltration", "Effusion"), ("Effusion", "No Finding"), ("Hernia", "Nodule")]
)
def test_phi_is_the_correlation_of_the_labels(
    first: str, second: str, rows: list[dict[str, Any]], survey: Survey
) -> None:
    recording = {"reports", "plain"} if "Hernia" not in (first, second) else {"plain"}
    labels = [
        (row["findings"].get(first, 0), row["findings"].get(second, 0)) for row in rows if row["dataset"] in recording
    ]
    known = np.array([pair for pair in labels if -1 not in pair])
    assert survey.phi(first, second) == pytest.approx(np.corrcoef(known.T)[0, 1], abs=1e-12)
    assert survey.phi(first, second) == pytest.approx(survey.phi(second, first))
    assert survey.together(first, second) == sum(
        row["findings"].get(first) == row["findings"].get(second) == 1 for row in rows
    )


def test_phi_of_a_finding_that_never_varies_is_left_open(tmp_path: Path) -> None:
    counts = count(tmp_path / "lake", [study(n, findings={"always": 1, "often": n % 2}) for n in range(8)])
    assert Survey(counts).phi("always", "often") is None


def test_shares_of_views_leave_out_what_is_unknown_or_uncertain(tmp_path: Path) -> None:
    views = ["AP", "AP", "PA", None, "AP", "PA", "PA", "AP"]
    values = [1, 1, 1, 1, 0, 0, 0, -1]
    counts = count(
        tmp_path / "lake",
        [study(n, view=v, findings={"f": x}) for n, (v, x) in enumerate(zip(views, values, strict=True))],
    )
    contrast = Survey(counts).ap_share("f")
    assert contrast is not None
    assert (contrast.positives, contrast.others) == (Share(2, 3), Share(1, 3))


def test_examples_are_positive_and_where_they_are_said_to_be(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [rows[:300], rows[300:]], row_group=50)
    counts = count_files(study_files(lake.studies.folder), SCOPE, lambda _: None)
    for name in ("Hernia", "Mass"):
        places = counts.examples.places(name)
        found = [rows[300 * file + row] for file, row in places]
        assert len(set(places)) == min(3, sum(row["findings"].get(name) == 1 for row in rows))
        assert all(row["findings"][name] == 1 for row in found)


def test_a_file_without_rows_counts_nothing(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    lake = write_lake(tmp_path / "lake", [[], rows[:40], []])
    assert count_files(study_files(lake.studies.folder), SCOPE, lambda _: None).images.total == 40


def test_more_patients_than_are_kept_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PATIENTS_KEPT", 1000)
    patients = 20_000
    parts = [
        PatientSample.of(
            pa.table({
                "patient_key": [f"patient {n % patients}" for n in range(start, start + 5000)],
                "split": ["train" if n % patients % 4 else "test" for n in range(start, start + 5000)],
            })
        )
        for start in range(0, 2 * patients, 5000)
    ]  # fmt: skip
    sample = PatientSample.merge([PatientSample.merge(parts[:3]), PatientSample.merge(parts[3:])])
    assert not sample.is_exact
    # Each patient of the sample is there with all images, although they came from different parts.
    assert set(sample.images_of_patients().values()) == {2}
    assert len(sample.images_of_patients()) == 1000
    # 1000 hashes give a standard error of 3 %.
    assert 1000 * sample.scale == pytest.approx(patients, rel=0.1)
    assert sample.patients_by_splits()["test",] * sample.scale == pytest.approx(patients / 4, rel=0.2)


@pytest.mark.parametrize(
    ("counts", "fraction", "value"),
    [({1: 1, 2: 1, 3: 1}, 0.5, 2), ({1: 9, 50: 1, None: 90}, 0.5, 1), ({4: 1, 8: 1}, 1, 8), ({4: 1, 8: 1}, 0, 4)],
)
def test_quantiles_of_counted_values(counts: dict[int | None, int], fraction: float, value: int) -> None:
    assert quantile(counts, fraction) == value


def test_there_is_no_quantile_of_nothing() -> None:
    assert quantile({None: 4}, 0.5) is None


PEAK = """
import resource, sys
import numpy as np
from pipelines.exploration.counts import Scope, count_files, study_files
from pipelines.folders import Folder
files = study_files(Folder.at(sys.argv[1])) * int(sys.argv[2])
counts = count_files(files, Scope(None, 8, 0), lambda _: None)
print(counts.images.total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_rows(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    light = [row | {"crop": b""} for row in rows] * 3
    lake = write_lake(tmp_path / "lake", [light, light, light, light])

    def peak(times: int) -> tuple[int, int]:
        command = [sys.executable, "-c", PEAK, lake.studies.folder.uri, str(times)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        images, megabytes = map(int, done.stdout.split())
        return images, megabytes

    few_images, few = peak(2)
    many_images, many = peak(40)
    assert (few_images, many_images) == (16_800, 336_000)
    # Held in memory, the rows more would be 128 MB: the columns that are read have 400 bytes a row.
    assert many - few < 80


def test_an_image_without_labels_says_nothing_of_any_finding(tmp_path: Path) -> None:
    labels: list[dict[str, int]] = [{"mass": 1}, {"mass": 0}, {"edema": 1}, {}]
    rows = [study(number, findings=findings) for number, findings in enumerate(labels)]
    told = Survey(count(tmp_path / "lake", rows)).mentions("mass")
    assert (told.positive, told.negative, told.silent, told.unrecorded) == (1, 1, 1, 1)
