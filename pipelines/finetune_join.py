"""What a process of several does around its training: joins the others, and leaves word of why it failed."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from classifiers.errors import ClassifierError, TaskError
from featurizers.devices import check_device
from featurizers.errors import FeaturizerError, TrainingError, WeightsError
from featurizers.finetuning.group import join_group, leave_group
from pipelines.errors import USER_ERRORS, ConfigError, LakeError, PleuraError
from pipelines.finetune_config import FinetuneConfig
from pipelines.finetune_rank import train_rank
from pipelines.folders import Folder

#: In a course: why its processes failed, each in a file of its own.
_FAULTS: Final = "faults"
#: What a fault can be raised as, the special before the general.
_KINDS: Final = (
    ConfigError,
    LakeError,
    TrainingError,
    WeightsError,
    TaskError,
    PleuraError,
    FeaturizerError,
    ClassifierError,
)
#: A process that failed waits so long for the others to fail alike: the first may still be keeping weights, and ends
#: with the first process that leaves.
_WAIT_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.2


def join_rank(told: str, training: tuple[str, str, int | None], task: bytes | None, threads: int) -> None:
    """Train as one process of those that torchrun started, on a machine that need not be the driver's.

    Args:
        told: the job's `FinetuneConfig` as JSON.
        training: course, backbone and until, as `train_rank` takes them.
        task: content of the task's file; None: it is one that comes with Pleura.
        threads: that this process may compute with.
    """
    course, backbone, until = training
    faults = Folder(course) / _FAULTS
    if _noted(faults):
        # A second attempt of Spark's at what would fail in the same way. The driver tells the fault.
        return
    torch.set_num_threads(threads)
    config = FinetuneConfig.model_validate_json(told)
    changed: dict[str, Any] = {}
    if config.device != "cpu":
        changed["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
    with tempfile.TemporaryDirectory(prefix="pleura-") as scratch, _noting(faults):
        if task is not None:
            # A task is called as its file is.
            file = Path(scratch) / Path(config.task).name
            file.write_bytes(task)
            changed["task"] = str(file)
        config = config.model_copy(update=changed)
        join_group(check_device(config.device))
        train_rank(config.model_dump_json(by_alias=True), course, backbone, until)
        # Not after a failure: the others would notice, and their end would be this one's before all is noted.
        leave_group()


def forget_faults(course: str) -> None:
    """Forget why an earlier start failed."""
    (Folder(course) / _FAULTS).remove()


def fault_of(course: str) -> Exception | None:
    """Why a course's processes failed, as the first of them tells it; None where none of them does."""
    faults = Folder(course) / _FAULTS
    for name in _noted(faults)[:1]:
        told = faults.read_json(name)
        kind = next(each for each in _KINDS if each.__name__ == told["kind"])
        return kind(told["message"])
    return None


@contextmanager
def _noting(faults: Folder) -> Iterator[None]:
    try:
        yield
    except USER_ERRORS as error:
        kind = next(each for each in _KINDS if isinstance(error, each))
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        faults.write_json(f"rank-{rank:05}.json", {"kind": kind.__name__, "message": str(error)})
        # All having failed, they end in peace, and nobody tries again. Else this process's end ends the others, which
        # may be waiting for it.
        if not _all_noted(faults, world):
            sys.exit(1)


def _all_noted(faults: Folder, world: int) -> bool:
    until = time.monotonic() + _WAIT_SECONDS
    while len(_noted(faults)) < world:
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _noted(faults: Folder) -> list[str]:
    return [name for name in faults.names() if name.endswith(".json")]
