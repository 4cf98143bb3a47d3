"""The atlas finder: lungs are found by bending known ones onto them, on any size, behind borders, in any process."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featurizers.atlas import AtlasFinder
from featurizers.errors import FeaturizerError
from featurizers.lung_metrics import box_iou, dice, lung_lost
from featurizers.lungs import WHOLE_IMAGE, box_of_mask
from featurizers.mask_pairs import MaskPair, list_pairs
from featurizers.phantoms import Phantom, draw_phantom

ROOT = Path(__file__).parents[2]
FINDINGS = ((), ("bacterial",), ("Effusion",))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Sequence[MaskPair]:
    """Twenty-four drawn radiographs with their masks."""
    folder = tmp_path_factory.mktemp("atlas")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for seed in range(24):
        phantom = draw_phantom(seed, size=(220, 260))
        Image.fromarray(phantom.pixels).save(folder / "images" / f"{seed:02}.png")
        Image.fromarray(phantom.lung_mask.astype(np.uint8) * 255).save(folder / "masks" / f"{seed:02}.png")
    return list_pairs(folder)


@pytest.fixture(scope="module")
def finder(pairs: Sequence[MaskPair]) -> AtlasFinder:
    return AtlasFinder.of_pairs(pairs)


@pytest.fixture(scope="module")
def chest() -> Phantom:
    """A body that is not in the atlas."""
    return draw_phantom(500, size=(300, 340))


def test_lungs_of_other_bodies_are_found(finder: AtlasFinder) -> None:
    phantoms = [draw_phantom(seed, FINDINGS[seed % 3], size=(240, 270)) for seed in range(100, 115)]
    lungs = [finder.find(phantom.pixels) for phantom in phantoms]
    masks = [found.mask(*phantom.lung_mask.shape) for found, phantom in zip(lungs, phantoms, strict=True)]
    drawn = [phantom.lung_mask for phantom in phantoms]
    ious = [box_iou(found.box, box_of_mask(mask)) for found, mask in zip(lungs, drawn, strict=True)]
    assert np.mean([dice(*both) for both in zip(masks, drawn, strict=True)]) > 0.9
    assert np.mean(ious) > 0.88
    assert np.mean([found.quality for found in lungs]) == pytest.approx(np.mean(ious), abs=0.05)


def test_box_is_around_the_map(finder: AtlasFinder, chest: Phantom) -> None:
    found = finder.find(chest.pixels)
    assert found.map is not None
    assert found.map.dtype == np.float32
    assert 0 <= found.map.min() < found.map.max() <= 1
    assert box_iou(found.box, box_of_mask(found.mask(1000, 1000))) > 0.99


def test_a_speck_is_not_in_the_box(finder: AtlasFinder, chest: Phantom) -> None:
    masks = finder.masks.copy()
    masks[:, 1:5, 1:5] = 255
    assert AtlasFinder(finder.images, masks).find(chest.pixels).box == finder.find(chest.pixels).box


@pytest.mark.parametrize("factor", [0.6, 4.3])
def test_size_and_aspect_do_not_matter(finder: AtlasFinder, chest: Phantom, factor: float) -> None:
    size = round(340 * factor), round(250 * factor)
    other = np.asarray(Image.fromarray(chest.pixels).resize(size, Image.Resampling.BICUBIC))
    assert box_iou(finder.find(other).box, finder.find(chest.pixels).box) > 0.95


def test_exposure_does_not_matter(finder: AtlasFinder, chest: Phantom) -> None:
    faint = (60 + chest.pixels * 0.3).astype(np.uint8)
    assert box_iou(finder.find(faint).box, finder.find(chest.pixels).box) > 0.9


@pytest.mark.parametrize("grey", [0, 255], ids=["black", "white"])
def test_lungs_are_found_inside_a_border(finder: AtlasFinder, chest: Phantom, grey: int) -> None:
    border = ((70, 30), (90, 20))
    pixels = np.pad(chest.pixels, border, constant_values=grey)
    drawn = np.pad(chest.lung_mask, border)
    found = finder.find(pixels)
    assert dice(found.mask(*drawn.shape), drawn) > 0.92
    assert box_iou(found.box, box_of_mask(drawn)) > 0.85
    assert found.quality > finder.min_quality


@pytest.mark.parametrize(
    "pixels",
    [np.full((40, 40), 7, dtype=np.uint8), np.full((300, 200), 130, dtype=np.uint8), np.zeros((1, 1), dtype=np.uint8)],
    ids=["dark", "grey", "one-pixel"],
)
def test_an_image_of_one_grey_has_no_lungs(finder: AtlasFinder, pixels: np.ndarray) -> None:
    found = finder.find(pixels)
    assert (found.box, found.quality, found.map) == (WHOLE_IMAGE, 0, None)


def test_a_model_without_lungs_is_the_whole_image(finder: AtlasFinder, chest: Phantom) -> None:
    found = AtlasFinder(finder.images, np.zeros_like(finder.masks)).find(chest.pixels)
    assert (found.box, found.quality, found.map) == (WHOLE_IMAGE, 0, None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pixels: 255 - pixels,
        lambda pixels: np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8),
        lambda pixels: np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1)),
        lambda pixels: np.pad(np.zeros((280, 280), np.uint8), 15, constant_values=255),
    ],
    ids=["negative", "noise", "ramp", "frame"],
)
def test_what_resembles_no_chest_has_no_quality(
    finder: AtlasFinder, chest: Phantom, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    assert finder.find(chest.pixels).quality > finder.min_quality
    assert finder.find(spoil(chest.pixels)).quality < 0.1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_image_gives_a_box_and_a_quality(finder: AtlasFinder, data: st.DataObject) -> None:
    pixels = data.draw(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=200)))
    found = finder.find(pixels)  # LungBox itself refuses what lies outside the image
    assert 0 <= found.quality <= 1


def _send_lungs(pickled: bytes, pixels: np.ndarray, pipe: Connection) -> None:
    found = pickle.loads(pickled).find(pixels)
    pipe.send((found.box, found.quality, found.map))


def test_a_forked_child_finds_the_same_lungs(finder: AtlasFinder, chest: Phantom) -> None:
    here = finder.find(chest.pixels)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    child = fork.Process(target=_send_lungs, args=(pickle.dumps(finder), chest.pixels, theirs), daemon=True)
    child.start()
    assert ours.poll(30), "the child hangs"
    box, quality, found_map = ours.recv()
    child.join()
    assert (box, quality) == (here.box, here.quality)
    np.testing.assert_array_equal(found_map, here.map)


def test_it_travels_whole_and_small(finder: AtlasFinder, pairs: Sequence[MaskPair]) -> None:
    sent = pickle.dumps(finder)
    assert len(sent) < 80_000 * len(pairs)
    assert pickle.loads(sent).description == finder.description


def test_it_finds_in_the_thread_that_asks(finder: AtlasFinder, chest: Phantom) -> None:
    before = psutil.Process().num_threads()
    finder.find(chest.pixels)
    assert psutil.Process().num_threads() == before


def test_description_tells_atlases_apart(finder: AtlasFinder, pairs: Sequence[MaskPair]) -> None:
    assert AtlasFinder.of_pairs(pairs).description == finder.description
    assert AtlasFinder.of_pairs(pairs[1:]).description != finder.description
    assert AtlasFinder(finder.images, finder.masks // 2).description != finder.description


def test_a_few_pairs_are_refused(pairs: Sequence[MaskPair]) -> None:
    AtlasFinder.of_pairs(pairs[:5])
    with pytest.raises(FeaturizerError, match=r"4 pairs.*add"):
        AtlasFinder.of_pairs(pairs[:4])


def test_a_pair_that_shows_nothing_is_named(pairs: Sequence[MaskPair], tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.new("L", (260, 220), 90).save(blank)
    with pytest.raises(FeaturizerError, match=r"blank\.png.*remove"):
        AtlasFinder.of_pairs([*pairs[:5], MaskPair(blank, pairs[0].mask, "blank", "")])


def test_without_the_library_only_a_finder_is_refused() -> None:
    """In a process of its own, where importing OpenCV fails."""
    script = """
import sys
sys.modules["cv2"] = None
import numpy as np
from featurizers.atlas import AtlasFinder
from featurizers.errors import FeaturizerError
try:
    AtlasFinder(np.zeros((5, 192, 192), np.uint8), np.zeros((5, 192, 192), np.uint8))
except FeaturizerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install '.[atlas]'" in done.stdout


@pytest.mark.real
def test_real_lungs_of_other_patients_are_found(real_data: Path) -> None:
    halves: tuple[list[MaskPair], list[MaskPair]] = [], []
    for pair in list_pairs(real_data / "lung_masks"):
        halves[zlib.crc32(pair.patient.encode()) % 2].append(pair)
    finder = AtlasFinder.of_pairs(halves[0][::12])
    scores = []
    for pair in halves[1][::11]:
        pixels, drawn, counted = pair.read()
        found = finder.find(pixels)
        iou = box_iou(found.box, box_of_mask(drawn))
        lost = lung_lost(drawn, found.box.expanded(0.05))
        scores.append((dice(found.mask(*drawn.shape), drawn, counted), iou, lost, found.quality))
    dices, ious, losts, qualities = np.transpose(scores)
    assert np.mean(dices) > 0.91
    assert np.mean(ious) > 0.90
    assert np.mean(losts > 0.01) < 0.15
    assert np.sqrt(np.mean((qualities - ious) ** 2)) < 0.07
