"""The segmenter's network: what it looks at, and that folding its normalisations changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featurizers.segmenter.network import MAP_SIDE, SIDE, SegmenterNet, normalised, reduced

SIZES = [(1, 1), (3, 500), (192, 192), (193, 191), (2000, 3000), (3000, 2000)]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 200


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_folding_the_normalisations_changes_no_map(images: torch.Tensor, memory_format: torch.memory_format) -> None:
    torch.manual_seed(1)
    network = SegmenterNet().to(memory_format=memory_format)
    before = network.folded()(images)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as training leaves them
                torch.nn.init.uniform_(module.weight, 0.5, 2)
                torch.nn.init.normal_(module.bias)
        for _ in range(3):
            network.train()(normalised(images))
        plain, folded = network.eval()(images), network.folded()(images)
    assert plain.shape == (3, 2, MAP_SIDE, MAP_SIDE)
    torch.testing.assert_close(folded, plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(folded, before, atol=0.1)


def test_a_folded_network_holds_no_normalisation_and_leaves_the_original_alone(images: torch.Tensor) -> None:
    network = SegmenterNet().eval()
    before = network(images)
    folded = network.folded()
    assert not any("norm" in name for name in folded.state_dict())
    with torch.no_grad():
        folded.stem.conv.weight.zero_()
    torch.testing.assert_close(network(images), before)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_reduced_to_the_side_that_the_network_sees(size: tuple[int, int]) -> None:
    constant = reduced(np.full(size, 77, dtype=np.uint8))
    assert constant.shape == (SIDE, SIDE)
    assert constant.dtype == np.uint8
    assert (constant == 77).all()


@pytest.mark.parametrize("size", [(200, 3000), (3000, 200)])
def test_a_long_image_stays_sharp_along_its_short_side(size: tuple[int, int]) -> None:
    pixels = np.zeros(size if size[0] < size[1] else size[::-1], dtype=np.uint8)
    pixels[pixels.shape[0] // 2 :] = 240
    small = reduced(pixels) if size[0] < size[1] else reduced(np.ascontiguousarray(pixels.T)).T
    assert ((small[:, 0] > 10) & (small[:, 0] < 230)).sum() <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_a_reduced_image_is_the_same_picture(rows: int, columns: int) -> None:
    pixels = np.zeros((rows, columns), dtype=np.uint8)
    pixels[: (rows + 1) // 2, : (columns + 1) // 2] = 240
    small = reduced(pixels)
    covered = ((rows + 1) // 2 / rows) * ((columns + 1) // 2 / columns)
    assert small.shape == (SIDE, SIDE)
    assert small[0, 0] > 200
    assert small.mean() / 240 == pytest.approx(covered, abs=0.02)
    assert np.abs(small.astype(int).T - reduced(pixels.T)).max() <= 1


def test_normalised_greys_do_not_depend_on_scale_or_offset(images: torch.Tensor) -> None:
    plain = normalised(images)
    for scale, offset in ((1 / 255, 0.0), (0.1, 40.0), (257.0, -3000.0)):
        torch.testing.assert_close(normalised(images * scale + offset), plain, rtol=0, atol=2e-3)


def test_normalised_percentiles_lie_at_one_and_each_image_counts_for_itself(images: torch.Tensor) -> None:
    plain = normalised(images)
    low, high = (torch.quantile(plain.flatten(1), part, dim=1) for part in (0.01, 0.99))
    torch.testing.assert_close(low, torch.full((3,), -1.0), atol=0.05, rtol=0)
    torch.testing.assert_close(high, torch.full((3,), 1.0), atol=0.05, rtol=0)
    assert plain.abs().max() <= 1.2 + 1e-6
    other = torch.cat([images[:1], images[1:] * 0.01])
    torch.testing.assert_close(normalised(other)[0], plain[0])


def test_a_constant_image_stays_a_number() -> None:
    assert torch.isfinite(normalised(torch.full((1, 1, SIDE, SIDE), 12.0))).all()
