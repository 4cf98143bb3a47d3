"""The search of a training job: its settings, what it says, and its table."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
from pydantic import Field

from classifiers.rows import SplitRows
from classifiers.search import search_params
from classifiers.search_result import SearchMetric, SearchResult
from classifiers.tasks import Task
from pipelines.config import Config

#: Beside a head: every setting in every round.
SEARCH_TABLE = "search.parquet"
#: Settings of the last rounds that the summary shows.
_SHOWN = 5


class SearchConfig(Config):
    """What a training job searches, if anything."""

    space: dict[str, Any] = Field(
        {},
        description="parameters to search on train, as search.space.NAME=[values], {uniform: [low, high]}, "
        "{log_uniform: [low, high]} or {integers: [low, high]}; none: no search",
    )
    candidates: int = Field(20, ge=2, description="settings that are drawn; halving tries all on few rows first")
    folds: int = Field(3, ge=2, description="of the cross-validation, which keeps a patient's images together")
    metric: SearchMetric = Field(SearchMetric.MACRO_AUC, description="to be as high as possible")
    scheduler: str | None = Field(
        None,
        description="where fits run: null: this process; local: Dask workers on this machine; or the address of a Dask "
        "scheduler, such as tcp://host:8786",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of the settings drawn, the folds and the rows of early rounds")


def run_search(
    config: SearchConfig, head: str, params: Mapping[str, Any], task: Task, train: SplitRows
) -> SearchResult | None:
    """Search, if the config names parameters.

    Args:
        config: what is searched, and how.
        head: the head's name.
        params: its other parameters.
        task: the question.
        train: rows of train.

    Raises:
        HeadError: as `search_params`.
    """
    if not config.space:
        return None
    return search_params(
        head,
        task,
        train.answered(),
        config.space,
        params=params,
        candidates=config.candidates,
        folds=config.folds,
        metric=config.metric,
        scheduler=config.scheduler,
        seed=config.seed,
    )


def search_file(result: SearchResult) -> bytes:
    """The table of all settings, as Parquet, to be kept as `SEARCH_TABLE` beside the head."""
    file = BytesIO()
    pq.write_table(result.to_arrow(), file)
    return file.getvalue()


def search_lines(result: SearchResult) -> list[str]:
    """What a summary tells of a search: the best settings of the last round, and why fits failed."""
    last = [trial for trial in result.trials if trial.round == result.best.round][:_SHOWN]
    lines = ["", f"search: {result.describe()}", f"  rank  {result.metric} (sd)  seconds/fit  setting"]
    for trial in last:
        told = "n/a" if trial.score is None else f"{trial.score:.3f} ({trial.std:.3f})"
        setting = ", ".join(f"{name}={value}" for name, value in trial.params.items())
        rank = "n/a" if trial.rank is None else str(trial.rank)
        lines.append(f"  {rank:>4}  {told:>{len(result.metric) + 5}}  {trial.fit_seconds:>11.1f}  {setting}")
    lines += [f"  some fits failed: {reason}" for reason in result.failures]
    return lines
