"""The loop that fine-tunes: phases, epochs and updates; validation, the best weights so far, and exact resumption."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from featurizers.devices import check_device
from featurizers.errors import TrainingError
from featurizers.extractor import Precision
from featurizers.finetuning.augmentation import Augmentation, Augmenter
from featurizers.finetuning.losses import UNKNOWN, TaskLoss
from featurizers.finetuning.network import BatchNorm, FineTunedNetwork
from featurizers.finetuning.optimisation import OptimiserSettings, Schedule, make_optimiser
from featurizers.finetuning.validation import check_metric, is_better, judge
from featurizers.radiograph import Pixels

Targets = npt.NDArray[np.integer[Any]]

#: Batches are shared out by eighths, so that 1, 2, 4 and 8 processes see the same ones.
_BATCH_MULTIPLE: Final = 8
#: Losses this often are not worth the wait for the device; a NaN is found so many updates late at most.
_UPDATES_BETWEEN_LOOKS: Final = 10


class Batch(NamedTuple):
    """One process's part of one batch.

    Attributes:
        images: uint8 (b, s, s), grey.
        targets: (b,) class indices, or (b, k) of 1, 0 and -1.
        places: int64 (b,). In training, of the images in the whole batch: what is drawn at random for an image hangs on
            its place, so that it is the same for any number of processes. In judging, the images' own numbers.
    """

    images: Pixels
    targets: Targets
    places: npt.NDArray[np.int64]


class Data(Protocol):
    """Where batches come from."""

    batch_size: int
    """Images of a whole batch, over all processes."""

    def updates(self, epoch: int) -> int:
        """How many batches an epoch has."""

    def training(self, epoch: int, skip: int) -> Iterator[Batch]:
        """This process's part of the epoch's batches, without the first `skip`; the same whenever it is asked."""

    def validation(self) -> Iterator[Batch]:
        """This process's share of the images that judge."""


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs in which one part of the network is trained in one way.

    Attributes:
        name: for people.
        train: `top`, `all`, or the stage of the backbone from which on it is trained.
        epochs: at most so many.
        optimiser: how weights are moved.
        patience: the phase ends after so many epochs without a better figure; None: never before its last.
        batch_norm: what batch norms do where the backbone is trained.
    """

    name: str
    train: str
    epochs: int
    optimiser: OptimiserSettings
    patience: int | None = None
    batch_norm: BatchNorm = BatchNorm.TRAIN


@dataclass(frozen=True)
class TrainerSettings:
    """How to train, whatever the phase.

    Attributes:
        monitor: the validation figure that chooses the best weights, one of METRICS.
        augmentation: of training images.
        precision: arithmetic of the passes; weights are float32 either way.
        average: keep a running average of the weights that moves by 1 - `average` an update, and judge and leave that
            one (Polyak and Juditsky 1992); None: the weights themselves.
        device: cpu, cuda or cuda:N.
        compiled: compile the network.
        seed: of everything that is drawn.
    """

    monitor: str = "auc"
    augmentation: Augmentation = Augmentation()  # noqa: RUF009  frozen
    precision: Precision = Precision.BF16
    average: float | None = None
    device: str = "cpu"
    compiled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_metric(self.monitor)
        if self.average is not None and not 0 < self.average < 1:
            raise TrainingError(f"average={self.average} is no share: give one between 0 and 1, such as 0.999, or null")


@dataclass(frozen=True)
class EpochResult:
    """One epoch.

    Attributes:
        epoch: counted from 1, over all phases.
        phase: its phase's name.
        updates, images: done in it, over all processes.
        learning_rate: of the last update.
        train_loss: mean over the epoch's batches, as the network changed.
        figures: of validation, by name as in METRICS; None where undefined.
        is_best: whether the monitored figure has not been as good before.
        seconds: of training and validation.
        images_per_second: of training alone.
    """

    epoch: int
    phase: str
    updates: int
    images: int
    learning_rate: float
    train_loss: float
    figures: Mapping[str, float | None]
    is_best: bool
    seconds: float
    images_per_second: float


class Update(NamedTuple):
    """An update has been done: the running mean of the epoch's loss, and images of the whole batch."""

    epoch: int
    update: int
    loss: float
    images: int


class Answers(NamedTuple):
    """What a network says of images, in the order of their numbers.

    Attributes:
        numbers: int64 (n,).
        logits: float32 (n, k).
        targets: as of `Batch`.
    """

    numbers: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    targets: Targets


class Trainer:
    """Trains a network through its phases; what it holds can be saved at any update, and taken up again.

    In several processes (torch.distributed initialised, one `Trainer` each) gradients are summed over all, so that the
    curve is that of one process up to rounding where no batch norm is trained; batch norms see their own process's part
    of a batch, on GPUs the whole (SyncBatchNorm).

    Args:
        network: to train.
        phases: in order; each starts from the best weights so far.
        loss: of a batch.
        data: batches.
        settings: how.

    Attributes:
        history: the epochs so far.
        best_state: the network's state at the best epoch so far; None before the first.
    """

    def __init__(
        self,
        network: FineTunedNetwork,
        phases: list[Phase],
        loss: TaskLoss,
        data: Data,
        settings: TrainerSettings,
    ) -> None:
        self._device = check_device(settings.device)
        self._settings, self._phases, self._data = settings, phases, data
        self._network = network.to(self._device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._loss = loss.to(self._device)
        self._augmenter = Augmenter(settings.augmentation)
        self._world, self._rank = _world()
        if self._world > 1 and self._device.type == "cuda":
            self._network = nn.SyncBatchNorm.convert_sync_batchnorm(self._network)  # type: ignore[no-untyped-call]
        self.history: list[EpochResult] = []
        self.best_state: dict[str, Tensor] | None = None
        self._best: float | None = None
        self._place = _Place()
        self._pending: list[Tensor] = []
        self._learning_rate = math.nan
        # Whatever a later phase can't do is told before the first one has taken its hours.
        for place, phase in enumerate(phases):
            self._network.unfreeze(phase.train, phase.batch_norm)
            self._scheduled(make_optimiser([nn.Parameter(torch.zeros(1))], phase.optimiser), place, 0)
        self._begin_phase()

    @property
    def epochs(self) -> int:
        """Epochs of all phases, if none ends early."""
        return sum(phase.epochs for phase in self._phases)

    def run(self) -> Iterator[Update | EpochResult]:
        """Train to the end; between two events the state is whole.

        Raises:
            TrainingError: when the loss is not finite, or the device's memory does not hold a batch.
        """
        while self._place.phase < len(self._phases):
            phase = self._phases[self._place.phase]
            if self._place.in_phase >= phase.epochs or self._is_stale(phase):
                self._place = replace(self._place, phase=self._place.phase + 1, in_phase=0, stale=0)
                if self._place.phase < len(self._phases):
                    if self.best_state is not None:
                        self._network.load_state_dict(self.best_state)
                    self._begin_phase()
                continue
            yield from self._epoch(phase)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs; tensors, numbers, text, lists and dicts only, as `torch.save` takes them.

        Raises:
            TrainingError: when a loss was not finite: there is nothing worth going on from.
        """
        self._look()
        return {
            "network": self._network.state_dict(),
            "averaged": self._averaged.state_dict() if self._averaged else None,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "place": asdict(self._place),
            "history": [asdict(each) for each in self.history],
            "best": self._best,
            "best_state": self.best_state,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, in a trainer made with the same arguments."""
        self._place = _Place(**state["place"])
        self._network.load_state_dict(state["network"])
        if self._place.phase < len(self._phases):
            self._begin_phase()
            self._optimiser.load_state_dict(state["optimiser"])
            self._schedule.load_state_dict(state["schedule"])
        if self._averaged and state["averaged"] is not None:
            self._averaged.load_state_dict(state["averaged"])
        self.history = [EpochResult(**each) for each in state["history"]]
        self._best, self.best_state = state["best"], state["best_state"]

    def _begin_phase(self) -> None:
        phase = self._phases[self._place.phase]
        self._network.unfreeze(phase.train, phase.batch_norm)
        self._optimiser = make_optimiser(list(self._network.trained_parameters()), phase.optimiser)
        # Of the phase's first epoch, wherever in it a training goes on.
        self._schedule = self._scheduled(self._optimiser, self._place.phase, self._place.epoch - self._place.in_phase)
        self._averaged = _averaged(self._network, self._settings.average)
        passing: nn.Module = self._network
        if self._world > 1:
            # The process's own GPU, whichever of several: its parameters tell.
            ids = [next(self._network.parameters()).device] if self._device.type == "cuda" else None
            passing = DistributedDataParallel(
                self._network, device_ids=ids, find_unused_parameters=_has_idle(self._network)
            )
        self._forward: Callable[[Tensor], Tensor] = torch.compile(passing) if self._settings.compiled else passing

    def _scheduled(self, optimiser: torch.optim.Optimizer, place: int, epoch: int) -> Schedule:
        """The schedule of a phase that begins with this epoch."""
        phase = self._phases[place]
        updates, monitor = self._data.updates(epoch), self._settings.monitor
        return Schedule(optimiser, phase.optimiser, updates_per_epoch=updates, epochs=phase.epochs, monitor=monitor)

    def _is_stale(self, phase: Phase) -> bool:
        return phase.patience is not None and self._place.stale >= phase.patience

    def _epoch(self, phase: Phase) -> Iterator[Update | EpochResult]:
        start, before = time.monotonic(), self._place.seconds
        updates = self._data.updates(self._place.epoch)
        self._network.train()
        for batch in self._data.training(self._place.epoch, skip=self._place.update):
            full = None
            try:
                seen = self._update(batch, phase)
            except torch.OutOfMemoryError as error:
                full = str(error)
            if full is not None:
                # Here, where nothing of the pass is held any more.
                raise self._too_large(full)
            place = self._place
            self._place = replace(
                place,
                update=place.update + 1,
                images=place.images + seen,
                seconds=before + time.monotonic() - start,
                learning_rate=self._learning_rate,
            )
            if self._place.update % _UPDATES_BETWEEN_LOOKS == 0 or self._place.update == updates:
                self._look()
            yield Update(place.epoch + 1, self._place.update, self._place.mean_loss, seen)
        self._look()
        trained = self._place.seconds
        figures = self._validate()
        figure = figures[self._settings.monitor]
        if figure is None:
            raise TrainingError(
                f"val does not define {self._settings.monitor}, which is to choose the best epoch: it shows one class "
                "only, or no label both present and absent. Monitor loss, or take more patients into val."
            )
        is_best = is_better(self._settings.monitor, figure, self._best)
        if is_best:
            self._best, self.best_state = figure, _copy(self._judged.state_dict())
        self._schedule.epoch(figure)
        done = self._place
        result = EpochResult(
            epoch=done.epoch + 1,
            phase=phase.name,
            updates=updates,
            images=done.images,
            learning_rate=done.learning_rate,
            train_loss=done.mean_loss,
            figures=figures,
            is_best=is_best,
            seconds=before + time.monotonic() - start,
            images_per_second=done.images / trained if trained > 0 else 0.0,
        )
        self.history.append(result)
        self._place = _Place(done.phase, done.epoch + 1, done.in_phase + 1, stale=0 if is_best else done.stale + 1)
        yield result

    def _update(self, batch: Batch, phase: Phase) -> int:
        """Move the weights once; returns the images of the whole batch."""
        seed = _seed(self._settings.seed, self._place.epoch, self._place.update)
        # Dropout draws from torch's own generator; every update seeds it, so that a resumed training draws alike.
        torch.manual_seed(seed + self._rank)
        generator = torch.Generator().manual_seed(seed)
        seen = len(batch.images)
        if not seen and self._world == 1:
            self._schedule.step()
            return 0
        if not seen:
            batch = self._blank(batch)
        images, targets = self._to_device(batch)
        images = self._augmenter(images, generator, batch.places, self._data.batch_size)
        with self._arithmetic():
            logits = self._forward(images)
        total, weight = self._loss(logits.float(), targets)
        everywhere = torch.stack([total.detach().double(), weight.detach().double(), _of(seen, total)])
        if self._world > 1:
            distributed.all_reduce(everywhere)
        # Processes' gradients are averaged: times their number, they add up to the whole batch's.
        loss = total * self._world / everywhere[1].clamp_min(1e-12).to(total.dtype)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if phase.optimiser.clip is not None:
            nn.utils.clip_grad_norm_(self._network.trained_parameters(), phase.optimiser.clip)
        self._optimiser.step()
        self._learning_rate = float(self._optimiser.param_groups[0]["lr"])
        self._schedule.step()
        if self._averaged:
            self._averaged.update_parameters(self._network)
        self._pending.append(everywhere)
        return int(everywhere[2].item()) if self._device.type == "cpu" else seen * self._world

    def _look(self) -> None:
        """Add the last losses up, and see that they are numbers."""
        if not self._pending:
            return
        sums = torch.stack(self._pending).cpu()
        self._pending.clear()
        losses = sums[:, 0] / sums[:, 1].clamp_min(1e-12)
        place = self._place
        if not bool(torch.isfinite(losses).all()):
            bad = place.update - len(losses) + int(torch.nonzero(~torch.isfinite(losses))[0, 0]) + 1
            raise TrainingError(
                f"the loss is {losses[~torch.isfinite(losses)][0]:g} at update {bad} of epoch {place.epoch + 1}, in "
                f"phase '{self._phases[place.phase].name}'. Lower its learning rate, clip gradients (clip=1), or train "
                "in fp32."
            )
        self._place = replace(place, loss_sum=place.loss_sum + float(losses.sum()), losses=place.losses + len(losses))

    @property
    def _judged(self) -> FineTunedNetwork:
        network = self._averaged.module if self._averaged else self._network
        assert isinstance(network, FineTunedNetwork)
        return network

    def answers(self, batches: Iterable[Batch]) -> Answers:
        """What the best network so far says of images; in several processes, each gives its share and gets all.

        Args:
            batches: with the images' own numbers for places.
        """
        return self._answers(self.best_network(), batches)

    def best_network(self) -> FineTunedNetwork:
        """A copy of the network with the weights of the best epoch so far."""
        network: FineTunedNetwork = copy.deepcopy(self._network)
        if self.best_state is not None:
            network.load_state_dict(self.best_state)
        return network

    def _validate(self) -> dict[str, float | None]:
        answers = self._answers(self._judged, self._data.validation())
        self._network.train()
        return judge(answers.logits, answers.targets, self._loss)

    def _answers(self, network: FineTunedNetwork, batches: Iterable[Batch]) -> Answers:
        network.eval()
        found: list[Answers] = []
        with torch.no_grad():
            for batch in batches:
                images, _ = self._to_device(batch)
                with self._arithmetic():
                    logits = network(images).float().cpu().numpy()
                found.append(Answers(batch.places, logits, batch.targets))
        if self._world > 1:
            everybody: list[Any] = [None] * self._world
            distributed.all_gather_object(everybody, found)
            found = [part for parts in everybody for part in parts]
        if not any(len(part.numbers) for part in found):
            raise TrainingError(
                "no crop of the images that are to judge can be decoded: see jobs/audit_lake.py, and restore them"
            )
        numbers, logits, targets = (np.concatenate(column) for column in zip(*found, strict=True))
        # In one order, so that sums of floats do not hang on the number of processes.
        order = np.argsort(numbers, kind="stable")
        return Answers(numbers[order], logits[order], targets[order])

    def _blank(self, batch: Batch) -> Batch:
        """One black image with nothing known, for a batch whose crops are all damaged: other processes wait for us."""
        side = self._network.spec.input_size
        unknown = np.full((1, *batch.targets.shape[1:]), UNKNOWN, batch.targets.dtype)
        return Batch(np.zeros((1, side, side), np.uint8), unknown, np.zeros(1, np.int64))

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(batch.images).to(self._device, non_blocking=True)
        return images[:, None].float().div_(255), torch.from_numpy(batch.targets).to(self._device, non_blocking=True)

    def _arithmetic(self) -> torch.autocast:
        enabled = self._settings.precision is Precision.BF16
        return torch.autocast(self._device.type, torch.bfloat16, enabled=enabled)

    def _too_large(self, told: str) -> TrainingError:
        torch.cuda.empty_cache()
        advice = "Take a smaller batch_size, size or backbone, or more processes."
        # With other processes waiting for this one, nothing more can be tried.
        if self._world == 1:
            fits = self._largest_that_fits()
            advice = f"batch_size={fits} fits." if fits else "Not even 8 fit: take a smaller size or backbone."
        return TrainingError(
            f"the memory of {self._device} does not hold a batch of {self._data.batch_size:,} images of "
            f"{self._network.spec.name} ({told}). {advice}"
        )

    def _largest_that_fits(self) -> int:
        """The largest half, quarter … of a batch, a multiple of 8, that an update has room for; 0 if none."""
        side, tried = self._network.spec.input_size, self._data.batch_size
        while tried := tried // 2 // _BATCH_MULTIPLE * _BATCH_MULTIPLE:
            try:
                self._optimiser.zero_grad(set_to_none=True)
                with self._arithmetic():
                    answers = self._network(torch.zeros(tried, 1, side, side, device=self._device))
                answers.float().sum().backward()
                self._optimiser.step()
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            else:
                return tried
        return 0


@dataclass(frozen=True)
class _Place:
    """How far a training is.

    Attributes:
        phase: the phase that runs.
        epoch, in_phase: epochs done, in all and in this phase.
        update: updates done in the epoch that runs.
        stale: epochs of the phase since its best.
        loss_sum, losses: of the epoch that runs, as far as they were looked at.
        images, seconds, learning_rate: of the epoch that runs; the rate of its last update.
    """

    phase: int = 0
    epoch: int = 0
    in_phase: int = 0
    update: int = 0
    stale: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    images: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / self.losses if self.losses else math.nan


def _has_idle(network: FineTunedNetwork) -> bool:
    """Whether a trained parameter has no part in the answers, such as the norm before a pooling that is replaced."""
    network.eval()
    side, parameters = network.spec.input_size, list(network.trained_parameters())
    answers = network(torch.zeros(1, 1, side, side, device=parameters[0].device))
    gradients = torch.autograd.grad(answers.sum(), parameters, allow_unused=True)
    network.train()
    return any(gradient is None for gradient in gradients)


def _averaged(network: FineTunedNetwork, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None

    def follow(averaged: Tensor, current: Tensor, number: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():
            return current
        # Early on it moves faster, or it would hold the first, untrained weights for long.
        return averaged.lerp(current, 1 - min(decay, (1 + int(number)) / (10 + int(number))))

    return AveragedModel(network, avg_fn=follow, use_buffers=True)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def _world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _of(number: int, like: Tensor) -> Tensor:
    return torch.tensor(number, dtype=torch.float64, device=like.device)
