"""What a fine-tuning leaves in the lake: weights, card, epochs, curves and a report, as one committed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from classifiers.evaluation import Evaluation
from pipelines.acquisition import HoldOutBy

#: Files of a run, beside those that pipelines/stored_backbones.py names.
TOP_FILE, EPOCHS, METRICS, CURVES, PAGE = (
    "top.safetensors",
    "epochs.parquet",
    "metrics.json",
    "curves.svg",
    "report.html",
)
#: Settings that tell where something lies: people's and hospitals' names are in paths. `run.json` alone has them.
_PLACES: Final = ("lake", "task", "master")
_PLACES_IN: Final = (("backbone", "weights"),)


def without_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what says where something lies, for all that people pass on."""
    kept = {key: value for key, value in config.items() if key not in _PLACES}
    for section, key in _PLACES_IN:
        if isinstance(kept.get(section), Mapping):
            kept[section] = {name: value for name, value in kept[section].items() if name != key}
    return kept


@dataclass(frozen=True)
class BackboneCard:
    """What is known of a fine-tuned backbone.

    Attributes:
        name: in the lake.
        backbone: its architecture, as `get_backbone` takes it.
        started_from: the weights that it started from, for people.
        licence: of the architecture, as its spec tells it; what it started from may have one of its own.
        parameters, trained_parameters: of backbone and top; those that the last phase trained.
        task, classes, multi_label: what it learned to answer.
        top: what stands on its features, in words.
        crops: the lake's crop rules.
        hold_out: the rule that held images of train out as val, as `HeldOut.as_dict` tells it.
        images, patients: of each split, by its name.
        class_counts: of each split, images of each class, or with each label.
        data: SHA-256 of image ids, targets and splits.
        identity: changes with whatever could change the weights: data, settings, start, version.
        monitor: the figure that chose the best epoch.
        best_epoch: counted from 1.
        seconds: of the whole training.
        device: that it was trained on, with the number of processes, in words.
        config: all settings, `without_places`.
        versions: of every library that can change a result.
        caution: why val may hold images that the weights to start from have learned; None where it can't.
    """

    name: str
    backbone: str
    started_from: str
    licence: str
    parameters: int
    trained_parameters: int
    task: str
    classes: tuple[str, ...]
    multi_label: bool
    top: str
    crops: str
    hold_out: Mapping[str, Any]
    images: Mapping[str, int]
    patients: Mapping[str, int]
    class_counts: Mapping[str, Mapping[str, int]]
    data: str
    identity: str
    monitor: str
    best_epoch: int
    seconds: float
    device: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    caution: str | None = None

    @property
    def held_out_by(self) -> str | None:
        """The rule that held images out; None where none did."""
        by = self.hold_out["by"]
        return None if by == HoldOutBy.NONE else str(by)

    def as_dict(self) -> dict[str, Any]:
        """As `card.json` has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(**{**told, "classes": tuple(told["classes"])})


@dataclass(frozen=True)
class Judged:
    """What the fine-tuned network itself, end to end, says of one split.

    Attributes:
        image_ids: (n,) str.
        probabilities: float64 (n, k), not calibrated.
        evaluation: with the decisions argmax, or 0.5 of each label.
        baseline: the majority's.
    """

    image_ids: NDArray[np.str_]
    probabilities: NDArray[np.float64]
    evaluation: Evaluation
    baseline: Evaluation
