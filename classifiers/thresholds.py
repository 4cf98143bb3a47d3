"""Thresholds: the rule that turns probabilities into decisions, stored beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Rule(StrEnum):
    """How a decision is taken."""

    ARGMAX = "argmax"


@dataclass(frozen=True)
class Thresholds:
    """A decision rule. Under `argmax` the most probable class is decided, the first one on a tie, and no other."""

    rule: Rule = Rule.ARGMAX

    def decide(self, probabilities: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Decide every row.

        Args:
            probabilities: float64 (n, k).

        Returns:
            bool (n, k), one True per row.
        """
        winners = np.argmax(probabilities, axis=1)
        return np.asarray(winners[:, None] == np.arange(probabilities.shape[1]))

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON."""
        return {"rule": self.rule.value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Thresholds:
        """Read what `as_dict` wrote. Raises KeyError or ValueError on anything else."""
        return cls(rule=Rule(values["rule"]))
