"""A small convolutional network to be trained from scratch: as many blocks as its name lists filters.

A block is a 3×3 convolution (padded, so that its map keeps the size), ReLU, 2×2 maximum pooling and dropout. The dense
ReLU layer behind the blocks works at each place of the map, before the global pooling (a 1×1 convolution: Lin, Chen and
Yan 2014, Network In Network, arXiv:1312.4400). So the number of parameters does not depend on the input's size, 28 × 28
and 128 × 128 pixels both work, and a class activation map is exact: the features are the average of the last map.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import nn

from featurizers.backbone_names import Option, probabilities, whole_number, whole_numbers
from featurizers.backbone_spec import Backbone
from featurizers.errors import WeightsError
from featurizers.pooling import PoolKind

BASE = "simple_cnn"
INPUT_SIZE = 128
MOST_BLOCKS = 8
LICENCE = "Apache-2.0 (Pleura)"
#: Round figures near the grey values of cropped chest radiographs.
MEAN, STD = (0.5,), (0.25,)

OPTIONS: Mapping[str, Option] = {
    "filters": whole_numbers("32-64-128", 1, 4096, MOST_BLOCKS, "filters of each block"),
    "dropout": probabilities("0.2", MOST_BLOCKS, "dropout behind each block"),
    "dense": whole_number(128, 0, 8192, "width of the dense layer (0: none)"),
}


def layers_of(filters: tuple[int, ...], dropout: tuple[float, ...], dense: int) -> list[tuple[str, nn.Module]]:
    """The named layers up to the last map, with He initialisation: (n, 1, s, s) to (n, dense or filters[-1], h, w)."""
    layers: list[tuple[str, nn.Module]] = [
        (
            f"block{number}",
            nn.Sequential(_convolution(inputs, outputs, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout(rate)),
        )
        for number, ((inputs, outputs), rate) in enumerate(zip(pairwise((1, *filters)), dropout, strict=True), 1)
    ]
    if dense:
        layers.append(("dense", nn.Sequential(_convolution(filters[-1], dense, 1), nn.ReLU(inplace=True))))
    return layers


def read_options(name: str, values: Mapping[str, str]) -> tuple[tuple[int, ...], tuple[float, ...], int]:
    """Filters and dropout of each block, and the width of the dense layer.

    Raises:
        WeightsError: if there are not as many rates as blocks, or the image is used up before the last block.
    """
    filters = tuple(int(part) for part in values["filters"].split("-"))
    rates = tuple(float(part) for part in values["dropout"].split("-"))
    if len(rates) == 1:
        rates *= len(filters)
    if len(rates) != len(filters):
        raise WeightsError(
            f"backbone '{name}': {len(filters)} blocks and {len(rates)} rates of dropout. Give one rate, or one each."
        )
    if int(values["size"]) < 2 ** len(filters):
        raise WeightsError(
            f"backbone '{name}': each of {len(filters)} blocks halves the image, and {values['size']} pixels are too "
            f"few. Use size={2 ** len(filters)} or more, or fewer filters."
        )
    return filters, rates, int(values["dense"])


def count_parameters(filters: tuple[int, ...], dense: int) -> int:
    """How many parameters the layers have."""
    blocks = sum((9 * inputs + 1) * outputs for inputs, outputs in pairwise((1, *filters)))
    return blocks + (filters[-1] + 1) * dense


def build(
    filters: tuple[int, ...],
    dropout: tuple[float, ...],
    dense: int,
    pool: PoolKind,
    transition: tuple[int, int] | None,
) -> Backbone:
    """The network, its parameters drawn from torch's generator."""
    return Backbone(layers_of(filters, dropout, dense), pool, transition)


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
