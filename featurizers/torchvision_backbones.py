"""Torchvision's networks as backbones: their layers up to the last feature map, which are a plain sequence in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torchvision
from torch import nn
from torchvision import models

from featurizers.backbone_spec import Backbone
from featurizers.pooling import PoolKind

INPUT_SIZE = 224
LICENCE = "BSD-3-Clause (torchvision)"
#: Channel statistics of ImageNet, as torchvision's weights were trained with.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: What stands behind the last map, or beside the way to it.
_TOPS = ("avgpool", "dropout", "fc", "classifier", "aux1", "aux2")


@dataclass(frozen=True)
class TorchvisionNetwork:
    """One of torchvision's networks.

    Attributes:
        name: torchvision's own.
        feature_dim: channels of the last map.
        feature_layer, stages, classifier_prefixes, parameters, mean, std: as in BackboneSpec.
        imagenet: torchvision's weights. Of two recipes the first, plain cross-entropy training: the label smoothing
            and mixing of the second gain accuracy on ImageNet and lose transfer of fixed features (Kornblith et al.,
            NeurIPS 2021).
    """

    name: str
    feature_dim: int
    parameters: int
    feature_layer: str
    stages: tuple[str, ...]
    imagenet: torchvision.models.WeightsEnum
    classifier_prefixes: tuple[str, ...] = ("classifier.",)
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD

    @property
    def least_size(self) -> int:
        """Side of the smallest input that leaves a map, pixels."""
        height, width = self.imagenet.meta["min_size"]
        return max(int(height), int(width))


def build(name: str, pool: PoolKind, transition: tuple[int, int] | None) -> Backbone:
    """The network of this name, its parameters drawn from torch's generator."""
    # GoogLeNet asks to be told that it shall draw its own initialisation; its auxiliary heads are of no use here.
    own = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    network = models.get_model(name, weights=None, **own)
    layers = [(child, module) for child, module in network.named_children() if child not in _TOPS]
    if name == "densenet121":
        # DenseNet's last ReLU stands in its forward(), not among its modules.
        layers.append(("relu", nn.ReLU(inplace=True)))
    return Backbone(layers, pool, transition)


def _resnet(name: str, feature_dim: int, parameters: int, imagenet: models.WeightsEnum) -> TorchvisionNetwork:
    stages = ("conv1", "layer1", "layer2", "layer3", "layer4")
    return TorchvisionNetwork(name, feature_dim, parameters, "layer4", stages, imagenet, ("fc.",))


def _features(*places: object) -> tuple[str, ...]:
    return tuple(f"features.{place}" for place in places)


_DENSE_STAGES = [part for number in (1, 2, 3) for part in (f"denseblock{number}", f"transition{number}")]

#: By name; the parameters of torchvision's classifiers are not counted.
NETWORKS: Mapping[str, TorchvisionNetwork] = {
    network.name: network
    for network in (
        _resnet("resnet50", 2048, 23_508_032, models.ResNet50_Weights.IMAGENET1K_V1),
        _resnet("resnet18", 512, 11_176_512, models.ResNet18_Weights.IMAGENET1K_V1),
        _resnet("resnet101", 2048, 42_500_160, models.ResNet101_Weights.IMAGENET1K_V1),
        _resnet("resnet152", 2048, 58_143_808, models.ResNet152_Weights.IMAGENET1K_V1),
        TorchvisionNetwork(
            name="densenet121",
            feature_dim=1024,
            parameters=6_953_856,
            feature_layer="relu",
            stages=_features("conv0", *_DENSE_STAGES, "denseblock4"),
            imagenet=models.DenseNet121_Weights.IMAGENET1K_V1,
        ),
        TorchvisionNetwork(
            name="vgg16",
            feature_dim=512,
            parameters=14_714_688,
            feature_layer="features",
            # The first convolution of each of its five blocks.
            stages=_features(0, 5, 10, 17, 24),
            imagenet=models.VGG16_Weights.IMAGENET1K_V1,
        ),
        TorchvisionNetwork(
            name="alexnet",
            feature_dim=256,
            parameters=2_469_696,
            feature_layer="features",
            stages=_features(0, 3, 6, 8, 10),
            imagenet=models.AlexNet_Weights.IMAGENET1K_V1,
        ),
        TorchvisionNetwork(
            name="googlenet",
            feature_dim=1024,
            parameters=5_599_904,
            feature_layer="inception5b",
            stages=(
                *("conv1", "conv2", "conv3"),
                *(f"inception{part}" for part in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")),
            ),
            imagenet=models.GoogLeNet_Weights.IMAGENET1K_V1,
            classifier_prefixes=("fc.", "aux1.", "aux2."),
            # Its weights were trained on -1..1: torchvision turns ImageNet's statistics into these inside the network
            # (transform_input) where it loads them.
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        TorchvisionNetwork(
            name="mobilenet_v2",
            feature_dim=1280,
            parameters=2_223_872,
            feature_layer="features",
            stages=_features(*range(19)),
            imagenet=models.MobileNet_V2_Weights.IMAGENET1K_V1,
        ),
        TorchvisionNetwork(
            name="mobilenet_v3_small",
            feature_dim=576,
            parameters=927_008,
            feature_layer="features",
            stages=_features(*range(13)),
            imagenet=models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
        ),
        TorchvisionNetwork(
            name="mobilenet_v3_large",
            feature_dim=960,
            parameters=2_971_952,
            feature_layer="features",
            stages=_features(*range(17)),
            imagenet=models.MobileNet_V3_Large_Weights.IMAGENET1K_V1,
        ),
    )
}
