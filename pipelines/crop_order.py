"""The order of an epoch: shuffled, yet read row group by row group, and the same for any number of processes.

Row groups are permuted and their chosen rows laid end to end. That line is cut into `lanes` of equal length, and each
lane is shuffled inside windows of consecutive rows. Every global batch takes as many rows from each lane, so it mixes
`lanes` far-apart places of the lake, and a process that owns some of the lanes reads only their row groups. The order
is a pure function of its arguments: a training that is resumed at any step goes on with the same rows, at no cost.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipelines.crop_rows import CropRows

#: With these, 1, 2, 4 and 8 processes see the same global batches.
_LEAST_LANES = 8


def lanes_for(world: int) -> int:
    """How many lanes an epoch has for this many processes: the least common multiple with 8."""
    return math.lcm(world, _LEAST_LANES)


def epoch_order(
    rows: CropRows, chosen: npt.NDArray[np.int64], *, seed: int, epoch: int, lanes: int, window: int
) -> npt.NDArray[np.int64]:
    """The rows of an epoch, in order.

    Args:
        rows: where the rows lie.
        chosen: int64 (m,), the numbers of the epoch's rows in any order; those that a sampler repeats stand several
            times.
        seed, epoch: decide the order.
        lanes: how many lines of rows are read side by side, as `lanes_for` says.
        window: how many consecutive rows of a lane are shuffled among each other.

    Returns:
        int64 (lanes, ceil(m / lanes)) of row numbers; column after column is the order of the epoch. All chosen rows
        are there as often as they are chosen. Where lanes do not divide m, a lane that is short by one ends with the
        first row of the next one, so that up to lanes - 1 rows stand once more.
    """
    rng = np.random.default_rng((seed, epoch))
    # Sorted, so that the order of `chosen` does not matter.
    chosen = np.sort(chosen)
    _, group = np.unique(rows.groups()[chosen], return_inverse=True)
    place = rng.permutation(group.max(initial=-1) + 1)
    line = chosen[np.argsort(place[group], kind="stable")]
    length = math.ceil(line.size / lanes)
    # Never past the end: the last lane's first row is exactly `length` before it.
    first = np.arange(lanes) * line.size // lanes
    within = np.arange(length)
    shuffled = np.argsort(within // window + rng.random((lanes, length)), axis=1)
    return np.asarray(line[first[:, None] + shuffled])
