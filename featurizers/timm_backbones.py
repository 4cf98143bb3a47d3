"""Models of timm (PyTorch Image Models, Wightman 2019, doi:10.5281/zenodo.4414861) as backbones, where it is installed.

A model keeps its own features and its own pooling, the class token of a transformer included, unless the name asks for
another pooling or a transition layer: then its last map is pooled, tokens being put back to their places.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from featurizers.backbone_names import TIMM, BackboneName, Option, canonical_name, choice, guess, settle_options
from featurizers.backbone_spec import Backbone, BackboneSpec, Norm
from featurizers.errors import WeightsError
from featurizers.grey_input import GreyConv2d
from featurizers.pooling import PoolKind, transition_parameters

#: What timm calls a sequence of a network's stages; a stage is one of its children.
_STAGE_LISTS = ("blocks", "stages", "layers", "features")
#: The name of timm's network inside ours.
_NETWORK = "network"
#: How far apart two ways to the same features may be, of the largest feature.
_SAME = 1e-4


class TimmBackbone(Backbone):
    """A model of timm without its classifier.

    Args:
        network: timm's, made with num_classes=0.
        pool: own, or how its last map is pooled.
        transition: as in Backbone.
        size: side of its input, pixels.
    """

    def __init__(self, network: nn.Module, pool: PoolKind, transition: tuple[int, int] | None, size: int) -> None:
        super().__init__([(_NETWORK, network)], pool, transition)
        self._own = pool is PoolKind.OWN
        self._size = size

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, s, s) to (n, feature_dim)."""
        network, *_, pool = self
        pooled: Tensor = network(x) if self._own else pool(self.feature_map(x))
        return pooled

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, 3, s, s) to (n, c, h, w).

        Raises:
            WeightsError: if the model has no single last map.
        """
        network, *transition, _ = self
        features = _as_map(network, network.forward_features(x))  # type: ignore[operator]
        for layer in transition:
            features = layer(features)
        return features

    def first_convolution(self) -> str | None:
        """As in Backbone; found by trying, for a model may do anything with its input."""
        readers: list[str] = []
        colour = torch.zeros(1, 3, self._size, self._size)

        def watch(name: str, module: nn.Module, inputs: tuple[object, ...]) -> None:
            if inputs and inputs[0] is colour and not list(module.children()):
                readers.append(name)

        watching = [module.register_forward_pre_hook(partial(watch, name)) for name, module in self.named_modules()]
        try:
            _quietly(self, colour)
        finally:
            for handle in watching:
                handle.remove()
        return readers[0] if len(readers) == 1 and self._may_fold(readers[0]) else None

    def _may_fold(self, name: str) -> bool:
        """Whether a grey convolution in place of the one called `name` gives the same features."""
        convolution = self.get_submodule(name)
        # Subclasses may pad or standardise in ways of their own.
        plain = type(convolution) in (nn.Conv2d, GreyConv2d)
        if not isinstance(convolution, nn.Conv2d) or not plain or convolution.groups > 1:
            return False
        if convolution.in_channels != 3 or convolution.padding_mode != "zeros":
            return False
        grey = torch.rand(1, 1, self._size, self._size, generator=torch.Generator().manual_seed(0))
        expected = _quietly(self, grey.expand(-1, 3, -1, -1))
        self.set_submodule(name, GreyConv2d(convolution, (0.0,) * 3, (1.0,) * 3))
        try:
            found = _quietly(self, grey)
        except RuntimeError:  # something else in the model wants three channels
            return False
        finally:
            self.set_submodule(name, convolution)
        return bool((found - expected).abs().max() <= _SAME * expected.abs().max())


def timm_spec(name: BackboneName, common: Mapping[str, Option]) -> BackboneSpec:
    """The spec of `timm:NAME`.

    Args:
        name: taken apart.
        common: the options of all backbones, but for their defaults.

    Raises:
        WeightsError: if timm is not installed, has no such model, or an option is wrong.
    """
    timm = _timm()
    model = name.base.removeprefix(TIMM)
    try:
        config = timm.get_pretrained_cfg(model)
    except RuntimeError:
        config = None
    if config is None or not timm.is_model(model):
        raise WeightsError(
            f"timm {timm.__version__} has no model '{model}'.{guess(model, timm.list_models())} "
            "timm.list_models() lists what there is."
        )
    channels, *sides = config.input_size
    options = {
        **common,
        "size": Option(str(max(sides)), common["size"].canonical, common["size"].told),
        "pool": choice(PoolKind.OWN, [kind.value for kind in PoolKind], "global pooling"),
    }
    values = settle_options(name, options)
    size, width = int(values["size"]), int(values["transition"])
    pool = PoolKind(values["pool"])
    if width and pool is PoolKind.OWN:
        pool = PoolKind.AVG
    bare = _build(model, size, PoolKind.OWN, None)
    network = bare.get_submodule(_NETWORK)
    dim = _dimension(bare, size, channels, pool, str(name))
    transition = (dim, width) if width else None
    norm = Norm(values["norm"])
    classifier = (config.classifier,) if isinstance(config.classifier, str) else config.classifier or ()
    parameters = sum(value.numel() for value in network.parameters())
    return BackboneSpec(
        name=canonical_name(name.base, values, options),
        build=partial(_build, model, size, pool, transition),
        feature_dim=width or dim,
        feature_layer="transition" if width else _NETWORK,
        input_size=size,
        channels=channels,
        norm=norm,
        mean=tuple(config.mean) if norm is Norm.FIXED else (0.0,) * channels,
        std=tuple(config.std) if norm is Norm.FIXED else (1.0,) * channels,
        pool=pool,
        parameters=parameters + (transition_parameters(dim, width) if width else 0),
        classifier_prefixes=tuple(f"{place}." for place in classifier),
        imagenet=None,
        licence=f"Apache-2.0 (timm); weights: {config.license or 'not stated'}",
        stages=(*_stages(network), *(["transition"] if width else [])),
        own_prefix=f"{_NETWORK}.",
        own_weights=partial(_own_weights, model, size),
    )


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise WeightsError(
            "backbones timm:NAME need timm, and it is not installed. pip install 'pleura[timm]'"
        ) from error


def _create(model: str, size: int, *, pretrained: bool) -> nn.Module:
    timm = _timm()
    config = timm.get_pretrained_cfg(model)
    # Models with positions of their own must be told the size; the others take any.
    own: dict[str, Any] = {"img_size": size} if config.fixed_input_size and size != max(config.input_size[1:]) else {}
    network: nn.Module = timm.create_model(model, pretrained=pretrained, num_classes=0, **own)
    return network


def _build(model: str, size: int, pool: PoolKind, transition: tuple[int, int] | None) -> TimmBackbone:
    return TimmBackbone(_create(model, size, pretrained=False), pool, transition, size)


def _own_weights(model: str, size: int) -> Mapping[str, Tensor]:
    return _create(model, size, pretrained=True).state_dict()


def _dimension(backbone: TimmBackbone, size: int, channels: int, pool: PoolKind, name: str) -> int:
    """Length of the vector before any transition layer."""
    image = torch.zeros(1, channels, size, size)
    try:
        features = _quietly(backbone, image) if pool is PoolKind.OWN else backbone.eval().feature_map(image)
    except WeightsError:
        raise
    except Exception as error:  # a model may break in any way on a size that it is not made for
        raise WeightsError(
            f"backbone '{name}' can't take {size} × {size} pixels ({type(error).__name__}). Leave size away, or use "
            "one that its stages divide."
        ) from error
    return features.shape[1]


def _quietly(backbone: Backbone, images: Tensor) -> Tensor:
    """Features, without a trace in gradients or statistics."""
    training = backbone.training
    with torch.no_grad():
        features: Tensor = backbone.eval()(images)
    backbone.train(training)
    return features


def _as_map(network: nn.Module, features: object) -> Tensor:
    """What forward_features gave, as (n, c, h, w)."""
    if isinstance(features, Tensor) and features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else features
    if isinstance(features, Tensor) and features.ndim == 3:
        tokens = features[:, getattr(network, "num_prefix_tokens", 0) :].transpose(1, 2)
        side = math.isqrt(tokens.shape[2])
        if side**2 == tokens.shape[2]:
            return tokens.reshape(*tokens.shape[:2], side, side)
    raise WeightsError("this model of timm has no single last map. Leave pool and transition away.")


def _stages(network: nn.Module) -> tuple[str, ...]:
    found: list[str] = []
    for name, child in network.named_children():
        parts = child.named_children() if name in _STAGE_LISTS else iter([("", child)])
        found.extend(
            ".".join(part for part in (_NETWORK, name, inner) if part)
            for inner, module in parts
            if any(True for _ in module.parameters())
        )
    return tuple(found)
