from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.errors import ClassifierError, TaskError
from classifiers.tasks import TASKS, UNANSWERED, Task, get_task

NAMES = ["normal", "pneumonia", "viral", "bacterial", "effusion"]
FINDINGS = st.lists(st.dictionaries(st.sampled_from(NAMES), st.sampled_from([1, 0, -1])), max_size=30)


@pytest.mark.parametrize(
    ("task", "findings", "target"),
    [
        ("binary", {"normal": 1}, 0),
        ("binary", {"pneumonia": 1}, 1),
        ("binary", {"normal": 0, "pneumonia": 1}, 1),
        ("binary", {"normal": 0, "pneumonia": 0}, UNANSWERED),
        ("binary", {"normal": 1, "pneumonia": 1}, UNANSWERED),
        ("binary", {"normal": 1, "pneumonia": -1}, UNANSWERED),
        ("binary", {"pneumonia": -1}, UNANSWERED),
        ("binary", {}, UNANSWERED),
        ("binary", {"effusion": 1}, UNANSWERED),
        ("binary", {"pneumonia": 1, "effusion": -1}, 1),
        ("three_class", {"normal": 1, "pneumonia": 0}, 0),
        ("three_class", {"pneumonia": 1}, UNANSWERED),
        ("three_class", {"pneumonia": 1, "viral": 1}, 1),
        ("three_class", {"pneumonia": 1, "viral": 0, "bacterial": 1}, 2),
        ("three_class", {"viral": 1, "bacterial": -1}, UNANSWERED),
    ],
)
def test_targets_by_example(task, findings, target):
    assert get_task(task).targets([findings]).tolist() == [target]


@given(FINDINGS, st.sampled_from(sorted(TASKS)))
def test_targets_follow_the_rule(findings, name):
    task = get_task(name)

    def by_the_book(image):
        stated = [image.get(c) for c in task.classes]
        return stated.index(1) if stated.count(1) == 1 and -1 not in stated else UNANSWERED

    targets = task.targets(findings)
    assert targets.dtype == np.int64
    assert targets.shape == (len(findings),)
    assert targets.tolist() == [by_the_book(image) for image in findings]


@pytest.mark.parametrize("value", [2, None, "1", 0.5])
def test_strange_value_is_refused(value):
    with pytest.raises(TaskError, match=r"findings hold .*write 1 for positive, 0 for negative, -1 for uncertain"):
        get_task("binary").targets([{"normal": 1}, {"pneumonia": value}])


def test_unknown_task_names_the_known_ones():
    with pytest.raises(TaskError, match="unknown task 'ternary': choose one of binary, three_class"):
        get_task("ternary")


@pytest.mark.parametrize("classes", [(), ("normal",), ("normal", "normal")])
def test_task_needs_different_classes(classes):
    with pytest.raises(ClassifierError, match="at least two, all different"):
        Task("odd", classes)


def test_a_large_archive_takes_a_moment():
    findings = [{"normal": 0, "viral": 1, "pneumonia": 1}, {"normal": 1}] * 50_000
    start = time.perf_counter()
    targets = get_task("three_class").targets(findings)
    assert time.perf_counter() - start < 2
    assert targets.sum() == 50_000
