"""One trial of a sweep, by its config as JSON: what any process anywhere can run, and what comes of it."""

from __future__ import annotations

import io
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.finetuning.network import FineTunedNetwork
from featurizers.finetuning.trainer import EpochResult
from featurizers.finetuning.validation import METRICS
from pipelines.errors import USER_ERRORS
from pipelines.finetune import Training, finetune, plan_training
from pipelines.finetune_config import FinetuneConfig
from pipelines.finetuned import EPOCHS, BackboneCard
from pipelines.folders import Folder
from pipelines.stored_backbones import BACKBONE_CARD

#: torch's generator belongs to the process: two trials in two threads of a Dask worker would draw from each other's.
_ALONE: Final = threading.Lock()


class Status(StrEnum):
    """How a trial stands.

    Attributes:
        DONE: trained to its end, and committed.
        PAUSED: trained so far as it was asked to; it can go on.
        STOPPED: paused, and others were better.
        FAILED: it could not be trained.
    """

    DONE = "done"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class Call(NamedTuple):
    """What a process is asked to do.

    Attributes:
        label: what the log calls it.
        told: `FinetuneConfig` as JSON.
        until: the epoch after which to pause; None: train to the end.
    """

    label: str
    told: str
    until: int | None


@dataclass(frozen=True)
class TrialResult:
    """How far a trial came.

    Attributes:
        status: see there.
        history: its epochs.
        seconds: of training and validation, over all starts.
        parameters: of backbone and top; None where it failed before they were known.
        run: URI of the committed backbone; None unless it is done.
        error: why it failed.
    """

    status: Status
    history: tuple[EpochResult, ...] = ()
    seconds: float = 0.0
    parameters: int | None = None
    run: str | None = None
    error: str | None = None


def run_trial(call: Call) -> TrialResult:
    """Train a trial on, from where it is; what goes wrong is told by the result and ends no other trial."""
    config = FinetuneConfig.model_validate_json(call.told)
    with _ALONE:
        sys.stderr.write(f"{call.label}\n")
        sys.stderr.flush()
        so_far = TrialResult(Status.FAILED)
        training: Training | None = None
        try:
            training = plan_training(config)
            so_far = replace(so_far, parameters=_parameters(training))
            return _trained(training, call.until, so_far)
        except USER_ERRORS as error:
            told = str(error)
        except Exception as error:  # whatever a trial dies of, the others go on
            traceback.print_exc()
            told = f"{type(error).__name__}: {error}"
        if training is not None:
            so_far = _with_history(so_far, training.history())
        return replace(so_far, error=told)


def _trained(training: Training, until: int | None, so_far: TrialResult) -> TrialResult:
    run = training.done()
    if run is None and until is not None and training.course.outcome() is None:
        if len(training.history()) < until:
            training.advance(until)
        if training.course.outcome() is None:
            return replace(_with_history(so_far, training.history()), status=Status.PAUSED)
    if run is None:
        finetune(training.config)
        run = training.done()
        assert run is not None
    return _of_run(run)


def _of_run(run: Folder) -> TrialResult:
    card = BackboneCard.from_dict(run.read_json(BACKBONE_CARD))
    history = _epochs(pq.read_table(io.BytesIO(run.read(EPOCHS))))
    return TrialResult(Status.DONE, history, card.seconds, card.parameters, run.uri)


def _epochs(table: pa.Table) -> tuple[EpochResult, ...]:
    """What `epochs_table` made a table of."""
    names = {f"val_{name}": name for name in METRICS}
    return tuple(
        EpochResult(
            **{key: value for key, value in row.items() if key not in names},
            figures={name: row[column] for column, name in names.items() if column in row},
        )
        for row in table.to_pylist()
    )


def _with_history(result: TrialResult, history: Sequence[EpochResult]) -> TrialResult:
    return replace(result, history=tuple(history), seconds=sum(epoch.seconds for epoch in history))


def _parameters(training: Training) -> int:
    config = training.config
    classes = len(training.task.classes)
    network = FineTunedNetwork(training.spec, training.weights, classes, config.top.settings(), config.seed)
    return sum(each.numel() for each in network.parameters())
