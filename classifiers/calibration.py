"""Calibration: probabilities that come true as often as they say, fitted on val and stored beside the weights.

Balancing and over-confident training shift a head's probabilities; a calibrator shifts them back, to the frequencies of
val. Every method keeps the order of a label's images, so that its AUC stays (isotonic regression may make ties of it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression

from classifiers.errors import HeadError
from classifiers.held_out import HeldOut
from classifiers.tasks import Task

EPSILON: Final = 1e-12
"""Temperature and Platt scaling take a probability below this for this, and one above 1 - this for 1 - this."""

#: Slopes lie in here: above 0, so that no order is reversed, and far beyond any head of use on both sides.
_SLOPES: Final = (0.01, 100.0)


FEWEST: Final = 5
"""Rows of val that show a class, and that do not, below which it is not calibrated: one image makes no curve."""


class Calibration(StrEnum):
    """How probabilities are mapped.

    - `temperature` (Guo et al., ICML 2017): log-odds of a label, or logarithms of exclusive classes' probabilities, are
      divided by a temperature: one per label, or one for all exclusive classes.
    - `platt` (Platt 1999): slope and offset on the log-odds of a label. Exclusive classes: one slope, and an offset per
      class (bias-corrected temperature scaling: Alexandari et al., ICML 2020), which of two classes is Platt's.
    - `isotonic` (Zadrozny & Elkan, KDD 2002): the rising step function nearest to the truth, per label, linear between
      its knots. Exclusive classes: each against the rest, then divided by their sum.
    """

    NONE = "none"
    TEMPERATURE = "temperature"
    PLATT = "platt"
    ISOTONIC = "isotonic"


class Knots(NamedTuple):
    """A function that is linear between points and level outside them: probabilities before (x) and after (y)."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Calibrator:
    """A map of probabilities, ready to use.

    Attributes:
        method: which kind.
        multi_label: whether each class is a question of its own.
        classes: the task's classes.
        slopes, offsets: of every class on the log-odds (multi-label) or the logarithm (exclusive classes, which share
            one slope) of its probability; None for `none` and `isotonic`. A temperature is 1 / slope.
        knots: of every class, None for one that is left out; None for every other method than `isotonic`.
        left_out: the classes that val says too little of: fewer than `FEWEST` of its rows are of them, or not of them.
            They are left as they are. Exclusive probabilities still have to add up to 1, so that a class left out
            shares the temperature, or the division by the sum, of the others; where fewer than two are left, nothing is
            changed.
    """

    method: Calibration
    multi_label: bool
    classes: tuple[str, ...]
    slopes: tuple[float, ...] | None
    offsets: tuple[float, ...] | None
    knots: tuple[Knots | None, ...] | None
    left_out: tuple[str, ...]

    def __call__(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Map the head's probabilities.

        Args:
            probabilities: float (n, k), 0 to 1.

        Returns:
            float64 (n, k), 0 to 1; rows of exclusive classes add up to 1. Where isotonic regression gives a row nothing
            but zeros, the row keeps the head's own probabilities.
        """
        given = np.array(probabilities, dtype=np.float64)
        if len(self.left_out) == len(self.classes):
            return given
        if self.knots is not None:
            columns = zip(given.T, self.knots, strict=True)
            mapped = np.column_stack([p if knots is None else np.interp(p, *knots) for p, knots in columns])
            return mapped if self.multi_label else _shares(mapped, given)
        if self.slopes is None or self.offsets is None:
            return given
        if not self.multi_label:
            return np.asarray(softmax(_logarithm(given) * self.slopes + self.offsets, axis=1), dtype=np.float64)
        return np.where(
            np.isin(self.classes, self.left_out), given, expit(_log_odds(given) * self.slopes + self.offsets)
        )

    def method_of(self, name: str) -> Calibration:
        """How the probabilities of a class were calibrated; `none` where val has too little of it."""
        return Calibration.NONE if name in self.left_out else self.method

    def describe(self) -> str:
        """Say in words what is done to the head's probabilities, in one line."""
        if self.method is Calibration.NONE:
            return "not calibrated: the probabilities are the head's own"
        kept = [place for place, name in enumerate(self.classes) if self.method_of(name) is not Calibration.NONE]
        parts = [f"{self.method.value} on val: {self._fitted(kept)}"] if kept else []
        if self.left_out:
            parts.append(f"NOT calibrated, as val has too little of them: {', '.join(self.left_out)}")
        return "; ".join(parts)

    def _fitted(self, kept: list[int]) -> str:
        if self.knots is not None:
            told = {place: f"{len(set(knots.y))} values" for place, knots in enumerate(self.knots) if knots is not None}
        elif self.slopes is None or self.offsets is None:
            return ""
        elif self.method is Calibration.TEMPERATURE:
            told = {place: f"{1 / slope:.3g}" for place, slope in enumerate(self.slopes)}
            if not self.multi_label:
                return told[kept[0]]
        else:
            pairs = zip(self.slopes, self.offsets, strict=True)
            told = {place: f"slope {slope:.3g} offset {offset:+.3g}" for place, (slope, offset) in enumerate(pairs)}
        return ", ".join(f"{self.classes[place]} {told[place]}" for place in kept)

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON, exactly: what is read again gives the same probabilities to the last bit."""
        return {
            "method": self.method.value,
            "multi_label": self.multi_label,
            "classes": list(self.classes),
            "slopes": None if self.slopes is None else list(self.slopes),
            "offsets": None if self.offsets is None else list(self.offsets),
            "knots": None
            if self.knots is None
            else [None if knots is None else {"x": list(knots.x), "y": list(knots.y)} for knots in self.knots],
            "left_out": list(self.left_out),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        knots = values["knots"]
        return cls(
            method=Calibration(values["method"]),
            multi_label=bool(values["multi_label"]),
            classes=tuple(values["classes"]),
            slopes=_floats(values["slopes"]),
            offsets=_floats(values["offsets"]),
            knots=None
            if knots is None
            else tuple(None if one is None else _knots(one["x"], one["y"]) for one in knots),
            left_out=tuple(values["left_out"]),
        )


def fit_calibrator(
    method: Calibration,
    task: Task,
    targets: NDArray[np.integer[Any]] | None,
    probabilities: NDArray[np.floating[Any]] | None,
) -> Calibrator:
    """Fit a calibrator on val.

    Temperature and Platt scaling minimise the mean logarithmic loss, of targets smoothed as Platt does, 1 / (n + 2)
    short of 1 for n rows of a class: a fit stays finite where val is in perfect order.

    Args:
        method: which kind.
        task: what the probabilities are of.
        targets: val's, as `Task.targets` gives them; what is not known is left out. None without val, and of no use to
            `none`.
        probabilities: val's, float (n, k), the head's own. None without val.

    Raises:
        ValueError: on a method that is none.
        HeadError: on a method other than `none` without val.
        EvaluationError: on targets and probabilities that do not fit each other or the task.
    """
    method = Calibration(method)
    if method is Calibration.NONE:
        return Calibrator(method, task.multi_label, task.classes, None, None, None, ())
    if targets is None or probabilities is None:
        raise HeadError(
            f"calibration {method.value} is fitted on val, and there is no val: give val rows, or set calibration none"
        )
    held_out = HeldOut.of(task, targets, probabilities)
    positives = held_out.truth.sum(axis=0)
    fits = (positives >= FEWEST) & (held_out.known.sum(axis=0) - positives >= FEWEST)
    left_out = tuple(name for name, fit in zip(task.classes, fits, strict=True) if not fit)
    if method is Calibration.ISOTONIC:
        knots = tuple(_isotonic(*held_out.of_class(place)) if fit else None for place, fit in enumerate(fits))
        return Calibrator(method, task.multi_label, task.classes, None, None, knots, left_out)
    slopes, offsets = np.ones(len(fits)), np.zeros(len(fits))
    with_offsets = method is Calibration.PLATT
    if task.multi_label:
        for place in np.flatnonzero(fits).tolist():
            slopes[place], offsets[place] = _scale_label(*held_out.of_class(place), with_offsets)
    elif fits.any():
        slopes[:], offsets[fits] = _scale_exclusive(held_out, fits, with_offsets)
    return Calibrator(
        method, task.multi_label, task.classes, tuple(slopes.tolist()), tuple(offsets.tolist()), None, left_out
    )


def _scale_label(
    is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64], with_offset: bool
) -> tuple[float, float]:
    """Slope and offset of one label."""
    # A question of two exclusive answers: no, whose score is 0, and yes.
    scores = np.stack([np.zeros_like(probabilities), _log_odds(probabilities)])
    slope, offsets = _scaling(scores, is_positive.astype(np.intp), with_offset)
    return slope, float(offsets[1])


def _scale_exclusive(
    held_out: HeldOut, fits: NDArray[np.bool_], with_offsets: bool
) -> tuple[float, NDArray[np.float64]]:
    """The one slope, and the offsets of the classes that occur, fitted among themselves: others would be driven to 0.

    Only differences of offsets count. They are centred, so that a class without stays where it was among the others.
    """
    scores = _logarithm(held_out.probabilities[:, fits].T)
    slope, offsets = _scaling(scores, held_out.truth[:, fits].argmax(axis=1), with_offsets)
    return slope, offsets - offsets.mean()


def _log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(logit(probabilities.clip(EPSILON, 1 - EPSILON)))


def _logarithm(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(probabilities.clip(EPSILON, 1 - EPSILON)))


def _scaling(
    scores: NDArray[np.float64], truth: NDArray[np.intp], with_offsets: bool
) -> tuple[float, NDArray[np.float64]]:
    """Slope and offsets (k,), the first 0, for which softmax(slope * scores + offsets) suits the truth best.

    Args:
        scores: (k, n), classes first, so that sums over them run along rows of memory.
        truth: (n,) class indices, every class among them.
        with_offsets: False leaves them all 0.
    """
    k, n = scores.shape
    counts = np.bincount(truth, minlength=k)[truth]
    # Laplace's rule of succession; of two classes it is Platt's.
    wanted = np.tile(1 / (counts + k), (k, 1))
    wanted[truth, np.arange(n)] *= counts + 1
    free = k if with_offsets else 1

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = parameters[0] * scores
        scaled[1:free] += parameters[1:, None]
        scaled -= scaled.max(axis=0)
        shares = np.exp(scaled)
        totals = shares.sum(axis=0)
        shares /= totals
        shares -= wanted
        gradient = np.append((shares * scores).sum(), shares[1:free].sum(axis=1))
        return float(np.log(totals).sum() - (wanted * scaled).sum()) / n, gradient / n

    start = np.append(1.0, np.zeros(free - 1))
    bounds = [_SLOPES] + [(None, None)] * (free - 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-9}).x
    offsets = np.zeros(k)
    offsets[1:free] = found[1:]
    return float(found[0]), offsets


def _isotonic(is_positive: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> Knots:
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(probabilities, is_positive.astype(np.float64))
    return _knots(fitted.X_thresholds_, fitted.y_thresholds_)


def _knots(x: Iterable[float], y: Iterable[float]) -> Knots:
    return Knots(tuple(map(float, x)), tuple(map(float, y)))


def _floats(values: Iterable[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def _shares(mapped: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows divided by their sums; those given where a sum is 0."""
    totals = mapped.sum(axis=1, keepdims=True)
    return np.where(totals > 0, mapped / np.where(totals > 0, totals, 1), given)
