"""Successive halving: all trials train for few epochs, the better ones for more.

Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from featurizers.finetuning.trainer import EpochResult
from featurizers.finetuning.validation import LOSS
from pipelines.sweep_call import Status, TrialResult
from pipelines.sweep_config import HalvingConfig
from pipelines.sweep_trials import Trial

#: Trains trials until an epoch, or to the end, and gives their results by name.
Train = Callable[[Sequence[Trial], int | None], Mapping[str, TrialResult]]


def run_halving(
    trials: Sequence[Trial], halving: HalvingConfig | None, monitor: str, train: Train
) -> dict[str, TrialResult]:
    """Train all trials, stopping the worse ones where halving says so.

    Decisions hang on epochs up to the rung alone, so that a sweep that is taken up again decides as it did before.

    Args:
        trials: all.
        halving: when how many are stopped; None: never.
        monitor: the figure on val that ranks them.
        train: trains some.

    Returns:
        By trial's name, its last result.
    """
    results: dict[str, TrialResult] = {}
    going = list(trials)
    for rung in rungs(halving, max(trial.epochs for trial in trials)):
        results.update(train(_unfinished(going, results), rung))
        able = [trial for trial in going if results[trial.name].status is not Status.FAILED]
        able.sort(key=lambda trial: rank(monitor, best_of(results[trial.name].history[:rung])))
        assert halving is not None
        kept = {trial.name for trial in able[: math.ceil(len(going) / halving.factor)]}
        for trial in able:
            if trial.name not in kept and results[trial.name].status is Status.PAUSED:
                results[trial.name] = replace(results[trial.name], status=Status.STOPPED)
        # In the order of the file, as before.
        going = [trial for trial in going if trial.name in kept]
    results.update(train(_unfinished(going, results), None))
    return results


def _unfinished(trials: Sequence[Trial], results: Mapping[str, TrialResult]) -> list[Trial]:
    """A trial may end by its own patience before a rung."""
    return [trial for trial in trials if trial.name not in results or results[trial.name].status is Status.PAUSED]


def rungs(halving: HalvingConfig | None, epochs: int) -> list[int]:
    """The epochs after which trials are stopped, all before the end.

    Args:
        halving: when how many are stopped.
        epochs: that the longest trial may train.
    """
    found = []
    if halving is not None:
        rung = halving.first
        while rung < epochs:
            found.append(rung)
            rung *= halving.factor
    return found


def best_of(history: Sequence[EpochResult]) -> EpochResult | None:
    """The epoch whose weights are kept; None before the first."""
    return next((epoch for epoch in reversed(history) if epoch.is_best), None)


def rank(monitor: str, epoch: EpochResult | None) -> tuple[bool, float]:
    """Sorts the better before the worse, and those without a figure last."""
    figure = None if epoch is None else epoch.figures.get(monitor)
    if figure is None:
        return True, 0.0
    return False, figure if monitor == LOSS else -figure
