"""Rows of a split stay together, and those that the task does not answer are left out."""

from __future__ import annotations

import numpy as np
import pytest

from classifiers.errors import HeadError
from classifiers.rows import SplitRows
from classifiers.tasks import UNANSWERED

N = 6


def rows(targets, **columns) -> SplitRows:
    features = np.arange(len(targets) * 2, dtype=np.float32).reshape(-1, 2)
    return SplitRows(features, np.asarray(targets), **columns)


def full(targets) -> SplitRows:
    numbers = np.arange(len(targets))
    return rows(
        targets,
        patients=numbers // 2,
        image_ids=numbers.astype(str),
        attributes={"sex": np.array(["F", "M", ""] * 2), "view": np.array(["PA"] * len(targets))},
    )


CLASSES = [0, UNANSWERED, 1, 2, UNANSWERED, 0]
LABELS = [[0, 1], [UNANSWERED] * 2, [UNANSWERED, 0], [1, UNANSWERED], [UNANSWERED] * 2, [0, 0]]


@pytest.mark.parametrize("targets", [CLASSES, LABELS])
def test_rows_without_any_answer_are_left_out_of_every_column(targets):
    split = full(targets)
    assert split.is_answered.tolist() == [True, False, True, True, False, True]
    kept = split.answered()
    assert len(kept) == 4
    assert kept.features[:, 0].tolist() == [0, 4, 6, 10]
    assert kept.targets.tolist() == [targets[i] for i in (0, 2, 3, 5)]
    assert kept.patients.tolist() == [0, 1, 1, 2]
    assert kept.image_ids.tolist() == ["0", "2", "3", "5"]
    assert kept.attributes["sex"].tolist() == ["F", "", "F", ""]
    assert kept.attributes.keys() == split.attributes.keys()
    assert len(split) == N


def test_nothing_is_copied_where_every_row_is_answered():
    split = rows([0, 1, 2])
    assert split.answered() is split
    bare = rows([0, UNANSWERED]).answered()
    assert (bare.patients, bare.image_ids, bare.attributes) == (None, None, {})


def test_a_split_may_be_empty():
    assert len(rows(np.empty(0, np.int64))) == 0
    assert len(rows([UNANSWERED, UNANSWERED]).answered()) == 0


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"patients": np.arange(5)}, r"patients of shape \(5,\)"),
        ({"image_ids": np.array(["a"])}, r"image_ids of shape \(1,\)"),
        ({"attributes": {"sex": np.array(["F"] * 7)}}, r"sex of shape \(7,\)"),
    ],
)
def test_columns_of_other_rows_are_refused(columns, told):
    with pytest.raises(HeadError, match=rf"features of shape \(6, 2\) and {told} do not pair up: give one entry per"):
        rows(CLASSES, **columns)
    with pytest.raises(HeadError, match=r"targets of shape \(6, 2\) do not pair up"):
        SplitRows(np.zeros((5, 2), np.float32), np.asarray(LABELS))
