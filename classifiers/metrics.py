"""Metrics: how good a head's probabilities and decisions are on rows whose targets are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from classifiers.curves import pr_curve, reliability, roc_curve
from classifiers.entries import Entries, checked_probabilities
from classifiers.errors import EvaluationError
from classifiers.evaluation import CLASS_FIGURES, Average, ClassEvaluation, Evaluation, Figure, Subgroup
from classifiers.measures import (
    BALANCED_ACCURACY,
    CLASS,
    MACRO,
    MACRO_AUC,
    MACRO_F1,
    MICRO,
    ROWS,
    SAMPLES,
    WEIGHTED,
    Key,
    Measures,
)  # fmt: skip
from classifiers.resampling import Patients, exact_interval, percentiles
from classifiers.tasks import Task

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Answers = tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]
Interval = tuple[float | None, float | None]

_NOT_KNOWN: Final[Interval] = (None, None)
_AVERAGED: Final = tuple(figure for figure in CLASS_FIGURES if figure != "accuracy")


def evaluate(
    task: Task,
    targets: Integers,
    probabilities: NDArray[np.floating[Any]],
    decisions: NDArray[np.bool_],
    *,
    patients: Integers | None = None,
    attributes: Mapping[str, NDArray[np.str_]] = MappingProxyType({}),
    uncalibrated: NDArray[np.floating[Any]] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compare probabilities and decisions with the truth.

    Every figure is what it would be on the known targets alone. Its 95 % interval is that of the same figure on
    resamples of the patients; those which do not define it are left out, and there is no interval where they are more
    than half, or where the figure rests on fewer than two patients. A figure of 0 or 1 never varies in a resample: of
    shares, and of the AUC as a share of disjoint pairs of patients, it gets Clopper and Pearson's interval; a mean over
    classes the mean of their ends, which is wide rather than narrow; the average precision none.

    Args:
        task: whose classes these are.
        targets: as `Task.targets` gives them, int64 (n,) or int8 (n, k), without rows wholly unanswered.
        probabilities: float (n, k), those that decide, calibrated or not.
        decisions: bool (n, k); exactly one a row where classes exclude each other.
        patients: int (n,), rows of one number are of one patient. None: every row is a patient of its own.
        attributes: what subgroups are made of, name → str (n,).
        uncalibrated: float (n, k), the head's own probabilities, where `probabilities` are calibrated.
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the resamples.

    Raises:
        EvaluationError: on no rows, shapes that do not fit, targets that are none, probabilities not finite or outside
            0 to 1.
    """
    entries = Entries.of(task, targets, probabilities, decisions)
    for name, column in {"patients": patients, **attributes}.items():
        if column is not None and np.shape(column) != (len(entries),):
            raise EvaluationError(
                f"{name} of shape {np.shape(column)} do not fit {len(entries)} targets: give one entry a row"
            )
    before = None if uncalibrated is None else checked_probabilities(uncalibrated, *entries.known.shape)
    measures = Measures(entries, Patients(patients, len(entries)))
    found = _Findings(measures, measures.complete, resamples, seed)
    return Evaluation(
        multi_label=task.multi_label,
        n=len(entries),
        patients=measures.patients.count,
        accuracy=found.figure(Key(ROWS, "accuracy")),
        binary_accuracy=found.figure(Key(MICRO, "accuracy")),
        balanced_accuracy=found.figure(BALANCED_ACCURACY),
        averages={over: _average(found, over) for over in (MICRO, MACRO, WEIGHTED, SAMPLES)},
        per_class={name: _class_evaluation(found, label, before) for label, name in enumerate(task.classes)},
        confusion=_confusion(entries) if entries.exclusive else None,
        subgroups=tuple(
            _subgroup(attribute, value, _Findings(part, part.by_class, resamples, seed), task.classes)
            for attribute, value, part in _parts(measures, attributes)
        ),
    )


def paired_difference(
    task: Task,
    targets: Integers,
    first: Answers,
    second: Answers,
    *,
    patients: Integers | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Mapping[str, Figure]:
    """How much better the first head is than the second on the same rows, resampling the patients of both together.

    Args:
        task: whose classes these are.
        targets: as `evaluate` takes them.
        first, second: each head's probabilities and decisions, as `evaluate` takes them.
        patients: int (n,), see `evaluate`.
        resamples: of the bootstrap.
        seed: of the resamples.

    Returns:
        First minus second, by name: `balanced_accuracy`, `macro_auc` and `macro_f1`.

    Raises:
        EvaluationError: as `evaluate` does.
    """
    a, b = (Entries.of(task, targets, *answers) for answers in (first, second))
    drawn = Patients(patients, len(a))
    heads = Measures(a, drawn), Measures(b, drawn)

    def differences(weights: Floats) -> dict[Key, Floats]:
        one, other = (head.by_class(weights) for head in heads)
        return {key: one[key] - other[key] for key in (BALANCED_ACCURACY, MACRO_AUC, MACRO_F1)}

    value, resampled = _with_resamples(drawn, differences, resamples, seed)
    found = {
        key: Figure(_number(value[key][0]), *(percentiles(resampled[key]) if resampled else _NOT_KNOWN))
        for key in value
    }
    return {
        "balanced_accuracy": found[BALANCED_ACCURACY],
        "macro_auc": found[MACRO_AUC],
        "macro_f1": found[MACRO_F1],
    }


class _Findings:
    """Figures of the rows as they are, with those of the resamples."""

    def __init__(
        self, measures: Measures, figures: Callable[[Floats], dict[Key, Floats]], resamples: int, seed: int
    ) -> None:
        self.measures = measures
        self._values, self._resampled = _with_resamples(measures.patients, figures, resamples, seed)

    def value(self, key: Key, label: int | None = None) -> float | None:
        """The figure, of one class where it has a column a class; None where it is not defined."""
        values = self._values[key][0]
        return _number(values if label is None else values[label])

    def figure(self, key: Key, label: int | None = None) -> Figure:
        """The figure with its interval."""
        value = self.value(key, label)
        return Figure(value, *self._interval(value, key, label))

    def _interval(self, value: float | None, key: Key, label: int | None) -> Interval:
        if self.measures.is_one_question and key == MACRO_AUC:
            key, label = Key(CLASS, "auc"), self.measures.entries.known.shape[1] - 1
        patients = self.measures.contributors.get(key)
        n = None if patients is None else int(patients if label is None else patients[label])
        if value is None or self._resampled is None or (n is not None and n < 2):
            return _NOT_KNOWN
        if value in (0, 1):
            if n is None:
                return self._mean_of_ends(key)
            return _NOT_KNOWN if key.figure == "average_precision" else exact_interval(value, n)
        resampled = self._resampled[key]
        return percentiles(resampled if label is None else resampled[:, label])

    def _mean_of_ends(self, key: Key) -> Interval:
        """Of a mean over classes which all have 0, or all have 1."""
        figures = self.measures.balanced_parts if key == BALANCED_ACCURACY else (key.figure,)
        confusions = self.measures.confusions
        weights = confusions[:, 2:].sum(axis=1) if key.over == WEIGHTED else np.ones(len(confusions))
        ends = []
        for label, weight in enumerate(weights):
            parts = [self.figure(Key(CLASS, figure), label) for figure in figures]
            if weight == 0 or any(part.value is None for part in parts):
                continue
            known = [(part.low, part.high) for part in parts if part.low is not None and part.high is not None]
            if len(known) < len(parts):
                return _NOT_KNOWN
            ends.append((weight, np.mean(known, axis=0)))
        low, high = np.average([end for _, end in ends], axis=0, weights=[weight for weight, _ in ends])
        return float(low), float(high)


def _with_resamples(
    patients: Patients, figures: Callable[[Floats], dict[Key, Floats]], resamples: int, seed: int
) -> tuple[Mapping[Key, Floats], Mapping[Key, Floats] | None]:
    """Figures of the rows as they are (1, ...), and of the resamples: None where there are none to draw."""
    values = figures(np.ones((patients.count, 1)))
    drawn = resamples > 0 and patients.count > 1
    return values, patients.resampled(figures, resamples, seed) if drawn else None


def _number(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


def _average(found: _Findings, over: str) -> Average:
    defined = [found.value(Key(CLASS, "auc"), label) for label in range(found.measures.entries.known.shape[1])]
    has = ("precision", "recall", "f1") if over == SAMPLES else _AVERAGED
    figures = {name: found.figure(Key(over, name)) if name in has else Figure(None) for name in _AVERAGED}
    return Average(over=sum(auc is not None for auc in defined), **figures)


def _class_evaluation(found: _Findings, label: int, before: Floats | None) -> ClassEvaluation:
    entries = found.measures.entries
    known = entries.known[:, label]
    truth, probabilities = entries.truth[known, label], entries.probabilities[known, label]
    tn, fp, fn, tp = found.measures.confusions[label].tolist()
    return ClassEvaluation(
        n=int(known.sum()),
        support=int(truth.sum()),
        **{figure: found.figure(Key(CLASS, figure), label) for figure in CLASS_FIGURES},
        confusion=(tn, fp, fn, tp),
        roc=roc_curve(truth, probabilities),
        pr=pr_curve(truth, probabilities),
        reliability=reliability(truth, probabilities),
        reliability_before=None if before is None else reliability(truth, before[known, label]),
    )


def _confusion(entries: Entries) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, (entries.truth.T.astype(np.int64) @ entries.decided.astype(np.int64)).tolist()))


def _parts(whole: Measures, attributes: Mapping[str, NDArray[np.str_]]) -> Iterator[tuple[str, str, Measures]]:
    """The rows of every value of every attribute."""
    for attribute, column in attributes.items():
        for value in np.unique(column):
            rows = np.asarray(column) == value
            entries = whole.entries.take(rows)
            yield attribute, str(value), Measures(entries, Patients(whole.patients.rows[rows], len(entries)))


def _subgroup(attribute: str, value: str, found: _Findings, classes: Sequence[str]) -> Subgroup:
    entries = found.measures.entries
    return Subgroup(
        attribute=attribute,
        value=value,
        n=len(entries),
        patients=found.measures.patients.count,
        support=dict(zip(classes, entries.truth.sum(axis=0).tolist(), strict=True)),
        auc=found.figure(MACRO_AUC),
        balanced_accuracy=found.figure(BALANCED_ACCURACY),
        f1=found.figure(MACRO_F1),
        recall={name: found.figure(Key(CLASS, "recall"), label) for label, name in enumerate(classes)},
    )
