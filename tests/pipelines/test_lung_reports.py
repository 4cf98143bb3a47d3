"""Judging finders of the lungs: what is measured of an image, what it adds up to, what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from mask_folders import write_pair

from featurizers.lungs import WHOLE_IMAGE, LungBox, LungMask, Lungs
from featurizers.mask_pairs import MaskPair
from featurizers.radiograph import Pixels
from pipelines.lung_reports.charts import calibration, round_up
from pipelines.lung_reports.figures import Figures, Verdict
from pipelines.lung_reports.judging import Judged, evaluate_finder
from pipelines.lung_reports.sheets import outlines, worst_first

MARGIN = 0.1
#: The human lungs: rows 20 to 80 and columns 10 to 90 of a hundred.
TRUE_BOX = LungBox(0.1, 0.2, 0.9, 0.8)


@dataclass(frozen=True)
class Constant:
    """Finds the same lungs everywhere."""

    lungs: Lungs
    min_quality: float = 0.5
    name: str = "constant"
    description: str = "always the same"

    def find(self, pixels: Pixels) -> Lungs:
        return self.lungs


@dataclass(frozen=True)
class Shy:
    """Finds the lungs in bright images, and nothing in dark ones."""

    min_quality: float = 0.5
    name: str = "shy"
    description: str = "only where it is bright"

    def find(self, pixels: Pixels) -> Lungs:
        return Lungs(TRUE_BOX, 0.9, as_map(TRUE_BOX)) if pixels.mean() > 100 else Lungs(WHOLE_IMAGE, 0.0)


def as_map(box: LungBox) -> np.ndarray:
    cells = np.zeros((100, 100), dtype=np.float32)
    cells[round(100 * box.top) : round(100 * box.bottom), round(100 * box.left) : round(100 * box.right)] = 1
    return cells


@pytest.fixture
def pair(tmp_path: Path) -> MaskPair:
    write_pair(tmp_path, "a.png", np.full((100, 100), 60), "a.png", 255 * as_map(TRUE_BOX))
    return MaskPair(tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png", "p", "normal")


def judged(pair: MaskPair, box: LungBox, quality: float = 0.9, **settings: float) -> Judged:
    (row,) = evaluate_finder(Constant(Lungs(box, quality, as_map(box))), [pair], MARGIN, **settings)
    return row


def test_the_human_lungs_themselves_are_perfect(pair: MaskPair) -> None:
    row = judged(pair, TRUE_BOX)
    assert (row.dice, row.mask_iou, row.lost, row.is_whole, row.quality) == (1, 1, 0, False, 0.9)
    assert row.box_iou == pytest.approx(1)
    assert row.milliseconds >= 0


def test_half_the_lung_is_half_found_and_the_margin_saves_a_part(pair: MaskPair) -> None:
    row = judged(pair, LungBox(0.1, 0.2, 0.5, 0.8))
    assert row.dice == pytest.approx(2 / 3)
    assert (row.mask_iou, row.box_iou) == pytest.approx((1 / 2, 1 / 2))
    # The crop reaches a tenth of 40 columns further: 44 of 80 are in.
    assert (row.lost, row.lost_untrusted) == pytest.approx((36 / 80, 36 / 80))


def test_an_image_that_is_kept_whole_loses_nothing(pair: MaskPair) -> None:
    row = judged(pair, LungBox(0.1, 0.2, 0.5, 0.8), quality=0.4)
    assert (row.is_whole, row.lost, row.crop) == (True, 0, WHOLE_IMAGE)
    assert row.lost_untrusted == pytest.approx(36 / 80)
    assert not judged(pair, LungBox(0.1, 0.2, 0.5, 0.8), quality=0.4, min_quality=0.3).is_whole


def test_a_box_without_a_chest_is_never_cropped_to(pair: MaskPair) -> None:
    assert judged(pair, TRUE_BOX, quality=0.0, min_quality=0.0).is_whole


def test_what_the_annotator_could_not_tell_is_left_out(pair: MaskPair, tmp_path: Path) -> None:
    drawn = 255 * as_map(TRUE_BOX)
    drawn[:20] = 127
    write_pair(tmp_path, "a.png", np.full((100, 100), 60), "a.png", drawn)
    assert judged(pair, LungBox(0.1, 0.1, 0.9, 0.8)).dice == 1


def test_a_finder_of_boxes_alone_has_no_masks_to_judge(pair: MaskPair) -> None:
    (row,) = evaluate_finder(Constant(Lungs(TRUE_BOX, 0.9)), [pair], MARGIN)
    assert (row.dice, row.mask_iou) == (None, None)


def test_a_finder_of_masks_that_found_nothing_has_a_dice_of_0(pair: MaskPair, tmp_path: Path) -> None:
    write_pair(tmp_path, "b.png", np.full((100, 100), 200), "b.png", 255 * as_map(TRUE_BOX))
    bright = replace(pair, image=tmp_path / "images" / "b.png")
    rows = evaluate_finder(Shy(), [pair, bright], MARGIN)
    assert [(row.dice, row.mask_iou) for row in rows] == [(0, 0), (1, 1)]


def row_of(
    patient: int, *, dice: float | None = 0.9, lost: float = 0.0, box_iou: float = 0.9, label: str = ""
) -> Judged:
    pair = MaskPair(Path(f"{patient}"), Path("m"), f"{patient}", label)
    return Judged(pair, dice, dice, box_iou, WHOLE_IMAGE, lost, lost, box_iou / 2, False, 1.0)


def test_figures_of_known_images() -> None:
    rows = [row_of(n, dice=n / 100, lost=0.02 if n < 25 else 0.0, box_iou=n / 200 + 0.5) for n in range(101)]
    figures = Figures.of(rows, seed=0)
    assert (figures.images, figures.patients, figures.milliseconds) == (101, 101, 1)
    assert figures.dice is not None
    assert figures.dice.mean == pytest.approx(0.5)
    assert figures.dice.tail == pytest.approx(0.05)
    assert figures.lost.mean == pytest.approx(0.02 * 25 / 101)
    assert figures.lost.tail == pytest.approx(0.02)
    assert figures.losing.mean == pytest.approx(25 / 101)
    assert figures.losing.tail is None
    assert figures.rho == pytest.approx(1)
    # The standard error of the mean of 101 uniform values is 0.29 / sqrt(101).
    assert figures.dice.low == pytest.approx(0.5 - 1.96 * 0.029, abs=0.006)
    assert figures.dice.high == pytest.approx(0.5 + 1.96 * 0.029, abs=0.006)


def test_images_of_one_patient_count_as_one_in_an_interval() -> None:
    alone = Figures.of([row_of(n, box_iou=n % 2) for n in range(100)], seed=0).box_iou
    together = Figures.of([row_of(n % 10, box_iou=n % 2) for n in range(100)], seed=0).box_iou
    assert alone.mean == together.mean == 0.5
    assert together.low is not None and together.high is not None and alone.low is not None and alone.high is not None
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_what_was_never_seen_may_still_happen() -> None:
    never = Figures.of([row_of(n) for n in range(100)], seed=0).losing
    # Clopper and Pearson: 1 - 0.025^(1/100).
    assert (never.mean, never.low) == (0, 0)
    assert never.high == pytest.approx(0.0362, abs=1e-4)
    always = Figures.of([row_of(n, lost=0.5) for n in range(100)], seed=0).losing
    assert (always.mean, always.high) == (1, 1)
    assert always.low == pytest.approx(1 - 0.0362, abs=1e-4)


def test_one_patient_has_no_interval() -> None:
    figures = Figures.of([row_of(1, box_iou=value) for value in (0.2, 0.8)], seed=0)
    assert (figures.box_iou.low, figures.box_iou.high) == (None, None)


def test_the_seed_decides_the_intervals() -> None:
    rows = [row_of(n, box_iou=n / 40) for n in range(40)]
    assert Figures.of(rows, 1) == Figures.of(rows, 1) != Figures.of(rows, 2)


def test_classes_are_told_apart_where_there_are_several() -> None:
    finder = Constant(Lungs(TRUE_BOX, 0.9))
    rows = [row_of(n, label="ab"[n % 2], box_iou=n % 2) for n in range(10)]
    by_class = Verdict.of(finder, 0.5, rows, 0).by_class
    assert {label: figures.box_iou.mean for label, figures in by_class.items()} == {"a": 0, "b": 1}
    assert not Verdict.of(finder, 0.5, rows[::2], 0).by_class


def test_the_worst_are_those_that_lose_lung_then_those_of_poor_masks() -> None:
    rows = [
        row_of(0, dice=0.9),
        row_of(1, dice=0.5, lost=0.005),
        row_of(2, dice=0.99, lost=0.02),
        row_of(3, dice=0.8, lost=0.3),
    ]
    assert worst_first(rows) == [3, 2, 1, 0]
    assert worst_first([row_of(n, dice=None, box_iou=value) for n, value in enumerate((0.9, 0.3, 0.5))]) == [1, 2, 0]


def test_calibration_holds_every_image_once() -> None:
    rows = [row_of(n, box_iou=value) for n, value in enumerate((0.0, 0.1, 0.3, 1.0, 1.0))]
    # Their qualities are half of that.
    bins = calibration(Verdict.of(Constant(Lungs(TRUE_BOX, 0.9)), 0.5, rows, 0))
    assert [(one.low, one.images, one.box_iou) for one in bins] == [(0.0, 2, 0.05), (0.1, 1, 0.3), (0.5, 2, 1.0)]


@pytest.mark.parametrize(("risk", "top"), [(0, 0.001), (0.013, 0.02), (0.2, 0.2), (0.21, 0.5), (0.7, 1), (1, 1)])
def test_axes_end_on_round_numbers(risk: float, top: float) -> None:
    assert round_up(risk) == pytest.approx(top)


def area(loops: list[np.ndarray]) -> float:
    """By the shoelace formula: holes run the other way round and count off."""
    return sum(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2 for x, y in (loop.T for loop in loops))


def test_outlines_enclose_the_mask() -> None:
    y, x = np.mgrid[0:120, 0:160]
    mask: LungMask = ((x - 40) ** 2 + (y - 60) ** 2 < 900) | ((x - 120) ** 2 + (y - 60) ** 2 < 1200)
    mask[55:65, 35:45] = False
    loops = outlines(mask)
    assert len(loops) == 3
    assert area(loops) == pytest.approx(mask.sum(), rel=0.02)


def test_cells_that_touch_at_a_corner_and_the_images_edge_are_outlined_too() -> None:
    loops = outlines(np.array([[True, False], [False, True]]))
    assert sum(len(loop) for loop in loops) == 4
    assert not outlines(np.zeros((3, 3), dtype=bool))
    assert len(outlines(np.ones((3, 3), dtype=bool))) == 1
