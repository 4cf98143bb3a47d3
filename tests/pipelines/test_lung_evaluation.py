"""The job that judges finders of the lungs: its page, its tables, who is judged, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mask_folders import write_pairs

from featurizers.errors import FeaturizerError
from featurizers.mask_pairs import list_pairs, split_patients
from pipelines.errors import ConfigError
from pipelines.lung_evaluation import FIGURES, PAGE, TABLE, LungEvaluationConfig, evaluate_lungs

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "input"}
PAIRS = 60


class Page(HTMLParser):
    """Checks that tags nest, and gathers what a reader meets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def run(pairs: Path, out: Path, **settings: Any) -> str:
    return str(
        evaluate_lungs(LungEvaluationConfig(pairs=str(pairs), out=str(out), **{"finders": ["projection"]} | settings))
    )


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / TABLE).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pairs, and beside it the report on all of them."""
    folder = tmp_path_factory.mktemp("lungs")
    write_pairs(folder / "my pairs", PAIRS, per_patient=2)
    run(folder / "my pairs", folder / "out", split="all")
    return folder


@pytest.fixture(scope="module")
def html(drawn: Path) -> str:
    return (drawn / "out" / PAGE).read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_stands_alone(html: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[\w+/=]+", "", html))
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(name for name, _ in page.tags)
    assert all(str(image["href"]).startswith("data:image/jpeg;base64,") for image in page.named("image"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert len(html) < 2_000_000


def test_the_page_serves_phones_and_screen_readers(page: Page) -> None:
    assert page.named("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.named("meta"))
    assert all(header["scope"] in {"row", "col"} for header in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.named("svg"))
    labels = [str(drawing["aria-label"]) for drawing in page.named("svg") if drawing.get("role") == "img"]
    assert sum("Radiograph No." in label and "box IoU" in label for label in labels) == 36


def test_every_line_can_be_taken_away(html: str, page: Page) -> None:
    ids = [box["id"] for box in page.named("input")]
    assert ids == ["layer0", "layer1"]
    assert all(f"body:has(#{one}:not(:checked)) .overlays .l{one[-1]}" in html for one in ids if one)


def test_the_page_says_what_it_is_not_for(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "Research software; not a medical device; not for diagnosis." in text
    assert "as confidential as" in text
    assert not re.search(r"\b(nan|None|null|inf)\b", text)
    assert f"{PAIRS} images of {PAIRS // 2} patients" in text
    assert "The worst 24 of projection" in text
    for label in ("normal", "viral", "bacterial"):
        assert f"{label}: 20 images" in text


def test_nobody_is_named(drawn: Path, html: str) -> None:
    written = "".join((drawn / "out" / name).read_text() for name in (TABLE, FIGURES)) + html
    assert not re.search(r"film-|outline-|patient-\d", written)
    assert str(drawn) not in written


def test_an_image_goes_by_its_place_in_the_folder(drawn: Path) -> None:
    rows = rows_of(drawn / "out")
    assert [row["image"] for row in rows] == [str(number) for number in range(1, PAIRS + 1)]
    assert [row["patient"] for row in rows][:6] == ["1", "1", "3", "3", "5", "5"]
    assert rows[1]["label"] == "viral"
    assert rows[0]["dice"] == ""


def test_the_figures_are_those_of_the_images(drawn: Path) -> None:
    figures = json.loads((drawn / "out" / FIGURES).read_text())["finders"]["projection"]
    rows = rows_of(drawn / "out")
    ious = [float(row["box_iou"]) for row in rows]
    assert figures["all"]["box_iou"]["mean"] == pytest.approx(sum(ious) / len(ious))
    assert figures["all"]["losing"]["mean"] == pytest.approx(sum(float(row["lost"]) > 0.01 for row in rows) / PAIRS)
    assert figures["all"]["dice"] is None
    assert set(figures["by_class"]) == {"normal", "viral", "bacterial"}
    assert figures["risk_coverage"]["random"] == pytest.approx(1 - sum(ious) / len(ious))


def test_what_was_asked_and_with_what_is_told_beside(drawn: Path) -> None:
    told = json.loads((drawn / "out" / "run.json").read_text())
    assert told["config"]["margin"] == 0.08
    assert told["counts"] == {"images": PAIRS, "patients": PAIRS // 2}


def test_only_patients_whom_training_leaves_out_are_judged(drawn: Path, tmp_path: Path) -> None:
    summary = run(drawn / "my pairs", tmp_path / "out")
    pairs = list_pairs(drawn / "my pairs")
    test = split_patients(pairs).test
    assert [row["image"] for row in rows_of(tmp_path / "out")] == [str(pairs.index(pair) + 1) for pair in test]
    assert f"images      {len(test)}" in summary
    assert "box IoU" in summary
    assert "whom train_segmenter leaves out" in (tmp_path / "out" / PAGE).read_text()


def test_the_quality_to_trust_and_the_margin_are_heeded(drawn: Path, tmp_path: Path) -> None:
    run(drawn / "my pairs", tmp_path / "never", min_quality=1.1)
    assert {(row["is_whole"], row["lost"]) for row in rows_of(tmp_path / "never")} == {("True", "0.0")}
    run(drawn / "my pairs", tmp_path / "none", min_quality=0, margin=0)
    run(drawn / "my pairs", tmp_path / "wide", min_quality=0, margin=0.5)
    lost = {name: sum(float(row["lost"]) for row in rows_of(tmp_path / name)) for name in ("none", "wide")}
    assert lost["wide"] < lost["none"]


def test_an_atlas_is_drawn_from_the_patients_of_training(drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    run(drawn / "my pairs", tmp_path / "out", finders=["atlas"], atlas_pairs=6)
    assert len(rows_of(tmp_path / "out")) == len(split_patients(list_pairs(drawn / "my pairs")).test)
    assert all(0 < float(row["dice"]) < 1 for row in rows_of(tmp_path / "out"))
    text = Page((tmp_path / "out" / PAGE).read_text()).text
    assert "The atlas is 6 pairs drawn at random from the patients of training." in text
    assert "are not judged" not in text


def test_whom_the_atlas_knows_is_not_judged(drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    # The atlas has the images 1 to 5, the first two under another patient, and not image 6 of the patient of image 5.
    atlas = write_pairs(tmp_path / "atlas", 5, per_patient=2)
    table = (atlas / "pairs.csv").read_text()
    (atlas / "pairs.csv").write_text(table.replace("patient-0", "somebody else"))
    pairs = write_pairs(tmp_path / "pairs", 10, per_patient=2)
    run(pairs, tmp_path / "out", split="all", finders=["atlas"], atlas=str(atlas))
    assert [row["image"] for row in rows_of(tmp_path / "out")] == ["7", "8", "9", "10"]
    text = Page((tmp_path / "out" / PAGE).read_text()).text
    assert "6 pairs whose image or patient is in the atlas are not judged" in text


def test_one_image_of_one_patient_still_has_a_page(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 1)
    run(tmp_path / "pairs", tmp_path / "out", split="all")
    text = Page((tmp_path / "out" / PAGE).read_text()).text
    assert "Few patients." in text
    assert "at random" not in text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&'
    folder = write_pairs(tmp_path / "a&b<i>", 3)
    table = (folder / "pairs.csv").read_text().replace("viral", '"' + evil.replace('"', '""') + '"')
    (folder / "pairs.csv").write_text(table)
    run(folder, tmp_path / "out", split="all")
    html = (tmp_path / "out" / PAGE).read_text()
    assert "<script" not in html
    assert "<i>" not in html
    assert evil in Page(html).text


def test_no_pair_left_to_judge_is_told(tmp_path: Path) -> None:
    # patient-3 and patient-4 train.
    write_pairs(tmp_path / "pairs", 2, first=3)
    with pytest.raises(ConfigError, match=r"no pair is left to judge of 2.*split=all"):
        run(tmp_path / "pairs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told_before_anything_is_written(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(FeaturizerError, match="holds no pairs"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"not empty.*new folder"):
        run(drawn / "my pairs", drawn / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings", [{"finders": []}, {"finders": ["projection", "projection"]}, {"finders": ["x"]}, {"margin": -0.1}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        LungEvaluationConfig(pairs="x", out="y", **settings)


def test_the_job_runs_from_any_folder_without_java(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "my pairs", tmp_path / "pairs")
    job = [sys.executable, str(ROOT / "jobs" / "evaluate_lungs.py"), "pairs=pairs", "out=out", "finders=[projection]"]
    done = subprocess.run(job, cwd=tmp_path, env={"PATH": ""}, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    assert "research use only" in done.stdout
    assert {file.name for file in (tmp_path / "out").iterdir()} == {PAGE, TABLE, FIGURES, "run.json"}


@pytest.mark.real
def test_real_radiographs(real_data: Path, tmp_path: Path) -> None:
    run(real_data / "lung_masks", tmp_path / "out")
    figures = json.loads((tmp_path / "out" / FIGURES).read_text())["finders"]["projection"]["all"]
    assert figures["images"] > 150
    # Measured 0.867; the box of the whole image has 0.61.
    assert figures["box_iou"]["mean"] > 0.85
    assert figures["lost"]["mean"] < 0.01
    assert (tmp_path / "out" / PAGE).stat().st_size < 2_000_000
