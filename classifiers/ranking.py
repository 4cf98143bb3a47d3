"""Ranking: the area under the ROC curve and the average precision, for many weightings of the patients at once.

Both only change where a positive is. So the rows, sorted once, are cut after every tie of scores that holds a positive,
and a weighting costs one sparse product (how much weight lies in each piece) and one pass over the pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Floats = NDArray[np.float64]

#: Pieces worked on together, so that they stay in the cache.
_TILE: Final = 512
#: Pieces added up one after the other, see `_accumulate`.
_RUN: Final = 32


class Areas(NamedTuple):
    """Areas (b,) of b weightings, NaN where a weighting leaves no positive (or, for the AUC, no negative)."""

    auc: Floats
    average_precision: Floats


class _Tile(NamedTuple):
    """Pieces one below another: patients' positives and negatives in each, and the negatives of its closing tie."""

    positive: csr_array
    negative: csr_array
    tied: csr_array
    has_tied: NDArray[np.intp]


class Ranking:
    """Rows ranked by a score, of patients whose weight is not decided yet."""

    def __init__(
        self,
        is_positive: NDArray[np.bool_],
        scores: NDArray[np.floating[Any]],
        rows: NDArray[np.int64],
        patients: int,
    ) -> None:
        """Sort the rows (n,) once.

        Args:
            is_positive: bool (n,).
            scores: float (n,), finite; the higher, the likelier positive.
            rows: the number of each row's patient (n,), 0 up.
            patients: how many there are.
        """
        self._patients = patients
        totals = [np.bincount(rows[kind], minlength=patients) for kind in (~is_positive, is_positive)]
        self._totals = csr_array(np.stack(totals).astype(np.float64))
        order = np.argsort(-scores, kind="stable")
        above, positive, patient = scores[order], is_positive[order], rows[order]
        tie = np.cumsum(np.diff(above, prepend=above[:1]) != 0)
        counts = np.bincount(tie[positive])
        # A piece ends with a tie that holds a positive; negatives below the last one never come before a positive.
        piece_of_tie: NDArray[np.int64] = np.cumsum(counts > 0) - (counts > 0)
        reached = tie < len(counts)
        tie, positive, patient = tie[reached], positive[reached], patient[reached]
        closes = (counts > 0)[tie]
        self._tiles = list(self._cut(piece_of_tie[tie], positive, closes & ~positive, patient))

    def _cut(
        self,
        piece: NDArray[np.int64],
        positive: NDArray[np.bool_],
        tied: NDArray[np.bool_],
        patient: NDArray[np.int64],
    ) -> Iterator[_Tile]:
        pieces = int(piece[-1]) + 1 if len(piece) else 0
        for first in range(0, pieces, _TILE):
            last = min(first + _TILE, pieces)
            start, end = np.searchsorted(piece, (first, last))
            here, owner = piece[start:end] - first, patient[start:end]
            is_positive, is_tied = positive[start:end], tied[start:end]
            has_tied, tied_piece = np.unique(here[is_tied], return_inverse=True)
            yield _Tile(
                self._matrix(here[is_positive], owner[is_positive], last - first),
                self._matrix(here[~is_positive], owner[~is_positive], last - first),
                self._matrix(tied_piece, owner[is_tied], len(has_tied)),
                has_tied,
            )

    def _matrix(self, piece: NDArray[np.int64], patient: NDArray[np.int64], pieces: int) -> csr_array:
        bounds = np.concatenate([[0], np.cumsum(np.bincount(piece, minlength=pieces))])
        return csr_array((np.ones(len(piece)), patient, bounds), shape=(pieces, self._patients))

    def areas(self, weights: Floats) -> Areas:
        """Areas where each row counts as often as its patient: weights (patients, b), whole numbers.

        The AUC is the share of pairs that are in order, a tie counting half; the average precision is the sum over
        thresholds of precision, times the recall that the threshold adds, as scikit-learn's are.
        """
        negatives, positives = self._totals @ weights
        disorder, precision = np.zeros_like(positives), np.zeros_like(positives)
        above, false = np.zeros_like(positives), np.zeros_like(positives)
        for tile in self._tiles:
            here, fp = tile.positive @ weights, tile.negative @ weights
            tp = here.copy()
            tp[0] += above
            fp[0] += false
            _accumulate(tp)
            _accumulate(fp)
            above, false = tp[-1].copy(), fp[-1].copy()
            disorder += np.einsum("gb,gb->b", here, fp)
            if len(tile.has_tied):
                disorder -= np.einsum("gb,gb->b", here[tile.has_tied], tile.tied @ weights) / 2
            # Nothing decided and nothing found: weights are whole, so that 1 only takes the place of 0.
            fp += tp
            np.maximum(fp, 1, out=fp)
            tp /= fp
            precision += np.einsum("gb,gb->b", here, tp)
        with np.errstate(invalid="ignore", divide="ignore"):
            return Areas(1 - disorder / (positives * negatives), precision / positives)


def _accumulate(values: Floats) -> None:
    """Running sums down the first axis of (g, b), in place: runs of 32, then their ends.

    Five times as fast as `np.cumsum`, which walks down every column by itself.
    """
    whole = len(values) // _RUN * _RUN
    runs = values[:whole].reshape(-1, _RUN, values.shape[1])
    for place in range(1, _RUN):
        runs[:, place] += runs[:, place - 1]
    for run in range(1, len(runs)):
        runs[run] += runs[run - 1, -1]
    for row in range(max(whole, 1), len(values)):
        values[row] += values[row - 1]
