"""The words for lungs: a box refuses what is none, grows inside the image, and fits its mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from featurizers.lungs import WHOLE_IMAGE, LungBox, Lungs, box_of_mask


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


masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@settings(max_examples=100, deadline=None)
@given(masks.filter(np.any))
def test_box_of_a_mask_holds_all_of_it_and_touches_it_on_every_side(mask: np.ndarray) -> None:
    box, (rows, columns) = box_of_mask(mask), mask.shape
    top, bottom, left, right = (
        round(edge) for edge in (box.top * rows, box.bottom * rows, box.left * columns, box.right * columns)
    )
    inside = mask[top:bottom, left:right]
    assert inside.sum() == mask.sum()
    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_empty_mask_has_no_box() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        box_of_mask(np.zeros((4, 4), bool))


def test_mask_is_the_enlarged_map_from_one_half_on() -> None:
    found = np.zeros((8, 8), np.float32)
    found[2:6, 1:4] = 0.7
    mask = Lungs(WHOLE_IMAGE, 1.0, found).mask(80, 160)
    assert mask is not None
    assert mask.shape == (80, 160)
    drawn = np.zeros((80, 160), bool)
    drawn[20:60, 20:80] = True
    # The edge moves by less than half a cell of the map.
    assert (mask != drawn).mean() < 0.05
    assert mask[24:56, 30:70].all()


def test_no_map_no_mask() -> None:
    assert Lungs(WHOLE_IMAGE, 0.0).mask(10, 10) is None
