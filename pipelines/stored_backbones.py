"""Backbones and their weights by what a config calls them, those included that were fine-tuned in a lake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from featurizers.backbones import BackboneSpec, Weights, get_backbone, load_weights, stated_backbone
from pipelines.acquisition import CAUTION_KEY, HOLD_OUT_KEY, BackbonesHoldOut
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.session import scratch_folder

#: A fine-tuned backbone of the lake at hand: this and its name, and /run=… of one that is not the newest.
LAKE_PREFIX = "lake://backbones/"
#: In a run of a fine-tuned backbone: its weights, and what is known of them.
BACKBONE_FILE = "backbone.safetensors"
BACKBONE_CARD = "card.json"
#: Where nothing tells the architecture.
DEFAULT_BACKBONE = "resnet50"
_NO_FILES = ("imagenet", "random")


@dataclass(frozen=True)
class OpenedBackbone:
    """A backbone and its weights.

    Attributes:
        spec: the whole architecture.
        weights: its parameters; of a fine-tuned backbone of a lake, their source names the run.
        crops: how the crops were made that it was trained on; None where no card tells.
        hold_out: whom its training held out, as `HeldOut.as_dict` tells it; None where it was not trained here.
        caution: why these may be images that it learned from all the same; None where they can't, or no card tells.
        file: path of the weights; None where they are torchvision's or timm's own, random, or of a lake.
    """

    spec: BackboneSpec
    weights: Weights
    crops: str | None = None
    hold_out: Mapping[str, Any] | None = None
    caution: str | None = None
    file: str | None = None

    @property
    def backbones_hold_out(self) -> BackbonesHoldOut:
        """What there is to know of it before others hold images out of its figures.

        Raises:
            LakeError: if it was a rule that this version does not know.
        """
        return BackbonesHoldOut.of_card({HOLD_OUT_KEY: self.hold_out, CAUTION_KEY: self.caution})

    @property
    def trained_as(self) -> str | None:
        """The backbone that the weights say they were trained as, where it is another than the spec's."""
        stated = self.weights.backbone
        return None if stated == self.spec.name else stated


def open_backbone(lake: Lake, name: str | None, weights: str, seed: int = 0) -> OpenedBackbone:
    """A backbone with its weights.

    Args:
        lake: that lake:// stands for.
        name: of the architecture; None: what the weights state, else resnet50.
        weights: imagenet, random, a file, or lake://backbones/NAME.
        seed: of random weights.

    Raises:
        LakeError: if the lake has no such backbone, or there is no such file.
        WeightsError: if the weights can't be had, or are not of this architecture.
    """
    if weights in _NO_FILES:
        spec = get_backbone(name or DEFAULT_BACKBONE)
        return OpenedBackbone(spec, load_weights(spec, weights, seed))
    run = backbone_run(lake, weights)
    file = Path(weights) if run is None else _local_copy(run)
    if not file.exists():
        there = ", ".join(f"{LAKE_PREFIX}{each}" for each in lake.backbone_names()) or "none yet"
        raise LakeError(
            f"there are no weights '{weights}'. backbone.weights is imagenet, random, the path of a state dict, or a "
            f"backbone fine-tuned in this lake: {there}."
        )
    spec = get_backbone(name or stated_backbone(file) or DEFAULT_BACKBONE)
    loaded = load_weights(spec, str(file), seed)
    if run is None:
        return OpenedBackbone(spec, loaded, *_told_beside(Folder.at(str(file.parent))), file=str(file.absolute()))
    return OpenedBackbone(spec, replace(loaded, source=f"{LAKE_PREFIX}{_of_backbones(run)}"), *_told_beside(run))


def backbone_file(lake: Lake, location: str) -> Path:
    """The local file of weights.

    Args:
        lake: that lake:// stands for.
        location: a path; or lake://backbones/NAME, the newest run of that backbone, or one of its runs as
            lake://backbones/NAME/run=…, which is copied to this machine where the lake is elsewhere.

    Raises:
        LakeError: if the lake has no such backbone; tells those that are there.
    """
    run = backbone_run(lake, location)
    return Path(location) if run is None else _local_copy(run)


def backbone_run(lake: Lake, location: str) -> Folder | None:
    """The run that lake://backbones/… names; None where the location is no such one.

    Raises:
        LakeError: if there is none; tells the backbones that are there.
    """
    if not location.startswith("lake://"):
        return None
    name, _, wanted = location.removeprefix(LAKE_PREFIX).partition("/")
    runs = lake.backbones(name).runs() if location.startswith(LAKE_PREFIX) and name else []
    matching = [run for run in runs if wanted in ("", run.name)]
    if not matching:
        there = ", ".join(f"{LAKE_PREFIX}{each}" for each in lake.backbone_names())
        raise LakeError(
            f"there is no backbone '{location}' in '{lake.folder.uri}'. Backbones there: "
            f"{there or 'none; fine-tune one with jobs/finetune_backbone.py'}."
        )
    return matching[-1]


def _local_copy(run: Folder) -> Path:
    filesystem = run.filesystem
    there = f"{run.path}/{BACKBONE_FILE}"
    if not filesystem.exists(there):
        raise LakeError(
            f"'{run.uri}' holds no {BACKBONE_FILE}, which every run of a backbone does. Restore it, or remove the run."
        )
    if "file" in _protocols(filesystem.protocol):
        return Path(there)
    copy = scratch_folder() / _of_backbones(run) / BACKBONE_FILE
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        filesystem.get_file(there, str(copy))
    return copy


class _Told(NamedTuple):
    """See `OpenedBackbone`."""

    crops: str | None = None
    hold_out: Mapping[str, Any] | None = None
    caution: str | None = None


def _protocols(told: str | tuple[str, ...]) -> tuple[str, ...]:
    return (told,) if isinstance(told, str) else tuple(told)


def _of_backbones(run: Folder) -> str:
    """NAME/run=…"""
    return "/".join(run.uri.split("/")[-2:])


def _told_beside(folder: Folder) -> _Told:
    """What the card beside weights tells; other programs' cards tell nothing."""
    if BACKBONE_CARD not in folder.names():
        return _Told()
    try:
        told = json.loads(folder.read(BACKBONE_CARD))
    except ValueError:
        return _Told()
    card = told if isinstance(told, dict) else {}
    crops, hold_out, caution = (card.get(key) for key in ("crops", HOLD_OUT_KEY, CAUTION_KEY))
    return _Told(
        crops if isinstance(crops, str) else None,
        hold_out if isinstance(hold_out, dict) else None,
        caution if isinstance(caution, str) else None,
    )
