"""The projection finder: real lungs are kept, borders do not matter, and what is no chest gets no box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featurizers.lung_metrics import box_iou, lung_lost
from featurizers.lungs import WHOLE_IMAGE, LungBox, Lungs, box_of_mask
from featurizers.mask_pairs import list_pairs
from featurizers.projection import ProjectionFinder

DRAWN_BOX = LungBox(0.12, 0.12, 0.88, 0.9)


def find(pixels: np.ndarray) -> Lungs:
    return ProjectionFinder().find(pixels)


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


def test_drawn_chest_is_found() -> None:
    location = find(draw_chest())
    assert box_iou(location.box, DRAWN_BOX) > 0.8
    assert location.quality > 0.3


def test_box_follows_the_lungs_sideways() -> None:
    left = find(draw_chest(box=LungBox(0.08, 0.12, 0.80, 0.9))).box
    right = find(draw_chest(box=LungBox(0.20, 0.12, 0.92, 0.9))).box
    assert right.left - left.left == pytest.approx(0.12, abs=0.05)
    assert right.right - left.right == pytest.approx(0.12, abs=0.05)


@pytest.mark.parametrize("grey", [0, 255], ids=["black", "white"])
def test_collimation_border_does_not_move_the_box(grey: int) -> None:
    chest = draw_chest()
    bordered = np.pad(chest, ((40, 20), (90, 30)), constant_values=grey)
    plain, box = find(chest).box, find(bordered).box
    rows, columns = chest.shape
    assert (box.left * bordered.shape[1] - 90) / columns == pytest.approx(plain.left, abs=0.04)
    assert (box.top * bordered.shape[0] - 40) / rows == pytest.approx(plain.top, abs=0.04)
    assert (box.right * bordered.shape[1] - 90) / columns == pytest.approx(plain.right, abs=0.04)
    assert (box.bottom * bordered.shape[0] - 40) / rows == pytest.approx(plain.bottom, abs=0.04)


def test_box_does_not_depend_on_the_scale_or_the_exposure() -> None:
    chest = draw_chest()
    plain = find(chest).box
    large = find(np.asarray(Image.fromarray(chest).resize((1440, 1200), Image.Resampling.BICUBIC))).box
    faint = find((60 + chest * 0.3).astype(np.uint8)).box
    assert box_iou(plain, large) > 0.93
    assert box_iou(plain, faint) > 0.95


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
    location = find(pixels)
    assert location.box == WHOLE_IMAGE
    assert location.quality == 0


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=300)))
def test_any_image_gives_a_box_and_a_quality(pixels: np.ndarray) -> None:
    lungs, again = find(pixels), find(pixels)  # LungBox itself refuses what lies outside the image
    assert 0 <= lungs.quality <= 1
    assert lungs.map is None
    assert (again.box, again.quality) == (lungs.box, lungs.quality)


@settings(max_examples=30, deadline=None)
@given(st.integers(32, 600), st.integers(32, 600))
def test_any_size_of_a_chest_gives_a_box(rows: int, columns: int) -> None:
    assert box_iou(find(draw_chest(rows, columns)).box, DRAWN_BOX) > 0.7


@pytest.mark.real
def test_real_boxes_beat_the_mean_human_box_and_lose_little_lung(real_data: Path) -> None:
    usual = LungBox(0.114, 0.110, 0.880, 0.913)
    gained, lost = [], []
    for pair in list_pairs(real_data / "lung_masks")[::6]:
        pixels, drawn, _ = pair.read()
        human, box = box_of_mask(drawn), find(pixels).box
        gained.append(box_iou(box, human) - box_iou(usual, human))
        lost.append(lung_lost(drawn, box.expanded(0.05)))
    assert np.mean(gained) > 0.03
    assert np.mean(lost) < 0.01
    assert np.mean(np.array(lost) > 0.05) < 0.05
