"""The small network: one block per filter, any size of input, and an exact map."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featurizers.backbones import build_untrained, get_backbone


@pytest.mark.parametrize("size", [28, 128, 50])
def test_one_set_of_weights_fits_inputs_of_any_size(size: int) -> None:
    spec = get_backbone(f"simple_cnn:size={size}")
    network = build_untrained(spec, seed=3).eval()
    reference = build_untrained(get_backbone("simple_cnn"), seed=3)
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        last = network.feature_map(torch.rand(2, 1, size, size))
    assert last.shape == (2, 128, size // 8, size // 8)


def test_blocks_are_as_the_name_says() -> None:
    network = build_untrained(get_backbone("simple_cnn:filters=8-16,dropout=0.1-0,dense=0"))
    kinds = [[type(layer) for layer in block] for name, block in network.named_children() if name.startswith("block")]
    assert kinds == [[nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Dropout]] * 2
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels, layer.kernel_size) for layer in convolutions] == [
        (1, 8, (3, 3)),
        (8, 16, (3, 3)),
    ]
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.1, 0.0]


def test_without_a_dense_layer_the_last_filters_are_the_features() -> None:
    assert get_backbone("simple_cnn:dense=0,filters=8-24").feature_dim == 24
    assert get_backbone("simple_cnn:dense=10,filters=8-24").feature_dim == 10
