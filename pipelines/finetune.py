"""Stage one: fine-tunes a backbone on the lake's crops, and leaves it there for extraction."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from numpy.typing import NDArray

from classifiers.baseline import evaluate_majority, majority_shares
from classifiers.evaluation import Figure
from classifiers.metrics import evaluate
from classifiers.tasks import Task, get_task
from classifiers.thresholds import ThresholdRule, choose_thresholds
from classifiers.training import check_classes, count_split
from featurizers.backbones import BackboneSpec, Weights
from featurizers.devices import check_device
from featurizers.errors import TrainingError
from featurizers.finetuning.losses import TaskLoss
from featurizers.finetuning.network import ALL
from featurizers.finetuning.trainer import EpochResult
from featurizers.finetuning.validation import judge
from pipelines import __version__
from pipelines.acquisition import HoldOutConfig
from pipelines.backbone_reports.curves import curves_svg, epochs_table
from pipelines.backbone_reports.page import render_page
from pipelines.datasets import crops_of
from pipelines.errors import LakeError
from pipelines.finetune_config import FinetuneConfig, Launcher
from pipelines.finetune_course import COURSES, Course, Outcome, backbone_bytes
from pipelines.finetune_launch import launch
from pipelines.finetuned import CURVES, EPOCHS, METRICS, PAGE, TOP_FILE, BackboneCard, Judged, without_places
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text, versions
from pipelines.lake import Lake
from pipelines.lease import lease
from pipelines.progress import clock
from pipelines.splits import Split
from pipelines.stored_backbones import BACKBONE_CARD, BACKBONE_FILE, LAKE_PREFIX, OpenedBackbone, open_backbone
from pipelines.training_rows import TrainingRows, find_training_rows

T = TypeVar("T", bound=np.generic)

#: Resamples of patients behind the intervals of the network's own figures.
_RESAMPLES: Final = 1000
#: More classes are counted, not named, in a summary.
_CLASSES_TOLD: Final = 5


def finetune(config: FinetuneConfig) -> JobRecord:
    """Run the job.

    A training that broke off goes on from its last checkpoint when it is started again with the same settings; one
    that is done already is not done again.

    Raises:
        LakeError: if there is nothing to learn from, or no val split to choose by.
        WeightsError: if the weights to start from can't be had or do not fit.
        TrainingError: if the network can't be trained.
        TaskError: if the lake lacks the task's findings, or train one of its classes.
    """
    record = JobRecord("finetune_backbone", config)
    with record.time("plan"):
        training = plan_training(config)
        training.check()
    for split, places in training.rows.places.items():
        record.count(f"{split} images", len(places))
    if done := training.done():
        # One that was killed between its commit and this.
        training.course.remove()
        record.summary = _summary(training, BackboneCard.from_dict(done.read_json(BACKBONE_CARD)), done, {}, 0)
        return record
    with record.time("train"):
        training.advance()
    outcome = training.course.outcome()
    if outcome is None:
        raise LakeError(
            f"the training ended without an outcome in '{training.course.folder.uri}'. Its processes' log, above, says "
            "why; started again it goes on from its last checkpoint."
        )
    history = [EpochResult(**each) for each in outcome.history]
    with record.time("judge"):
        judged = {split: _judge(training, split, outcome) for split, rows in outcome.rows.items() if rows.size}
    card = _card(training, history, outcome)
    run = _commit(training, card, history, judged, record)
    training.course.remove()
    record.summary = _summary(training, card, run, judged, outcome.damaged)
    return record


@dataclass(frozen=True)
class Training:
    """What is trained on what, and how far it is.

    Attributes:
        config: of the job.
        lake, task: what is asked of which images.
        rows: those images.
        spec, weights: the network to start from.
        name: of the backbone in the lake.
        identity: changes with whatever could change the weights, and with nothing else.
        caution: why val may hold images that the weights to start from have learned; None where it can't.
    """

    config: FinetuneConfig
    lake: Lake
    task: Task
    rows: TrainingRows
    spec: BackboneSpec
    weights: Weights
    name: str
    identity: str
    caution: str | None

    @property
    def runs(self) -> Folder:
        """The folder of the backbone's runs."""
        return self.lake.backbones(self.name)

    @property
    def course(self) -> Course:
        """Where it is kept while it is on its way."""
        return Course.of(self.runs, self.identity)

    def check(self, config: FinetuneConfig | None = None) -> None:
        """See what only the network would find out, hours later.

        Args:
            config: of another training on the same images from the same start; None: its own.

        Raises:
            TrainingError: if the network has no such stage, the loss can't be had, or there is no such device.
            LakeError: if val does not define the figure that is to choose the best epoch.
        """
        config = config or self.config
        if config.launcher is Launcher.LOCAL:
            check_device(config.device)
        if (wanted := config.unfreeze.train) not in (ALL, *self.spec.stages):
            raise TrainingError(
                f"unfreeze.train: {self.spec.name} has no stage '{wanted}'. Say {ALL}, or one of "
                f"{', '.join(self.spec.stages)}."
            )
        train, val = self.rows.split(Split.TRAIN), self.rows.split(Split.VAL)
        loss = TaskLoss(config.loss.settings(), train.targets, self.task.classes)
        # Answers that are all alike: whether a figure is defined hangs on the targets alone.
        alike = np.zeros((len(val), len(self.task.classes)), np.float32)
        if judge(alike, val.targets, loss)[config.monitor] is None:
            raise LakeError(
                f"the {len(val):,} images of val do not define {config.monitor}, which is to choose the best epoch: "
                "they show one class only, or no label both present and absent. Take more patients into val "
                "(hold_out.by=…, or a larger val fraction at ingest), or say monitor=loss."
            )

    def done(self) -> Folder | None:
        """The committed run of this training; only the newest counts, for that is what `lake://` means."""
        newest = self.runs.runs()[-1:]
        return next((run for run in newest if run.read_json(BACKBONE_CARD)["identity"] == self.identity), None)

    def advance(self, until: int | None = None) -> None:
        """Train on from where it is.

        Args:
            until: the epoch after which to pause; None: to the end, which leaves an outcome in the course.

        Raises:
            LakeError: if another process is at the same training.
            TrainingError: as `Trainer.run`.
        """
        with lease(self.course.folder, "training", "two at once would write over each other's checkpoints"):
            self.course.start(self.weights.state, self.rows.plan)
            if self.course.outcome() is None:
                launch(self.config, self.course.folder.uri, self.spec.name, until)

    def unfinished(self) -> int:
        """How many other trainings of this name were begun and not ended."""
        return len([name for name in (self.runs / COURSES).names() if name != self.course.folder.name])

    def history(self) -> list[EpochResult]:
        """The epochs so far, of a training that is on its way."""
        checkpoint = self.course.checkpoint()
        return [EpochResult(**each) for each in checkpoint["trainer"]["history"]] if checkpoint else []


def plan_training(config: FinetuneConfig) -> Training:
    """Find all that a training needs.

    Raises:
        LakeError, WeightsError, TaskError: as `finetune`.
    """
    lake, task = Lake.open(config.lake), get_task(config.task)
    opened = open_backbone(lake, config.backbone.name, config.backbone.weights, config.seed)
    before = opened.backbones_hold_out
    held_out = config.hold_out.settings(before.settings)
    # What is trained is what the config says, wherever it is read again.
    settled = {"hold_out": HoldOutConfig.of(held_out), "precision": config.arithmetic()}
    config = config.model_copy(update=settled)
    rows = find_training_rows(lake, task, held_out)
    check_classes(task, count_split(task, "train", rows.split(Split.TRAIN)))
    name = config.name or f"{task.name}-{opened.spec.name.partition(':')[0]}"
    identity = _identity(config, rows, opened, crops_of(lake))
    caution = before.warning(rows.held_out)
    return Training(config, lake, task, rows, opened.spec, opened.weights, name, identity, caution)


def _identity(config: FinetuneConfig, rows: TrainingRows, opened: OpenedBackbone, crops: str) -> str:
    """Changes with whatever could change the weights by more than rounding, and with nothing else."""
    told = {
        "version": __version__,
        "backbone": opened.spec.name,
        "weights": opened.weights.sha256,
        "data": rows.fingerprint,
        "layout": rows.layout,
        "crops": crops,
        "classes": [*rows.task.classes, rows.task.multi_label],
        "phases": [asdict(phase) for phase in config.phases()],
        "settings": {name: value for name, value in asdict(config.trainer_settings()).items() if name != "device"},
        "top": asdict(config.top.settings()),
        "loss": asdict(config.loss.settings()),
        # Batch norms see their own process's share of a batch, and readers have orders of their own.
        "feed": [config.sampling, config.batch_size, config.updates_per_epoch, config.reader, config.processes],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _judge(training: Training, split: str, outcome: Outcome) -> Judged:
    """What the network itself says of a split, with intervals, beside the majority."""
    task, logits = training.task, torch.from_numpy(outcome.logits[split]).double()
    probabilities = (torch.sigmoid(logits) if task.multi_label else torch.softmax(logits, dim=1)).numpy()
    rows = training.rows.at(outcome.rows[split])
    rule = ThresholdRule.FIXED if task.multi_label else ThresholdRule.ARGMAX
    decisions = choose_thresholds(rule, None, task, None, None).decide(probabilities, probabilities)
    shares = majority_shares(count_split(task, "train", training.rows.split(Split.TRAIN)))
    return Judged(
        image_ids=_known(rows.image_ids),
        probabilities=probabilities,
        evaluation=evaluate(
            task,
            rows.targets,
            probabilities,
            decisions,
            patients=rows.patients,
            attributes=rows.attributes,
            resamples=_RESAMPLES,
        ),
        baseline=evaluate_majority(task, shares, rows, _RESAMPLES),
    )


def _known(column: NDArray[T] | None) -> NDArray[T]:
    """Rows of a lake always have ids and patients."""
    assert column is not None
    return column


def _card(training: Training, history: list[EpochResult], outcome: Outcome) -> BackboneCard:
    config, rows, task = training.config, training.rows, training.task
    splits = {str(split): rows.split(split) for split in Split if len(rows.places[split])}
    dense = f"dense ReLU {config.top.dense} → " if config.top.dense else ""
    answers = "sigmoid" if task.multi_label else "softmax"
    return BackboneCard(
        name=training.name,
        backbone=training.spec.name,
        started_from=training.weights.source,
        licence=training.spec.licence,
        parameters=outcome.parameters,
        trained_parameters=outcome.trained_parameters,
        task=task.name,
        classes=task.classes,
        multi_label=task.multi_label,
        top=f"{dense}{len(task.classes)} × {answers}; dropout {config.top.dropout:g}",
        crops=crops_of(training.lake),
        hold_out=rows.held_out.as_dict(),
        images={split: len(each) for split, each in splits.items()},
        patients={split: np.unique(_known(each.patients)).size for split, each in splits.items()},
        class_counts={split: dict(count_split(task, split, each).per_class) for split, each in splits.items()},
        data=rows.fingerprint,
        identity=training.identity,
        monitor=config.monitor,
        best_epoch=next(each.epoch for each in reversed(history) if each.is_best),
        seconds=outcome.seconds,
        device=outcome.device,
        config=without_places(config.model_dump(mode="json", by_alias=True)),
        caution=training.caution,
        versions=versions(),
    )


def _commit(
    training: Training,
    card: BackboneCard,
    history: list[EpochResult],
    judged: Mapping[str, Judged],
    record: JobRecord,
) -> Folder:
    backbone, top = training.course.weights()
    run = training.runs.new_run()
    run.write(BACKBONE_FILE, backbone_bytes(training.spec, backbone, {"task": card.task, "identity": card.identity}))
    run.write(TOP_FILE, safetensors.torch.save(dict(top)))
    run.write(EPOCHS, _parquet(epochs_table(history)))
    run.write_json(
        METRICS,
        {
            "metrics": {split: each.evaluation.as_dict() for split, each in judged.items()},
            "baseline": {split: each.baseline.as_dict() for split, each in judged.items()},
        },
    )
    run.write(CURVES, curves_svg(history, card.monitor))
    run.write(PAGE, render_page(card, history, judged).encode())
    run.write_json(BACKBONE_CARD, card.as_dict())
    record.runs.append(run.uri)
    run.write_json("run.json", record.as_dict())
    run.commit()
    return run


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _summary(training: Training, card: BackboneCard, run: Folder, judged: Mapping[str, Judged], damaged: int) -> str:
    rows: dict[str, object] = {
        "backbone": f"{card.backbone}, from {card.started_from}",
        "task": f"{card.task}: {', '.join(card.classes) if len(card.classes) <= _CLASSES_TOLD else len(card.classes)}",
        "images": ", ".join(
            f"{split} {card.images[split]:,} of {card.patients[split]:,} patients" for split in card.images
        ),
    }
    if told := training.rows.held_out.describe():
        rows["hold-out"] = told
    if training.caution:
        rows["caution"] = training.caution
    if not judged:
        rows["nothing to do"] = "the same training is there already"
    for split, each in judged.items():
        rows[f"{split}: AUC"] = f"{_figure(each.evaluation.auc)} (chance 0.5)"
        rows[f"{split}: balanced accuracy"] = (
            f"{_figure(each.evaluation.balanced_accuracy)} (majority {_figure(each.baseline.balanced_accuracy)})"
        )
    if judged:
        rows["best epoch"] = f"{card.best_epoch}, by {card.monitor} on val"
        rows["time"] = f"{clock(card.seconds)} on {card.device}, in {training.config.precision}"
        rows["probabilities"] = "NOT calibrated"
    if damaged:
        rows["damaged crops"] = f"{damaged:,}, left out; jobs/audit_lake.py tells which"
    if others := training.unfinished():
        rows["unfinished"] = f"{others:,} other trainings under {COURSES}/; remove those that are not to go on"
    rows["report"] = f"{run.uri}/{PAGE}"
    rows["next"] = f"jobs/extract_features.py lake={training.config.lake} backbone.weights={LAKE_PREFIX}{card.name}"
    return summary_text(f"Fine-tuned backbone {card.name}", rows)


def _figure(measured: Figure) -> str:
    if measured.value is None:
        return "n/a"
    interval = f" ({measured.low:.3f} to {measured.high:.3f})" if measured.low is not None else ""
    return f"{measured.value:.3f}{interval}"
