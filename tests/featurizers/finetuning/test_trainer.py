"""The training loop: it learns, comes back exactly, keeps the best, stops in time, and tells what went wrong."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_batches import SIDE, DrawnBatches
from torch import distributed, multiprocessing

from featurizers.backbones import get_backbone, load_weights
from featurizers.errors import TrainingError
from featurizers.extractor import Precision
from featurizers.finetuning.augmentation import Augmentation
from featurizers.finetuning.group import leave_group
from featurizers.finetuning.losses import LossSettings, TaskLoss
from featurizers.finetuning.network import ALL, TOP, FineTunedNetwork, TopSettings
from featurizers.finetuning.optimisation import OptimiserName, OptimiserSettings, ScheduleName
from featurizers.finetuning.trainer import EpochResult, Phase, Trainer, TrainerSettings, Update

SPEC = get_backbone(f"simple_cnn:dense=0,dropout=0,filters=4-8,size={SIDE}")
VIEWS = Augmentation(shift=0.1, flip=0.0, brightness=0.1)
FP32 = TrainerSettings(precision=Precision.FP32, augmentation=VIEWS)


def phases(*, top: int = 1, everything: int = 3, **optimiser: Any) -> list[Phase]:
    settings = OptimiserSettings(**({"name": OptimiserName.ADAM, "learning_rate": 1e-2} | optimiser))
    return [
        phase
        for phase in (Phase("freeze", TOP, top, settings), Phase("unfreeze", ALL, everything, settings))
        if phase.epochs
    ]


def trainer(
    plan: list[Phase] | None = None, settings: TrainerSettings = FP32, data: DrawnBatches | None = None, **top: Any
) -> Trainer:
    network = FineTunedNetwork(SPEC, load_weights(SPEC, "random", 3), 2, TopSettings(**top), seed=4)
    data = data or DrawnBatches()
    shape = (8, 2) if data.labels else (8,)
    targets = np.arange(math.prod(shape)).reshape(shape) // (2 if data.labels else 1) % 2
    return Trainer(network, plan or phases(), TaskLoss(LossSettings(), targets, ("a", "b")), data, settings)


def losses(events: list[Update | EpochResult]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Update)]


def test_it_learns_and_says_how_far_it_is() -> None:
    learning = trainer(phases(top=1, everything=5))
    events = list(learning.run())
    history = [event for event in events if isinstance(event, EpochResult)]
    assert [(each.epoch, each.phase, each.updates, each.images) for each in history] == [
        (number, "freeze" if number == 1 else "unfreeze", 6, 96) for number in range(1, 7)
    ]
    assert history == learning.history
    assert history[-1].train_loss < history[0].train_loss
    assert max(each.figures["auc"] or 0 for each in history) > 0.95
    assert sum(isinstance(event, Update) for event in events) == 36
    assert all(each.learning_rate == 1e-2 for each in history)


def test_labels_with_unknown_targets_are_learned() -> None:
    learning = trainer(phases(everything=4), data=DrawnBatches(labels=2))
    history = [event for event in learning.run() if isinstance(event, EpochResult)]
    assert all(math.isfinite(each.train_loss) for each in history)
    assert history[-1].figures["loss"] < history[0].figures["loss"]


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("stop_after", [4, 6, 9, 15, 26])
def test_what_is_taken_up_again_ends_as_if_it_had_never_stopped(stop_after: int, average: float | None) -> None:
    settings = TrainerSettings(precision=Precision.FP32, augmentation=VIEWS, average=average)
    plan = phases(top=1, everything=3, schedule=ScheduleName.COSINE)
    whole = trainer(plan, settings, DrawnBatches(uneven=True), dropout=0.3)
    for _ in whole.run():
        pass
    first = trainer(plan, settings, DrawnBatches(uneven=True), dropout=0.3)
    done = 0
    for event in first.run():
        done += isinstance(event, Update)
        if done == stop_after:
            break
    kept = io.BytesIO()
    torch.save(first.state(), kept)
    data = DrawnBatches(uneven=True)
    second = trainer(plan, settings, data=data, dropout=0.3)
    kept.seek(0)
    second.restore(torch.load(kept, weights_only=True))
    for _ in second.run():
        pass
    expected, found = whole.best_network().state_dict(), second.best_network().state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [each.figures for each in second.history] == [each.figures for each in whole.history]
    for found_epoch, expected_epoch in zip(second.history, whole.history, strict=True):
        assert found_epoch.train_loss == pytest.approx(expected_epoch.train_loss)
        assert found_epoch.learning_rate == expected_epoch.learning_rate
        assert found_epoch.images == expected_epoch.images
    # Nothing was done twice.
    every = [(epoch, number) for epoch in range(4) for number in range(6 + epoch % 2)]
    assert data.shown == every[stop_after:]


def test_the_best_epoch_is_kept_and_not_the_last() -> None:
    # So high a rate spoils in the second phase what the first has learned.
    plan = [
        Phase("good", ALL, 4, OptimiserSettings(learning_rate=1e-2)),
        Phase("bad", ALL, 2, OptimiserSettings(name=OptimiserName.SGD, learning_rate=30.0, momentum=0.0)),
    ]
    learning = trainer(plan)
    for _ in learning.run():
        pass
    best = max(learning.history, key=lambda each: (each.figures["auc"] or 0, -each.epoch))
    assert best.is_best
    assert best.epoch < 6
    assert not learning.history[-1].is_best
    answers = learning.answers(DrawnBatches().validation())
    right = (answers.logits.argmax(1) == answers.targets).mean()
    assert right == pytest.approx(best.figures["accuracy"])


def test_a_phase_without_gain_ends_early() -> None:
    still = OptimiserSettings(name=OptimiserName.SGD, learning_rate=1e-12)
    learning = trainer([Phase("freeze", TOP, 50, still, patience=2), Phase("unfreeze", ALL, 1, still)])
    assert [event.phase for event in learning.run() if isinstance(event, EpochResult)] == [
        *["freeze"] * 3,
        "unfreeze",
    ]


def test_an_average_of_the_weights_is_judged_and_left() -> None:
    learning = trainer(phases(top=0, everything=1), TrainerSettings(precision=Precision.FP32, average=0.5))
    name, expected = "top.0.weight", None
    for number, event in enumerate(learning.run()):
        if isinstance(event, Update):
            now = learning.state()["network"][name].clone()
            # The first is taken as it is; then it moves by half, and faster while few have been seen.
            share = 1 - min(0.5, (1 + number) / (10 + number))
            expected = now if expected is None else expected + (now - expected) * share
    torch.testing.assert_close(learning.best_network().state_dict()[name], expected)
    assert not torch.allclose(learning.state()["network"][name], expected)


def test_a_loss_that_is_no_number_stops_it_and_says_where() -> None:
    with pytest.raises(TrainingError, match=r"loss is (nan|inf).*epoch 1, in phase 'unfreeze'.*learning rate"):
        for _ in trainer(phases(top=0, name=OptimiserName.SGD, learning_rate=1e20)).run():
            pass


def test_a_full_memory_tells_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    learning, forward = trainer(), FineTunedNetwork.forward

    def bounded(self: FineTunedNetwork, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, pixels)

    monkeypatch.setattr(FineTunedNetwork, "forward", bounded)
    with pytest.raises(TrainingError, match=r"a batch of 16 images.*batch_size=8 fits"):
        next(learning.run())


def test_a_figure_that_val_does_not_define_can_not_choose() -> None:
    with pytest.raises(TrainingError, match=r"val does not define auc.*Monitor loss"):
        for _ in trainer(data=DrawnBatches(one_class=True)).run():
            pass
    by_loss = trainer(settings=TrainerSettings(monitor="loss"), data=DrawnBatches(one_class=True))
    assert all(each.figures["auc"] is None for each in by_loss.run() if isinstance(each, EpochResult))


def test_what_a_later_phase_can_not_do_is_told_before_the_first() -> None:
    with pytest.raises(TrainingError, match="no stage 'layer9'"):
        trainer([*phases(everything=0), Phase("unfreeze", "layer9", 1, OptimiserSettings())])
    with pytest.raises(TrainingError, match="warm_up_steps=99"):
        trainer([*phases(everything=0), Phase("unfreeze", ALL, 1, OptimiserSettings(warm_up_steps=99))])


def test_bf16_learns_as_well() -> None:
    learning = trainer(phases(everything=4), TrainerSettings(augmentation=VIEWS))
    for _ in learning.run():
        pass
    assert max(each.figures["auc"] or 0 for each in learning.history) > 0.9


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"monitor": "beauty"}, "beauty"), ({"average": 1.0}, "average=1.0"), ({"device": "tpu"}, "tpu")],
)
def test_senseless_settings_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trainer(settings=TrainerSettings(**wrong))


def _train_as_one_of_two(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    _train_and_tell(rank, folder)
    leave_group()


def _train_and_tell(rank: int, folder: str) -> None:
    learning = trainer(data=DrawnBatches(rank=rank, world=2))
    events = list(learning.run())
    answers = learning.answers(DrawnBatches(rank=rank, world=2).validation())
    torch.save(
        {
            "losses": losses(events),
            "figures": [dict(each.figures) for each in learning.history],
            "logits": torch.from_numpy(answers.logits),
        },
        f"{folder}/{rank}.pt",
    )


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    """Within 1e-4: sums of gradients are rounded in another order."""
    multiprocessing.spawn(_train_as_one_of_two, (str(tmp_path),), nprocs=2)
    alone = trainer()
    expected = losses(list(alone.run()))
    logits = alone.answers(DrawnBatches().validation()).logits
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        np.testing.assert_allclose(found["losses"], expected, atol=1e-4)
        np.testing.assert_allclose(found["logits"], logits, atol=1e-3)
        for figures, each in zip(found["figures"], alone.history, strict=True):
            assert figures["loss"] == pytest.approx(each.figures["loss"], abs=1e-4)
