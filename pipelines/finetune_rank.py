"""What one process of a fine-tuning does: feed the trainer, keep checkpoints, and leave the outcome in the course."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

import numpy as np
import torch

from classifiers.tasks import get_task
from featurizers.backbones import Weights, get_backbone
from featurizers.errors import TrainingError
from featurizers.finetuning.losses import TaskLoss
from featurizers.finetuning.network import FineTunedNetwork
from featurizers.finetuning.trainer import Answers, EpochResult, Trainer, Update
from pipelines.crop_data import CropData
from pipelines.finetune_config import FinetuneConfig
from pipelines.finetune_course import Course, Outcome
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.progress import Progress, clock
from pipelines.splits import Split
from pipelines.training_rows import find_training_rows

_SECONDS_PER_MINUTE: Final = 60.0
#: Splits that the best epoch's network judges at the end.
_JUDGED: Final = (Split.VAL, Split.TEST)


def train_rank(told: str, course_uri: str, backbone: str, until: int | None = None) -> None:
    """Train as one of as many processes as torch.distributed has, or alone.

    All processes plan alike, from the same lake and config; the first one writes.

    Args:
        told: the job's `FinetuneConfig` as JSON.
        course_uri: the folder of the course.
        backbone: the architecture.
        until: the epoch after which to pause, leaving a checkpoint and no outcome; None: never.

    Raises:
        TrainingError: as `Trainer.run`; the message names what is kept.
    """
    config = FinetuneConfig.model_validate_json(told)
    lake, task = Lake.open(config.lake), get_task(config.task)
    rows = find_training_rows(lake, task, config.hold_out.settings())
    course = Course(Folder(course_uri))
    course.check_plan(rows.plan)
    spec = get_backbone(backbone)
    started = course.started_from()
    network = FineTunedNetwork(
        spec, Weights("start", started, None), len(task.classes), config.top.settings(), config.seed
    )
    targets = rows.split(Split.TRAIN).targets
    loss = TaskLoss(config.loss.settings(), targets, task.classes)
    with CropData(lake, rows, spec, config) as data:
        trainer = Trainer(network, config.phases(), loss, data, config.trainer_settings())
        run = _Run(config, course, trainer, data, until)
        run.resume()
        run.go()


class _Run:
    """A trainer on its course."""

    def __init__(
        self, config: FinetuneConfig, course: Course, trainer: Trainer, data: CropData, until: int | None
    ) -> None:
        self._config, self._course, self._trainer, self._data, self._until = config, course, trainer, data, until
        self._before, self._start = 0.0, time.monotonic()
        self._images, self._last, self._best = 0, "", ""

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        kept = self._course.checkpoint()
        if kept is not None:
            self._trainer.restore(kept["trainer"])
            self._before, self._images = kept["seconds"], kept["images"]

    def go(self) -> None:
        """Train; at the end judge, and keep what came of it."""
        if self._data.rank:
            if self._train(lambda *_: None):
                self._trainer.answers(self._data.judged(_JUDGED))
                self._data.damaged_everywhere()
            return
        total = sum(map(self._data.images, range(self._epochs)))
        with Progress("fine-tune", total, lambda: self._images, note=self._note) as progress:
            if done := self._trainer.history:
                progress.say(f"goes on after epoch {done[-1].epoch} of at most {self._trainer.epochs}")
            try:
                is_done = self._train(self._recorder(progress))
            except TrainingError as error:
                raise self._with_what_is_kept(error) from error
        if is_done:
            answers = self._trainer.answers(self._data.judged(_JUDGED))
            self._end(answers, self._data.damaged_everywhere())

    def _note(self) -> str:
        return f"{self._last}  {self._best}".strip()

    @property
    def _epochs(self) -> int:
        return min(self._trainer.epochs, self._until or self._trainer.epochs)

    def _train(self, tell: Callable[[Update | EpochResult], None]) -> bool:
        """Train until the end, or the epoch to pause after; whether the end was reached."""
        if self._pauses_here():
            return False
        for event in self._trainer.run():
            tell(event)
            if isinstance(event, EpochResult) and self._pauses_here():
                return False
        return True

    def _pauses_here(self) -> bool:
        return self._until is not None and len(self._trainer.history) >= self._until

    def _recorder(self, progress: Progress) -> Callable[[Update | EpochResult], None]:
        kept_at = time.monotonic()

        def tell(event: Update | EpochResult) -> None:
            nonlocal kept_at
            if isinstance(event, Update):
                self._images += event.images
                self._last = f"loss {event.loss:.3f}" if math.isfinite(event.loss) else ""
                if time.monotonic() - kept_at < self._config.checkpoint_minutes * _SECONDS_PER_MINUTE:
                    return
            else:
                if event.is_best:
                    self._best = f"best {self._config.monitor} {event.figures[self._config.monitor]:.4f}"
                progress.say(epoch_line(event, self._trainer.epochs))
            self._course.keep({"trainer": self._trainer.state(), "seconds": self._seconds, "images": self._images})
            kept_at = time.monotonic()

        return tell

    def _end(self, answers: Answers, damaged: int) -> None:
        places = {str(split): self._data.rows.places[split] for split in _JUDGED}
        of = {split: np.isin(answers.numbers, rows) for split, rows in places.items()}
        network = self._trainer.best_network()
        self._course.end(
            Outcome(
                history=[asdict(each) for each in self._trainer.history],
                rows={split: answers.numbers[here] for split, here in of.items()},
                logits={split: answers.logits[here] for split, here in of.items()},
                seconds=self._seconds,
                device=self._device(),
                parameters=sum(each.numel() for each in network.parameters()),
                trained_parameters=sum(each.numel() for each in network.trained_parameters()),
                damaged=damaged,
            ),
            network.backbone_state(),
            network.top_state(),
        )

    def _with_what_is_kept(self, error: TrainingError) -> TrainingError:
        if self._trainer.best_state is None:
            return TrainingError(f"{error}\nNo epoch was done, so that nothing is kept.")
        network = self._trainer.best_network()
        file = self._course.keep_weights(self._data.spec, network.backbone_state())
        best = next(each.epoch for each in reversed(self._trainer.history) if each.is_best)
        return TrainingError(
            f"{error}\nThe weights of epoch {best}, the best so far, are kept: backbone.weights={file}"
        )

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def _device(self) -> str:
        name = torch.cuda.get_device_name() if self._config.device != "cpu" else "CPU"
        processes = f", {self._data.world} processes" if self._data.world > 1 else ""
        return f"{name}{processes}"


def epoch_line(result: EpochResult, epochs: int) -> str:
    """What an epoch came to, in one line."""
    figures = "  ".join(
        f"{name} {'n/a' if value is None else f'{value:.4f}'}" for name, value in result.figures.items()
    )
    return (
        f"epoch {result.epoch}/{epochs} {result.phase}  train loss {result.train_loss:.4f}  val: {figures}  "
        f"{result.images_per_second:,.1f} images/s  {clock(result.seconds)}{'  best' if result.is_best else ''}"
    )
