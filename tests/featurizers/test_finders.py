"""Finders by name: each opens with all that it needs, or says what it lacks."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from mask_folders import write_pairs

from featurizers.errors import FeaturizerError
from featurizers.finders import open_finder
from featurizers.lungs import LungFinder
from featurizers.phantoms import draw_phantom


def same_after_a_journey(finder: LungFinder) -> bool:
    sent = pickle.dumps(finder)
    assert len(sent) < 8 * 2**20
    pixels = draw_phantom(9, size=(160, 160)).pixels
    here, there = finder.find(pixels), pickle.loads(sent).find(pixels)
    assert here.quality > 0
    return (here.box, here.quality) == (there.box, there.quality)


def test_projection_needs_nothing() -> None:
    finder = open_finder("projection")
    assert finder.name == "projection"
    assert same_after_a_journey(finder)


def test_an_atlas_is_read_from_its_folder(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    finder = open_finder("atlas", atlas=write_pairs(tmp_path, 6))
    assert finder.name == "atlas"
    assert same_after_a_journey(finder)


def test_an_atlas_needs_its_folder() -> None:
    with pytest.raises(FeaturizerError, match="give it a folder"):
        open_finder("atlas")


def test_a_folder_without_pairs_is_no_atlas(tmp_path: Path) -> None:
    with pytest.raises(FeaturizerError, match="put radiographs into images/"):
        open_finder("atlas", atlas=tmp_path)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FeaturizerError, match=r"nowhere\.safetensors"):
        open_finder("segmenter", weights=tmp_path / "nowhere.safetensors")
