"""Rows of one split: features, targets, and what an evaluation asks about their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from classifiers.errors import HeadError
from classifiers.tasks import UNANSWERED


@dataclass(frozen=True)
class SplitRows:
    """One split's rows, in one order throughout.

    Attributes:
        features: float32 (n, d); may be mapped from a file where it does not fit in memory.
        targets: as `Task.targets` gives them: int64 (n,) class indices, or int8 (n, k) of 1, 0 and -1.
        patients: int64 (n,), rows of one number are of one patient. None: every row is a patient of its own.
        image_ids: str (n,); None where nobody asks which image a row is.
        attributes: what subgroups are made of, name → str (n,): sex, age band, view, data set. "" is not known.

    Raises:
        HeadError: when they do not have the same number of rows.
    """

    features: NDArray[np.float32]
    targets: NDArray[np.integer[Any]]
    patients: NDArray[np.int64] | None = None
    image_ids: NDArray[np.str_] | None = None
    attributes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse rows that do not pair up."""
        n = len(self.features)
        told = {"targets": self.targets, "patients": self.patients, "image_ids": self.image_ids, **self.attributes}
        for name, column in told.items():
            if column is not None and len(column) != n:
                raise HeadError(
                    f"features of shape {np.shape(self.features)} and {name} of shape {np.shape(column)} do not "
                    "pair up: give one entry per image, in the same order"
                )

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.targets)

    @property
    def is_answered(self) -> NDArray[np.bool_]:
        """Which rows the task answers, for one class at least: bool (n,)."""
        known = np.asarray(self.targets) != UNANSWERED
        return np.asarray(known if known.ndim == 1 else known.any(axis=1))

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Some of the rows: a copy."""
        return replace(
            self,
            features=self.features[rows],
            targets=self.targets[rows],
            patients=None if self.patients is None else self.patients[rows],
            image_ids=None if self.image_ids is None else self.image_ids[rows],
            attributes={name: column[rows] for name, column in self.attributes.items()},
        )

    def answered(self) -> Self:
        """Leave out the rows that the task does not answer; the rows themselves where there are none."""
        known = self.is_answered
        return self if known.all() else self.take(known)
