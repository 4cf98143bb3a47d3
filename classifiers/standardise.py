"""Features with mean 0 and variance 1, taken up a block at a time: X is never copied whole."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from classifiers.estimator import blocks_of

#: Rows taken up at once: 512 x 2048 float32 are 4 MiB, which stay in the cache between one step and the next.
ROWS: Final = 512


class Standardisation(NamedTuple):
    """Mean and scale of every feature over the train rows, float32 (d,)."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def of(cls, X: NDArray[np.float32], repeats: NDArray[np.int64] | None = None) -> Standardisation:
        """Measure train rows, each as often as `repeats` says; the scale of a constant feature is 1, so that it
        becomes 0 and not NaN.
        """
        counts = np.ones(len(X), np.int64) if repeats is None else repeats
        total, first, second = int(counts.sum()), np.zeros(X.shape[1]), np.zeros(X.shape[1])
        # Off by a mean of some rows, so that sums of squares lose no digits where a mean is far from 0.
        shift = X[:ROWS].mean(axis=0, dtype=np.float64).astype(np.float32)
        offset = torch.from_numpy(shift)
        buffer = torch.empty(min(len(X), ROWS), X.shape[1])
        for start, block in zip(range(0, len(X), ROWS), blocks_of(X, ROWS), strict=True):
            weights = torch.from_numpy(counts[start : start + len(block)].astype(np.float32))
            rows = torch.sub(as_tensor(block), offset, out=buffer[: len(block)])
            first += (weights @ rows).numpy()
            second += (weights @ rows.square_()).numpy()
        mean = first / total
        variance = np.maximum(second / total - mean**2, 0)
        # What rounding leaves of a constant is no variance.
        is_constant = np.sqrt(variance) <= 10 * np.finfo(np.float32).eps * np.abs(shift + mean)
        scale = np.sqrt(np.where(is_constant, 1, variance))
        return cls((shift + mean).astype(np.float32), scale.astype(np.float32))

    def folded(self, coef: NDArray[np.float32], intercept: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a layer on standardised features one on features as they are, which saves a copy of them.

        Args:
            coef: float32 (out, d).
            intercept: float32 (out,).

        Returns:
            The same two of the layer that answers the same, but for rounding. Of whatever alignment the arrays are,
            theirs is always the same, so that a restored head adds up in the same order as the fitted one, and answers
            the same to the last bit.
        """
        scaled = coef / self.scale.astype(np.float64)
        shifted = intercept - scaled @ self.mean.astype(np.float64)
        return torch.tensor(scaled, dtype=torch.float32), torch.tensor(shifted, dtype=torch.float32)

    def blocks(self, X: NDArray[np.float32]) -> Iterator[torch.Tensor]:
        """Consecutive rows standardised, `ROWS` at a time: float32 (b, d), in one buffer that the next block
        overwrites, for fresh memory costs more than the arithmetic.
        """
        buffer = torch.empty(min(len(X), ROWS), X.shape[1])
        mean, scale = torch.from_numpy(self.mean), torch.from_numpy(self.scale)
        for block in blocks_of(X, ROWS):
            yield torch.sub(as_tensor(block), mean, out=buffer[: len(block)]).div_(scale)


def as_tensor(rows: NDArray[np.float32]) -> torch.Tensor:
    """A view of rows that are only read, also of those that may not be written, such as a memory map's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(rows)
