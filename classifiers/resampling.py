"""Resampling: patients drawn with replacement, all their rows staying together, and the intervals that this gives.

A resample is told by how often each patient was drawn, so that a figure is computed from sums per patient and never
from copied rows (cluster bootstrap; Field and Welsh, Journal of the Royal Statistical Society B 69, 2007).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import beta

Floats = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

#: What lies outside a 95 % interval at either end.
_REST: Final = 0.025
#: Resamples computed together, and what a block of their weights may hold (32 MB).
_BLOCK, _ENTRIES = 256, 2**22


class Patients:
    """The patients that rows belong to, and resamples of them.

    Attributes:
        rows: int (n,), the number of each row's patient, 0 up.
        count: how many patients there are.
    """

    def __init__(self, patients: NDArray[np.integer[Any]] | None, n: int) -> None:
        """Number the patients of n rows; without `patients` every row is a patient of its own."""
        if patients is None:
            self.rows: NDArray[np.int64] = np.arange(n)
            self.count = n
        else:
            names, rows = np.unique(patients, return_inverse=True)
            self.rows, self.count = rows.astype(np.int64), len(names)

    def sums(self, values: NDArray[Any]) -> Floats:
        """Sums of values (n, ...) over each patient's rows, (patients, ...)."""
        n = len(self.rows)
        incidence = csr_array((np.ones(n), (self.rows, np.arange(n))), shape=(self.count, n))
        return np.asarray(incidence @ values.reshape(n, -1).astype(np.float64)).reshape(self.count, *values.shape[1:])

    def draws(self, resamples: int, seed: int) -> list[Callable[[], Floats]]:
        """Ways to draw the resamples, block by block.

        Each gives (patients, resamples of the block): how often each patient was drawn. The same seed gives the same
        draws, in whatever order, and as often as asked.
        """
        width = max(16, min(_BLOCK, _ENTRIES // self.count))
        widths = [min(width, resamples - start) for start in range(0, resamples, width)]
        seeds = np.random.SeedSequence(seed).spawn(len(widths))
        return [partial(self._draw, each, b) for each, b in zip(seeds, widths, strict=True)]

    def _draw(self, seed: np.random.SeedSequence, b: int) -> Floats:
        drawn = np.random.default_rng(seed).integers(self.count, size=(b, self.count)) * b + np.arange(b)[:, None]
        return np.bincount(drawn.ravel(), minlength=self.count * b).reshape(self.count, b).astype(np.float64)

    def resampled(
        self, figures: Callable[[Floats], Mapping[Key, Floats]], resamples: int, seed: int
    ) -> Mapping[Key, Floats]:
        """Figures of every resample.

        Args:
            figures: weights (patients, b) → arrays (b, ...) by key, NaN where a resample does not define a figure.
            resamples: how many, at least 1.
            seed: of the draws.

        Returns:
            Arrays (resamples, ...) by key.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            blocks = list(pool.map(lambda draw: figures(draw()), self.draws(resamples, seed)))
        return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def percentiles(values: Floats) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of resampled values (resamples,), NaN left out; None where more than half of them are."""
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values) or not len(defined):
        return None, None
    low, high = np.quantile(defined, (_REST, 1 - _REST))
    return float(low), float(high)


def exact_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that none (0) or all (1) of n patients have, which no resample could vary.

    Source: Clopper and Pearson, Biometrika 26, 1934.
    """
    hits = round(share * n)
    low = float(beta.ppf(_REST, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - _REST, hits + 1, n - hits)) if hits < n else 1.0
    return low, high
