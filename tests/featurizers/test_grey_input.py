"""Grey input: one channel's work, and the very output of three replicated and normalised ones, gradients included."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from featurizers.backbones import BACKBONES, Backbone, BackboneSpec, build_untrained, get_backbone, takes_grey
from featurizers.grey_input import GreyConv2d

SIZES = {"alexnet": 64}
NAMES = [f"{base}:size={SIZES.get(base, 32)}" for base in BACKBONES]
TINY = "resnet18:size=32"


def grey_images(spec: BackboneSpec, seed: int = 1) -> Tensor:
    return torch.rand(2, 1, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(seed))


def as_channels(grey: Tensor, spec: BackboneSpec) -> Tensor:
    """What the network was made for, written down once more."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return (grey.repeat(1, spec.channels, 1, 1) - mean) / std


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_every_backbone_gives_what_it_gives_for_three_channels(name: str) -> None:
    spec = get_backbone(name)
    network = build_untrained(spec, seed=1).eval()
    names, grey = list(network.state_dict()), grey_images(spec)
    with torch.no_grad():
        features, last = network(as_channels(grey, spec)), network.feature_map(as_channels(grey, spec))
        wrapped = takes_grey(network, spec)
        assert_same(wrapped(grey), features)
        # Map by map, for the border is where padding and normalisation meet.
        assert_same(wrapped.feature_map(grey), last)
    assert list(network.state_dict()) == names
    assert wrapped.get_submodule("backbone") is network


def test_the_border_is_exact_where_means_differ_most() -> None:
    convolution = nn.Conv2d(3, 4, 7, stride=2, padding=3)
    mean, std = (0.1, 0.5, 0.9), (0.1, 0.3, 1.0)
    grey = torch.rand(2, 1, 16, 16)
    colours = (grey - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    centred = (grey - sum(mean) / 3) / (sum(std) / 3)
    folded = GreyConv2d(convolution, mean, std)
    assert_same(folded(centred), convolution(colours))
    assert_same(folded.frozen(16)(centred), convolution(colours))
    assert torch.equal(folded(colours), convolution(colours))


def test_training_moves_the_parameters_as_three_channels_would() -> None:
    spec = get_backbone(TINY)
    colour = build_untrained(spec, seed=1)
    wrapped = takes_grey(copy.deepcopy(colour), spec)
    grey = grey_images(spec)
    for network, images in ((colour, as_channels(grey, spec)), (wrapped, grey)):
        # BatchNorm of two tiny images amplifies rounding: evaluation mode keeps the comparison to the folding.
        network.eval()(images).square().mean().backward()
    gradients = dict(wrapped.get_submodule("backbone").named_parameters())
    for name, parameter in colour.named_parameters():
        found = gradients[name].grad
        assert found is not None
        assert parameter.grad is not None
        assert_same(found, parameter.grad, 1e-4)
    torch.optim.SGD(wrapped.parameters(), 0.1).step()
    with torch.no_grad():
        assert_same(wrapped(grey), wrapped.get_submodule("backbone")(as_channels(grey, spec)))


def test_bytes_are_taken_as_their_fractions_of_255() -> None:
    spec = get_backbone(TINY)
    wrapped = takes_grey(build_untrained(spec), spec).eval()
    pixels = (grey_images(spec) * 255).to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(wrapped(pixels), wrapped(pixels / 255))


def test_weights_go_in_and_out_of_the_wrapped_network() -> None:
    spec = get_backbone(TINY)
    first, second = (takes_grey(build_untrained(spec, seed), spec).eval() for seed in (1, 2))
    second.get_submodule("backbone").load_state_dict(build_untrained(spec, 1).state_dict())
    with torch.no_grad():
        assert torch.equal(first(grey_images(spec)), second(grey_images(spec)))


def test_wrapping_twice_is_wrapping_once() -> None:
    spec = get_backbone(TINY)
    network = build_untrained(spec).eval()
    with torch.no_grad():
        once = takes_grey(network, spec)(grey_images(spec))
        assert torch.equal(takes_grey(network, spec)(grey_images(spec)), once)


@pytest.mark.parametrize("base", ["simple_cnn", "resnet18"])
def test_exposure_and_contrast_are_gone_where_each_image_is_normalised(base: str) -> None:
    spec = get_backbone(f"{base}:size=32,norm=image")
    wrapped = takes_grey(build_untrained(spec), spec).eval()
    grey = grey_images(spec)
    with torch.no_grad():
        assert_same(wrapped(0.3 + 0.4 * grey), wrapped(grey), 1e-4)
        centred = (grey - grey.mean((1, 2, 3), keepdim=True)) / grey.std((1, 2, 3), correction=0, keepdim=True)
        assert_same(wrapped(grey), build_untrained(spec).eval()(centred.repeat(1, spec.channels, 1, 1)), 1e-4)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_an_image_without_contrast_is_nought_and_no_error(level: int) -> None:
    spec = get_backbone("simple_cnn:size=28,norm=image")
    wrapped = takes_grey(build_untrained(spec), spec).eval()
    flat = torch.full((1, 1, 28, 28), level, dtype=torch.uint8)
    with torch.no_grad():
        found = wrapped(flat)
        assert torch.isfinite(found).all()
        assert_same(found + 1, build_untrained(spec).eval()(torch.zeros(1, 1, 28, 28)) + 1)


def test_a_network_whose_input_is_read_otherwise_computes_all_channels() -> None:
    class Unfoldable(Backbone):
        def first_convolution(self) -> str | None:
            return None

    spec = get_backbone("simple_cnn:size=28,filters=4")
    colour = BackboneSpec(**{**vars(spec), "channels": 3, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)})
    network = Unfoldable([("conv", nn.Conv2d(3, 4, 3, padding=1))], spec.pool)
    with torch.no_grad():
        expected = network(as_channels(grey_images(colour), colour))
        assert_same(takes_grey(network, colour)(grey_images(colour)), expected)
