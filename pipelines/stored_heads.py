"""Heads in a lake: kept as committed runs, and found again by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from classifiers.reports.examples import Example
from classifiers.trained import TrainedHead
from pipelines.acquisition import BackbonesHoldOut
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.job import JobRecord
from pipelines.lake import Lake

_RECORD = "run.json"


def save_head(
    lake: Lake,
    name: str,
    trained: TrainedHead,
    record: JobRecord,
    *,
    examples: Sequence[Example] = (),
    beside: Mapping[str, bytes] | None = None,
) -> Folder:
    """Keep a head as a new run of heads/TASK/NAME; earlier runs stay.

    Args:
        lake: where to.
        name: the head's.
        trained: what is kept.
        record: of the job that trained it.
        examples: images that its report shows.
        beside: other files of the run, by name.
    """
    run = lake.head_runs(trained.task.name, name).new_run()
    for file, content in {**trained.to_files(examples), **(beside or {})}.items():
        run.write(file, content)
    run.write_json(_RECORD, record.as_dict())
    run.commit()
    return run


def load_head(lake: Lake, reference: str) -> TrainedHead:
    """The newest run of the head `task/name`, or the run `task/name/run=…`.

    Raises:
        LakeError: if there is none; tells the heads that are there.
        HeadError: if its files are damaged.
    """
    run = _run_of(lake, reference)
    return TrainedHead.from_files({file: run.read(file) for file in run.names() if not file.startswith((".", "_"))})


def hold_out_of(lake: Lake, reference: str) -> BackbonesHoldOut:
    """Whom the training of a head held out; `reference` as of `load_head`."""
    run = _run_of(lake, reference)
    told = run.read_json(_RECORD) if _RECORD in run.names() else {}
    return BackbonesHoldOut.of_card(told)


def _run_of(lake: Lake, reference: str) -> Folder:
    task, _, rest = reference.partition("/")
    name, _, wanted = rest.partition("/")
    runs = lake.head_runs(task, name).runs() if name else []
    matching = [run for run in runs if wanted in ("", run.name)]
    if not matching:
        there = ", ".join(lake.heads()) or "none; train one with jobs/train_head.py"
        raise LakeError(f"there is no head '{reference}' in '{lake.folder.uri}'. Heads there: {there}.")
    return matching[-1]
