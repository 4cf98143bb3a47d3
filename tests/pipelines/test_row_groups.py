"""Row groups: dealt out evenly and whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.row_groups import RowGroup, deal

SIZES = st.lists(st.integers(1, 50), max_size=40)


@given(SIZES, st.integers(1, 12))
def test_every_row_group_is_dealt_once_and_in_order(sizes: list[int], tasks: int) -> None:
    groups = [RowGroup("file", number, rows) for number, rows in enumerate(sizes)]
    hands = deal(groups, tasks)
    assert [group for hand in hands for group in hand] == groups
    assert len(hands) <= tasks
    assert all(hands)


@given(SIZES, st.integers(1, 12))
def test_no_task_gets_more_than_its_share_and_one_row_group(sizes: list[int], tasks: int) -> None:
    hands = deal([RowGroup("file", number, rows) for number, rows in enumerate(sizes)], tasks)
    share = sum(sizes) / tasks
    assert all(sum(group.rows for group in hand) <= share + max(sizes) for hand in hands)
