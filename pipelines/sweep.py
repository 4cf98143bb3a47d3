"""Sweeps of fine-tunings: many settings of one training, one table, one page, and the weights of each."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from featurizers.errors import TrainingError
from pipelines import __version__
from pipelines.backbone_reports.epochs import figure_name
from pipelines.config import listed_mistakes
from pipelines.errors import USER_ERRORS, ConfigError
from pipelines.finetune import Training, plan_training
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.lake import Lake
from pipelines.progress import clock
from pipelines.splits import Split
from pipelines.stored_backbones import LAKE_PREFIX
from pipelines.sweep_call import Call, Status, TrialResult
from pipelines.sweep_config import SweepConfig
from pipelines.sweep_halving import best_of, run_halving, rungs
from pipelines.sweep_page import render_sweep
from pipelines.sweep_table import CONFIGS, PAGE, TABLE, TrialRow, table_file, trial_rows
from pipelines.sweep_trials import Sweep, Trial, in_trials, read_sweep
from pipelines.sweep_workers import Runner, trial_runner

#: Trials that a summary shows.
_SHOWN: Final = 10


def sweep_backbones(config: SweepConfig) -> JobRecord:
    """Run the job.

    A sweep that broke off goes on when it is started again: trials that are done are not done again, those on their
    way go on from their last checkpoints, those that failed are tried again.

    Raises:
        LakeError: if there is nothing to learn from.
        ConfigError: telling every mistake of every trial at once, before any is trained.
        TrainingError: if no trial could be trained.
        HeadError: if there is no such Dask scheduler, or its workers do not have Pleura.
    """
    lake = Lake.open(config.lake)
    record = JobRecord("sweep_backbones", config)
    with record.time("plan"):
        sweep = read_sweep(config, lake.folder.uri)
        plan = _Plan(sweep, config)
    record.count("trials", len(sweep.trials))
    record.extra |= {"sweep": Path(config.sweep).read_text(), "identity": plan.identity}
    runs = lake.sweeps(sweep.name)
    if done := _whole(runs.runs()[-1:], plan.identity):
        record.summary = _summary(config, sweep, done, {"nothing to do": "the same sweep is there"})
        return record
    with record.time("train"), trial_runner(config.workers, len(sweep.trials), config.master) as runner:
        results = run_halving(sweep.trials, sweep.halving, sweep.monitor, _Training(sweep, runner))
    rows = trial_rows(sweep, results)
    for status in Status:
        if ended := sum(row.result.status is status for row in rows):
            record.count(status.value, ended)
    if all(row.result.status is Status.FAILED for row in rows):
        why = {row.name: [row.result.error or ""] for row in rows}
        raise TrainingError("no trial could be trained:\n  " + "\n  ".join(in_trials(why, len(rows))))
    run = _commit(runs.new_run(), sweep, rows, plan, record)
    facts = {
        "trials": ", ".join(f"{record.counts[status]} {status}" for status in Status if status in record.counts),
        "time": clock(record.timings["train"]),
    }
    record.summary = _summary(config, sweep, run, facts)
    return record


class _Plan:
    """What is known of the trials before any is trained.

    Attributes:
        identity: changes with whatever could change a result.
        task: its name.
        images: of each split, in words.
        data: fingerprint of what is learned from what.
    """

    def __init__(self, sweep: Sweep, config: SweepConfig) -> None:
        planned: dict[str, Training | str] = {}
        found: dict[str, list[str]] = {}
        for trial in sweep.trials:
            # Trials that start from the same weights are planned once: they learn from the same images.
            start = trial.config.backbone.model_dump_json()
            if start not in planned:
                try:
                    planned[start] = plan_training(trial.config)
                except USER_ERRORS as error:
                    planned[start] = str(error)
            training = planned[start]
            if isinstance(training, str):
                found[trial.name] = [training]
                continue
            try:
                training.check(trial.config)
            except USER_ERRORS as error:
                found[trial.name] = [str(error)]
        if found:
            raise ConfigError(listed_mistakes(f"sweep '{config.sweep}'", in_trials(found, len(sweep.trials))))
        trainings = [training for training in planned.values() if isinstance(training, Training)]
        rows = trainings[0].rows
        # Its name: the config may have the path of a file.
        self.task = trainings[0].task.name
        self.images = ", ".join(f"{split} {len(rows.places[split]):,}" for split in Split if len(rows.places[split]))
        self.data = rows.fingerprint
        settings = {trial.name: trial.config.model_dump(mode="json", exclude={"lake"}) for trial in sweep.trials}
        halving = sweep.halving.model_dump() if sweep.halving else None
        about = [[training.identity for training in trainings], settings, halving]
        self.identity = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


class _Training:
    """Trains trials, and says how far the sweep is."""

    def __init__(self, sweep: Sweep, runner: Runner) -> None:
        self._sweep, self._run = sweep, runner
        self._places = {trial.name: place for place, trial in enumerate(sweep.trials, 1)}

    def __call__(self, trials: Sequence[Trial], until: int | None) -> Mapping[str, TrialResult]:
        results: dict[str, TrialResult] = {}
        if until is not None and trials:
            _say(f"{len(trials)} trials to epoch {until}")
        for place, result in self._run([self._call(trial, until) for trial in trials]):
            trial = trials[place]
            results[trial.name] = result
            _say(f"{self._label(trial)}  {self._outcome(result)}  ({len(results)} of {len(trials)})")
        return results

    def _call(self, trial: Trial, until: int | None) -> Call:
        # One that has no epochs beyond this one can as well end.
        pause = until if until is not None and until < trial.epochs else None
        return Call(self._label(trial), trial.config.model_dump_json(by_alias=True), pause)

    def _label(self, trial: Trial) -> str:
        return f"trial {self._places[trial.name]}/{len(self._places)} {trial.name}"

    def _outcome(self, result: TrialResult) -> str:
        if result.status is Status.FAILED:
            return f"failed: {result.error}"
        best = best_of(result.history)
        figure = None if best is None else best.figures.get(self._sweep.monitor)
        shown = "n/a" if figure is None else f"{figure:.4f}"
        epoch = "" if best is None else f" in epoch {best.epoch} of {len(result.history)}"
        return f"{result.status}: val {figure_name(self._sweep.monitor)} {shown}{epoch}, {clock(result.seconds)}"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _whole(newest: Sequence[Folder], identity: str) -> Folder | None:
    """The run of this very sweep; not if a trial failed in it, for that is tried again."""
    for run in newest:
        kept = run.read_json("run.json")
        if kept["identity"] == identity and Status.FAILED not in kept["counts"]:
            return run
    return None


def _commit(run: Folder, sweep: Sweep, rows: Sequence[TrialRow], plan: _Plan, record: JobRecord) -> Folder:
    run.write(TABLE, table_file(rows))
    run.write_json(CONFIGS, {trial.name: trial.config.model_dump(mode="json", by_alias=True) for trial in sweep.trials})
    facts = {
        "Task": plan.task,
        "Images": plan.images,
        "What varies": ", ".join(sweep.varying),
        "Data's fingerprint": plan.data,
        "Settings of all trials": f"{CONFIGS}, beside this page",
        "Made": f"{record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}",
    }
    run.write(PAGE, render_sweep(sweep.name, rows, sweep.monitor, _how(sweep), facts).encode())
    record.runs.append(run.uri)
    run.write_json("run.json", record.as_dict())
    run.commit()
    return run


def _how(sweep: Sweep) -> list[str]:
    how = [
        f"{len(sweep.trials)} settings of one training, on the same images; each trial keeps the weights of the epoch "
        f"with the best {figure_name(sweep.monitor)} on val, and trials are ranked by it."
    ]
    if sweep.halving and (stops := rungs(sweep.halving, max(trial.epochs for trial in sweep.trials))):
        how.append(
            f"Successive halving: after epoch {', '.join(map(str, stops))} only the best 1 in {sweep.halving.factor} "
            "went on. The others were stopped early; what learns slowly may have been stopped too soon."
        )
    return how


def _summary(config: SweepConfig, sweep: Sweep, run: Folder, facts: Mapping[str, object]) -> str:
    trials = pq.read_table(io.BytesIO(run.read(TABLE))).to_pylist()
    best = trials[0]
    rows = {"task": sweep.trials[0].config.task, **facts, "table": f"{run.uri}/{TABLE}", "page": f"{run.uri}/{PAGE}"}
    if best["status"] == Status.DONE:
        rows["next"] = f"jobs/extract_features.py lake={config.lake} backbone.weights={LAKE_PREFIX}{best['backbone']}"
    lines = [
        summary_text(f"Swept {sweep.name}: {len(trials)} trials", rows),
        *_trial_lines(trials, sweep.monitor),
        *_failure_lines(trials),
        "research use only; the best of many trials looks better than it is",
    ]
    return "\n".join(lines)


def _failure_lines(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why trials failed, one line each; the page tells all of it."""
    found = {each["trial"]: [each["error"].partition("\n")[0]] for each in trials if each["error"]}
    return [f"failed  {line}" for line in in_trials(found, len(trials))]


def _trial_lines(trials: Sequence[Mapping[str, Any]], monitor: str) -> list[str]:
    """The table of the terminal."""
    width = max(len(each["trial"]) for each in trials)
    heading = f"val {figure_name(monitor)}"
    lines = ["", f"  {'trial'.ljust(width)}  {heading}  best epoch  epochs  status     time"]
    for each in trials[:_SHOWN]:
        figure = each[f"val_{monitor}"]
        shown = "n/a" if figure is None else f"{figure:.4f}"
        epoch = "n/a" if each["best_epoch"] is None else str(each["best_epoch"])
        lines.append(
            f"  {each['trial'].ljust(width)}  {shown:>{len(heading)}}  {epoch:>10}  {each['epochs']:>6}  "
            f"{each['status']:<7}  {clock(each['seconds']):>6}"
        )
    more = len(trials) - _SHOWN
    return [*lines, *([f"  and {more} more, in the table"] if more > 0 else []), ""]
