"""The lung localiser: real lungs are kept, borders do not matter, and what is no chest gets no box."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featurizers.lungs import WHOLE_IMAGE, LungBox, locate_lungs

LUNG_MASKS = Path(__file__).parents[2].parent / "shared" / "data" / "lung_masks"
DRAWN_BOX = LungBox(0.12, 0.12, 0.88, 0.9)


def draw_chest(rows: int = 300, columns: int = 360, box: LungBox = DRAWN_BOX) -> np.ndarray:
    """A crude frontal chest: bright body on air, two dark elliptic lungs that just fill `box`."""
    y, x = np.mgrid[0:rows, 0:columns]
    x, y = (x + 0.5) / columns, (y + 0.5) / rows
    u, v = (x - box.left) / (box.right - box.left), (y - box.top) / (box.bottom - box.top)
    grey = np.where((u > -0.07) & (u < 1.07), 190.0, 10.0)
    grey[(np.abs(u - 0.5) < 0.12) & (grey > 10)] = 235
    for center in (0.21, 0.79):
        grey[(((u - center) / 0.21) ** 2 + ((v - 0.5) / 0.5) ** 2) < 1] = 90
    grey[(v > 0.92) & (grey > 10)] = 225
    return grey.astype(np.uint8)


def iou(a: LungBox, b: LungBox) -> float:
    width = max(min(a.right, b.right) - max(a.left, b.left), 0)
    height = max(min(a.bottom, b.bottom) - max(a.top, b.top), 0)
    union = sum((box.right - box.left) * (box.bottom - box.top) for box in (a, b)) - width * height
    return width * height / union


@pytest.mark.parametrize(
    "edges",
    [(-0.1, 0, 1, 1), (0, 0, 1.01, 1), (0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (0, 0.9, 1, 0.2), (float("nan"), 0, 1, 1)],
)
def test_box_refuses_what_is_no_box(edges: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fractions"):
        LungBox(*edges)


def test_expanded_box_adds_its_own_side_and_stays_in_the_image() -> None:
    wide = LungBox(0.2, 0.4, 0.6, 0.98).expanded(0.1)
    assert (wide.left, wide.right, wide.bottom) == (pytest.approx(0.16), pytest.approx(0.64), 1.0)
    assert wide.top == pytest.approx(0.4 - 0.058)


def test_drawn_chest_is_found() -> None:
    location = locate_lungs(draw_chest())
    assert iou(location.box, DRAWN_BOX) > 0.8
    assert location.quality > 0.3


def test_box_follows_the_lungs_sideways() -> None:
    left = locate_lungs(draw_chest(box=LungBox(0.08, 0.12, 0.80, 0.9))).box
    right = locate_lungs(draw_chest(box=LungBox(0.20, 0.12, 0.92, 0.9))).box
    assert right.left - left.left == pytest.approx(0.12, abs=0.05)
    assert right.right - left.right == pytest.approx(0.12, abs=0.05)


@pytest.mark.parametrize("grey", [0, 255], ids=["black", "white"])
def test_collimation_border_does_not_move_the_box(grey: int) -> None:
    chest = draw_chest()
    bordered = np.pad(chest, ((40, 20), (90, 30)), constant_values=grey)
    plain, box = locate_lungs(chest).box, locate_lungs(bordered).box
    rows, columns = chest.shape
    assert (box.left * bordered.shape[1] - 90) / columns == pytest.approx(plain.left, abs=0.04)
    assert (box.top * bordered.shape[0] - 40) / rows == pytest.approx(plain.top, abs=0.04)
    assert (box.right * bordered.shape[1] - 90) / columns == pytest.approx(plain.right, abs=0.04)
    assert (box.bottom * bordered.shape[0] - 40) / rows == pytest.approx(plain.bottom, abs=0.04)


def test_box_does_not_depend_on_the_scale_or_the_exposure() -> None:
    chest = draw_chest()
    plain = locate_lungs(chest).box
    large = locate_lungs(np.asarray(Image.fromarray(chest).resize((1440, 1200), Image.Resampling.BICUBIC))).box
    faint = locate_lungs((60 + chest * 0.3).astype(np.uint8)).box
    assert iou(plain, large) > 0.93
    assert iou(plain, faint) > 0.95


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 40), 7, dtype=np.uint8),
        np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8),
        np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1)),
        np.full((1, 1), 3, dtype=np.uint8),
    ],
    ids=["constant", "noise", "ramp", "one-pixel"],
)
def test_no_chest_gives_the_whole_image_at_quality_zero(pixels: np.ndarray) -> None:
    location = locate_lungs(pixels)
    assert location.box == WHOLE_IMAGE
    assert location.quality == 0


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=300)))
def test_any_image_gives_a_box_and_a_quality(pixels: np.ndarray) -> None:
    location = locate_lungs(pixels)  # LungBox itself refuses what lies outside the image
    assert 0 <= location.quality <= 1
    assert locate_lungs(pixels) == location


@settings(max_examples=30, deadline=None)
@given(st.integers(32, 600), st.integers(32, 600))
def test_any_size_of_a_chest_gives_a_box(rows: int, columns: int) -> None:
    assert iou(locate_lungs(draw_chest(rows, columns)).box, DRAWN_BOX) > 0.7


@pytest.mark.real
@pytest.mark.skipif(not LUNG_MASKS.is_dir(), reason="needs the radiographs with human lung masks")
def test_real_boxes_beat_the_mean_human_box_and_lose_little_lung() -> None:
    with (LUNG_MASKS / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))[::6]
    usual = LungBox(0.114, 0.110, 0.880, 0.913)
    gained, lost = [], []
    for row in rows:
        pixels = np.asarray(Image.open(LUNG_MASKS / "images" / row["image"]).convert("L"))
        mask = np.asarray(Image.open(LUNG_MASKS / "masks" / row["mask"])) == 255
        lines, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = mask.shape
        human = LungBox(columns[0] / width, lines[0] / height, (columns[-1] + 1) / width, (lines[-1] + 1) / height)
        box = locate_lungs(pixels).box
        gained.append(iou(box, human) - iou(usual, human))
        kept = box.expanded(0.05)
        cut = mask[round(kept.top * height) : round(kept.bottom * height)]
        lost.append(1 - cut[:, round(kept.left * width) : round(kept.right * width)].sum() / mask.sum())
    assert np.mean(gained) > 0.03
    assert np.mean(lost) < 0.01
    assert np.mean(np.array(lost) > 0.05) < 0.05
