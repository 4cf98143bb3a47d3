"""Tasks: the questions put to the findings. A finding is a fact of a label file; tasks turn findings into targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from classifiers.errors import TaskError

POSITIVE: Final = 1
NEGATIVE: Final = 0
UNCERTAIN: Final = -1

UNANSWERED: Final = -1
"""The target of an image whose findings do not answer the task: no class index, so it can't be mistaken for one."""


@dataclass(frozen=True)
class Task:
    """A single-label question: which one of `classes` does an image show?

    Attributes:
        name: the task's name, as in config keys and folder names.
        classes: the names of the findings that are its classes; a class's index is its place here.

    Raises:
        TaskError: on fewer than two classes, or one named twice.
    """

    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what is no question."""
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise TaskError(f"task {self.name!r} has classes {list(self.classes)}: give at least two, all different")

    def targets(self, findings: Sequence[Mapping[str, int]]) -> NDArray[np.int64]:
        """Answer the task for every image.

        An image is answered when exactly one of the task's classes is positive and none of them is uncertain; classes
        that are negative or not mentioned do not speak against it. Everything else is `UNANSWERED`: an image known to
        show pneumonia of no known kind has no target in `three_class`.

        Args:
            findings: per image, finding name → 1 positive, 0 negative, -1 uncertain; absent = not mentioned. Names
                that are no class of this task are not looked at.

        Returns:
            int64 (n,): the class's index, or `UNANSWERED` (-1).

        Raises:
            TaskError: when a finding of this task holds any other value.
        """
        # Not mentioned counts as negative here: neither speaks for the class, nor against another.
        values = [image.get(name, NEGATIVE) for image in findings for name in self.classes]
        if unknown := set(values) - {POSITIVE, NEGATIVE, UNCERTAIN}:
            raise TaskError(
                f"findings hold {sorted(unknown, key=repr)} for a class of task {self.name!r}: "
                "write 1 for positive, 0 for negative, -1 for uncertain, and leave out what is not mentioned"
            )
        stated = np.array(values, dtype=np.int8).reshape(len(findings), len(self.classes))
        positive = stated == POSITIVE
        answered = (positive.sum(axis=1) == 1) & ~(stated == UNCERTAIN).any(axis=1)
        return np.where(answered, positive.argmax(axis=1), UNANSWERED).astype(np.int64)


TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("binary", ("normal", "pneumonia")),
            Task("three_class", ("normal", "viral", "bacterial")),
        )
    }
)


def get_task(name: str) -> Task:
    """Look a task up by its name.

    Raises:
        TaskError: when there is no such task; names those that there are.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise TaskError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}") from None
