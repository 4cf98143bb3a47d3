"""Thresholds: the rule that turns probabilities into decisions, chosen on val and stored beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from classifiers.errors import HeadError
from classifiers.held_out import HeldOut
from classifiers.tasks import Task

#: The level that needs no val: of `fixed` where nothing else is said, and of a label that val can't decide.
HALF: Final = 0.5


class ThresholdRule(StrEnum):
    """How levels are found.

    `argmax` has none: the class that the head itself scores highest is decided. `fixed` is told beforehand, as 0.2 in
    the study of Au et al.; the others look at val, class by class:

    - `best_f1`: the level with the highest F1.
    - `youden`: the level with the highest sensitivity + specificity - 1 (Youden, Cancer 1950).
    - `sensitivity`: the highest level whose recall is at least the value.
    - `precision`: the lowest level whose precision is at least the value.
    """

    ARGMAX = "argmax"
    FIXED = "fixed"
    BEST_F1 = "best_f1"
    YOUDEN = "youden"
    SENSITIVITY = "sensitivity"
    PRECISION = "precision"


_LOOKS_AT_VAL: Final = frozenset(ThresholdRule) - {ThresholdRule.ARGMAX, ThresholdRule.FIXED}
_WANTS_A_TARGET: Final = frozenset({ThresholdRule.SENSITIVITY, ThresholdRule.PRECISION})


@dataclass(frozen=True)
class Thresholds:
    """A decision rule, ready to decide.

    Labels are decided one by one, where the probability is at the label's level or above it. Of two exclusive classes
    the last one is, and the first elsewhere. Of more than two, the class with the largest p / level is decided, the
    first one on a tie (threshold moving: Zhou & Liu, TKDE 2006): a level found for one class against the rest is then a
    weight, and its class need not reach on val exactly what the rule asked for.

    Attributes:
        rule: how the levels were found.
        value: the level of `fixed`, the recall of `sensitivity`, the precision of `precision`; None for the others.
        levels: of every class, between 0 and 1 and neither of them; those of two exclusive classes add up to 1. None
            under `argmax`.
        multi_label: whether each class is a question of its own.
        chosen_on: "val"; None for `argmax` and `fixed`.
        defaulted: the classes that val could not decide: too few answers, no order to speak of, or a target out of
            reach. Their level is 0.5; of more than two exclusive classes the geometric mean of the others' levels.
        classes: the task's classes.
    """

    rule: ThresholdRule
    value: float | None
    levels: tuple[float, ...] | None
    multi_label: bool
    chosen_on: str | None
    defaulted: tuple[str, ...]
    classes: tuple[str, ...]

    def decide(
        self, probabilities: NDArray[np.floating[Any]], uncalibrated: NDArray[np.floating[Any]]
    ) -> NDArray[np.bool_]:
        """Decide every row.

        Args:
            probabilities: float (n, k), calibrated where the head is: what levels are levels of.
            uncalibrated: float (n, k), the head's own: what `argmax` looks at, so that calibration changes nothing.

        Returns:
            bool (n, k); exactly one True per row where classes exclude each other.
        """
        if self.levels is None:
            winners = np.argmax(uncalibrated, axis=1)
        else:
            given = np.asarray(probabilities, dtype=np.float64)
            levels = np.array(self.levels)
            if self.multi_label:
                return np.asarray(given >= levels)
            # Of two, p / level is the same comparison, but rounding and the tie would differ.
            is_last = given[:, -1] >= levels[-1]
            winners = is_last.astype(np.intp) if len(levels) == 2 else np.argmax(given / levels, axis=1)
        return np.asarray(winners[:, None] == np.arange(len(self.classes)))

    def describe(self) -> str:
        """Say in words how decisions are taken, in one line."""
        if self.levels is None:
            return (
                "argmax: the class that the head itself scores highest, before any calibration, so that it need not be "
                "the one of the largest calibrated probability"
            )
        told = dict(zip(self.classes, self.levels, strict=True))
        if not self.multi_label and len(told) == 2:
            told = {self.classes[-1]: self.levels[-1]}
        if self.rule is ThresholdRule.FIXED:
            if self.multi_label or len(told) == 1:
                return f"fixed for {'every label' if self.multi_label else self.classes[-1]}: {self.value:g}"
            return f"fixed for every class: {self.value:g}, which decides as the highest probability does"
        how = {
            ThresholdRule.BEST_F1: "best F1",
            ThresholdRule.YOUDEN: "best sensitivity + specificity (Youden)",
            ThresholdRule.SENSITIVITY: f"recall of at least {self.value}",
            ThresholdRule.PRECISION: f"precision of at least {self.value}",
        }[self.rule]
        chosen = _listed({name: level for name, level in told.items() if name not in self.defaulted})
        missing = _listed({name: level for name, level in told.items() if name in self.defaulted})
        parts = [f"{how} on {self.chosen_on}: {chosen}"] if chosen else []
        parts += [f"no level found on {self.chosen_on} for {how}, set instead: {missing}"] if missing else []
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON."""
        plain: dict[str, Any] = asdict(self)
        return plain | {
            "rule": self.rule.value,
            "levels": None if self.levels is None else list(self.levels),
            "defaulted": list(self.defaulted),
            "classes": list(self.classes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        levels = values["levels"]
        return cls(
            **{
                **values,
                "rule": ThresholdRule(values["rule"]),
                "levels": None if levels is None else tuple(map(float, levels)),
                "defaulted": tuple(values["defaulted"]),
                "classes": tuple(values["classes"]),
            }
        )


def choose_thresholds(
    rule: ThresholdRule,
    value: float | None,
    task: Task,
    targets: NDArray[np.integer[Any]] | None,
    probabilities: NDArray[np.floating[Any]] | None,
) -> Thresholds:
    """Find the levels of a rule.

    Levels lie half-way between neighbouring probabilities of val, so that no rounding moves a decision of val; of
    equally good ones the highest is taken. Every rule needs a row of the class; all but `sensitivity` need one of the
    rest, too.

    Args:
        rule: how.
        value: see `Thresholds.value`; `fixed` takes 0.5 for None.
        task: what is decided.
        targets: val's, as `Task.targets` gives them; what is not known is left out. None without val, and of no use to
            `argmax` and `fixed`.
        probabilities: val's, float (n, k), calibrated where the head is. None without val.

    Raises:
        ValueError: on a rule that is none.
        HeadError: on a value that is missing, out of range or not asked for, `argmax` for labels, or a rule that looks
            at val without val.
        EvaluationError: on targets and probabilities that do not fit each other or the task.
    """
    rule = ThresholdRule(rule)
    value = check_threshold(rule, value, task)
    k = len(task.classes)
    levels: tuple[float, ...] | None = None
    defaulted: tuple[str, ...] = ()
    if rule is ThresholdRule.FIXED and value is not None:
        levels = _levels(task, (value,) * k)
    elif rule in _LOOKS_AT_VAL:
        if targets is None or probabilities is None:
            raise HeadError(
                f"threshold {rule.value} is chosen on val, and there is no val: give val rows, or choose threshold "
                f"{'fixed' if task.multi_label else 'argmax or fixed'}"
            )
        held_out = HeldOut.of(task, targets, probabilities)
        is_one_question = k == 2 and not task.multi_label
        asked = range(1 if is_one_question else 0, k)
        found = {place: _level(rule, value or 0.0, *held_out.of_class(place)) for place in asked}
        known = [level for level in found.values() if level is not None]
        # Between exclusive classes only ratios count: the geometric mean weighs a class as the others do on average.
        is_even = task.multi_label or is_one_question or not known
        default = (HALF if task.multi_label else 1 / k) if is_even else float(np.exp(np.mean(np.log(known))))
        levels = _levels(task, [found.get(place) or default for place in range(k)])
        defaulted = tuple(task.classes[place] for place, level in found.items() if level is None)
    chosen_on = "val" if rule in _LOOKS_AT_VAL else None
    return Thresholds(rule, value, levels, task.multi_label, chosen_on, defaulted, task.classes)


def check_threshold(rule: ThresholdRule, value: float | None, task: Task) -> float | None:
    """Give the value that a rule is to use, `fixed` taking 0.5 for None; refuse what no rows could mend.

    Raises:
        HeadError: on a value that is missing, out of range or not asked for, or `argmax` for labels.
    """
    if rule is ThresholdRule.ARGMAX and task.multi_label:
        raise HeadError(
            f"threshold argmax decides for one class, but an image may have any number of the {len(task.classes)} "
            f"labels of task {task.name!r}: choose another threshold, such as best_f1 with val or fixed without"
        )
    if rule is ThresholdRule.FIXED:
        value = HALF if value is None else value
        if not 0 < value < 1:
            raise HeadError(f"a fixed threshold of {value} decides nothing: give a value between 0 and 1")
    elif rule in _WANTS_A_TARGET:
        wanted = "recall" if rule is ThresholdRule.SENSITIVITY else "precision"
        if value is None or not 0 < value <= 1:
            raise HeadError(
                f"threshold {rule.value} with value {value} has no target: give the {wanted} to reach on val as its "
                "value, above 0 and at most 1"
            )
        if not task.multi_label and len(task.classes) > 2:
            raise HeadError(
                f"threshold {rule.value} sets each class apart from the rest, but of the {len(task.classes)} exclusive "
                f"classes of task {task.name!r} one is decided, and none would reach its target: choose argmax, youden "
                "or best_f1, or ask a task of two classes, or one whose classes do not exclude each other"
            )
    elif value is not None:
        raise HeadError(
            f"threshold {rule.value} takes no value, but was given {value}: leave the value out, or choose "
            "fixed, sensitivity or precision"
        )
    return value


def _levels(task: Task, levels: tuple[float, ...] | list[float]) -> tuple[float, ...]:
    """Levels as they are stored: of two exclusive classes the last one's says all."""
    is_one_question = len(levels) == 2 and not task.multi_label
    return (1 - levels[-1], levels[-1]) if is_one_question else tuple(levels)


class _Cuts(NamedTuple):
    """Every way to part the rows of val by a level: level, rows at it or above it, and how many of them are positive.

    All (c,), the highest level first.
    """

    level: NDArray[np.float64]
    decided: NDArray[np.int64]
    true: NDArray[np.int64]


def _cuts(is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> _Cuts:
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    true = np.cumsum(is_positive[order], dtype=np.int64)
    # A level is below a whole tie, and above the next one or, below them all, above 0.
    last = np.append(np.flatnonzero(ranked[:-1] > ranked[1:]), len(ranked) - 1)
    upper, lower = ranked[last], np.append(ranked[last[:-1] + 1], 0.0)
    middle = lower + (upper - lower) / 2
    # Between two neighbouring floats there is none; at the upper one the cut is the same.
    level = np.where(middle > lower, middle, upper)
    inside = (level > 0) & (level < 1)
    return _Cuts(level[inside], (last + 1)[inside], true[last][inside])


def _level(
    rule: ThresholdRule, wanted: float, is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64]
) -> float | None:
    """The level of one class against the rest; None where these rows can't decide it."""
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not (negatives or rule is ThresholdRule.SENSITIVITY):
        return None
    cuts = _cuts(is_positive, probabilities)
    if rule is ThresholdRule.BEST_F1:
        return _best(cuts, 2 * cuts.true / (cuts.decided + positives))
    if rule is ThresholdRule.YOUDEN:
        # Times positives and negatives: whole numbers, so that ties are ties.
        return _best(cuts, cuts.true * negatives - (cuts.decided - cuts.true) * positives)
    if rule is ThresholdRule.SENSITIVITY:
        reached = cuts.level[cuts.true / positives >= wanted]
        return float(reached[0]) if len(reached) else None
    reached = cuts.level[cuts.true / cuts.decided >= wanted]
    return float(reached[-1]) if len(reached) else None


def _best(cuts: _Cuts, merit: NDArray[np.float64] | NDArray[np.int64]) -> float | None:
    """The highest level of the greatest merit; None where no level has any, as of scores in no order, or reversed."""
    best = int(merit.argmax()) if len(merit) else None
    return None if best is None or merit[best] <= 0 else float(cuts.level[best])


def _listed(levels: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {level:.3g}" for name, level in levels.items())
