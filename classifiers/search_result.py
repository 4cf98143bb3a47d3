"""What a search found: every setting in every round, and which one is best."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from classifiers.evaluation import Evaluation


class SearchMetric(StrEnum):
    """What settings are ordered by; known targets alone count. Decisions are argmax, and 0.5 for labels."""

    MACRO_AUC = "macro_auc"
    BALANCED_ACCURACY = "balanced_accuracy"
    MACRO_F1 = "macro_f1"

    def of(self, evaluation: Evaluation) -> float | None:
        """Read it off an evaluation."""
        figures = {
            SearchMetric.MACRO_AUC: evaluation.auc,
            SearchMetric.BALANCED_ACCURACY: evaluation.balanced_accuracy,
            SearchMetric.MACRO_F1: evaluation.macro_f1,
        }
        return figures[self].value


@dataclass(frozen=True)
class SearchTrial:
    """One setting in one round.

    Attributes:
        round: from 1 up.
        rank: among the settings of the round, 1 the best; None without a score.
        candidate: the setting's number, from 1 up, the same in every round.
        params: what was searched, as JSON holds it.
        rows: that each fit was given at most.
        score: mean over folds; None where a fit failed, or a fold does not define the metric.
        std: standard deviation over folds.
        fit_seconds: mean over folds.
    """

    round: int
    rank: int | None
    candidate: int
    params: Mapping[str, Any]
    rows: int
    score: float | None
    std: float | None
    fit_seconds: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    A score of one round can't be held against one of another: later ones stand on more rows. The best score is the
    highest of many, and so a little too good.

    Attributes:
        head: the head's name.
        metric: what it was searched by.
        folds: of the cross-validation.
        best_params: the best setting of the last round; parameters that were not searched are not among them.
        trials: every setting in every round, the last round first, the best first.
        failures: why fits failed, each reason once.
    """

    head: str
    metric: SearchMetric
    folds: int
    best_params: Mapping[str, Any]
    trials: tuple[SearchTrial, ...]
    failures: tuple[str, ...]

    @property
    def best(self) -> SearchTrial:
        """The trial of `best_params`."""
        return self.trials[0]

    def describe(self) -> str:
        """Say in one line what was searched and found."""
        settings = len({trial.candidate for trial in self.trials})
        chosen = ", ".join(f"{name}={json.dumps(value)}" for name, value in self.best_params.items())
        score, std = self.best.score, self.best.std
        return (
            f"{settings} settings of {self.head} in {self.best.round} rounds of halving, {self.folds} folds of "
            f"patients: {chosen} has the highest {self.metric}, {score:.3f} ± {std:.3f} between folds"
        )

    def to_arrow(self) -> pa.Table:
        """The trials as a table: a column per attribute, and param_NAME for each that was searched (text, as JSON,
        where values are of several types).
        """
        rows = [asdict(trial) for trial in self.trials]
        params = [row.pop("params") for row in rows]
        columns = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
        for name in params[0]:
            values = [each[name] for each in params]
            try:
                columns[f"param_{name}"] = pa.array(values)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                columns[f"param_{name}"] = pa.array([json.dumps(value) for value in values])
        return pa.table(columns)


def trials_of(results: Mapping[str, Any]) -> tuple[SearchTrial, ...]:
    """The trials in scikit-learn's `cv_results_`, whose parameters are `head__NAME` and `rows`."""
    numbers: dict[str, int] = {}
    rows = []
    for place, params in enumerate(results["params"]):
        searched = {name.removeprefix("head__"): _plain(value) for name, value in params.items() if name != "rows"}
        number = numbers.setdefault(json.dumps(searched), len(numbers) + 1)
        score = float(results["mean_test_score"][place])
        rows.append((int(results["iter"][place]), -math.inf if math.isnan(score) else score, number, searched, place))
    rows.sort(key=lambda row: (-row[0], -row[1], row[2]))
    trials = []
    for itr, score, number, searched, place in rows:
        rank = None if score == -math.inf else 1 + sum(row[0] == itr and row[1] > score for row in rows)
        trials.append(
            SearchTrial(
                round=itr + 1,
                rank=rank,
                candidate=number,
                params=searched,
                rows=int(results["n_resources"][place]),
                score=None if rank is None else score,
                std=None if rank is None else float(results["std_test_score"][place]),
                fit_seconds=float(results["mean_fit_time"][place]),
            )
        )
    return tuple(trials)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a parameter's value may be anything
    return value.item() if isinstance(value, np.generic) else list(value) if isinstance(value, tuple) else value
