"""The table of a sweep: one row for each trial, the best first, as Parquet, for the page and for the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.finetuning.trainer import EpochResult
from featurizers.finetuning.validation import METRICS
from pipelines.stored_backbones import LAKE_PREFIX
from pipelines.sweep_call import TrialResult
from pipelines.sweep_halving import best_of, rank
from pipelines.sweep_trials import Sweep, told

#: In a sweep's run.
TABLE, PAGE, CONFIGS = "sweep.parquet", "report.html", "trials.json"

#: A path or an address in a message: all that is quoted and has a slash, or begins as one. lake:// is a name, no place.
_PLACE: Final = re.compile(
    r"""(?<!\w)'(?!lake://)[^'\n]*/[^'\n]*'|(?<![\w/:.])(?!lake://)(?:[a-zA-Z][\w+.-]*:/)?/[^\s'",;)]+"""
)
#: The setting that may be a path.
_WEIGHTS: Final = "backbone.weights"

_FIRST: Final = (pa.field("trial", pa.string()),)
_LAST: Final = (
    pa.field("status", pa.string()),
    pa.field("epochs", pa.int32()),
    pa.field("best_epoch", pa.int32()),
    *(pa.field(f"val_{name}", pa.float64()) for name in METRICS),
    pa.field("train_loss", pa.float64()),
    pa.field("seconds", pa.float64()),
    pa.field("parameters", pa.int64()),
    pa.field("backbone", pa.string()),
    pa.field("run", pa.string()),
    pa.field("error", pa.string()),
)


@dataclass(frozen=True)
class TrialRow:
    """A trial and what came of it.

    Attributes:
        name: in the sweep.
        settings: what distinguishes it, by dotted key; of files only their names.
        backbone: its name in the lake.
        epochs: that it might have trained.
        result: how far it came.
    """

    name: str
    settings: Mapping[str, Any]
    backbone: str
    epochs: int
    result: TrialResult

    @property
    def run(self) -> str | None:
        """Its committed run as backbone.weights=… takes it; None unless it is done."""
        if self.result.run is None:
            return None
        return f"{LAKE_PREFIX}{self.backbone}/{self.result.run.rpartition('/')[2]}"

    @property
    def error(self) -> str | None:
        """Why it failed, without the paths and addresses that the error told."""
        return None if self.result.error is None else _PLACE.sub("…", self.result.error)

    @property
    def best(self) -> EpochResult | None:
        """The epoch whose weights are kept."""
        return best_of(self.result.history)

    def figure(self, name: str) -> float | None:
        """A figure of val at the best epoch."""
        return None if self.best is None else self.best.figures.get(name)


def trial_rows(sweep: Sweep, results: Mapping[str, TrialResult]) -> list[TrialRow]:
    """All trials, the best monitored figure first, those without one last."""
    rows = [
        TrialRow(trial.name, _without_places(trial.settings), str(trial.config.name), trial.epochs, results[trial.name])
        for trial in sweep.trials
    ]
    return sorted(rows, key=lambda row: rank(sweep.monitor, row.best))


def sweep_table(rows: Sequence[TrialRow]) -> pa.Table:
    """One row for each trial, in their order.

    `trial`; what varies, as columns by dotted key (of one type: numbers, or text as a command line takes it); `status`
    (done, stopped, failed); `epochs` trained; `best_epoch`, and figures of val there as `val_NAME`; `train_loss` of
    that epoch; `seconds`; `parameters` of backbone and top; `backbone`, its name in the lake; `run`, as
    backbone.weights=… takes it, null unless it is done; `error`, why it failed. Nothing tells where the lake lies.
    """
    keys = list(rows[0].settings)
    varying = {key: _column([row.settings[key] for row in rows]) for key in keys}
    fields = [*_FIRST, *(pa.field(key, column.type) for key, column in varying.items()), *_LAST]
    columns = {"trial": [row.name for row in rows], **varying}
    columns |= {f"val_{name}": [row.figure(name) for row in rows] for name in METRICS}
    columns |= {
        "status": [row.result.status.value for row in rows],
        "epochs": [len(row.result.history) for row in rows],
        "best_epoch": [None if row.best is None else row.best.epoch for row in rows],
        "train_loss": [None if row.best is None else row.best.train_loss for row in rows],
        "seconds": [row.result.seconds for row in rows],
        "parameters": [row.result.parameters for row in rows],
        "backbone": [row.backbone for row in rows],
        "run": [row.run for row in rows],
        "error": [row.error for row in rows],
    }
    return pa.table({field.name: columns[field.name] for field in fields}, pa.schema(fields))


def table_file(rows: Sequence[TrialRow]) -> bytes:
    """The table as a Parquet file."""
    file = io.BytesIO()
    pq.write_table(sweep_table(rows), file)
    return file.getvalue()


def _column(values: Sequence[Any]) -> pa.Array:
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known):
        return pa.array(values, pa.bool_())
    if all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.int64())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return pa.array(values, pa.float64())
    return pa.array([None if value is None else told(value) for value in values], pa.string())


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(settings)
    if not str(kept.get(_WEIGHTS, LAKE_PREFIX)).startswith(LAKE_PREFIX):
        kept[_WEIGHTS] = str(kept[_WEIGHTS]).rpartition("/")[2]
    return kept
