"""The job that trains the segmenter: what it leaves, how it goes on after a death, and what it refuses at once."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mask_folders import write_pair, write_pairs
from safetensors.torch import load_file

from featurizers import atlas
from featurizers.errors import FeaturizerError
from featurizers.mask_pairs import list_pairs, split_patients
from featurizers.phantoms import draw_phantom
from featurizers.segmenter.finder import SegmenterFinder
from pipelines import segmenter_training
from pipelines.config import model_from, read_config
from pipelines.errors import ConfigError
from pipelines.segmenter_training import CARD, CHECKPOINT, HISTORY, WEIGHTS, SegmenterTrainingConfig, train_segmenter

SMALL = {"steps": 6, "batch": 3, "phantoms": 4, "phantom_share": 0.3, "compare": ["projection"]}
LEFT_BEHIND = {WEIGHTS, CARD, HISTORY, "report.html", "figures.json", "images.csv", "run.json"}


class Killed(BaseException):
    """In place of the signal that would take the tests along."""


@pytest.fixture(scope="module", autouse=True)
def small_machine() -> Iterator[None]:
    """One thread; and a checkpoint every two steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter_training, "_STRETCH", 2)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "our masks", 16)


def run(pairs: Path, out: Path, **settings: Any) -> str:
    values = SMALL | {"pairs": str(pairs), "out": str(out)} | settings
    return str(train_segmenter(model_from(SegmenterTrainingConfig, values)))


def told(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text()))


@pytest.fixture(scope="module")
def trained(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What a training left, and its summary."""
    out = tmp_path_factory.mktemp("trained") / "lungs"
    return out, run(pairs, out, about="drawn for tests, CC0")


def test_it_leaves_weights_a_card_a_history_and_the_report(trained: tuple[Path, str]) -> None:
    out, summary = trained
    assert {file.name for file in out.iterdir()} == LEFT_BEHIND
    finder = SegmenterFinder.of_file(out / WEIGHTS)
    assert len(finder.weights) <= 2 * 2**20
    assert 0 <= finder.find(draw_phantom(0, size=(96, 96)).pixels).quality <= 1
    for line in ("research use only", "segmenter", "projection", WEIGHTS, "report.html"):
        assert line in summary


def test_the_history_has_a_row_for_each_stretch(trained: tuple[Path, str]) -> None:
    with (trained[0] / HISTORY).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(0 < float(row["loss"]) < 3 and 0 <= float(row["val_dice"]) <= 1 for row in rows)


def test_every_pair_and_phantom_is_counted_where_it_served(trained: tuple[Path, str], pairs: Path) -> None:
    split = split_patients(list_pairs(pairs))
    counts = told(trained[0])["counts"]
    assert counts["train pairs"] == len(split.train)
    assert counts["val pairs"] == len(split.val)
    assert counts["images"] == len(split.test)
    assert counts["phantoms"] == 4
    assert set(told(trained[0])["timings"]) >= {"draw", "train", "calibrate", "report"}


def test_the_report_shows_the_new_weights_beside_the_others(trained: tuple[Path, str]) -> None:
    assert list(json.loads((trained[0] / "figures.json").read_text())["finders"]) == ["segmenter", "projection"]


def test_the_card_says_what_it_is_made_of_and_how_to_make_it_again(trained: tuple[Path, str]) -> None:
    card = (trained[0] / CARD).read_text()
    for part in ("drawn for tests, CC0", "For research", "| segmenter | 0.", "| projection | no mask |"):
        assert part in card
    command = next(line for line in card.splitlines() if line.startswith("python jobs/train_segmenter.py"))
    again = read_config(
        SegmenterTrainingConfig, shlex.split(command)[2:], purpose="", default_file=Path("conf/none.yaml")
    )
    assert again.model_dump() == SegmenterTrainingConfig(pairs="DIR", out="DIR", **SMALL).model_dump()


def test_nobody_is_named(trained: tuple[Path, str], pairs: Path) -> None:
    written = "".join((trained[0] / name).read_text() for name in LEFT_BEHIND - {WEIGHTS, "run.json"})
    assert "patient-" not in written
    assert "film-" not in written
    assert str(pairs) not in written


@pytest.mark.parametrize("fatal", ["mean_dice", "try_views"], ids=["while-training", "after-training"])
def test_a_training_that_died_goes_on_from_its_checkpoint(
    fatal: str, trained: tuple[Path, str], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "lungs", 0
    real = getattr(segmenter_training, fatal)

    def die_in_the_second_stretch(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if fatal == "try_views" or calls == 2:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(segmenter_training, fatal, die_in_the_second_stretch)
        with pytest.raises(Killed):
            run(pairs, out, about="drawn for tests, CC0")
    assert {file.name for file in out.iterdir()} == {CHECKPOINT}
    with pytest.raises(ConfigError, match=r"other settings.*new folder"):
        run(pairs, out, about="drawn for tests, CC0", seed=1)
    run(pairs, out, about="drawn for tests, CC0")
    assert {file.name for file in out.iterdir()} == LEFT_BEHIND
    assert (out / HISTORY).read_text() == (trained[0] / HISTORY).read_text()
    expected, found = load_file(trained[0] / WEIGHTS), load_file(out / WEIGHTS)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_a_finished_training_is_not_written_over(trained: tuple[Path, str], pairs: Path) -> None:
    before = (trained[0] / WEIGHTS).stat().st_mtime_ns
    with pytest.raises(ConfigError, match=r"not empty.*new folder"):
        run(pairs, trained[0], about="drawn for tests, CC0")
    assert (trained[0] / WEIGHTS).stat().st_mtime_ns == before


def test_too_few_patients_are_told_before_any_work(tmp_path: Path) -> None:
    for count in (1, 4):
        few = write_pairs(tmp_path / f"pairs of {count}", count)
        with pytest.raises(ConfigError, match=r"too few patients.*some dozens"):
            run(few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_pairs_is_told(tmp_path: Path) -> None:
    with pytest.raises(FeaturizerError, match="holds no pairs"):
        run(tmp_path, tmp_path / "out")


def test_the_atlas_beside_it_needs_opencv_before_training_begins(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    atlas._opencv.cache_clear()  # another test may have loaded it
    monkeypatch.setattr(segmenter_training, "_phantoms", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(FeaturizerError, match=r"pip install '\.\[atlas\]'"):
        run(pairs, tmp_path / "out", compare=["atlas"])
    assert not (tmp_path / "out").exists()


def test_masks_whose_lungs_touch_are_told_before_training_begins(tmp_path: Path) -> None:
    folder, whole = tmp_path / "pairs", np.full((80, 90), 255)
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 255, whole.shape)
        write_pair(folder, f"patient-{number}.png", pixels, f"patient-{number}.png", whole)
    with pytest.raises(ConfigError, match="draw each lung by itself"):
        run(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "settings",
    [
        {"compare": []},
        {"compare": ["projection", "projection"]},
        {"compare": ["segmenter"]},
        {"phantom_share": 1},
        {"phantoms": -1},
        {"steps": 2},
        {"batch": 1},
        {"learning_rate": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        run(tmp_path, tmp_path / "out", **settings)


def test_training_needs_no_phantoms(pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path / "out", phantoms=0, steps=3)
    assert told(tmp_path / "out")["counts"]["phantoms"] == 0
