"""The convolutional networks that features come from, and where their weights come from."""

from __future__ import annotations

import hashlib
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from featurizers.errors import WeightsError

#: Buffers that no feature depends on: they are counted in training only.
_IGNORED_SUFFIX = "num_batches_tracked"
#: How many names an error lists before it stops.
_NAMES_TOLD = 8


@dataclass(frozen=True)
class BackboneSpec:
    """What ties a backbone to its preprocessing.

    Attributes:
        name: as in the config.
        build: makes the network with its classifier removed: (n, 3, s, s) normalised floats to (n, feature_dim), the
            global average of the last feature map.
        feature_dim: length of the vector.
        input_size: side of the square input, pixels.
        mean, std: of the three channels on the 0..1 scale, as the network was trained.
        classifier_prefix: the parameters that a checkpoint may hold and features do not need.
        imagenet: torchvision's weights.
        licence: of the builder and of torchvision's weights.
    """

    name: str
    build: Callable[[], nn.Module]
    feature_dim: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    classifier_prefix: str
    imagenet: torchvision.models.WeightsEnum
    licence: str


def _resnet50() -> nn.Module:
    network: nn.Module = torchvision.models.resnet50(weights=None)
    network.fc = nn.Identity()
    return network


BACKBONES: Mapping[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="resnet50",
            build=_resnet50,
            feature_dim=2048,
            input_size=224,
            # Channel statistics of ImageNet, as torchvision's weights were trained with.
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            classifier_prefix="fc.",
            # V1: plain cross-entropy training. The label smoothing and mixing of V2's recipe gain accuracy on ImageNet
            # and lose transfer of fixed features (Kornblith et al., NeurIPS 2021).
            imagenet=torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
            licence="BSD-3-Clause (torchvision)",
        ),
    )
}


def get_backbone(name: str) -> BackboneSpec:
    """The spec with this name.

    Raises:
        WeightsError: listing the names there are.
    """
    if name not in BACKBONES:
        raise WeightsError(f"there is no backbone '{name}'. Known: {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def build_untrained(spec: BackboneSpec, seed: int = 0) -> nn.Module:
    """The network with He initialisation drawn from `seed`; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return spec.build()


@dataclass(frozen=True)
class Weights:
    """Parameters of one backbone, without its classifier.

    Attributes:
        source: where they are from, for people.
        state: name to tensor, as `load_state_dict` takes them.
    """

    source: str
    state: Mapping[str, Tensor]

    @property
    def sha256(self) -> str:
        """Hash of the names, types, shapes and values, whatever file they came in."""
        digest = hashlib.sha256()
        for name in sorted(self.state):
            tensor = self.state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return digest.hexdigest()


def load_weights(spec: BackboneSpec, source: str, seed: int = 0) -> Weights:
    """Weights by name or from a file.

    Args:
        spec: the backbone.
        source: `imagenet` (torchvision's own, downloaded or from torch's cache), `random` (He initialisation, drawn
            from `seed`), or a file of this architecture's state dict (.safetensors, .pt, .pth).
        seed: of `random`.

    Raises:
        WeightsError: if they can't be had or do not fit.
    """
    if source == "random":
        state = build_untrained(spec, seed).state_dict()
        return Weights(f"random (seed {seed}), untrained", _fitting(spec, state, "random"))
    if source == "imagenet":
        return Weights(f"imagenet (torchvision {spec.imagenet.name})", _fitting(spec, _imagenet(spec), "imagenet"))
    return Weights(f"file {Path(source).name}", _fitting(spec, _read_state(Path(source)), source))


def _imagenet(spec: BackboneSpec) -> Mapping[str, Tensor]:
    url = spec.imagenet.url
    try:
        state = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"torchvision's ImageNet weights of {spec.name} can't be downloaded here ({type(error).__name__}).\n"
            f"On a machine with a network, fetch {url}\n"
            f"and pass the file: backbone.weights=/path/to/{url.rpartition('/')[2]}"
            f" (or put it into {torch.hub.get_dir()}/checkpoints/)."
        ) from error
    return dict(state)


def _read_state(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise WeightsError(
            f"there is no weights file '{file}'. backbone.weights is imagenet, random, or the path of a state dict."
        )
    try:
        if file.suffix == ".safetensors":
            return load_safetensors(file.read_bytes())
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's file can break a reader in any way
        raise WeightsError(
            f"'{file}' can't be read as weights ({type(error).__name__}). Pass a state dict saved as .safetensors, "
            "or by torch.save(model.state_dict()); files that hold code are refused."
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise WeightsError(f"'{file}' holds no state dict (names to tensors). Save model.state_dict(), not the model.")
    return state


def _fitting(spec: BackboneSpec, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The parameters of `spec` in `state`, without the classifier's."""
    network = build_untrained(spec)
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(_IGNORED_SUFFIX)}
    missing = [name for name in wanted if name not in state]
    wrong = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    unknown = [
        name
        for name in state
        if name not in wanted and not name.endswith(_IGNORED_SUFFIX) and not name.startswith(spec.classifier_prefix)
    ]
    problems = [("missing", missing), ("of another shape", wrong), ("unknown", unknown)]
    if any(names for _, names in problems):
        told = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems if names)
        raise WeightsError(
            f"the weights '{source}' do not fit {spec.name}: {told}. Pass a state dict of this architecture."
        )
    return {name: state[name].detach().to("cpu", torch.float32).contiguous() for name in wanted}


def _some(names: list[str]) -> str:
    told = ", ".join(names[:_NAMES_TOLD])
    return told if len(names) <= _NAMES_TOLD else f"{told}, …"
