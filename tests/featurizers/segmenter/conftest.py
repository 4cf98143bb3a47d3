"""Drawn radiographs as the segmenter trains on them, a network that has seen them, and a finder of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from featurizers.phantoms import draw_phantom
from featurizers.segmenter.calibration import try_views
from featurizers.segmenter.finder import SegmenterFinder, packed
from featurizers.segmenter.network import SegmenterNet
from featurizers.segmenter.quality import Quality
from featurizers.segmenter.training import Example, Recipe, Trainer, example

RECIPE = Recipe(steps=24, batch=4)


@pytest.fixture(autouse=True, scope="session")
def few_threads() -> None:
    torch.set_num_threads(1)


def draw_example(seed: int) -> Example:
    phantom = draw_phantom(seed, size=(128, 144))
    drawn = example(phantom.pixels, phantom.lung_mask, np.ones_like(phantom.lung_mask))
    assert drawn is not None
    return drawn


@pytest.fixture(scope="session")
def examples() -> Sequence[Example]:
    return [draw_example(seed) for seed in range(6)]


@pytest.fixture(scope="session")
def trained(examples: Sequence[Example]) -> tuple[SegmenterNet, list[float]]:
    """A network that roughly finds lungs, and its losses."""
    trainer = Trainer(examples, [], RECIPE)
    losses = list(trainer.run())
    return trainer.shadow, losses


@pytest.fixture(scope="session")
def network(trained: tuple[SegmenterNet, list[float]]) -> SegmenterNet:
    return trained[0]


@pytest.fixture(scope="session")
def quality(network: SegmenterNet, examples: Sequence[Example]) -> Quality:
    trials = try_views(network, examples[:2], seed=0)
    return Quality.fit(trials.traits, trials.overlaps, seed=0)


@pytest.fixture(scope="session")
def weights(network: SegmenterNet, quality: Quality, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the training job leaves it."""
    file = tmp_path_factory.mktemp("weights") / "lungs.safetensors"
    file.write_bytes(packed(network, quality, "of tests"))
    return file


@pytest.fixture(scope="session")
def finder(weights: Path) -> SegmenterFinder:
    return SegmenterFinder.of_file(weights)
