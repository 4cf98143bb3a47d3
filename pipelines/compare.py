"""Comparing stored heads: all score the same rows, and each is held against the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from classifiers.baseline import evaluate_majority, majority_shares
from classifiers.calibration import Calibration
from classifiers.errors import HeadError
from classifiers.heads import OWN_TOP
from classifiers.metrics import evaluate
from classifiers.paired import Answers, held_against
from classifiers.reports.comparison import ComparedHead, Comparison
from classifiers.rows import SplitRows
from classifiers.trained import Scores, TrainedHead
from classifiers.training import RESAMPLES
from pipelines import __version__
from pipelines.acquisition import NOBODY, HoldOutSettings, hold_out
from pipelines.comparison_files import PAGE, TABLE, keep_comparison, table_lines
from pipelines.config import LakeConfig, as_list
from pipelines.errors import LakeError
from pipelines.job import JobRecord, summary_text
from pipelines.labelled import read_labelled
from pipelines.lake import Lake
from pipelines.progress import clock
from pipelines.splits import Split
from pipelines.stored_heads import hold_out_of, load_head


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a list with the same name twice."""
    if len(set(names)) < len(names):
        raise ValueError("name each once")
    return names


#: Names in a list, one by itself too, none twice.
Names = Annotated[tuple[str, ...], BeforeValidator(as_list), AfterValidator(each_once)]


class CompareConfig(LakeConfig):
    """Settings of jobs/compare_heads.py."""

    heads: Names = Field(
        min_length=1,
        description="task/name of every head, or task/name/run=… for an older run; the others are held against the "
        "first of their task",
    )
    split: Literal["test", "val"] = Field("test", description="the rows that all heads score")
    name: str = Field("heads", pattern=r"^\w[\w.-]*$", description="where the comparison is kept: comparisons/NAME")
    resamples: int = Field(RESAMPLES, ge=0, description="of patients, behind every interval")


def compare_heads(config: CompareConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if a head is not there, or the split has no rows.
        HeadError: if heads of one task are of several extractors, or of several questions of that name.
    """
    lake = Lake.open(config.lake)
    record = JobRecord("compare_heads", config)
    groups: dict[str, dict[str, TrainedHead]] = {}
    for reference in config.heads:
        trained = load_head(lake, reference)
        groups.setdefault(trained.task.name, {})[reference] = trained
    for heads in groups.values():
        _check_alike(heads)
    compared: list[ComparedHead] = []
    apart: dict[str, str] = {}
    for heads in groups.values():
        compared += _compare(lake, heads, config, record, apart)
    first = [next(iter(heads)) for heads in groups.values()]
    comparison = Comparison(
        title="Heads side by side",
        question=f"Which of these heads answers best for the images of the {config.split} split?",
        rows=tuple(compared),
        reference=first[0] if len(first) == 1 else f"the first head of the task ({', '.join(first)})",
        how=_how(config),
        provenance={
            "Features": "; ".join(
                dict.fromkeys(lake.describe_extractor(h.extractor) for g in groups.values() for h in g.values())
            ),
            **({"Held out": "; ".join(dict.fromkeys(apart.values()))} if apart else {}),
            "Compared": f"{record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}",
        },
    )
    run = lake.comparisons(config.name).new_run()
    record.extra["heads"] = {name: head.fingerprint for group in groups.values() for name, head in group.items()}
    keep_comparison(run, comparison, record)
    rows = {
        "heads": len(config.heads),
        "split": config.split,
        **({"held out": "; ".join(dict.fromkeys(apart.values()))} if apart else {}),
        "time": ", ".join(f"{name} {clock(seconds)}" for name, seconds in record.timings.items()),
    }
    record.summary = "\n".join(
        [
            summary_text("Compared heads", rows),
            *table_lines(comparison),
            "",
            "research use only; the best of several looks better than it is",
            f"page  {run.uri}/{PAGE}",
            f"CSV   {run.uri}/{TABLE}",
        ]
    )
    return record


def _check_alike(heads: dict[str, TrainedHead]) -> None:
    (first, one), *others = heads.items()
    for name, other in others:
        if other.extractor != one.extractor:
            raise HeadError(
                f"'{name}' takes features of extractor {other.extractor}, '{first}' those of {one.extractor}: heads of "
                "one task are compared on the same features; train one of them on the other's"
            )
        if replace(other.task, description="") != replace(one.task, description=""):
            raise HeadError(
                f"'{name}' and '{first}' were trained on different questions that are both called '{one.task.name}': "
                "train one of them anew, or name one task otherwise"
            )


def _compare(
    lake: Lake, heads: dict[str, TrainedHead], config: CompareConfig, record: JobRecord, apart: dict[str, str]
) -> list[ComparedHead]:
    """The heads of one task; notes in `apart`, by task, whom they held out."""
    first = next(iter(heads.values()))
    with record.time("read"):
        settings, told = _shared_hold_out(lake, list(heads)) if config.split == "val" else (NOBODY, "")
        labelled = read_labelled(lake, first.extractor, first.task, hold_out=settings)
        if told := told or labelled.held_out.describe():
            apart[first.task.name] = told
    with labelled:
        rows = labelled.splits.get(Split(config.split))
        if rows is None:
            raise LakeError(
                f"the {config.split} split has no row with features that answers task '{first.task.name}'. Extract "
                f"its features, ingest with a {config.split} split, or choose the other one: split=…."
            )
        record.count(f"{first.task.name}: rows", len(rows))
        with record.time("score"):
            scores = {name: head.score(rows.features) for name, head in heads.items()}
        with record.time("evaluate"):
            return _held_side_by_side(heads, scores, rows, config.resamples)


def _shared_hold_out(lake: Lake, references: Sequence[str]) -> tuple[HoldOutSettings, str]:
    """Whom all heads held out, and why it is nobody where some did: no head may be judged on what it learned from."""
    held_out = [hold_out_of(lake, reference) for reference in references]
    first = held_out[0]
    if all(each.settings in (None, NOBODY) for each in held_out):
        return NOBODY, ""
    is_shared = all((each.settings, each.sha256) == (first.settings, first.sha256) for each in held_out)
    if is_shared and first.settings and hold_out(lake, first.settings).sha256 == first.sha256:
        return first.settings, ""
    return NOBODY, (
        "some of these heads held films out that others learned from, or the lake has changed since: they are compared "
        "on the lake's own val alone"
    )


def _held_side_by_side(
    heads: dict[str, TrainedHead], scores: dict[str, Scores], rows: SplitRows, resamples: int
) -> list[ComparedHead]:
    answers = {name: Answers(each.probabilities, each.decisions) for name, each in scores.items()}
    reference = next(iter(answers.values()))
    found = []
    for name, head in heads.items():
        is_reference = answers[name] is reference
        is_raw = head.calibrator.method is Calibration.NONE
        paired = None if is_reference else held_against(head.task, rows, answers[name], reference, resamples=resamples)
        found.append(
            ComparedHead(
                name=name,
                task=head.task.name,
                settings={
                    "kind": head.head_name,
                    "balance": "as fine-tuned" if head.head_name == OWN_TOP else str(head.params["balance"]),
                    "calibration": head.calibrator.method.value,
                    "threshold": head.thresholds.rule.value,
                },
                evaluation=evaluate(
                    head.task,
                    rows.targets,
                    *answers[name],
                    patients=rows.patients,
                    uncalibrated=None if is_raw else scores[name].uncalibrated,
                    resamples=resamples,
                ),
                baseline=evaluate_majority(head.task, majority_shares(head.class_counts["train"]), rows, resamples),
                difference=None if paired is None else paired.difference,
                p_values=None if paired is None else paired.p_values,
            )
        )
    return found


def _how(config: CompareConfig) -> str:
    told = (
        f"Stored heads scored the same rows, those of the {config.split} split that the task answers, with their own "
        "calibration and thresholds. Each is held against the first head that was named for its task. Whoever saw "
        "their reports before naming it has seen these figures. The baseline says for every image what share of train "
        "each class has."
    )
    if config.split == "val":
        told += " Early stopping, calibration and thresholds looked at val, so these figures are a little too good."
    return told
