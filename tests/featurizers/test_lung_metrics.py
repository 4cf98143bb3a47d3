"""Measures of found lungs: known values, bounds, and what a quality is worth."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurizers.lung_metrics import box_iou, dice, lung_lost, mask_iou, rank_correlation, risk_coverage
from featurizers.lungs import WHOLE_IMAGE, LungBox

EMPTY = np.zeros((4, 6), dtype=bool)
LEFT, MIDDLE = EMPTY.copy(), EMPTY.copy()
LEFT[:, :4] = True
MIDDLE[:, 2:4] = True

masks = hnp.arrays(bool, (5, 7))
fractions = st.lists(st.floats(0, 1), min_size=4, max_size=4, unique=True)
samples = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.floats(0, 1)), min_size=1, max_size=30)


def box(edges: list[float]) -> LungBox | None:
    (left, right), (top, bottom) = sorted(edges[:2]), sorted(edges[2:])
    # Denormal sides have no area.
    return LungBox(left, top, right, bottom) if right - left > 1e-9 and bottom - top > 1e-9 else None


@pytest.mark.parametrize(
    ("found", "drawn", "expected_dice", "expected_iou"),
    [(LEFT, LEFT, 1, 1), (LEFT, MIDDLE, 2 / 3, 1 / 2), (LEFT, ~LEFT, 0, 0), (EMPTY, LEFT, 0, 0), (EMPTY, EMPTY, 1, 1)],
)
def test_masks_agree_as_far_as_they_overlap(
    found: np.ndarray, drawn: np.ndarray, expected_dice: float, expected_iou: float
) -> None:
    assert dice(found, drawn) == pytest.approx(expected_dice)
    assert mask_iou(found, drawn) == pytest.approx(expected_iou)


def test_what_the_annotator_could_not_tell_does_not_count() -> None:
    assert dice(LEFT, MIDDLE, ~LEFT | MIDDLE) == 1
    assert mask_iou(LEFT, MIDDLE, ~LEFT | MIDDLE) == 1


@given(masks, masks)
def test_dice_and_iou_are_bound_to_each_other(a: np.ndarray, b: np.ndarray) -> None:
    overlap = mask_iou(a, b)
    assert dice(a, b) == pytest.approx(2 * overlap / (1 + overlap))
    assert dice(a, b) == dice(b, a)


@given(fractions, fractions)
def test_box_iou_is_symmetrical_and_1_only_of_the_same(a: list[float], b: list[float]) -> None:
    first, second = box(a), box(b)
    if first and second:
        assert box_iou(first, second) == box_iou(second, first)
        assert 0 <= box_iou(first, second) <= 1 + 1e-9
        assert box_iou(first, first) == pytest.approx(1)


def test_box_iou_of_known_boxes() -> None:
    assert box_iou(LungBox(0, 0, 0.5, 1), WHOLE_IMAGE) == pytest.approx(0.5)
    assert box_iou(LungBox(0, 0, 0.5, 1), LungBox(0.5, 0, 1, 1)) == 0


def test_lung_lost_is_what_lies_outside() -> None:
    assert lung_lost(LEFT, WHOLE_IMAGE) == 0
    assert lung_lost(LEFT, LungBox(0, 0, 0.5, 1)) == pytest.approx(1 / 4)
    assert lung_lost(LEFT, LungBox(0, 0.5, 1, 1)) == pytest.approx(1 / 2)
    assert lung_lost(LEFT, LungBox(0.7, 0, 1, 1)) == 1


def test_a_quality_that_ranks_by_loss_is_the_oracle() -> None:
    curve = risk_coverage(np.array([0.1, 0.9, 0.5]), np.array([0.6, 0.0, 0.3]))
    assert curve.coverage == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve.risk == pytest.approx([0, 0.15, 0.3])
    assert curve.area == pytest.approx(0.15)
    assert curve.excess_area == pytest.approx(0)
    assert curve.random == pytest.approx(0.3)


def test_the_worst_quality_trusts_the_failures_first() -> None:
    curve = risk_coverage(np.array([0.9, 0.1]), np.array([1.0, 0.0]))
    assert curve.risk == pytest.approx([1, 0.5])
    assert curve.excess_area == pytest.approx(0.5)


def test_a_quality_that_never_varies_is_no_order_at_all() -> None:
    curve = risk_coverage(np.full(4, 0.7), np.array([0.0, 1.0, 0.0, 1.0]))
    assert curve.risk == pytest.approx([0.5] * 4)


@given(samples, st.randoms())
def test_the_curve_needs_no_order_of_images_and_never_beats_the_oracle(
    sample: list[tuple[float, float]], random: Random
) -> None:
    quality, loss = np.array(sample).T
    curve = risk_coverage(quality, loss)
    assert curve.excess_area >= -1e-9
    assert curve.risk[-1] == pytest.approx(loss.mean())
    mixed = np.array(random.sample(sample, len(sample))).T
    assert risk_coverage(*mixed).risk == pytest.approx(curve.risk)


def test_rank_correlation() -> None:
    rising = np.array([0.1, 0.2, 0.3, 0.9])
    assert rank_correlation(rising, rising**3) == pytest.approx(1)
    assert rank_correlation(rising, -rising) == pytest.approx(-1)
    assert rank_correlation(rising, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(2 / np.sqrt(5))
    assert rank_correlation(rising, np.ones(4)) is None
