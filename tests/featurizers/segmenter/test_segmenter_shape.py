"""From maps to a box and traits: true to drawn lungs, whole where one is hidden, and never a box that is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from featurizers.lungs import LungBox
from featurizers.segmenter.shape import TRAITS, LungMaps, Shape, shape_of

SIDE, FINE = 96, 8
#: Distance of both lungs of the plain chest, and half a lung's width and height, in cells.
GAP, HALF_WIDTH, HALF_HEIGHT = 7.68, 12.0, 25.0
X, Y = 24.0, 48.0


def lung(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    """(SIDE, SIDE) float32: how much of each cell an ellipse covers."""
    at = (np.arange(SIDE * FINE) + 0.5) / FINE
    inside = ((at[None, :] - x) / half_width) ** 2 + ((at[:, None] - y) / half_height) ** 2 < 1
    return inside.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3)).astype(np.float32)


def chest(drop: float = 0.0, apart: float = GAP, half_width: float = HALF_WIDTH, grown: float = 1.0) -> LungMaps:
    """Two lungs alike, the right one moved down by `drop` cells and grown."""
    left = lung(X, Y, half_width, HALF_HEIGHT)
    right = lung(X + 2 * HALF_WIDTH + apart, Y + drop, half_width * grown, HALF_HEIGHT * grown)
    return np.stack([left, right])


def shape(maps: LungMaps) -> Shape:
    found = shape_of(maps)
    assert found is not None
    return found


def cells(box: LungBox) -> tuple[float, float, float, float]:
    return box.left * SIDE, box.top * SIDE, box.right * SIDE, box.bottom * SIDE


def trait(maps: LungMaps, name: str) -> float:
    return float(shape(maps).traits[TRAITS.index(name)])


WHOLE = (X - HALF_WIDTH, Y - HALF_HEIGHT, X + 3 * HALF_WIDTH + GAP, Y + HALF_HEIGHT)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(18, 30), st.floats(66, 78)),
    st.tuples(st.floats(38, 58), st.floats(38, 58)),
    st.tuples(st.floats(9, 14), st.floats(9, 14)),
    st.tuples(st.floats(16, 30), st.floats(16, 30)),
)
def test_the_box_is_within_half_a_cell_of_the_drawn_one(
    x: tuple[float, float], y: tuple[float, float], width: tuple[float, float], height: tuple[float, float]
) -> None:
    drawn = list(zip(x, y, width, height, strict=True))
    found = shape(np.stack([lung(*each) for each in drawn]))
    expected = (
        x[0] - width[0],
        min(y[i] - height[i] for i in (0, 1)),
        x[1] + width[1],
        max(y[i] + height[i] for i in (0, 1)),
    )
    assert cells(found.box) == pytest.approx(expected, abs=0.5)
    assert found.traits.shape == (len(TRAITS),)
    assert ((found.traits >= 0) & (found.traits <= 1)).all()


def test_a_lung_at_the_border_reaches_it() -> None:
    box = shape(np.stack([lung(0, 48, 20, 60), lung(96, 48, 20, 60)])).box
    assert (box.left, box.top, box.right, box.bottom) == (0, 0, 1, 1)


def test_specks_are_dropped() -> None:
    speckled = chest()
    speckled[0, 1:4, 1:4] = speckled[1, 90:93, 90:94] = speckled[1, 2, 2] = 1
    assert shape(speckled).box == shape(chest()).box
    assert trait(chest(), "specks") == 0


@pytest.mark.parametrize("hidden", [0, 1], ids=["left", "right"])
@pytest.mark.parametrize("rest", [0.0, 0.45], ids=["nothing", "a-rest"])
def test_a_hidden_lung_is_taken_to_be_like_the_other(hidden: int, rest: float) -> None:
    maps = chest()
    # What is left of it: its apex, about a tenth of its area, or nothing.
    maps[hidden, round(Y - HALF_HEIGHT * (1 - rest)) :] = 0
    assert cells(shape(maps).box) == pytest.approx(WHOLE, abs=1)


@pytest.mark.parametrize("hidden", [0, 1], ids=["left", "right"])
def test_a_smaller_lung_that_shows_is_left_as_it_is(hidden: int) -> None:
    maps = chest()
    maps[hidden] = lung(X if hidden == 0 else X + 2 * HALF_WIDTH + GAP, Y, HALF_WIDTH * 0.6, HALF_HEIGHT * 0.7)
    left, top, right, bottom = cells(shape(maps).box)
    assert (top, bottom) == pytest.approx((WHOLE[1], WHOLE[3]), abs=0.5)
    ends = (WHOLE[0] + HALF_WIDTH * 0.4, WHOLE[2]) if hidden == 0 else (WHOLE[0], WHOLE[2] - HALF_WIDTH * 0.4)
    assert (left, right) == pytest.approx(ends, abs=0.5)


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
def test_the_place_of_a_hidden_lung_ends_at_the_image(side: int) -> None:
    maps = np.zeros((2, SIDE, SIDE), dtype=np.float32)
    maps[side] = lung(70 if side == 0 else 26, 48, 20, 30)
    box = shape(maps).box
    assert (box.right if side == 0 else box.left) == (1 if side == 0 else 0)


@pytest.mark.parametrize("level", [0, 0.3, 0.49])
def test_no_lung_has_no_shape(level: float) -> None:
    assert shape_of(np.full((2, SIDE, SIDE), level, dtype=np.float32)) is None


def speckled(maps: LungMaps) -> LungMaps:
    maps[0, 2:16, 2:10] = 1
    return maps


def hazy(maps: LungMaps) -> LungMaps:
    maps[:, 5:90, 5:90] = np.maximum(maps[:, 5:90, 5:90], 0.3)
    return maps


CHANGES: dict[str, Callable[[], LungMaps]] = {
    "doubt": lambda: ndimage.gaussian_filter(chest(), (0, 3, 3)),
    "loose": lambda: hazy(chest()),
    "strict": lambda: chest() * np.float32(0.7),
    "unequal": lambda: chest(grown=0.7),
    "askew": lambda: chest(drop=15),
    "specks": lambda: speckled(chest()),
    "small": lambda: np.stack([lung(X, Y, 6, 12), lung(X + 20, Y, 6, 12)]),
    "cut": lambda: np.roll(chest(), 25, axis=1),
    "hollow": lambda: chest(apart=30),
}


@pytest.mark.parametrize("name", TRAITS)
def test_each_trait_tells_of_its_own_flaw(name: str) -> None:
    assert trait(CHANGES[name](), name) > trait(chest(), name) + 0.05


@pytest.mark.parametrize(("name", "other"), [("loose", "strict"), ("strict", "loose"), ("unequal", "specks")])
def test_a_flaw_is_told_by_its_own_trait(name: str, other: str) -> None:
    assert trait(CHANGES[name](), other) == pytest.approx(trait(chest(), other), abs=0.02)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        hnp.arrays(np.float32, (2, 7, 9), elements=st.sampled_from([0.0, 0.25, 0.5, 0.625, 1.0])),
        hnp.arrays(np.float32, (2, 7, 9), elements=st.floats(0, 1, width=32), fill=st.just(0.0)),
    )
)
def test_any_maps_give_a_box_and_finite_traits_or_nothing(maps: LungMaps) -> None:
    found = shape_of(maps)  # LungBox itself refuses what is no box
    if found is not None:
        assert np.isfinite(found.traits).all()
