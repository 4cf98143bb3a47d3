"""The page about a lake: whole, self-contained, right in its numbers, silent on identifiers."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from synthetic_studies import draw_studies, rejected, study, write_lake, write_run

from pipelines.errors import ConfigError, LakeError
from pipelines.explore import PAGE, ExploreConfig, explore

CONF = Path(__file__).resolve().parents[2] / "conf"
VOID = {"meta", "img"}
EVIL = '<script>alert("1")</script>&'


class Page(HTMLParser):
    """Checks that tags nest, and gathers what a reader meets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def page_of(lake: Path, out: Path, **settings: Any) -> tuple[str, Page]:
    explore(ExploreConfig(lake=str(lake), out=str(out), **settings))
    html = (out / PAGE).read_text()
    return html, Page(html)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Page]:
    """A lake of drawn studies, and its page."""
    folder = tmp_path_factory.mktemp("drawn")
    lake = write_lake(folder / "my lake", [draw_studies(300), draw_studies(300, 1, first=300)], row_group=100)
    write_run(lake.quarantine, [[rejected(n, "duplicate", "plain") for n in range(1000, 1007)]])
    return folder / "my lake", *page_of(folder / "my lake", folder / "page")


def test_the_page_stands_alone(drawn: tuple[Path, str, Page]) -> None:
    _, html, page = drawn
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[\w+/=]+", "", html))
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(name for name, _ in page.tags)
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.named("img"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_the_page_serves_phones_and_screen_readers(drawn: tuple[Path, str, Page]) -> None:
    _, _, page = drawn
    assert page.named("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.named("meta"))
    assert all(header["scope"] in {"row", "col"} for header in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(image["alt"] for image in page.named("img"))
    charts = [attrs for attrs in page.named("div") if attrs.get("role") == "img"]
    # Every chart has a table that holds its numbers.
    assert 0 < len(charts) <= len(page.named("details"))
    assert all(chart["aria-label"] for chart in charts)


def test_the_page_says_what_it_is_not_for(drawn: tuple[Path, str, Page]) -> None:
    text = " ".join(drawn[2].text.split())
    assert "Research software; not a medical device; not for diagnosis." in text
    assert "as confidential as the images" in text
    assert not re.search(r"\b(nan|None|null)\b", text)


def test_no_identifier_is_written_and_no_place_on_the_page(drawn: tuple[Path, str, Page]) -> None:
    lake, html, _ = drawn
    written = html + (lake.parent / "page" / "run.json").read_text()
    for row in draw_studies(300):
        for name in ("image_id", "patient_key", "study_key", "uri"):
            assert row[name] not in written
    assert str(lake.parent) not in html


def test_the_numbers_of_a_small_lake(tmp_path: Path) -> None:
    rows = [
        *(study(n, findings={"mass": 1, "nodule": int(n < 2)}, view="AP", sex="F", age_years=30.4) for n in range(4)),
        *(study(n, findings={"mass": 0}, split="test", view="PA", sex="M", age_years=88.0) for n in range(4, 7)),
        study(7, findings={"mass": -1}, split="val", width=512, height=700, bits=12, cropper="whole_image"),
    ]
    lake = write_lake(tmp_path / "lake", [rows[:5], rows[5:]])
    write_run(lake.quarantine, [[rejected(50, "corrupt_image"), rejected(51, "duplicate"), rejected(52, "duplicate")]])
    _, page = page_of(tmp_path / "lake", tmp_path / "page")
    for row in (
        # Finding: positive, negative, uncertain, not mentioned, never recorded; shares of those that answer.
        ["mass", "4 (50.0 %)", "3 (37.5 %)", "1 (12.5 %)", "0 (0.0 %)", "0 (0.0 %)", "57.1 %", "57.1 %"],
        ["nodule", "2 (25.0 %)", "2 (25.0 %)", "0 (0.0 %)", "4 (50.0 %)", "0 (0.0 %)", "25.0 %", "75.0 %"],
        ["train", "4 (50.0 %)", "4", "1.0"],
        ["mass", "4 (100.0 %)", "0 (n/a)", "0 (0.0 %)"],
        ["mass", "4", "2"],
        ["nodule", "2", "2"],
        ["0", "4 (50.0 %)"],
        ["2", "2 (25.0 %)"],
        # phi of (mass, nodule) on 7 images: 2 both, 2 mass alone, 3 neither.
        ["mass", "", "0.55"],
        ["30–39", "4", "0", "0"],
        ["80–89", "0", "3", "0"],
        ["mass", "30 years", "30–30", *["0 (0.0 %)", "4 (100.0 %)", *["0 (0.0 %)"] * 4]],
        ["mass", "0 (0.0 %)", "4 (100.0 %)", "0 (0.0 %)", "AP 100 %, else 0 %"],
        ["first", "1,024", "512–1,024", "512–1,024", "1,024", "700–1,024", "700–1,024"],
        ["first", "12", "MONOCHROME2", "1 (12.5 %)"],
        ["first", "whole_image", "1 (12.5 %)"],
        ["0.9–1.0", "8 (100.0 %)"],
        # Crops 0 to 7 are plain, of the grey 0 to 7.
        ["first", "8", "3", "0–7", "0", "0–0"],
        ["duplicate", "first", "2"],
        ["corrupt_image", "first", "1"],
    ):
        assert row in page.cells


def test_a_lake_that_was_not_to_be_cropped_has_no_qualities(tmp_path: Path) -> None:
    rows = [row | {"cropper": "whole_image", "lung_quality": None} for row in draw_studies(60)]
    write_lake(tmp_path / "lake", [rows])
    html, page = page_of(tmp_path / "lake", tmp_path / "page")
    assert "quality of the lung box" not in html
    assert not re.search(r"\b(nan|None|null)\b", html)
    assert sum(int(row[2].split()[0]) for row in page.cells if row[1:2] == ["whole_image"]) == len(rows)


def test_pictures_are_small_and_tell_their_split_and_findings(tmp_path: Path) -> None:
    rows = [study(n, findings={"mass": 1, "edema": -1}, split="val") for n in range(9)]
    write_lake(tmp_path / "lake", [rows])
    _, page = page_of(tmp_path / "lake", tmp_path / "page", examples=3)
    images = page.named("img")
    assert [image["alt"] for image in images] == ["Crop of a radiograph; val · mass · uncertain: edema"] * 3
    picture = Image.open(BytesIO(base64.b64decode(str(images[0]["src"]).partition(",")[2])))
    assert (picture.mode, picture.size) == ("L", (144, 144))


def test_the_seed_chooses_the_pictures(drawn: tuple[Path, str, Page], tmp_path: Path) -> None:
    lake, _, page = drawn
    sources = [image["src"] for image in page.named("img")]
    again = [image["src"] for image in page_of(lake, tmp_path / "again")[1].named("img")]
    other = [image["src"] for image in page_of(lake, tmp_path / "other", seed=1)[1].named("img")]
    assert again == sources
    assert other != sources


def test_one_data_set_alone(drawn: tuple[Path, str, Page], tmp_path: Path) -> None:
    lake, _, _ = drawn
    _, page = page_of(lake, tmp_path / "page", dataset="reports")
    plain = sum(row["dataset"] == "reports" for row in draw_studies(300) + draw_studies(300, 1, first=300))
    assert any(row[:2] == ["reports", f"{plain:,}"] for row in page.cells)
    assert not any(row[0] in ("plain", "Hernia") for row in page.cells if row)
    assert "Nothing is in quarantine" in page.text


def test_a_data_set_that_is_not_there_is_told_with_those_that_are(
    drawn: tuple[Path, str, Page], tmp_path: Path
) -> None:
    with pytest.raises(LakeError, match=r"no data set 'plane'.*plain, reports"):
        page_of(drawn[0], tmp_path / "page", dataset="plane")
    assert not (tmp_path / "page").exists()


def test_hostile_names_are_text(tmp_path: Path) -> None:
    rows = [study(n, findings={f"a{EVIL}": n % 2, "b'\"": 1}, dataset=f"d{EVIL}", view="PA") for n in range(6)]
    write_lake(tmp_path / "lake", [rows])
    html, page = page_of(tmp_path / "lake", tmp_path / "page")
    assert "<script" not in html
    assert not page.named("script")
    for name in (f"a{EVIL}", "b'\"", f"d{EVIL}"):
        assert any(row[0] == name for row in page.cells)


def test_a_lake_without_findings_still_has_a_page(tmp_path: Path) -> None:
    write_lake(tmp_path / "lake", [[study(n) for n in range(5)]])
    _, page = page_of(tmp_path / "lake", tmp_path / "page")
    assert "No label file told any finding" in page.text
    assert ["train", "5 (100.0 %)", "5", "1.0"] in page.cells
    assert not page.named("img")


def test_more_findings_than_a_matrix_can_show(tmp_path: Path) -> None:
    write_lake(tmp_path / "lake", [[study(n, findings={f"f{k}": int(k <= n) for k in range(40)}) for n in range(40)]])
    _, page = page_of(tmp_path / "lake", tmp_path / "page", examples=1)
    assert "The 30 most frequent of 40 findings are shown." in page.text
    assert len(page.named("img")) == 30


def test_the_page_lies_in_the_lake_unless_told_otherwise(tmp_path: Path) -> None:
    write_lake(tmp_path / "lake", [[study(n, findings={"mass": 1}) for n in range(5)]])
    record = explore(ExploreConfig(lake=str(tmp_path / "lake")))
    (folder,) = (tmp_path / "lake" / "reports").iterdir()
    assert {file.name for file in folder.iterdir()} == {PAGE, "run.json"}
    told = json.loads((folder / "run.json").read_text())
    assert told["config"]["examples"] == 8
    assert told["counts"] == {
        "images": 5, "patients": 5, "quarantined": 0, "crops looked at": 5, "positive: mass": 5
    }  # fmt: skip
    assert str(folder / PAGE) in str(record)


def test_a_folder_in_use_is_refused(drawn: tuple[Path, str, Page], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not empty.*new folder"):
        page_of(drawn[0], tmp_path)


@pytest.mark.parametrize("settings", [{"examples": -1}, {"seed": -1}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ExploreConfig(lake="x", **settings)


def test_a_lake_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"no lake at.*ingest_studies"):
        page_of(tmp_path / "nowhere", tmp_path / "page")


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The job as a user starts it, on a machine without Java."""
    command = [sys.executable, str(CONF.parent / "jobs" / "explore_dataset.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env={"PATH": ""}, text=True, capture_output=True, check=False)


def test_the_job_runs_from_any_folder_without_java(tmp_path: Path) -> None:
    write_lake(tmp_path / "lake", [draw_studies(50)])
    done = start("lake=lake", "out=page", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "50/50 images  100%" in done.stderr
    assert "images/s" in done.stdout
    assert "research use only" in done.stdout
    assert (tmp_path / "page" / PAGE).is_file()


def test_the_job_tells_a_mistake_in_one_message(tmp_path: Path) -> None:
    done = start("lake=nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no lake" in done.stderr
    assert "Traceback" not in done.stderr
