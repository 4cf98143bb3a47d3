"""Optimisers and learning-rate schedules: how far each update moves the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import torch
from torch import nn

from featurizers.errors import TrainingError
from featurizers.finetuning.ranges import check
from featurizers.finetuning.validation import check_metric, is_better

#: Of a one-cycle schedule: the share of updates that rise, how much below the top it starts, and how much below its
#: start it ends (Smith and Topin, Super-convergence, 2018, with the defaults of torch's OneCycleLR).
_RISE, _START, _END = 0.3, 25.0, 1e4


class OptimiserName(StrEnum):
    """Which rule moves the weights.

    Attributes:
        ADAM: Kingma and Ba 2015.
        ADAMW: the same with weight decay apart from the gradient (Loshchilov and Hutter 2019).
        SGD: stochastic gradient descent with momentum.
    """

    ADAM = "adam"
    ADAMW = "adamw"
    SGD = "sgd"


class ScheduleName(StrEnum):
    """How the learning rate changes; before each, it may rise from nearly 0 for some warm-up updates.

    Attributes:
        CONSTANT: not at all.
        STEP: times gamma, every `step_epochs` epochs.
        COSINE: along half a cosine down to 0 at the end.
        ONE_CYCLE: from a 25th along a cosine to the top for 30 % of the updates, then along another to a 10,000th of
            where it began. Momentum stays.
        PLATEAU: times gamma, once the watched figure has not become better for `step_epochs` epochs, again and again.
    """

    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"
    ONE_CYCLE = "one_cycle"
    PLATEAU = "plateau"


@dataclass(frozen=True)
class OptimiserSettings:
    """How weights are moved.

    Attributes:
        name: the rule.
        learning_rate: at its highest; above 0.
        weight_decay: L2. Added to the gradient by ADAM and SGD, where it is lambda of lambda / 2 |w|²; ADAMW shrinks
            weights by it, times the learning rate. Of every parameter, biases and those of norms included, as in the
            published studies and torch itself.
        momentum: of SGD; from 0 to below 1.
        schedule: how the learning rate changes.
        warm_up_steps: updates over which the rate first rises on a line to where the schedule begins.
        step_epochs: STEP: epochs between two falls; PLATEAU: epochs without a better figure before one.
        gamma: what a fall multiplies by; between 0 and 1.
        clip: longest gradient (L2 norm over all parameters); longer ones are scaled down. None: never.

    Raises:
        TrainingError: a value is out of range.
    """

    name: OptimiserName = OptimiserName.ADAM
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: ScheduleName = ScheduleName.CONSTANT
    warm_up_steps: int = 0
    step_epochs: int = 10
    gamma: float = 0.1
    clip: float | None = None

    def __post_init__(self) -> None:
        check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number above 0")
        check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "a number of at least 0")
        check("momentum", self.momentum, 0 <= self.momentum < 1, "a number from 0 to below 1")
        check("warm_up_steps", self.warm_up_steps, self.warm_up_steps >= 0, "a number of updates, at least 0")
        check("step_epochs", self.step_epochs, self.step_epochs >= 1, "a number of epochs, at least 1")
        check("gamma", self.gamma, 0 < self.gamma < 1, "a number between 0 and 1")
        check("clip", self.clip, self.clip is None or 0 < self.clip < math.inf, "a number above 0, or null")


def make_optimiser(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """Make the optimiser of parameters, or of torch's groups of them, which may have an "lr" of their own."""
    rate, decay = settings.learning_rate, settings.weight_decay
    # One pass over all parameters; unfused, on a CPU each is a handful of operations of its own.
    if settings.name == OptimiserName.SGD:
        return torch.optim.SGD(parameters, rate, settings.momentum, weight_decay=decay, fused=True)
    rule = torch.optim.AdamW if settings.name == OptimiserName.ADAMW else torch.optim.Adam
    return rule(parameters, rate, weight_decay=decay, fused=True)


class Schedule:
    """Sets the learning rate of every group before its update, as a share of what the group began with.

    A rate follows from the number of updates done (and, for PLATEAU, of falls) alone, not from the rate before it:
    torch's chained schedulers gather rounding and do not come back alike.

    Args:
        optimiser: whose rates; the first update's is set at once.
        settings: how.
        updates_per_epoch: what it says.
        epochs: at most so many; STEP, CONSTANT and PLATEAU may go beyond, the others stay where they end.
        monitor: the figure that `epoch` is given, one of METRICS.

    Raises:
        TrainingError: the warm-up is not over before the end, or the figure is none of METRICS.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        settings: OptimiserSettings,
        *,
        updates_per_epoch: int,
        epochs: int,
        monitor: str,
    ) -> None:
        check_metric(monitor)
        self._total = updates_per_epoch * epochs
        if settings.warm_up_steps >= self._total:
            raise TrainingError(
                f"warm_up_steps={settings.warm_up_steps}, and there are only {self._total} updates ({epochs} epochs of "
                f"{updates_per_epoch}): give fewer, or train for more epochs"
            )
        self._optimiser, self._settings, self._monitor = optimiser, settings, monitor
        self._updates_per_epoch = updates_per_epoch
        self._highest: Final = [group["lr"] for group in optimiser.param_groups]
        self._updates = self._stale = self._falls = 0
        self._best: float | None = None
        self._set()

    def step(self) -> None:
        """An update has been done."""
        self._updates += 1
        self._set()

    def epoch(self, figure: float | None) -> None:
        """An epoch has been done; `figure` is the watched one of its validation, None where undefined."""
        if self._settings.schedule != ScheduleName.PLATEAU:
            return
        if is_better(self._monitor, figure, self._best):
            self._best, self._stale = figure, 0
        else:
            self._stale += 1
        if self._stale == self._settings.step_epochs:
            self._falls, self._stale = self._falls + 1, 0
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """All that changes, as plain numbers."""
        return {"updates": self._updates, "falls": self._falls, "stale": self._stale, "best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, in a schedule made with the same arguments."""
        self._updates, self._falls = state["updates"], state["falls"]
        self._stale, self._best = state["stale"], state["best"]
        self._set()

    def _set(self) -> None:
        warm_up, updates = self._settings.warm_up_steps, self._updates
        share = self._share(warm_up) * (updates + 1) / warm_up if updates < warm_up else self._share(updates)
        for group, highest in zip(self._optimiser.param_groups, self._highest, strict=True):
            group["lr"] = highest * share

    def _share(self, updates: int) -> float:
        """Share of the highest rate after so many updates, warm-up aside."""
        settings = self._settings
        after = updates - settings.warm_up_steps
        rest = self._total - settings.warm_up_steps
        match settings.schedule:
            case ScheduleName.CONSTANT:
                return 1.0
            case ScheduleName.STEP:
                return float(settings.gamma ** (updates // (settings.step_epochs * self._updates_per_epoch)))
            case ScheduleName.PLATEAU:
                return float(settings.gamma**self._falls)
            case ScheduleName.COSINE:
                return _cosine(1.0, 0.0, after / rest)
            case ScheduleName.ONE_CYCLE:
                # The last update has the lowest rate.
                top, last = _RISE * rest - 1, rest - 1
                if after <= top:
                    return _cosine(1 / _START, 1.0, after / top)
                return _cosine(1.0, 1 / _START / _END, (after - top) / (last - top))


def _cosine(start: float, end: float, part: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2
