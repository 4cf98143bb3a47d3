"""An extractor: a backbone, its weights and its preprocessing, tied together by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from featurizers.backbones import BackboneSpec, Norm, Weights, get_backbone
from featurizers.grey_input import LEAST_DEVIATION
from featurizers.pooling import PoolKind

#: Changes whenever the code would give other features for the same settings. Grey input in one channel did not change
#: it: in float32 the features are the same within 1e-5, and in bf16 they are rounded elsewhere, as between
#: compiled and eager or two devices, and stay as near to float32's as they were.
FORMAT_VERSION = 1
#: What the features are, by pooling.
_LAYERS = {
    PoolKind.AVG: "global_average_pool",
    PoolKind.MAX: "global_max_pool",
    PoolKind.LSE: "global_log_sum_exp_pool",
    PoolKind.OWN: "own_pool",
}
#: Crops that nobody has told how they were made.
UNKNOWN_CROPS = "unknown"


class Precision(StrEnum):
    """Arithmetic of the backbone; features are stored as float32 either way."""

    BF16 = "bf16"
    FP32 = "fp32"


@dataclass(frozen=True)
class Extractor:
    """Everything that decides what vector an image gets.

    Attributes:
        backbone: canonical name of the backbone.
        weights_sha256: hash of its parameters.
        precision: arithmetic of the backbone.
        crops: how the crops were made that it is meant for.
        preprocessing: what happens to the crop before the backbone, in words and constants.
        layer: which activations are the features.
        format_version: of this code.
    """

    backbone: str
    weights_sha256: str
    precision: Precision
    crops: str
    preprocessing: str
    layer: str = "global_average_pool"
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of all of the above: hexadecimal."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def describe_extractor(backbone: str, weights: Weights, precision: Precision, crops: str) -> Extractor:
    """The extractor of a backbone with these weights, for these crops."""
    spec = get_backbone(backbone)
    channels = f", grey to {spec.channels} channels" if spec.channels > 1 else ", grey"
    preprocessing = (
        f"crop to {spec.input_size}x{spec.input_size} (Pillow bilinear, antialiased; none if it has that size)"
        f"{channels}, /255, {_norm_told(spec)}"
    )
    return Extractor(spec.name, weights.sha256, precision, crops, preprocessing, layer=_LAYERS[spec.pool])


def _norm_told(spec: BackboneSpec) -> str:
    if spec.norm is Norm.IMAGE:
        return f"each image to mean 0 and deviation 1 (divided by {LEAST_DEVIATION:.6f} at least)"
    return f"mean {spec.mean}, std {spec.std}"
