"""What a backbone is: the network, and the frozen spec that ties it to its preprocessing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
import torchvision
from torch import Tensor, nn

from featurizers.pooling import GlobalPool, PoolKind, transition_layer


class Norm(StrEnum):
    """How grey values become the network's input."""

    #: The spec's mean and standard deviation for all images.
    FIXED = "fixed"
    #: Each image to mean 0 and deviation 1: what another exposure or another device shifts and stretches is gone.
    IMAGE = "image"


class Backbone(nn.Sequential):
    """A network without its classifier: the layers up to the last feature map, in order, and a global pooling.

    The layers keep the names that they have in the network they come from, and so do all parameters.

    Args:
        layers: name and module, from the input to the last map.
        pool: from the map to the vector.
        transition: channels in and out of a transition layer before the pooling; None for none.
    """

    def __init__(
        self, layers: Iterable[tuple[str, nn.Module]], pool: PoolKind, transition: tuple[int, int] | None = None
    ) -> None:
        last: list[tuple[str, nn.Module]] = [("pool", GlobalPool(pool))]
        if transition is not None:
            last.insert(0, ("transition", transition_layer(*transition)))
        super().__init__(OrderedDict([*layers, *last]))

    def feature_map(self, x: Tensor) -> Tensor:
        """Normalised images (n, channels, s, s) to the last map (n, c, h, w), the one that CAM weighs."""
        *layers, _ = self
        for layer in layers:
            x = layer(x)
        return x

    def first_convolution(self) -> str | None:
        """Dotted name of the one convolution that reads the input and does nothing else; None if there is none."""
        # Layers are called in the order in which they stand here, so that the first is the one.
        names: list[str] = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        return names[0]


@dataclass(frozen=True)
class BackboneSpec:
    """What ties a backbone to its preprocessing.

    Attributes:
        name: canonical: options sorted, those that are the base's own left out.
        build: makes the network, its parameters drawn from torch's generator: (n, channels, s, s) normalised floats
            to (n, feature_dim).
        feature_dim: length of the vector.
        feature_layer: dotted name of the module whose output is the last feature map.
        input_size: side of the square input, pixels.
        channels: of the input; grey values are repeated where there are three.
        norm: how grey values become the input.
        mean, std: of the channels on the 0..1 scale, as the network was trained; 0 and 1 where each image is
            normalised by itself.
        pool: how the map becomes a vector.
        parameters: how many there are, the classifier's excluded.
        classifier_prefixes: the parameters that a checkpoint may hold and features do not need.
        imagenet: torchvision's weights.
        licence: of the builder and of the weights that come with it.
        stages: dotted names of modules in order from the input. To train from a stage on is to train it and all
            that stands behind it in the order of `named_modules`.
        own_prefix: what our parameters' names start with and the library's do not.
        own_weights: fetches the state dict of the library's own trained weights, if it is not torchvision.
    """

    name: str
    build: Callable[[], Backbone]
    feature_dim: int
    feature_layer: str
    input_size: int
    channels: int
    norm: Norm
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pool: PoolKind
    parameters: int
    classifier_prefixes: tuple[str, ...]
    imagenet: torchvision.models.WeightsEnum | None
    licence: str
    stages: tuple[str, ...]
    own_prefix: str = ""
    own_weights: Callable[[], Mapping[str, Tensor]] | None = None


def build_untrained(spec: BackboneSpec, seed: int = 0) -> Backbone:
    """The network with the initialisation of its builder, drawn from `seed`; the caller's random numbers stay."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()
