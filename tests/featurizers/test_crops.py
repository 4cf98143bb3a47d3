"""Crops: the stated box of the original and nothing else, and PNG bytes that give the same pixels back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featurizers.crops import Cropper, CropSettings, crop_lungs, decode_png, encode_png
from featurizers.errors import FeaturizerError
from featurizers.lungs import WHOLE_IMAGE, locate_lungs


def draw_chest(rows: int = 400, columns: int = 480) -> np.ndarray:
    """A crude frontal chest: bright body on air, two dark lungs."""
    y, x = np.mgrid[0:rows, 0:columns]
    x, y = (x + 0.5) / columns, (y + 0.5) / rows
    grey = np.where((x > 0.07) & (x < 0.93), 190.0, 10.0)
    grey[np.abs(x - 0.5) < 0.09] = 235
    for center in (0.28, 0.72):
        grey[(((x - center) / 0.16) ** 2 + ((y - 0.5) / 0.4) ** 2) < 1] = 90
    grey[(y > 0.86) & (grey > 10)] = 225
    return grey.astype(np.uint8)


arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=80))


def test_crop_is_the_lung_box_with_its_margin() -> None:
    chest = draw_chest()
    location = locate_lungs(chest)
    crop = crop_lungs(chest, CropSettings(size=96, margin=0.1))
    assert crop.pixels.shape == (96, 96)
    assert crop.pixels.dtype == np.uint8
    assert crop.cropper is Cropper.PROJECTION
    assert crop.box == location.box.expanded(0.1)
    assert crop.quality == location.quality


def test_low_quality_keeps_the_whole_image() -> None:
    chest = draw_chest()
    crop = crop_lungs(chest, CropSettings(min_quality=1.01))
    assert crop.box == WHOLE_IMAGE
    assert crop.cropper is Cropper.WHOLE_IMAGE
    assert crop.quality == locate_lungs(chest).quality > 0


def test_image_without_a_chest_is_kept_whole_even_at_min_quality_zero() -> None:
    crop = crop_lungs(np.full((50, 70), 9, dtype=np.uint8), CropSettings(min_quality=0))
    assert crop.cropper is Cropper.WHOLE_IMAGE
    assert (crop.pixels == 9).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 0.65), st.floats(0.3, 0.65), st.sampled_from([64, 224]), st.booleans())
def test_a_bright_rectangle_maps_back_to_where_it_was_drawn(x: float, y: float, size: int, whole: bool) -> None:
    chest = draw_chest()
    rows, columns = chest.shape
    chest = (chest * 0.6).astype(np.uint8)
    top, left = round(y * rows), round(x * columns)
    chest[top : top + 24, left : left + 24] = 255
    crop = crop_lungs(chest, CropSettings(size=size, min_quality=1.01 if whole else 0))
    hit = crop.pixels > 200
    box = crop.box
    for axis, (start, low, high, length) in enumerate(
        [(top, box.top, box.bottom, rows), (left, box.left, box.right, columns)]
    ):
        center = (np.flatnonzero(hit.any(axis=1 - axis)) + 0.5).mean() / size
        drawn = (start + 12) / length
        assert low + center * (high - low) == pytest.approx(drawn, abs=1.0 / size)


def test_reducing_antialiases() -> None:
    fine = (np.indices((448, 448)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = crop_lungs(fine, CropSettings(size=56, min_quality=1.01))
    assert np.abs(crop.pixels[4:-4, 4:-4].astype(int) - 127).max() <= 2


@settings(max_examples=40, deadline=None)
@given(arrays, st.integers(1, 64), st.floats(0, 2))
def test_any_image_gives_a_square_crop_twice_the_same(pixels: np.ndarray, size: int, margin: float) -> None:
    chosen = CropSettings(size=size, margin=margin, min_quality=0)
    first, second = crop_lungs(pixels, chosen), crop_lungs(pixels, chosen)
    assert first.pixels.shape == (size, size)
    assert (first.box, first.quality, first.cropper) == (second.box, second.quality, second.cropper)
    assert encode_png(first.pixels) == encode_png(second.pixels)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"margin": -0.1}, {"margin": float("nan")}])
def test_settings_that_can_not_be_met_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give a size"):
        CropSettings(**wrong)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(arrays)
def test_png_round_trip_is_exact(pixels: np.ndarray) -> None:
    back = decode_png(encode_png(pixels))
    assert back.dtype == np.uint8
    assert np.array_equal(back, pixels)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_png_is_refused(data: st.DataObject) -> None:
    good = encode_png(draw_chest(40, 48))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(bad), good[:at]):
        with pytest.raises(FeaturizerError):
            decode_png(damaged)


@pytest.mark.parametrize("mode", ["RGB", "1", "I;16"])
def test_png_of_another_kind_is_refused(mode: str, tmp_path) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "crop.png")
    with pytest.raises(FeaturizerError, match="no 8-bit greyscale"):
        decode_png((tmp_path / "crop.png").read_bytes())
