"""The parameters of a backbone: fetched, drawn or read from anyone's file, fitted to its names, and saved."""

from __future__ import annotations

import hashlib
import re
import urllib.error
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from featurizers.backbone_names import BackboneName, parse_name
from featurizers.backbone_spec import BackboneSpec, build_untrained
from featurizers.errors import WeightsError

#: Buffers that no feature depends on: they are counted in training only.
_IGNORED_SUFFIX = "num_batches_tracked"
#: How many names an error lists before it stops.
_NAMES_TOLD = 8
#: Where training frameworks keep the state dict among other things of a checkpoint.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
#: What wrappers (DataParallel, Lightning modules, torch.compile) put before the names of a network's parameters.
_WRAPPERS = frozenset({"module", "model", "backbone", "net", "network", "encoder", "_orig_mod"})
#: Old names of DenseNet's layers, which torchvision's own files still have: `norm.1` for `norm1`.
_OLD_DENSE_NAME = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)$")
#: Options of a backbone's name that change what the network does, and none of its parameters.
_NO_PARAMETER = frozenset({"size", "norm", "pool", "dropout"})
#: The layer that no one else's weights have.
_TRANSITION = "transition."


@dataclass(frozen=True)
class Weights:
    """Parameters of one backbone, without its classifier.

    Attributes:
        source: where they are from, for people.
        state: name to tensor, as `load_state_dict` takes them.
        backbone: the backbone that their file says they are of, if it says so.
    """

    source: str
    state: Mapping[str, Tensor]
    backbone: str | None = None

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
        spec: the backbone. Its transition layer, which only our own files hold, is drawn from `seed` otherwise, and
            the source says so.
        source: `imagenet` (torchvision's own, or what timm offers for its model; downloaded or from the cache),
            `random` (the builder's initialisation, drawn from `seed`), or a file of this architecture's state dict
            (.safetensors, .pt, .pth, .ckpt), with the names of its library, whatever a training framework put before
            them.
        seed: of `random`.

    Raises:
        WeightsError: if they can't be had, do not fit, or are of another backbone by their file's own word; one that
            differs in what changes no parameter (size, norm, pool, dropout) is taken, and the source says so.
    """
    if source == "random":
        drawn = build_untrained(spec, seed).state_dict()
        return Weights(f"random (seed {seed}), untrained", _fitting(spec, drawn, "random", seed)[0])
    if source == "imagenet":
        (told, given), stated = _imagenet(spec), None
    else:
        file = Path(source)
        told, given, stated = f"file {file.name}", _read_state(file), stated_backbone(file)
        if stated is not None and _parameters_told(stated) != _parameters_told(spec.name):
            raise WeightsError(
                f"the weights '{source}' are of the backbone {stated}, and {spec.name} was asked for. "
                f"Use backbone.name={stated}, or other weights; another size or norm would do."
            )
        if stated is not None and stated != spec.name:
            told += f", trained as {stated}"
    fitting, untrained = _fitting(spec, given, source, seed)
    if untrained:
        told = f"{told}; transition layer untrained (seed {seed})"
    return Weights(told, fitting, stated)


def _parameters_told(name: str) -> BackboneName | str:
    """What of a backbone's name decides its parameters; a name of no such grammar as it is."""
    try:
        whole = parse_name(name)
    except WeightsError:
        return name
    kept = {key: value for key, value in whole.options.items() if key not in _NO_PARAMETER}
    return BackboneName(whole.base, kept)


def stated_backbone(file: str | Path) -> str | None:
    """The backbone's name in the metadata of a file that `save_weights` wrote; None for any other file."""
    if Path(file).suffix != ".safetensors":
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("backbone")
    except Exception:  # a stranger's file can break a reader in any way; reading its tensors tells how
        return None


def save_weights(
    file: Path, spec: BackboneSpec, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the backbone's parameters as safetensors that `load_weights` takes and that state their backbone.

    Args:
        file: to write; there is a whole one or none.
        spec: the backbone.
        state: its state dict.
        metadata: more to write into the file's header.

    Raises:
        WeightsError: if the state does not fit.
    """
    fitting, untrained = _fitting(spec, state, file.name, 0)
    if untrained:
        raise WeightsError(f"'{file.name}': the state to be saved has no transition layer, and {spec.name} has one.")
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(to_safetensors(fitting, {**(metadata or {}), "backbone": spec.name}))
    part.replace(file)


def _imagenet(spec: BackboneSpec) -> tuple[str, Mapping[str, Tensor]]:
    if spec.imagenet is None and spec.own_weights is None:
        raise WeightsError(
            f"there are no ImageNet weights of {spec.name}. Use backbone.weights=random and train it, or a file."
        )
    try:
        if spec.imagenet is None:
            assert spec.own_weights is not None
            return f"the library's own of {spec.name}", dict(spec.own_weights())
        state = torch.hub.load_state_dict_from_url(
            spec.imagenet.url, map_location="cpu", check_hash=True, weights_only=True, progress=False
        )
        return f"imagenet (torchvision {spec.imagenet.name})", dict(state)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        told = f"the ImageNet weights of {spec.name} can't be downloaded here ({type(error).__name__}).\n"
        if spec.imagenet is None:
            told += (
                "On a machine with a network, save the library's state dict\nand pass the file: backbone.weights=FILE."
            )
            raise WeightsError(told) from error
        url = spec.imagenet.url
        raise WeightsError(
            f"{told}On a machine with a network, fetch {url}\n"
            f"and pass the file: backbone.weights=/path/to/{url.rpartition('/')[2]}"
            f" (or put it into {torch.hub.get_dir()}/checkpoints/)."
        ) from error


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
    if isinstance(state, dict):
        state = next((state[key] for key in _STATE_KEYS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise WeightsError(f"'{file}' holds no state dict (names to tensors). Save model.state_dict(), not the model.")
    return state


def _fitting(spec: BackboneSpec, state: Mapping[str, Tensor], source: str, seed: int) -> tuple[dict[str, Tensor], bool]:
    """The parameters of `spec` in `state`, without the classifier's; and whether the transition layer is untrained."""
    wanted = _shapes(spec)
    state = _renamed(spec, wanted, state)
    has_transition = any(name.startswith(_TRANSITION) for name in wanted)
    untrained = has_transition and not any(name.startswith(_TRANSITION) for name in state)
    if untrained:
        drawn = build_untrained(spec, seed).state_dict()
        state.update({name: value for name, value in drawn.items() if name.startswith(_TRANSITION)})
    missing = [name for name in wanted if name not in state]
    wrong = [name for name in wanted if name in state and state[name].shape != wanted[name]]
    tops = tuple(f"{prefix}{top}" for top in spec.classifier_prefixes for prefix in {"", spec.own_prefix})
    unknown = [
        name
        for name in state
        if name not in wanted and not name.endswith(_IGNORED_SUFFIX) and not (tops and name.startswith(tops))
    ]
    problems = [("missing", missing), ("of another shape", wrong), ("unknown", unknown)]
    if any(names for _, names in problems):
        told = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in problems if names)
        raise WeightsError(
            f"the weights '{source}' do not fit {spec.name}: {told}. Pass a state dict of this architecture."
        )
    return {name: state[name].detach().to("cpu", torch.float32).contiguous() for name in wanted}, untrained


@lru_cache(maxsize=16)
def _shapes(spec: BackboneSpec) -> Mapping[str, torch.Size]:
    """The names and shapes of the parameters; kept, because a network must be built to know them."""
    state = build_untrained(spec).state_dict()
    return {name: value.shape for name, value in state.items() if not name.endswith(_IGNORED_SUFFIX)}


def _renamed(spec: BackboneSpec, wanted: Iterable[str], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` by our names, without what stands beside the network in a checkpoint that wraps it."""
    modern = {_OLD_DENSE_NAME.sub(r"\1\2", name): value for name, value in state.items()}
    best, most = ("", ""), 0
    for theirs in sorted({"", *(prefix for name in modern for prefix in _wrappings(name))}, key=len):
        # Our own name first, then the library's.
        for ours in dict.fromkeys(("", spec.own_prefix)):
            count = sum(name.startswith(ours) and theirs + name.removeprefix(ours) in modern for name in wanted)
            if count > most:
                best, most = (theirs, ours), count
    theirs, ours = best
    return {ours + name.removeprefix(theirs): value for name, value in modern.items() if name.startswith(theirs)}


def _wrappings(name: str) -> Iterator[str]:
    """The prefixes of `name` that consist of wrappers' names only: `module.`, `module.backbone.`, …"""
    prefix = ""
    for word in name.split(".")[:-1]:
        if word not in _WRAPPERS:
            return
        prefix += f"{word}."
        yield prefix


def _some(names: list[str]) -> str:
    told = ", ".join(names[:_NAMES_TOLD])
    return told if len(names) <= _NAMES_TOLD else f"{told}, …"
