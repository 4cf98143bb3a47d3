"""Cross-validating a grid of heads and ways of balancing on a lake: every setting on the same folds of patients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from classifiers.baseline import evaluate_majority, majority_shares
from classifiers.cross_validation import CrossValidated, cross_validate
from classifiers.errors import HeadError
from classifiers.evaluation import Evaluation
from classifiers.folds import owners, patient_folds
from classifiers.paired import Answers, held_against
from classifiers.reports.comparison import ComparedHead, Comparison
from classifiers.rows import SplitRows
from classifiers.tasks import Task, get_task
from classifiers.training import check_classes, count_split
from pipelines import __version__
from pipelines.acquisition import BackbonesHoldOut
from pipelines.comparison_files import PAGE, TABLE, keep_comparison, table_lines
from pipelines.cross_validation_grid import CrossValidationConfig, Setting, read_grid
from pipelines.errors import ConfigError, LakeError
from pipelines.finished import FinishedSettings
from pipelines.job import JobRecord, summary_text, versions
from pipelines.labelled import Labelled, find_rows
from pipelines.lake import Lake
from pipelines.progress import Progress, clock
from pipelines.splits import Split

#: Of features whose backbone was fine-tuned.
_SEEN = (
    "The backbone behind these features was fine-tuned. If that was in this lake, it learned from images of train, "
    "which are judged here as well: figures are too good then, and only differences between heads mean something."
)


def cross_validate_heads(config: CrossValidationConfig) -> JobRecord:
    """Run the job.

    Every setting is kept as soon as it is done, and any later run of this name takes it up if features, targets, folds,
    settings and versions are the same: a restart repeats the setting that was at work.

    Raises:
        TaskError, HeadError: if a task, a head or a parameter is unknown, or no setting can be fitted.
        ConfigError: if two tasks have the same name.
        LakeError: if there are no features, or they do not fit in memory.
    """
    tasks = [get_task(name) for name in config.tasks]
    if len({task.name for task in tasks}) < len(tasks):
        raise ConfigError(f"two tasks of tasks=[{','.join(config.tasks)}] have the same name: rename a YAML file.")
    grid = [read_grid(task, config) for task in tasks]
    lake = Lake.open(config.lake)
    extractor = lake.choose_extractor(config.extractor)
    record = JobRecord("cross_validate_heads", config)
    skipped = [reason for settings in grid for each in settings if (reason := each.skipped)]
    wanted = [[each for each in settings if not each.skipped] for settings in grid]
    for task, settings in zip(tasks, wanted, strict=True):
        if not settings:
            reasons = "; ".join(skipped) or "no other head is named"
            raise HeadError(
                f"nothing is left to fit for task '{task.name}' beside the baseline ({reasons}): name other heads, or "
                "other balances"
            )
    run = lake.comparisons(config.name).new_run()
    work = _Work(lake, extractor, config, record, FinishedSettings.of(lake.comparisons(config.name), run))
    reference = next(each for each in wanted[0] if all(any(each.label == o.label for o in rest) for rest in wanted))
    for task, settings in zip(tasks, wanted, strict=True):
        work.add(task, settings, reference.label)
    if not work.rows:
        raise HeadError("no setting could be fitted:\n  " + "\n  ".join(work.failed))
    cautions = [_SEEN] if BackbonesHoldOut.of_extractor(lake, extractor).settings else []
    comparison = Comparison(
        title="Heads and balancing, cross-validated",
        question="Which head, and which way of balancing classes, answers best for patients that it has not seen?",
        rows=tuple(work.rows),
        reference=reference.label,
        how=" ".join([_how(config, reference.label, skipped, work.failed), *cautions]),
        provenance={
            "In the lake": "; ".join(dict.fromkeys(work.images)),
            "Features": lake.describe_extractor(extractor),
            "Made": f"{record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}",
        },
    )
    record.extra |= {"extractor": extractor, "skipped": skipped, "failed": work.failed}
    keep_comparison(run, comparison, record, work.spreads)
    rows = {
        "settings": f"{len(work.rows)} on the same {config.folds} folds of patients",
        "taken up": record.counts.get("taken up", 0),
        "time": ", ".join(f"{name} {clock(seconds)}" for name, seconds in record.timings.items()),
    }
    record.summary = "\n".join(
        [
            summary_text("Cross-validated heads", rows),
            *table_lines(comparison, work.spreads),
            "",
            *(f"caution  {reason}" for reason in cautions),
            *(f"skipped  {reason}" for reason in dict.fromkeys(skipped)),
            *(f"failed   {reason}" for reason in work.failed),
            "research use only; the best of many looks better than it is",
            f"page  {run.uri}/{PAGE}",
            f"CSV   {run.uri}/{TABLE}",
        ]
    )
    return record


@dataclass
class _Work:
    """What is done so far.

    Attributes:
        rows: of the page.
        spreads: of every row, the standard deviation of the headline between folds.
        failed: settings that could not be fitted, and why.
        images: of each task, in words.
    """

    lake: Lake
    extractor: str
    config: CrossValidationConfig
    record: JobRecord
    finished: FinishedSettings
    rows: list[ComparedHead] = field(default_factory=list)
    spreads: list[float | None] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def add(self, task: Task, settings: Sequence[Setting], reference: str) -> None:
        """Cross-validate the settings of one task, the reference first."""
        rows = self._rows(task)
        config = self.config
        counts = count_split(task, "train and val", rows)
        check_classes(task, counts)
        self.record.count(f"{task.name}: rows", counts.rows)
        self.record.count(f"{task.name}: patients", counts.patients)
        folds = patient_folds(task, rows, config.folds, seed=config.seed)
        baseline = evaluate_majority(task, majority_shares(counts), rows, config.resamples)
        data = _digest(rows)
        against: Answers | None = None
        ordered = sorted(settings, key=lambda each: each.label != reference)
        done = 0
        verb = f"cross-validate {task.name}"
        with self.record.time("fit and evaluate"), Progress(verb, len(ordered), lambda: done, unit="settings"):
            for setting in ordered:
                if result := self._result(setting, rows, folds, data):
                    if setting.label == reference:
                        against = result.answers
                    self._tell(setting, result, rows, baseline, against)
                done += 1

    def _result(self, setting: Setting, rows: SplitRows, folds: NDArray[np.int64], data: str) -> CrossValidated | None:
        """What a setting gives, or gave an earlier run; None, and told, where it can't be fitted."""
        name = f"{setting.task.name}-{setting.head}-{setting.balance}"
        identity = self._identity(setting, data)
        if result := self.finished.find(name, identity):
            self.record.count("taken up", 1)
            return result
        try:
            result = self._judged(setting, rows, folds)
        except HeadError as error:
            self.failed.append(f"{setting.task.name}: {setting.label}: {error}")
            return None
        self.finished.keep(name, identity, result, _image_ids(rows))
        return result

    def _tell(
        self, setting: Setting, result: CrossValidated, rows: SplitRows, baseline: Evaluation, against: Answers | None
    ) -> None:
        paired = None
        if against is not None and result.answers is not against:
            paired = held_against(setting.task, rows, result.answers, against, resamples=self.config.resamples)
        self.rows.append(
            ComparedHead(
                name=setting.head,
                task=setting.task.name,
                settings={"balance": setting.balance.value},
                evaluation=result.evaluation,
                baseline=baseline,
                difference=None if paired is None else paired.difference,
                p_values=None if paired is None else paired.p_values,
                seconds=result.seconds,
            )
        )
        self.spreads.append(result.spread)

    def _rows(self, task: Task) -> SplitRows:
        """Train and val together."""
        with self.record.time("read"), self._read(task) as labelled:
            if labelled.spilled:
                raise LakeError(
                    f"the features take {labelled.spilled / 2**30:.1f} GiB more than fits in memory, and "
                    "cross-validation takes its rows from memory: use a larger machine, or train_head, which does not"
                )
            self.images.append(labelled.images)
            rows = labelled.train if labelled.val is None else _pooled(labelled.train, labelled.val)
        if again := len(rows) - len(np.unique(_image_ids(rows))):
            raise LakeError(
                f"{again:,} features are augmented copies of train images, which cross-validation would judge as if "
                "they were images: extract features without copies into a lake for this comparison"
            )
        return rows

    def _read(self, task: Task) -> Labelled:
        return find_rows(self.lake, self.extractor, task).read((Split.TRAIN, Split.VAL))

    def _judged(self, setting: Setting, rows: SplitRows, folds: NDArray[np.int64]) -> CrossValidated:
        config = self.config
        return cross_validate(
            setting.task,
            setting.head,
            rows,
            folds,
            params={**setting.params, "balance": setting.balance.value},
            calibration=config.calibration,
            threshold=config.threshold,
            resamples=config.resamples,
        )

    def _identity(self, setting: Setting, data: str) -> str:
        """Changes with all that decides what a setting's heads say, and with the code's versions."""
        config = self.config
        about = {
            "data": data,
            "extractor": self.extractor,
            "task": setting.task.as_dict(),
            "head": setting.head,
            "params": {**setting.params, "balance": setting.balance.value},
            "calibration": config.calibration,
            "threshold": config.threshold,
            "folds": [config.folds, config.seed],
            "resamples": config.resamples,
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _digest(rows: SplitRows) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(rows.targets).tobytes())
    digest.update(np.unique(owners(rows), return_inverse=True)[1].tobytes())
    digest.update("".join(_image_ids(rows).tolist()).encode())
    return digest.hexdigest()


def _image_ids(rows: SplitRows) -> NDArray[np.str_]:
    assert rows.image_ids is not None  # a lake's rows have them
    return rows.image_ids


def _pooled(one: SplitRows, other: SplitRows) -> SplitRows:
    return SplitRows(
        np.concatenate([one.features, other.features]),
        np.concatenate([one.targets, other.targets]),
        np.concatenate([owners(one), owners(other)]),
        np.concatenate([_image_ids(one), _image_ids(other)]),
    )


def _how(config: CrossValidationConfig, reference: str, skipped: Sequence[str], failed: Sequence[str]) -> str:
    told = [
        f"Images of the splits train and val, {config.folds} folds; all images of a patient are in one fold, and "
        "classes are spread over the folds as evenly as that allows. The test split was not touched.",
        "Every setting was fitted once per fold, on the other folds, and said what it thinks of the images of its own; "
        "balancing touched only what was fitted on. Figures are of all images together. Folds are the same for every "
        "setting.",
        f"Differences and tests are against {reference}: the first setting named that every task allows, whatever "
        "its figures. The best one would be chosen by these very figures, and look better than it is.",
        "The baseline says for every image what share of these images each class has.",
    ]
    if config.calibration != "none" or config.threshold:
        told.append(
            f"Calibration ({config.calibration}) and thresholds ({config.threshold or 'none chosen'}) were fitted on a "
            "tenth of the training patients of each fold, on whom the head was not fitted."
        )
    if skipped:
        told.append(f"Not tried: {'; '.join(dict.fromkeys(skipped))}.")
    if failed:
        told.append(f"Could not be fitted: {'; '.join(failed)}.")
    return " ".join(told)
