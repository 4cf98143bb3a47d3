"""The order of an epoch: whole, shuffled, the same for any number of processes, and local."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.crop_order import epoch_order, lanes_for
from pipelines.crop_rows import CropRows

Int64Array = npt.NDArray[np.int64]


def rows_in_groups(sizes: list[int]) -> CropRows:
    """Rows of row groups of these sizes, three row groups to a file."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    n = group.size
    return CropRows(
        image_ids=np.array([str(number) for number in range(n)]),
        files=tuple(f"file-{number}" for number in range(1 + len(sizes) // 3)),
        file=(group // 3).astype(np.int32),
        row_group=(group % 3).astype(np.int32),
        row=np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        targets=np.zeros(n, np.int64),
        patients=np.arange(n),
        split=np.zeros(n, np.int8),
        datasets=np.full(n, "first"),
        unanswered={},
    )


@st.composite
def epochs(draw: st.DrawFn) -> tuple[CropRows, Int64Array]:
    """Rows, and which of them an epoch has: some left out, some repeated."""
    rows = rows_in_groups(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12)))
    seed = draw(st.integers(0, 9))
    chosen = np.random.default_rng(seed).integers(0, len(rows), draw(st.integers(1, 2 * len(rows))))
    return rows, chosen


SETTINGS = {"seed": 3, "epoch": 1, "lanes": 8, "window": 16}


@given(epochs(), st.integers(1, 24), st.integers(1, 50))
def test_every_chosen_row_is_there(epoch: tuple[CropRows, Int64Array], lanes: int, window: int) -> None:
    rows, chosen = epoch
    order = epoch_order(rows, chosen, seed=0, epoch=0, lanes=lanes, window=window)
    assert order.dtype == np.int64
    assert order.shape == (lanes, -(-chosen.size // lanes))
    wanted, got = Counter(chosen.tolist()), Counter(order.ravel().tolist())
    assert not wanted - got
    assert (got - wanted).total() <= lanes - 1


@given(epochs())
def test_the_order_is_decided_by_seed_and_epoch_alone(epoch: tuple[CropRows, Int64Array]) -> None:
    rows, chosen = epoch
    order = epoch_order(rows, chosen, **SETTINGS)
    np.testing.assert_array_equal(epoch_order(rows, chosen[::-1], **SETTINGS), order)


@pytest.mark.parametrize("other", [{"seed": 4}, {"epoch": 2}])
def test_another_seed_or_epoch_is_another_order(other: dict[str, int]) -> None:
    rows = rows_in_groups([20] * 10)
    chosen = np.arange(len(rows))
    order, another = epoch_order(rows, chosen, **SETTINGS), epoch_order(rows, chosen, **(SETTINGS | other))
    assert (order != another).mean() > 0.9


@given(epochs(), st.integers(1, 50))
def test_a_window_touches_no_more_row_groups_than_its_rows_need(
    epoch: tuple[CropRows, Int64Array], window: int
) -> None:
    """Rows of one window are neighbours on the line, so all row groups but the two at its ends are wholly in it."""
    rows, chosen = epoch
    groups = rows.groups()
    of_group = Counter(groups[chosen].tolist())
    order = epoch_order(rows, chosen, **(SETTINGS | {"window": window}))
    for lane in order:
        for start in range(0, lane.size, window):
            touched = Counter(groups[lane[start : start + window]].tolist())
            assert sum(touched[group] < of_group[group] for group in touched) <= 2


def test_rows_of_one_row_group_are_spread_over_their_window() -> None:
    rows = rows_in_groups([64] * 4)
    (lane,) = epoch_order(rows, np.arange(256), seed=0, epoch=0, lanes=1, window=128)
    groups = rows.groups()[lane]
    assert len(set(groups[:16])) == len(set(groups[128:144])) == 2
    assert not set(groups[:128]) & set(groups[128:])


def test_up_to_eight_processes_share_the_same_lanes() -> None:
    assert [lanes_for(world) for world in (1, 2, 3, 4, 8, 12)] == [8, 8, 24, 8, 8, 24]


def test_an_epoch_of_nothing_is_empty() -> None:
    assert epoch_order(rows_in_groups([3]), np.array([], np.int64), **SETTINGS).shape == (8, 0)
