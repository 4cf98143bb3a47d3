"""Measures: the figures of an evaluation, for many weightings of the patients at once.

Counts add up over rows, so that those of a weighting are a matrix product of weights and sums per patient; areas come
from `Ranking`. The rows as they are, are the weighting in which every patient counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from classifiers.entries import Entries
from classifiers.evaluation import CLASS_FIGURES
from classifiers.ranking import Ranking
from classifiers.resampling import Patients

Floats = NDArray[np.float64]

#: What figures are over. `CLASS` has a column a class, the others are single numbers; `ROWS` is of whole rows.
CLASS, MICRO, MACRO, WEIGHTED, SAMPLES, ROWS = "class", "micro", "macro", "weighted", "samples", "rows"
#: The figures that are areas; all others of a class are shares, or means of numbers from 0 to 1.
AREAS: Final = ("auc", "average_precision")


class Key(NamedTuple):
    """A figure, and what it is over."""

    over: str
    figure: str


BALANCED_ACCURACY: Final = Key(ROWS, "balanced_accuracy")
MACRO_AUC: Final = Key(MACRO, "auc")
MACRO_F1: Final = Key(MACRO, "f1")


class _Ratio(NamedTuple):
    part: Floats
    whole: Floats


class Measures:
    """The entries of patients, summed and ranked once, ready for any weighting.

    Attributes:
        entries: what is measured.
        patients: whose rows they are.
    """

    def __init__(self, entries: Entries, patients: Patients) -> None:
        """Sum the entries over every patient's rows."""
        self.entries, self.patients = entries, patients
        known, truth, decided = entries.known, entries.truth, entries.decided
        true, false = known & (decided == truth), known & (decided != truth)
        error = known * (entries.probabilities - truth) ** 2
        #: (patients, 5, k): TN, FP, FN, TP and squared error.
        self._cells = patients.sums(np.stack([true & ~truth, false & ~truth, false & truth, true & truth, error], 1))
        n_true, n_decided, n_both = (each.sum(axis=1) for each in (truth, decided, truth & decided))
        ratios = [(entries.is_right, 1), (n_both, n_decided), (n_both, n_true), (2 * n_both, n_true + n_decided)]
        shares = [
            np.stack([part / np.maximum(whole, 1), np.ones(len(entries)) * (whole > 0)], 1)
            for part, whole in ((np.asarray(part), np.asarray(whole)) for part, whole in ratios)
        ]
        #: (patients, 4, 2): sums over rows of exact match, precision, recall, F1, and how many rows define it.
        self._of_rows = patients.sums(np.stack(shares, 1))

    @property
    def confusions(self) -> NDArray[np.int64]:
        """TN, FP, FN, TP of every class, (k, 4)."""
        return np.asarray(self._cells[:, :4].sum(axis=0).T, dtype=np.int64)

    @cached_property
    def contributors(self) -> Mapping[Key, NDArray[np.int64]]:
        """How many patients each figure of `complete` rests on that is no mean over classes: () or (k,).

        A ratio rests on the patients that its denominator counts. An AUC rests on pairs of patients, one with a
        positive and one with a negative; it counts pairs that share no patient.
        """
        found = {key: (ratio.whole > 0).sum(axis=0) for key, ratio in self._ratios(self._cells, self._of_rows).items()}
        positives, negatives = self._cells[:, 2:4].sum(axis=1), self._cells[:, 0:2].sum(axis=1)
        pairs = _disjoint_pairs(positives, negatives)
        pooled = _disjoint_pairs(positives.sum(axis=1), negatives.sum(axis=1))
        return found | {Key(CLASS, area): pairs for area in AREAS} | {Key(MICRO, area): pooled for area in AREAS}

    def by_class(self, weights: Floats) -> dict[Key, Floats]:
        """Figures of classes (b, k), and their macro and weighted means (b,).

        Args:
            weights: (patients, b), how often each patient counts; whole numbers.

        Returns:
            NaN where a weighting does not define a figure. A class that does not is left out of the mean.
        """
        cells = self._weighted(self._cells, weights)
        found = {key: _divide(ratio) for key, ratio in self._class_ratios(cells).items()}
        areas = [ranking.areas(weights) for ranking in self._rankings]
        found[Key(CLASS, "auc")] = np.stack([each.auc for each in areas], axis=1)
        found[Key(CLASS, "average_precision")] = np.stack([each.average_precision for each in areas], axis=1)
        support, each_class = cells[:, 2] + cells[:, 3], np.ones_like(cells[:, 0])
        for figure in CLASS_FIGURES:
            # A class without rows has an F1 of 0 or none, as one decision falls: it is in no mean of theirs.
            counted = (support > 0).astype(support.dtype) if figure == "f1" else each_class
            found[Key(MACRO, figure)] = mean_over_classes(found[Key(CLASS, figure)], counted)
            found[Key(WEIGHTED, figure)] = mean_over_classes(found[Key(CLASS, figure)], support)
        parts = [found[Key(CLASS, figure)] for figure in self.balanced_parts]
        found[BALANCED_ACCURACY] = mean_over_classes(np.mean(parts, axis=0), each_class)
        if self.is_one_question:
            found[MACRO_AUC] = found[Key(CLASS, "auc")][:, -1]
        return found

    def complete(self, weights: Floats) -> dict[Key, Floats]:
        """Figures as `by_class` gives them, those of all entries pooled (micro) and those of whole rows (b,)."""
        cells, of_rows = self._weighted(self._cells, weights), self._weighted(self._of_rows, weights)
        found = {key: _divide(ratio) for key, ratio in self._ratios(cells, of_rows).items()}
        pooled = self._pooled_ranking.areas(weights)
        areas = {Key(MICRO, "auc"): pooled.auc, Key(MICRO, "average_precision"): pooled.average_precision}
        return found | areas | self.by_class(weights)

    @property
    def is_one_question(self) -> bool:
        """Whether there are two classes that exclude each other: one AUC then says all."""
        return self.entries.exclusive and self.entries.known.shape[1] == 2

    @property
    def balanced_parts(self) -> tuple[str, ...]:
        """The class figures whose mean the balanced accuracy is the mean of."""
        return ("recall",) if self.entries.exclusive else ("recall", "specificity")

    def _weighted(self, sums: Floats, weights: Floats) -> Floats:
        # Sparse, because most counts are 0, and because BLAS's own threads get in the way of the resamples' threads.
        weighted = csr_array(sums.reshape(len(sums), -1).T) @ weights
        return np.ascontiguousarray(weighted.T).reshape(-1, *sums.shape[1:])

    def _ratios(self, cells: Floats, of_rows: Floats) -> dict[Key, _Ratio]:
        """Of cells (m, 5, k) and sums over rows (m, 4, 2)."""
        pooled = self._class_ratios(cells.sum(axis=2, keepdims=True))
        found = {Key(MICRO, key.figure): _Ratio(*(each[:, 0] for each in ratio)) for key, ratio in pooled.items()}
        keys = (Key(ROWS, "accuracy"), *(Key(SAMPLES, figure) for figure in ("precision", "recall", "f1")))
        found |= {key: _Ratio(*of_rows[:, place].T) for place, key in enumerate(keys)}
        return found | self._class_ratios(cells)

    def _class_ratios(self, cells: Floats) -> dict[Key, _Ratio]:
        tn, fp, fn, tp, error = np.moveaxis(cells, 1, 0)
        n = tn + fp + fn + tp
        ratios = {
            "precision": _Ratio(tp, tp + fp),
            "recall": _Ratio(tp, tp + fn),
            "specificity": _Ratio(tn, tn + fp),
            "f1": _Ratio(2 * tp, 2 * tp + fp + fn),
            "accuracy": _Ratio(tp + tn, n),
            "brier": _Ratio(error, n),
        }
        return {Key(CLASS, name): ratio for name, ratio in ratios.items()}

    @cached_property
    def _rankings(self) -> tuple[Ranking, ...]:
        return tuple(self._ranking(np.s_[:, label]) for label in range(self.entries.known.shape[1]))

    @cached_property
    def _pooled_ranking(self) -> Ranking:
        return self._ranking(np.s_[:, :])

    def _ranking(self, part: tuple[slice, slice | int]) -> Ranking:
        known = self.entries.known[part]
        rows = np.broadcast_to(self.patients.rows[:, None], self.entries.known.shape)[part]
        truth, scores = self.entries.truth[part], self.entries.probabilities[part]
        return Ranking(truth[known], scores[known], rows[known], self.patients.count)


def mean_over_classes(values: Floats, weights: Floats) -> Floats:
    """Weighted means (b,) of (b, k), classes of NaN left out; NaN where none is left, or none has weight."""
    counted = np.where(np.isnan(values), 0, weights)
    return _divide(_Ratio((np.nan_to_num(values) * counted).sum(axis=1), counted.sum(axis=1)))


def _divide(ratio: _Ratio) -> Floats:
    undefined = np.full(np.shape(ratio.part), np.nan)
    return np.asarray(np.divide(ratio.part, ratio.whole, out=undefined, where=ratio.whole > 0))


def _disjoint_pairs(positives: Floats, negatives: Floats) -> NDArray[np.int64]:
    """The most pairs of a patient with a positive and one with a negative, no patient in two.

    Takes the counts of every patient, (patients, ...).
    """
    has_positive, has_negative = (positives > 0).sum(axis=0), (negatives > 0).sum(axis=0)
    has_any = (positives + negatives > 0).sum(axis=0)
    return np.asarray(np.minimum(np.minimum(has_positive, has_negative), has_any // 2))
