"""Heatmaps to boxes: one around each hot part, the hottest first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurizers.heat_boxes import LEVEL, Hotspot, hotspot
from featurizers.saliency import Method, heat


def picture(*parts: tuple[slice, slice, float]) -> np.ndarray:
    drawn = np.zeros((20, 40), np.float32)
    for rows, columns, intensity in parts:
        drawn[rows, columns] = intensity
    return drawn


def boxes_of(drawn: np.ndarray, level: float = LEVEL) -> Hotspot:
    """Of a map that needs no enlarging."""
    return hotspot(drawn, drawn, level)


def test_every_part_above_the_level_has_a_box_and_the_hottest_comes_first() -> None:
    spot = boxes_of(
        picture((np.s_[2:4], np.s_[10:20], 0.8), (np.s_[10:15], np.s_[30:32], 1.0), (np.s_[0:1], np.s_[0:1], 0.5))
    )
    assert [tuple(box[:4]) for box in spot.boxes] == [(0.75, 0.5, 0.8, 0.75), (0.25, 0.1, 0.5, 0.2)]
    assert [box.intensity for box in spot.boxes] == pytest.approx([1.0, 0.8])
    assert spot.peak == pytest.approx((30.5 / 40, 10.5 / 20))


def test_parts_that_touch_at_a_corner_are_one() -> None:
    spot = boxes_of(picture((np.s_[2:4], np.s_[10:12], 1.0), (np.s_[4:6], np.s_[12:14], 0.9)))
    assert [tuple(box[:4]) for box in spot.boxes] == [(0.25, 0.1, 0.35, 0.3)]


def test_nothing_hot_is_nowhere() -> None:
    assert hotspot(picture(), picture()) == (None, ())


def test_the_level_decides_how_far_a_box_reaches() -> None:
    slope = np.tile(np.linspace(0, 1, 100, dtype=np.float32), (10, 1))
    assert [boxes_of(slope, level).boxes[0].left for level in (0.25, 0.5, 0.9)] == pytest.approx(
        [0.25, 0.5, 0.9], abs=0.01
    )
    assert boxes_of(slope).boxes[0].left == pytest.approx(LEVEL, abs=0.01)


@given(hnp.arrays(np.float32, (9, 12), elements=st.floats(0, 1, width=32)), st.floats(0.0625, 1, width=32))
def test_boxes_hold_all_that_is_hot_and_nothing_lies_out_of_the_picture(drawn: np.ndarray, level: float) -> None:
    spot = boxes_of(drawn, level)
    covered = np.zeros(drawn.shape, bool)
    for box in spot.boxes:
        assert 0 <= box.left < box.right <= 1
        assert 0 <= box.top < box.bottom <= 1
        rows = np.s_[round(box.top * 9) : round(box.bottom * 9)]
        columns = np.s_[round(box.left * 12) : round(box.right * 12)]
        covered[rows, columns] = True
        assert box.intensity <= drawn[rows, columns].max()
        assert box.intensity >= level
    assert covered[drawn >= level].all()
    intensities = [box.intensity for box in spot.boxes]
    assert intensities == sorted(intensities, reverse=True)
    assert spot.peak is None or all(0 < each < 1 for each in spot.peak)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1), (1, 0)])
def test_the_peak_is_the_centre_of_the_hottest_place_at_every_edge(row: int, column: int) -> None:
    """Enlarging leaves a plateau at the edges, whose first pixel is no place to point at."""
    maps = np.zeros((1, 1, 3, 3), np.float32)
    maps[0, 0, row, column] = 1
    assert hotspot(maps[0, 0], heat(maps, Method.CAM, 112)[0, 0]).peak == pytest.approx(
        ((column + 0.5) / 3, (row + 0.5) / 3)
    )
