"""Search: settings of a head tried on few rows first and the better ones on more, cross-validated by patients."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - makes the next import possible
from sklearn.model_selection import HalvingRandomSearchCV, ParameterGrid

from classifiers.errors import HeadError
from classifiers.estimator import Head
from classifiers.folds import each_fold, owners, patient_folds
from classifiers.heads import check_fitted, make_head
from classifiers.metrics import evaluate
from classifiers.rows import SplitRows
from classifiers.search_result import SearchMetric, SearchResult, trials_of
from classifiers.search_space import read_space
from classifiers.tasks import NEGATIVE, POSITIVE, Task
from classifiers.workers import workers

#: Each round keeps one in so many settings and gives it so many times the rows (scikit-learn's default).
FACTOR: Final = 3
#: Rows of each class that the smallest round has at least, where there are so many.
_OF_EACH_CLASS: Final = 5
#: The smallest round has so many times the rows that hold `_OF_EACH_CLASS` of each, so that chance decides less.
_MARGIN: Final = 4


def search_params(
    head: str,
    task: Task,
    train: SplitRows,
    space: Mapping[str, Any],
    *,
    params: Mapping[str, Any] | None = None,
    candidates: int = 20,
    folds: int = 3,
    metric: SearchMetric = SearchMetric.MACRO_AUC,
    scheduler: str | None = None,
    seed: int = 0,
) -> SearchResult:
    """Search a head's parameters by successive halving (Karnin, Koren and Somekh, ICML 2013) on train alone.

    In every round each setting is cross-validated on the same folds, which share no patient; fits of early rounds see
    a part of their fold's rows, drawn so that no class is missing, and judged are always all rows of the fold. A head
    that stops early holds out patients of its own fold for that. The same rows, space and seed give the same settings;
    scores agree up to the rounding of sums.

    Args:
        head: the head's name.
        task: the question.
        train: answered rows.
        space: parameter → `[values]`, `{uniform: [low, high]}`, `{log_uniform: [low, high]}` or
            `{integers: [low, high]}`.
        params: parameters that are not searched; what is left out keeps its default.
        candidates: settings that are drawn; fewer where lists hold fewer.
        folds: of the cross-validation.
        metric: to be as high as possible.
        scheduler: where fits run: None for this process, `local` for Dask workers on this machine, or the address of a
            Dask scheduler, whose workers must be able to import this package.
        seed: of settings, folds and rows.

    Raises:
        HeadError: before any fit, telling every mistake in the space, or what the folds lack; when a scheduler can't
            be reached; when no setting can be fitted.
    """
    check_fitted(head)
    fixed = dict(params or {})
    unfitted = make_head(head, **fixed)
    if twice := sorted(set(fixed) & set(space)):
        raise HeadError(f"{', '.join(twice)} is both set and searched: leave it out of the parameters, or of the space")
    distributions = read_space(unfitted, space, multi_label=task.multi_label)
    if candidates < 2:
        raise HeadError(f"{candidates} settings leave nothing to choose from: search 2 at least")
    candidates = _drawn(distributions, candidates)
    splits = list(each_fold(patient_folds(task, train, folds, seed=seed)))
    rounds = _Rounds.of(task, train, [len(fold.train) for fold in splits], candidates)
    search = HalvingRandomSearchCV(
        _OnRows(unfitted, seed),
        {f"head__{name}": values for name, values in distributions.items()},
        n_candidates=candidates,
        factor=FACTOR,
        resource="rows",
        min_resources=rounds.least,
        max_resources=rounds.most,
        cv=splits,
        scoring=_Scorer(task, metric),
        refit=False,
        return_train_score=False,
        random_state=seed,
    )
    with workers(scheduler), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitFailedWarning)
        try:
            search.fit(train.features, train.targets, patients=owners(train))
        except ValueError as error:
            if not (reasons := _reasons(str(error))):
                raise
            raise HeadError(f"no setting could be fitted: {'; '.join(reasons)}") from error
    trials = trials_of(search.cv_results_)
    if trials[0].score is None:
        raise HeadError(
            f"{metric} is not defined in some fold of {folds}, so that no setting is better than another: take fewer "
            "folds, or another metric"
        )
    return SearchResult(
        head=head,
        metric=metric,
        folds=folds,
        best_params=trials[0].params,
        trials=trials,
        failures=_reasons("\n".join(str(each.message) for each in caught)),
    )


class _Rounds(NamedTuple):
    """Rows that each fit of the first round gets, and of the last."""

    least: int
    most: int

    @classmethod
    def of(cls, task: Task, train: SplitRows, fits: Sequence[int], candidates: int) -> Self:
        """As many rounds as leave fewer than `FACTOR` settings, unless the first would have too few rows."""
        most = max(fits)
        enough = min(_MARGIN * len(_first_rows(np.asarray(train.targets), np.arange(len(train)))), most)
        wanted = math.floor(math.log(candidates, FACTOR) + 1e-9)
        possible = math.floor(math.log(most / enough, FACTOR) + 1e-9)
        return cls(most // FACTOR ** min(wanted, possible), most)


class _OnRows(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A head that is fitted on some of the rows it is given, fewer ones being among the more."""

    def __init__(self, head: Head, seed: int, rows: int = 1) -> None:
        self.head = head
        self.seed = seed
        self.rows = rows

    def fit(self, X: NDArray[np.float32], y: NDArray[np.integer[Any]], patients: NDArray[np.int64]) -> Self:
        order = np.random.default_rng(self.seed).permutation(len(y))
        first = _first_rows(y, order)
        chosen = np.sort(np.concatenate([first, order[~np.isin(order, first)]])[: self.rows])
        self.head_ = clone(self.head).fit(X[chosen], y[chosen], patients=patients[chosen], multi_label=y.ndim == 2)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(self.head_.predict_proba(X))


def _first_rows(y: NDArray[np.integer[Any]], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those that hold `_OF_EACH_CLASS` rows of every class, of every label positives and negatives, first in order."""
    shown = y[order]
    if y.ndim == 1:
        columns = [shown == each for each in np.unique(y)]
    else:
        columns = [column == value for column in shown.T for value in (POSITIVE, NEGATIVE)]
    places = np.concatenate([np.flatnonzero(column)[:_OF_EACH_CLASS] for column in columns])
    return np.asarray(order[np.unique(places)])


@dataclass(frozen=True)
class _Scorer:
    task: Task
    metric: SearchMetric

    def __call__(self, estimator: _OnRows, X: NDArray[np.float32], y: NDArray[np.integer[Any]]) -> float:
        probabilities = estimator.predict_proba(X)
        if self.task.multi_label:
            decisions = probabilities >= 0.5
        else:
            decisions = probabilities.argmax(axis=1)[:, None] == np.arange(len(self.task.classes))
        found = self.metric.of(evaluate(self.task, y, probabilities, decisions, resamples=0))
        return math.nan if found is None else found


def _drawn(distributions: Mapping[str, Any], candidates: int) -> int:
    """How many settings there are to draw: lists alone make a grid, which is drawn from without replacement."""
    if not all(isinstance(values, list) for values in distributions.values()):
        return candidates
    if (settings := len(ParameterGrid(dict(distributions)))) < 2:
        raise HeadError("the search space holds a single setting: name two values of some parameter at least")
    return min(candidates, settings)


def _reasons(text: str) -> tuple[str, ...]:
    """What our own errors said in tracebacks, each once."""
    return tuple(dict.fromkeys(re.findall(r"^classifiers\.errors\.\w+: (.+)$", text, re.MULTILINE)))
