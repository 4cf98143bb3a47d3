"""Crops: what each option shows, where each point of it lies in the original, and PNG bytes that give pixels back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featurizers.crops import CropBox, Cropper, CropSettings, Fit, crop_lungs, decode_png, describe_crops, encode_png
from featurizers.errors import FeaturizerError
from featurizers.lungs import WHOLE_IMAGE, LungBox, LungMap, Lungs
from featurizers.projection import ProjectionFinder

FITS = list(Fit)
FOUND = LungBox(0.2, 0.1, 0.7, 0.9)


@dataclass(frozen=True)
class Finder:
    """Finds the same lungs everywhere."""

    box: LungBox = FOUND
    quality: float = 0.6
    map: LungMap | None = None
    min_quality: float = 0.5
    name: str = "segmenter"
    description: str = "lungs as told"

    def find(self, pixels: np.ndarray) -> Lungs:
        return Lungs(self.box, self.quality, self.map)


def edges(box: LungBox | CropBox) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def blank(rows: int, columns: int, grey: int = 200) -> np.ndarray:
    return np.full((rows, columns), grey, np.uint8)


arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=80))


@st.composite
def boxes(draw: st.DrawFn) -> LungBox:
    """Any box of some size, often at the image's border."""
    spans = []
    for _ in range(2):
        length = draw(st.floats(0.3, 1))
        spans.append((start := draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1)) * (1 - length), start + length))
    (left, right), (top, bottom) = spans
    return LungBox(left, top, min(right, 1.0), min(bottom, 1.0))


# --- what a crop shows -----------------------------------------------------------------------------------------------


def test_stretch_shows_the_lung_box_with_its_margin() -> None:
    crop = crop_lungs(blank(400, 480), CropSettings(size=96, margin=0.1), Finder())
    assert crop.pixels.shape == (96, 96)
    assert crop.pixels.dtype == np.uint8
    assert crop.cropper is Cropper.SEGMENTER
    assert edges(crop.box) == edges(FOUND.expanded(0.1))
    assert crop.quality == 0.6
    assert (crop.pixels == 200).all()


def test_square_takes_in_what_is_beside_the_box() -> None:
    # 200 x 320 pixels of a 400 x 400 image become 320 x 320 around the same centre.
    crop = crop_lungs(blank(400, 400), CropSettings(margin=0, fit=Fit.SQUARE), Finder())
    assert edges(crop.box) == pytest.approx((0.05, 0.1, 0.85, 0.9))
    assert (crop.pixels == 200).all()


def test_square_at_the_border_is_moved_inside() -> None:
    finder = Finder(LungBox(0.7, 0.1, 1.0, 0.9))
    crop = crop_lungs(blank(400, 400), CropSettings(margin=0, fit=Fit.SQUARE), finder)
    assert edges(crop.box) == pytest.approx((0.2, 0.1, 1.0, 0.9))
    assert (crop.pixels == 200).all()


def test_square_that_is_wider_than_the_image_shows_all_of_its_width_on_black() -> None:
    # 320 rows high, and the image has 200 columns: 60 black ones of 320 on either side.
    crop = crop_lungs(blank(400, 200), CropSettings(size=64, margin=0, fit=Fit.SQUARE), Finder(LungBox(0, 0.1, 1, 0.9)))
    assert edges(crop.box) == pytest.approx((-0.3, 0.1, 1.3, 0.9))
    assert (crop.pixels[:, 12:52] == 200).all()
    assert not crop.pixels[:, :12].any()
    assert not crop.pixels[:, 52:].any()


def test_pad_shows_nothing_beside_the_box() -> None:
    crop = crop_lungs(blank(400, 400), CropSettings(size=64, margin=0, fit=Fit.PAD), Finder())
    assert edges(crop.box) == pytest.approx((0.05, 0.1, 0.85, 0.9))
    assert (crop.pixels[:, 12:52] == 200).all()
    assert not crop.pixels[:, :12].any()
    assert not crop.pixels[:, 52:].any()


@pytest.mark.parametrize("fit", [Fit.SQUARE, Fit.PAD])
def test_an_image_that_is_kept_whole_is_fitted_too(fit: Fit) -> None:
    crop = crop_lungs(blank(100, 200), CropSettings(size=64, fit=fit), None)
    assert edges(crop.box) == pytest.approx((0, -0.5, 1, 1.5))
    assert crop.pixels.any(axis=1).sum() == 32


@settings(max_examples=150, deadline=None)
@given(
    boxes(),
    st.tuples(st.integers(60, 300), st.integers(60, 300)),
    st.sampled_from(FITS),
    st.integers(40, 300),
    st.floats(0, 0.3),
    st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
def test_a_landmark_is_where_the_formula_says(
    box: LungBox, shape: tuple[int, int], fit: Fit, size: int, margin: float, at: tuple[float, float]
) -> None:
    chosen = CropSettings(size=size, margin=margin, fit=fit)
    (rows, columns), finder = shape, Finder(box)
    shown = crop_lungs(blank(rows, columns), chosen, finder)
    # As large as three pixels of the crop, so that it is seen, in the middle of the lungs or near their edge.
    tall, wide = (
        max(4, int(3 * length * span / size) + 1)
        for length, span in ((rows, shown.box.bottom - shown.box.top), (columns, shown.box.right - shown.box.left))
    )
    left = round((box.left + at[0] * (box.right - box.left)) * columns - wide / 2)
    top = round((box.top + at[1] * (box.bottom - box.top)) * rows - tall / 2)
    assume(left >= box.left * columns + 2 and left + wide <= box.right * columns - 2)
    assume(top >= box.top * rows + 2 and top + tall <= box.bottom * rows - 2)
    drawn = np.zeros(shape, np.uint8)
    drawn[top : top + tall, left : left + wide] = 255
    crop = crop_lungs(drawn, chosen, finder)
    assert crop.box == shown.box
    seen = crop.pixels.astype(float)
    places = (np.arange(size) + 0.5) / size
    center = np.array([(seen.sum(axis=0) * places).sum(), (seen.sum(axis=1) * places).sum()]) / seen.sum()
    expected = np.array([(left + wide / 2) / columns, (top + tall / 2) / rows])
    assert crop.box.to_crop(expected) == pytest.approx(center, abs=0.4 / size)
    assert (crop.box.to_original(center) - expected) * (columns, rows) == pytest.approx(
        0, abs=0.4 * max((crop.box.right - crop.box.left) * columns, (crop.box.bottom - crop.box.top) * rows) / size
    )


@settings(max_examples=150, deadline=None)
@given(boxes(), st.integers(1, 400), st.integers(1, 400), st.sampled_from([Fit.SQUARE, Fit.PAD]), st.integers(32, 300))
def test_a_pixel_of_a_fitted_crop_is_as_wide_as_high(
    box: LungBox, rows: int, columns: int, fit: Fit, size: int
) -> None:
    crop = crop_lungs(blank(rows, columns), CropSettings(size=size, margin=0, fit=fit), Finder(box))
    width, height = (crop.box.right - crop.box.left) * columns, (crop.box.bottom - crop.box.top) * rows
    # What is shown ends at a whole pixel of the crop: half of one is lost or won.
    least = min((crop.pixels > 0).any(axis=0).sum(), (crop.pixels > 0).any(axis=1).sum())
    assume(least > 1)  # what is thinner than a pixel is shown as one
    assert abs(width / height - 1) <= 0.51 / (least - 0.5)
    pixel = 1 / size
    assert crop.box.left <= box.left + pixel
    assert crop.box.right >= box.right - pixel


@settings(max_examples=60, deadline=None)
@given(boxes(), hnp.arrays(np.float64, (5, 2), elements=st.floats(-2, 2)))
def test_there_and_back(box: LungBox, points: np.ndarray) -> None:
    shown = CropBox(box.left - 0.3, box.top, box.right, box.bottom + 0.4)
    assert shown.to_crop(shown.to_original(points)) == pytest.approx(points)
    corners = [[0, 0], [1, 1]]
    assert shown.to_original(corners).ravel().tolist() == pytest.approx(edges(shown))


@pytest.mark.parametrize("wrong", [(0.5, 0, 0.5, 1), (0, 0.6, 1, 0.2), (float("nan"), 0, 1, 1)])
def test_what_is_no_rectangle_is_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="no rectangle"):
        CropBox(*wrong)


# --- which lungs are trusted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finder", "min_quality", "is_cropped"),
    [
        (Finder(quality=0.6), None, True),
        (Finder(quality=0.5), None, True),
        (Finder(quality=0.49), None, False),
        (Finder(quality=0.49), 0.4, True),
        (Finder(quality=0.6), 0.7, False),
        (Finder(quality=0.0), 0.0, False),
        (Finder(quality=0.0, min_quality=0.0), None, False),
    ],
)
def test_low_quality_keeps_the_whole_image(finder: Finder, min_quality: float | None, is_cropped: bool) -> None:
    crop = crop_lungs(blank(90, 80), CropSettings(min_quality=min_quality), finder)
    assert crop.cropper is (Cropper.SEGMENTER if is_cropped else Cropper.WHOLE_IMAGE)
    assert (edges(crop.box) == edges(WHOLE_IMAGE)) is not is_cropped
    assert crop.quality == finder.quality


def test_without_a_finder_the_image_is_whole_and_has_no_quality() -> None:
    crop = crop_lungs(blank(90, 80), CropSettings(min_quality=0), None)
    assert crop.cropper is Cropper.WHOLE_IMAGE
    assert crop.quality is None
    assert edges(crop.box) == edges(WHOLE_IMAGE)


# --- the mask --------------------------------------------------------------------------------------------------------


def ellipses() -> LungMap:
    y, x = (np.mgrid[0:64, 0:64] + 0.5) / 64
    lungs = [((x - center) / 0.15) ** 2 + ((y - 0.5) / 0.38) ** 2 < 1 for center in (0.3, 0.65)]
    return np.logical_or(*lungs).astype(np.float32)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [64, 400])
def test_everything_but_the_lungs_is_black(fit: Fit, size: int) -> None:
    finder = Finder(LungBox(0.15, 0.12, 0.8, 0.88), map=ellipses())
    chosen = CropSettings(size=size, fit=fit)
    masked = crop_lungs(blank(300, 360), replace(chosen, mask_out=True), finder)
    assert masked.box == crop_lungs(blank(300, 360), chosen, finder).box
    assert set(np.unique(masked.pixels)) == {0, 200}
    mask = finder.find(blank(300, 360)).mask(300, 360)
    assert mask is not None
    expected = crop_lungs(mask * np.uint8(200), chosen, finder).pixels > 100
    assert ((masked.pixels > 0) != expected).mean() < 0.01


def test_a_crop_that_is_kept_whole_is_not_masked() -> None:
    finder = Finder(quality=0.1, map=ellipses())
    crop = crop_lungs(blank(80, 80), CropSettings(mask_out=True), finder)
    assert crop.cropper is Cropper.WHOLE_IMAGE
    assert (crop.pixels == 200).all()


@pytest.mark.parametrize("finder", [Finder(), None], ids=["box only", "none"])
def test_mask_without_an_outline_is_refused(finder: Finder | None) -> None:
    with pytest.raises(FeaturizerError, match="use the segmenter or an atlas"):
        crop_lungs(blank(80, 80), CropSettings(mask_out=True), finder)


# --- pixels, words, bytes --------------------------------------------------------------------------------------------


def test_reducing_antialiases() -> None:
    fine = (np.indices((448, 448)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = crop_lungs(fine, CropSettings(size=56), None)
    assert np.abs(crop.pixels[4:-4, 4:-4].astype(int) - 127).max() <= 2


@settings(max_examples=60, deadline=None)
@given(arrays, st.integers(1, 64), st.floats(0, 2), st.sampled_from(FITS))
def test_any_image_gives_a_square_crop_twice_the_same(pixels: np.ndarray, size: int, margin: float, fit: Fit) -> None:
    chosen = CropSettings(size=size, margin=margin, min_quality=0, fit=fit)
    first, second = (crop_lungs(pixels, chosen, ProjectionFinder()) for _ in range(2))
    assert first.pixels.shape == (size, size)
    assert (first.box, first.quality, first.cropper) == (second.box, second.quality, second.cropper)
    assert encode_png(first.pixels) == encode_png(second.pixels)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"margin": -0.1}, {"margin": float("nan")}])
def test_settings_that_can_not_be_met_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give a size"):
        CropSettings(**wrong)  # type: ignore[arg-type]


def test_description_tells_apart_whatever_gives_other_pixels() -> None:
    plain, finder = CropSettings(), Finder(map=ellipses())
    other: list[dict[str, Any]] = [{"size": 225}, {"margin": 0.06}, {"min_quality": 0.51}, {"mask_out": True}]
    other += [{"fit": Fit.SQUARE}, {"fit": Fit.PAD}]
    told = [describe_crops(replace(plain, **changed), finder) for changed in [{}, *other]]
    told += [describe_crops(plain, replace(finder, description="other weights")), describe_crops(plain, None)]
    told += [describe_crops(replace(plain, fit=Fit.PAD), None)]
    assert len(set(told)) == len(told)


def test_description_does_not_tell_apart_what_gives_the_same_pixels() -> None:
    finder = Finder()
    assert describe_crops(CropSettings(), finder) == describe_crops(CropSettings(min_quality=0.5), finder)
    assert describe_crops(CropSettings(), None) == describe_crops(CropSettings(margin=0.3, min_quality=0.5), None)


@settings(max_examples=100, deadline=None)
@given(arrays)
def test_png_round_trip_is_exact(pixels: np.ndarray) -> None:
    back = decode_png(encode_png(pixels))
    assert back.dtype == np.uint8
    assert np.array_equal(back, pixels)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_png_is_refused(data: st.DataObject) -> None:
    good = encode_png(np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8))
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
