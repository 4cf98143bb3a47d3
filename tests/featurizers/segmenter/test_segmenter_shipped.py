"""The weights that come with Pleura: they hold up on adults and children, on disease, and know what is no chest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from featurizers.crops import CropSettings
from featurizers.lung_metrics import box_iou, dice, lung_lost
from featurizers.lungs import Lungs, box_of_mask
from featurizers.mask_pairs import list_pairs, split_patients
from featurizers.phantoms import Habitus, Phantom, draw_phantom
from featurizers.segmenter.finder import SHIPPED, SegmenterFinder
from featurizers.segmenter.training import two_lungs

FINDINGS = ((), ("Consolidation",), ("Effusion",), ("Cardiomegaly",), ("Pneumonia", "Effusion"), ("Pneumothorax",))
#: Rows and columns, as films of each are.
SIZES = {Habitus.ADULT: (300, 290), Habitus.CHILD: (240, 310)}


@pytest.fixture(scope="module")
def shipped() -> SegmenterFinder:
    return SegmenterFinder.shipped()


def draw(habitus: Habitus) -> list[Phantom]:
    # Of seeds that training does not draw: it takes its own from all of 62 bits.
    return [
        draw_phantom(70_000 + number, findings, SIZES[habitus], habitus=habitus)
        for number, findings in enumerate(FINDINGS * 2)
    ]


@pytest.fixture(scope="module")
def adults() -> list[Phantom]:
    return draw(Habitus.ADULT)


@pytest.fixture(scope="module")
def children() -> list[Phantom]:
    return draw(Habitus.CHILD)


@pytest.fixture(scope="module")
def chests(adults: Sequence[Phantom], children: Sequence[Phantom]) -> list[Phantom]:
    return [*adults, *children]


@pytest.fixture(scope="module")
def lungs(shipped: SegmenterFinder, chests: Sequence[Phantom]) -> list[Lungs]:
    return [shipped.find(phantom.pixels) for phantom in chests]


def iou(found: Lungs, phantom: Phantom) -> float:
    return box_iou(found.box, box_of_mask(phantom.lung_mask))


def test_the_file_is_small_and_has_its_card() -> None:
    assert SHIPPED.stat().st_size <= 2 * 2**20
    card = SHIPPED.with_name("CARD.md").read_text()
    for part in ("CC BY 4.0", "For research", "## Judged on", "python jobs/train_segmenter.py"):
        assert part in card


@pytest.mark.parametrize("whose", ["adults", "children"])
def test_lungs_of_phantoms_are_found(whose: str, shipped: SegmenterFinder, request: pytest.FixtureRequest) -> None:
    phantoms: list[Phantom] = request.getfixturevalue(whose)
    found = [shipped.find(phantom.pixels) for phantom in phantoms]
    overlaps = [iou(each, phantom) for each, phantom in zip(found, phantoms, strict=True)]
    assert np.mean(overlaps) > 0.85
    assert min(overlaps) > 0.6
    masks = [each.mask(*phantom.lung_mask.shape) for each, phantom in zip(found, phantoms, strict=True)]
    assert np.mean([dice(mask, phantom.lung_mask) for mask, phantom in zip(masks, phantoms, strict=True)]) > 0.9
    lost = [
        lung_lost(p.lung_mask, each.box.expanded(CropSettings().margin))
        for each, p in zip(found, phantoms, strict=True)
    ]
    assert np.mean(lost) < 0.01


def test_good_boxes_are_trusted(shipped: SegmenterFinder, lungs: Sequence[Lungs]) -> None:
    trusted = [each.quality >= shipped.min_quality for each in lungs]
    assert np.mean(trusted) > 0.9


@pytest.mark.parametrize(("turns", "less"), [(1, 0.5), (2, 0.05), (3, 0.5)], ids=["side", "head", "other-side"])
def test_a_chest_on_its_side_or_head_is_trusted_less_than_upright_ones(
    turns: int, less: float, shipped: SegmenterFinder, chests: Sequence[Phantom], lungs: Sequence[Lungs]
) -> None:
    upright = np.array([each.quality for each in lungs])
    turned = [shipped.find(np.ascontiguousarray(np.rot90(each.pixels, turns))) for each in chests]
    told = np.array([each.quality for each in turned])
    assert told.mean() < upright.mean() - less
    assert np.mean(told < upright.min()) > 0.8
    # On its head a chest still has its lungs side by side: the box is not all wrong, nor does quality say so.
    drawn = [box_of_mask(np.rot90(each.lung_mask, turns)) for each in chests]
    overlaps = [box_iou(found.box, box) for found, box in zip(turned, drawn, strict=True)]
    assert told.mean() < np.mean(overlaps) + 0.15


def test_a_negative_film_is_found_too(shipped: SegmenterFinder, chests: Sequence[Phantom]) -> None:
    assert np.mean([iou(shipped.find(255 - phantom.pixels), phantom) for phantom in chests]) > 0.85


def not_chests() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    clouds = ndimage.gaussian_filter(rng.random((300, 260)), 20)
    rows, columns = np.mgrid[0:256, 0:256]
    return {
        "noise": rng.integers(0, 256, (224, 224), dtype=np.uint8),
        "ramp": np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1)),
        "clouds": (255 * (clouds - clouds.min()) / np.ptp(clouds)).astype(np.uint8),
        "chequers": np.where((rows // 32 + columns // 32) % 2, 230, 20).astype(np.uint8),
        "disc": np.where((rows - 128) ** 2 + (columns - 128) ** 2 < 90**2, 220, 10).astype(np.uint8),
        "page": np.where((rows % 16 < 8) & (rng.random((256, 256)) < 0.5), 0, 255).astype(np.uint8),
    }


@pytest.mark.parametrize("name", not_chests())
def test_what_is_no_chest_is_not_trusted(name: str, shipped: SegmenterFinder) -> None:
    assert shipped.find(not_chests()[name]).quality < shipped.min_quality


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
def test_a_white_lung_stays_in_the_box(side: int, shipped: SegmenterFinder, chests: Sequence[Phantom]) -> None:
    overlaps = []
    for phantom in chests[::4]:
        parts = two_lungs(phantom.lung_mask)
        assert parts is not None
        # As bright as the heart and the abdomen of the same film, with soft edges.
        tissue = np.percentile(phantom.pixels, 85)
        share = ndimage.gaussian_filter(parts[side].astype(np.float32), 3)
        white = (phantom.pixels * (1 - share) + tissue * share).astype(np.uint8)
        overlaps.append(iou(shipped.find(white), phantom))
    assert np.mean(overlaps) > 0.8
    assert min(overlaps) > 0.6


@pytest.mark.parametrize("size", [(224, 224), (600, 600), (1500, 1100), (300, 900)])
def test_the_box_does_not_depend_on_the_size(
    size: tuple[int, int], shipped: SegmenterFinder, chests: Sequence[Phantom], lungs: Sequence[Lungs]
) -> None:
    for phantom, found in list(zip(chests, lungs, strict=True))[::6]:
        resized = np.asarray(Image.fromarray(phantom.pixels).resize(size[::-1], Image.Resampling.BICUBIC))
        assert box_iou(shipped.find(resized).box, found.box) > 0.93


@pytest.mark.parametrize(("contrast", "offset"), [(0.3, 150), (0.5, 0), (0.8, 30)])
def test_the_box_does_not_depend_on_the_contrast(
    contrast: float, offset: int, shipped: SegmenterFinder, chests: Sequence[Phantom], lungs: Sequence[Lungs]
) -> None:
    for phantom, found in list(zip(chests, lungs, strict=True))[::6]:
        faint = shipped.find((offset + contrast * phantom.pixels).astype(np.uint8))
        assert box_iou(faint.box, found.box) > 0.95
        assert faint.quality == pytest.approx(found.quality, abs=0.1)


def test_a_mirrored_chest_has_the_mirrored_box(
    shipped: SegmenterFinder, chests: Sequence[Phantom], lungs: Sequence[Lungs]
) -> None:
    for phantom, found in list(zip(chests, lungs, strict=True))[::6]:
        mirrored = shipped.find(np.ascontiguousarray(phantom.pixels[:, ::-1])).box
        expected = (1 - found.box.right, found.box.top, 1 - found.box.left, found.box.bottom)
        assert (mirrored.left, mirrored.top, mirrored.right, mirrored.bottom) == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("grey", [0, 255], ids=["black", "white"])
def test_a_collimation_border_does_not_move_the_box(
    grey: int, shipped: SegmenterFinder, chests: Sequence[Phantom]
) -> None:
    overlaps = []
    for phantom in chests[::4]:
        bordered = np.pad(phantom.pixels, ((30, 15), (40, 25)), constant_values=grey)
        mask = np.pad(phantom.lung_mask, ((30, 15), (40, 25)))
        overlaps.append(box_iou(shipped.find(bordered).box, box_of_mask(mask)))
    assert np.mean(overlaps) > 0.85


@pytest.mark.real
def test_real_lungs_of_patients_left_out_are_found(real_data: Path, shipped: SegmenterFinder) -> None:
    overlaps, ious, lost, trusted = [], [], [], []
    for pair in split_patients(list_pairs(real_data / "lung_masks")).test:
        pixels, drawn, counted = pair.read()
        found = shipped.find(pixels)
        mask = found.mask(*drawn.shape)
        overlaps.append(0.0 if mask is None else dice(mask, drawn, counted))
        ious.append(box_iou(found.box, box_of_mask(drawn)))
        lost.append(lung_lost(drawn, found.box.expanded(CropSettings().margin)))
        trusted.append(found.quality >= shipped.min_quality)
    assert np.mean(overlaps) > 0.93
    assert np.mean(ious) > 0.9
    assert np.mean(np.array(lost) > 0.01) < 0.025
    assert np.mean(trusted) > 0.95
