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
    """Arithmetic of the backbone."""

    BF16 = "bf16"
    FP32 = "fp32"


class Storage(StrEnum):
    """What the numbers of a stored vector are rounded to; float32 holds them either way."""

    FLOAT32 = "float32"
    #: IEEE 754's binary16: 11 significant bits, up to 65,504; the zeros behind them take next to no room in a file.
    FLOAT16 = "float16"


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
        storage: what the numbers are rounded to.
    """

    backbone: str
    weights_sha256: str
    precision: Precision
    crops: str
    preprocessing: str
    layer: str = "global_average_pool"
    format_version: int = FORMAT_VERSION
    storage: Storage = Storage.FLOAT32

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of all of the above: hexadecimal."""
        told = asdict(self)
        # Left out where it is what it always was, so that extractors from before there was a choice keep their name.
        if self.storage is Storage.FLOAT32:
            del told["storage"]
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def describe_extractor(
    backbone: str, weights: Weights, precision: Precision, crops: str, storage: Storage = Storage.FLOAT32
) -> Extractor:
    """The extractor of a backbone with these weights, for these crops."""
    spec = get_backbone(backbone)
    channels = f", grey to {spec.channels} channels" if spec.channels > 1 else ", grey"
    preprocessing = (
        f"crop to {spec.input_size}x{spec.input_size} (Pillow bilinear, antialiased; none if it has that size)"
        f"{channels}, /255, {_norm_told(spec)}"
    )
    layer = _LAYERS[spec.pool]
    return Extractor(spec.name, weights.sha256, precision, crops, preprocessing, layer, storage=storage)


def _norm_told(spec: BackboneSpec) -> str:
    if spec.norm is Norm.IMAGE:
        return f"each image to mean 0 and deviation 1 (divided by {LEAST_DEVIATION:.6f} at least)"
    return f"mean {spec.mean}, std {spec.std}"
