"""Features to heads: trains on labelled vectors, and keeps the head with its report as a committed run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import Field

from classifiers.boosting import XGBoostHead
from classifiers.calibration import Calibration
from classifiers.estimator import Head
from classifiers.evaluation import MANY_CLASSES, Evaluation, Figure, Subgroup
from classifiers.heads import OWN_TOP, head_names, make_head
from classifiers.reports.examples import Example, worst_errors
from classifiers.tasks import get_task
from classifiers.thresholds import ThresholdRule, check_threshold
from classifiers.trained import TrainedHead
from classifiers.training import RESAMPLES, check_rules, train_head
from pipelines import __version__
from pipelines.acquisition import ACQUISITION, BackbonesHoldOut, HeldOut, HoldOutConfig
from pipelines.config import LakeConfig
from pipelines.engines import Engine, check_engine, fit_on_workers
from pipelines.errors import ConfigError, LakeError
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.labelled import FoundRows, Labelled, find_rows
from pipelines.lake import Lake
from pipelines.own_top import OwnTop
from pipelines.progress import clock
from pipelines.search import SEARCH_TABLE, SearchConfig, run_search, search_file, search_lines
from pipelines.splits import Split
from pipelines.stored_heads import save_head
from pipelines.thumbnails import thumbnails

#: Wrong decisions that the report shows.
EXAMPLES = 12
#: The splits that this process evaluates on, wherever the head is fitted.
HELD_OUT = (Split.VAL, Split.TEST)


class TrainConfig(LakeConfig):
    """Settings of jobs/train_head.py."""

    task: str = Field(description="the question: a task of conf/tasks/, by its name, or the path of a YAML file")
    head: str = Field(
        description=f"the kind of head: {', '.join(head_names())}; or {OWN_TOP}: what the backbone was fine-tuned "
        "with, not fitted, to hold others against"
    )
    params: dict[str, Any] = Field(
        {}, description="the head's own parameters, as params.NAME=VALUE, params.balance=… among them; see classifiers/"
    )
    calibration: Calibration | None = Field(
        None, description="how probabilities are calibrated on val; null: platt where there is a val split"
    )
    threshold: ThresholdRule | None = Field(
        None,
        description="how probabilities become decisions; null: argmax for exclusive classes, best_f1 (on val) for "
        "labels",
    )
    threshold_value: float | None = Field(
        None, description="what the rule asks for: the fixed threshold (0.5), the sensitivity, the precision"
    )
    name: str | None = Field(
        None, pattern=r"^\w[\w.-]*$", description="where the head is kept: heads/TASK/NAME; null: the kind of head"
    )
    extractor: str | None = Field(
        None, description="fingerprint (or its start) of the features to train on; null: the only ones in the lake"
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="memory that features may take; what does not fit goes to files under TMPDIR, which is slower; "
        "null: half of what is free",
    )
    resamples: int = Field(RESAMPLES, ge=0, description="of patients, behind every interval")
    engine: Engine = Field(
        Engine.MEMORY,
        description="where the head is fitted: memory (this process; out of core where memory is short), or, xgboost "
        "only, on workers that read the features themselves: dask, spark",
    )
    scheduler: str | None = Field(
        None, description="engine=dask: address of a Dask scheduler, such as tcp://host:8786; null: workers here"
    )
    master: str | None = Field(
        None, description="engine=spark: Spark master; null: what spark-submit was told, or local[*] without it"
    )
    hold_out: HoldOutConfig = HoldOutConfig()
    search: SearchConfig = SearchConfig()


def train(config: TrainConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there are no features to train on, or no train split, or nobody can be held out as is asked.
        TaskError, HeadError: if the task or head is unknown, or the data can't answer the task.
    """
    task = get_task(config.task)
    # What is misspelt or can't be had is told before anything is read.
    if config.head == OWN_TOP and (config.params or config.search.space):
        raise ConfigError(f"head={OWN_TOP} comes as it was fine-tuned. Leave params and search.space out.")
    head = make_head(config.head, **config.params)
    head.check_params()
    check_engine(config.engine, head, config.scheduler, config.master)
    if config.threshold is not None:
        check_threshold(config.threshold, config.threshold_value, task)
    lake = Lake.open(config.lake)
    extractor = lake.choose_extractor(config.extractor)
    own_top = OwnTop.of_extractor(lake, extractor, task) if config.head == OWN_TOP else None
    backbones = BackbonesHoldOut.of_extractor(lake, extractor)
    record = JobRecord("train_head", config)
    memory = None if config.memory_gb is None else int(config.memory_gb * 2**30)
    reads_train = config.engine is Engine.MEMORY and own_top is None
    with record.time("read"):
        rows = find_rows(lake, extractor, task, config.hold_out.settings(backbones.settings))
        labelled = rows.read(tuple(Split) if reads_train or config.search.space else HELD_OUT, memory=memory)
    seen = backbones.warning(labelled.held_out)
    with labelled:
        check_rules(config.calibration, config.threshold, has_val=labelled.val is not None)
        if labelled.spilled and config.search.space:
            raise LakeError(
                f"a search takes its rows from memory, and the features take {labelled.spilled / 2**30:.1f} GiB more "
                "than fits: give more (memory_gb=…), or leave search.space out"
            )
        with record.time("search"):
            found = run_search(config.search, config.head, config.params, task, labelled.train)
        params = config.params | dict(found.best_params if found else own_top.params if own_top else {})
        with record.time("train"):
            trained = train_head(
                task,
                config.head,
                labelled.train,
                extractor=extractor,
                val=labelled.val,
                test=labelled.test,
                params=params,
                calibration=config.calibration,
                threshold=config.threshold,
                threshold_value=config.threshold_value,
                provenance={
                    "Images": labelled.images,
                    "Features": lake.describe_extractor(extractor),
                    **_acquisition_facts(labelled.held_out, seen),
                    **({"Search on train": found.describe()} if found else {}),
                    **({"Fit": own_top.describe()} if own_top else {}),
                    "Trained": f"{record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}",
                },
                resamples=config.resamples,
                fit=_fit(config, rows, own_top),
            )
        with record.time("report"):
            examples = _worst_errors(lake, trained, labelled)
            _count(record, labelled, trained)
            beside = {SEARCH_TABLE: search_file(found)} if found else {}
            run = save_head(lake, config.name or config.head, trained, record, examples=examples, beside=beside)
    record.summary = _summary(record, trained, labelled, run, search_lines(found) if found else [])
    return record


def _acquisition_facts(held_out: HeldOut, warning: str | None) -> dict[str, str]:
    """What the report says of who was held out, if anybody was."""
    told = {"Held out": held_out.describe(), "Caution": warning or ""}
    return {name: text for name, text in told.items() if text}


def _fit(config: TrainConfig, rows: FoundRows, own_top: OwnTop | None) -> Callable[[Head], object] | None:
    """What fits the head; None: this process, on the rows that it read."""
    if own_top:
        return own_top.put_on
    return None if config.engine is Engine.MEMORY else partial(_fit_on_workers, config, rows)


def _fit_on_workers(config: TrainConfig, rows: FoundRows, head: Head) -> None:
    assert isinstance(head, XGBoostHead), "check_engine lets no other through"
    fit_on_workers(config.engine, rows, head, scheduler=config.scheduler, master=config.master)


def _worst_errors(lake: Lake, trained: TrainedHead, labelled: Labelled) -> list[Example]:
    """Of the split that the report stands on, with their crops."""
    rows = labelled.test or labelled.val
    if rows is None or rows.image_ids is None:
        return []
    errors = worst_errors(trained.task, rows.targets, trained.score(rows.features), rows.image_ids, EXAMPLES)
    crops = thumbnails(lake.studies, {one.image_id for one in errors})
    return [one.with_crop(crops.get(one.image_id)) for one in errors]


def _count(record: JobRecord, labelled: Labelled, trained: TrainedHead) -> None:
    for split, counts in trained.class_counts.items():
        record.count(f"{split}: rows", counts.rows)
        for name, number in counts.per_class.items():
            record.count(f"{split}: {name}", number)
    for split, number in labelled.unanswered.items():
        record.count(f"{split}: unanswered", number)
    record.count("studies without features", labelled.without_features)
    record.count("bytes on disk for want of memory", labelled.spilled)
    record.extra |= {
        "head": trained.fingerprint,
        "extractor": trained.extractor,
        "hold_out": labelled.held_out.as_dict(),
    }


def _summary(record: JobRecord, trained: TrainedHead, labelled: Labelled, run: Folder, searched: Sequence[str]) -> str:
    rows: dict[str, object] = {
        "rows": ", ".join(
            f"{split} {counts.rows:,} of {counts.patients:,} patients" for split, counts in trained.class_counts.items()
        ),
        "unanswered": sum(labelled.unanswered.values()),
        "features": trained.provenance["Features"],
        **{name.lower(): trained.provenance[name] for name in ("Held out", "Caution") if name in trained.provenance},
        **_fit_in_words(trained),
        "probabilities": trained.calibrator.describe(),
        "decisions": trained.thresholds.describe(),
        "time": ", ".join(f"{name} {clock(seconds)}" for name, seconds in record.timings.items() if seconds >= 0.5)
        or "less than a second",
    }
    if trained.head.stops_early and "val" not in trained.class_counts:
        rows["stopped early"] = "on a tenth of the patients of train, for want of a val split"
    if labelled.without_features:
        rows["not trained on"] = f"{labelled.without_features:,} studies that have no features yet"
    if labelled.spilled:
        rows["on disk"] = f"{labelled.spilled / 2**20:,.0f} MiB of features, for want of memory"
    lines = [summary_text(f"Trained {trained.head_name} for {trained.task.name}", rows)]
    if not trained.metrics:
        lines.append("no val or test rows: nothing is known about how good this head is")
    elif "test" not in trained.metrics:
        lines.append("there is no test split: these figures stand on val, which training looked at")
    for split, evaluation in trained.metrics.items():
        lines.append(_metrics_text(split, evaluation, trained.baseline[split]))
    lines += [
        *searched,
        "",
        "research use only",
        f"head    {run.uri}",
        f"report  {run.uri}/report.html",
    ]
    return "\n".join(lines)


def _fit_in_words(trained: TrainedHead) -> dict[str, str]:
    if trained.head_name == OWN_TOP:
        return {"fit": trained.provenance["Fit"]}
    balance, counts = trained.params["balance"], _listed(trained.balanced_counts)
    return {"balance": f"{balance}; rows of each class in the fit: {counts}"}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _metrics_text(split: str, evaluation: Evaluation, baseline: Evaluation) -> str:
    name, headline = evaluation.headline
    width = max(len(each) for each in evaluation.per_class)
    defined = evaluation.averages["macro"].over
    lines = [
        "",
        f"{split}: {name} {_with_interval(headline)} (majority {_shown(baseline.headline[1])}), "
        f"accuracy {_shown(evaluation.accuracy)} (majority {_shown(baseline.accuracy)}), "
        f"AUC {_shown(evaluation.auc)}, macro F1 {_shown(evaluation.macro_f1)}, n {evaluation.n:,}",
    ]
    if defined < len(evaluation.per_class):
        lines.append(
            f"  AUC and macro F1 are means over {defined} of {len(evaluation.per_class)} classes: too few rows else"
        )
    lines += [
        f"  {group.value}: AUC {_with_interval(group.auc)}, "
        f"balanced accuracy {_with_interval(group.balanced_accuracy)}, n {group.n:,} of {group.patients:,} patients"
        f"{_recalls(group)}"
        for group in evaluation.subgroups
        if group.attribute == ACQUISITION
    ]
    confusion = evaluation.confusion
    decided_as = "" if confusion is None else "   decided as " + " / ".join(evaluation.per_class)
    lines.append(f"  {''.ljust(width)}  precision  recall      F1     AUC (95 % interval)  support{decided_as}")
    for index, (label, each) in enumerate(evaluation.per_class.items()):
        decided = "" if confusion is None else "   " + " / ".join(f"{number:,}" for number in confusion[index])
        lines.append(
            f"  {label.ljust(width)}  {_shown(each.precision):>9}  {_shown(each.recall):>6}  {_shown(each.f1):>6}"
            f"  {_with_interval(each.auc):>20}  {each.support:>7,}{decided}"
        )
    return "\n".join(lines)


def _recalls(group: Subgroup) -> str:
    if len(group.recall) > MANY_CLASSES:
        return ""
    return "; recall " + ", ".join(f"{name} {_with_interval(each)}" for name, each in group.recall.items())


def _with_interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return _shown(figure)
    return f"{figure.value:.3f} ({figure.low:.2f} to {figure.high:.2f})"


def _shown(figure: Figure) -> str:
    return "n/a" if figure.value is None else f"{figure.value:.3f}"
