"""The epochs of a fine-tuning: their phases, their figures by name, the best one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from featurizers.finetuning.trainer import EpochResult

LOSS: Final = "loss"

#: The figures of validation, for people.
_NAMES: Final[Mapping[str, str]] = {
    LOSS: "loss",
    "auc": "AUC",
    "macro_f1": "F1, macro",
    "recall": "recall, macro",
    "accuracy": "accuracy",
}


class PhaseSpan(NamedTuple):
    """The epochs of one phase, first and last, counted from 1."""

    name: str
    first: int
    last: int


def figure_name(figure: str) -> str:
    """What people call a figure of validation."""
    return _NAMES.get(figure, figure.replace("_", " "))


def figures_of(history: Sequence[EpochResult]) -> list[str]:
    """The figures that any epoch has, in their order."""
    return list(dict.fromkeys(name for epoch in history for name in epoch.figures))


def phase_spans(history: Sequence[EpochResult]) -> list[PhaseSpan]:
    """The phases, in order."""
    spans = []
    for name, group in groupby(history, key=lambda epoch: epoch.phase):
        epochs = [epoch.epoch for epoch in group]
        spans.append(PhaseSpan(name, epochs[0], epochs[-1]))
    return spans


def best_epoch(history: Sequence[EpochResult]) -> int | None:
    """The last one that was better than all before; None where there is none."""
    return max((epoch.epoch for epoch in history if epoch.is_best), default=None)


def values_of(history: Sequence[EpochResult], figure: str) -> list[float]:
    """One figure of every epoch, NaN where it is not defined, as plots leave it out."""
    values = (epoch.figures.get(figure) for epoch in history)
    return [math.nan if value is None else value for value in values]
