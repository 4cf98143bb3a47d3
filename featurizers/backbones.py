"""The registry of backbones: from a name, which is a whole architecture, to its spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType

import torchvision

from featurizers import simple_cnn, timm_backbones, torchvision_backbones
from featurizers.backbone_names import (
    TIMM,
    BackboneName,
    Option,
    canonical_name,
    choice,
    guess,
    parse_name,
    settle_options,
    whole_number,
)
from featurizers.backbone_spec import Backbone, BackboneSpec, Norm, build_untrained
from featurizers.errors import WeightsError
from featurizers.grey_input import takes_grey
from featurizers.pooling import PoolKind, transition_parameters
from featurizers.weights import Weights, load_weights, save_weights, stated_backbone

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "Norm",
    "Weights",
    "build_untrained",
    "get_backbone",
    "load_weights",
    "save_weights",
    "stated_backbone",
    "takes_grey",
]

#: No radiograph shows anything on fewer pixels, and none has more.
_SIZES = (16, 4096)
_MOST_CHANNELS = 8192


def _common_options(size: int, least_size: int = 0) -> dict[str, Option]:
    """The options of all backbones."""
    return {
        "size": whole_number(size, max(_SIZES[0], least_size), _SIZES[1], "side of the input in pixels"),
        "norm": choice(Norm.FIXED, list(Norm), "how grey values are normalised"),
        "pool": choice(PoolKind.AVG, [PoolKind.AVG, PoolKind.MAX, PoolKind.LSE], "global pooling"),
        "transition": whole_number(0, 0, _MOST_CHANNELS, "channels of a transition layer (0: none)"),
    }


@lru_cache(maxsize=256)
def get_backbone(name: str) -> BackboneSpec:
    """The spec with this name: `BASE[:key=value,…]`.

    All have `size` (side of the input, pixels), `norm` (fixed, image), `transition` (channels of a transition layer
    before the pooling; 0: none) and `pool` (avg, max, lse); `simple_cnn` has `filters`, `dropout` and `dense` as well.
    `timm:NAME` is a model of timm.

    Raises:
        WeightsError: listing the names or the options there are, or what a value may be.
    """
    taken_apart = parse_name(name)
    if taken_apart.base.startswith(TIMM):
        return timm_backbones.timm_spec(taken_apart, _common_options(torchvision_backbones.INPUT_SIZE))
    if taken_apart.base == simple_cnn.BASE:
        return _simple_cnn(taken_apart)
    if taken_apart.base in torchvision_backbones.NETWORKS:
        return _torchvision(taken_apart)
    raise WeightsError(
        f"there is no backbone '{taken_apart.base}'.{guess(taken_apart.base, _BASES)} "
        f"Known: {', '.join(_BASES)}, and {TIMM}NAME for timm's."
    )


def _torchvision(name: BackboneName) -> BackboneSpec:
    network = torchvision_backbones.NETWORKS[name.base]
    options = _common_options(torchvision_backbones.INPUT_SIZE, network.least_size)
    return _spec(
        name.base,
        settle_options(name, options),
        options,
        build=partial(torchvision_backbones.build, network.name),
        feature_dim=network.feature_dim,
        feature_layer=network.feature_layer,
        mean=network.mean,
        std=network.std,
        parameters=network.parameters,
        stages=network.stages,
        classifier_prefixes=network.classifier_prefixes,
        imagenet=network.imagenet,
        licence=torchvision_backbones.LICENCE,
    )


def _simple_cnn(name: BackboneName) -> BackboneSpec:
    options = {**_common_options(simple_cnn.INPUT_SIZE), **simple_cnn.OPTIONS}
    values = settle_options(name, options)
    filters, dropout, dense = simple_cnn.read_options(str(name), values)
    stages = [f"block{number}" for number in range(1, len(filters) + 1)] + (["dense"] if dense else [])
    return _spec(
        name.base,
        values,
        options,
        build=partial(simple_cnn.build, filters, dropout, dense),
        feature_dim=dense or filters[-1],
        feature_layer=stages[-1],
        mean=simple_cnn.MEAN,
        std=simple_cnn.STD,
        parameters=simple_cnn.count_parameters(filters, dense),
        stages=tuple(stages),
        classifier_prefixes=(),
        imagenet=None,
        licence=simple_cnn.LICENCE,
    )


def _spec(
    base: str,
    values: Mapping[str, str],
    options: Mapping[str, Option],
    *,
    build: Callable[..., Backbone],
    feature_dim: int,
    feature_layer: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    parameters: int,
    stages: tuple[str, ...],
    classifier_prefixes: tuple[str, ...],
    imagenet: torchvision.models.WeightsEnum | None,
    licence: str,
) -> BackboneSpec:
    """The spec of a base as the options that all share turn it; `build` takes the pooling and the transition."""
    width = int(values["transition"])
    pool, norm = PoolKind(values["pool"]), Norm(values["norm"])
    transition = (feature_dim, width) if width else None
    return BackboneSpec(
        name=canonical_name(base, values, options),
        build=partial(build, pool=pool, transition=transition),
        feature_dim=width or feature_dim,
        feature_layer="transition" if width else feature_layer,
        input_size=int(values["size"]),
        channels=len(mean),
        norm=norm,
        mean=mean if norm is Norm.FIXED else (0.0,) * len(mean),
        std=std if norm is Norm.FIXED else (1.0,) * len(std),
        pool=pool,
        parameters=parameters + (transition_parameters(feature_dim, width) if width else 0),
        classifier_prefixes=classifier_prefixes,
        imagenet=imagenet,
        licence=licence,
        stages=(*stages, "transition") if width else stages,
    )


_BASES = (*torchvision_backbones.NETWORKS, simple_cnn.BASE)
#: Every base but timm's, with its own options.
BACKBONES: Mapping[str, BackboneSpec] = MappingProxyType({base: get_backbone(base) for base in _BASES})
