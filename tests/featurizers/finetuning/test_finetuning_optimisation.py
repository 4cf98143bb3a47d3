"""Optimisers and schedules: torch's curves behind any warm-up, and the same weights after an interruption."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from featurizers.errors import TrainingError
from featurizers.finetuning.optimisation import (
    OptimiserName,
    OptimiserSettings,
    Schedule,
    ScheduleName,
    make_optimiser,
)

UPDATES, EPOCHS = 5, 6
TOTAL = UPDATES * EPOCHS


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


class Run:
    """A small training, epoch by epoch."""

    def __init__(self, monitor: str = "loss", **settings: Any) -> None:
        self.network = network()
        self.settings = OptimiserSettings(**settings)
        self.optimiser = make_optimiser(list(self.network.parameters()), self.settings)
        self.schedule = Schedule(
            self.optimiser, self.settings, updates_per_epoch=UPDATES, epochs=EPOCHS, monitor=monitor
        )
        self.rates: list[float] = []

    def go(self, updates: int, figures: list[float | None] | None = None) -> list[float]:
        """Do updates, the first being number `len(self.rates)`; returns all rates so far."""
        for _ in range(updates):
            number = len(self.rates)
            X = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
            self.rates.append(self.optimiser.param_groups[0]["lr"])
            self.optimiser.zero_grad()
            (self.network(X) - X.sum(1, keepdim=True)).square().mean().backward()
            self.optimiser.step()
            self.schedule.step()
            if (number + 1) % UPDATES == 0:
                self.schedule.epoch(figures[number // UPDATES] if figures else None)
        return self.rates

    def weights(self) -> torch.Tensor:
        return torch.cat([each.detach().flatten() for each in self.network.parameters()])


def torchs(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], updates: int) -> list[float]:
    """The rates of a scheduler of torch's, at its highest 0.1."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    schedule, rates = make(optimiser), []
    for _ in range(updates):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


def test_constant() -> None:
    assert Run(learning_rate=0.1).go(TOTAL) == [0.1] * TOTAL


@pytest.mark.parametrize("warm_up", [0, 3])
def test_step_is_torchs_by_epochs_from_the_beginning(warm_up: int) -> None:
    found = Run(learning_rate=0.1, schedule="step", step_epochs=2, gamma=0.5, warm_up_steps=warm_up).go(TOTAL)
    expected = torchs(lambda each: lr_scheduler.StepLR(each, 2 * UPDATES, 0.5), TOTAL)
    assert found[warm_up:] == pytest.approx(expected[warm_up:])


@pytest.mark.parametrize("warm_up", [0, 3])
def test_cosine_is_torchs_over_what_the_warm_up_leaves(warm_up: int) -> None:
    found = Run(learning_rate=0.1, schedule="cosine", warm_up_steps=warm_up).go(TOTAL + 4)
    rest = TOTAL - warm_up
    expected = torchs(lambda each: lr_scheduler.CosineAnnealingLR(each, rest), rest)
    assert found[warm_up:TOTAL] == pytest.approx(expected)
    assert found[TOTAL:] == pytest.approx([0] * 4)


@pytest.mark.parametrize("warm_up", [0, 3])
def test_one_cycle_is_torchs_over_what_the_warm_up_leaves(warm_up: int) -> None:
    found = Run(learning_rate=0.1, schedule="one_cycle", warm_up_steps=warm_up).go(TOTAL + 4)
    rest = TOTAL - warm_up
    expected = torchs(lambda each: lr_scheduler.OneCycleLR(each, 0.1, rest, cycle_momentum=False), rest - 1)
    assert found[warm_up : TOTAL - 1] == pytest.approx(expected)
    assert found[TOTAL - 1 :] == pytest.approx([0.1 / 25 / 1e4] * 5)


@pytest.mark.parametrize("updates", [1, 2, 3, 4])
def test_one_cycle_of_few_updates_is_within_bounds(updates: int) -> None:
    settings = OptimiserSettings(learning_rate=0.1, schedule=ScheduleName.ONE_CYCLE)
    optimiser = make_optimiser(network().parameters(), settings)
    schedule = Schedule(optimiser, settings, updates_per_epoch=updates, epochs=1, monitor="loss")
    for _ in range(updates):
        assert 0 < optimiser.param_groups[0]["lr"] <= 0.1
        schedule.step()


@pytest.mark.parametrize("schedule", ScheduleName)
def test_warm_up_rises_on_a_line_to_where_the_schedule_begins(schedule: ScheduleName) -> None:
    plain = Run(learning_rate=0.1, schedule=schedule).go(1)[0]
    rates = Run(learning_rate=0.1, schedule=schedule, warm_up_steps=4).go(5)
    assert rates == pytest.approx([plain / 4, plain / 2, plain * 3 / 4, plain, plain])


def test_plateau_falls_after_epochs_without_a_better_figure() -> None:
    plateau = {"learning_rate": 0.1, "schedule": "plateau", "step_epochs": 2, "gamma": 0.5}
    by_loss = Run("loss", **plateau).go(TOTAL, [1.0, 2.0, 0.9, 0.9, None, 0.8])
    assert by_loss[::UPDATES] == pytest.approx([0.1] * 5 + [0.05])
    by_auc = Run("auc", **plateau).go(TOTAL, [0.9, 0.8, 0.8, 0.7, 0.9, 1.0])
    assert by_auc[::UPDATES] == pytest.approx([0.1] * 3 + [0.05] * 2 + [0.025])


def test_plateau_falls_again_from_a_rate_that_still_warms_up() -> None:
    run = Run(learning_rate=0.1, schedule="plateau", step_epochs=1, gamma=0.5, warm_up_steps=10)
    rates = run.go(TOTAL, [1.0] * EPOCHS)
    assert rates[:UPDATES] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert rates[::UPDATES] == pytest.approx([0.01, 0.06, 0.05, 0.025, 0.0125, 0.00625])


@pytest.mark.parametrize(("name", "schedule"), list(itertools.product(OptimiserName, ScheduleName)))
def test_interrupted_is_as_at_one_go(name: OptimiserName, schedule: ScheduleName) -> None:
    settings = {"name": name, "learning_rate": 0.05, "weight_decay": 0.01, "warm_up_steps": 7, "step_epochs": 1}
    figures: list[float | None] = [1.0] * EPOCHS

    def run() -> Run:
        return Run(schedule=schedule, **settings)

    whole = run()
    whole.go(10, figures)
    first = run()
    first.go(5, figures)
    stored = io.BytesIO()
    parts = {"network": first.network, "optimiser": first.optimiser, "schedule": first.schedule}
    torch.save({key: part.state_dict() for key, part in parts.items()}, stored)
    for order in itertools.permutations(("network", "optimiser", "schedule")):
        second = run()
        stored.seek(0)
        state = torch.load(stored, weights_only=True)
        for key in order:
            getattr(second, key).load_state_dict(state[key])
        second.rates = list(first.rates)
        assert second.go(5, figures) == whole.rates
        assert torch.equal(second.weights(), whole.weights())


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("adam", lambda each: torch.optim.Adam(each, 0.02, weight_decay=0.1)),
        ("adamw", lambda each: torch.optim.AdamW(each, 0.02, weight_decay=0.1)),
        ("sgd", lambda each: torch.optim.SGD(each, 0.02, 0.8, weight_decay=0.1)),
    ],
)
def test_rules_are_torchs(name: str, own: Callable[[Any], torch.optim.Optimizer]) -> None:
    run, other = Run(name=name, learning_rate=0.02, weight_decay=0.1, momentum=0.8), Run()
    other.optimiser = own(other.network.parameters())
    run.go(8)
    other.go(8)
    torch.testing.assert_close(run.weights(), other.weights())


def test_groups_keep_their_own_rates_under_a_schedule() -> None:
    settings = OptimiserSettings(learning_rate=0.1, schedule=ScheduleName.COSINE)
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.001)]
    optimiser = make_optimiser(groups, settings)
    schedule = Schedule(optimiser, settings, updates_per_epoch=10, epochs=1, monitor="loss")
    for _ in range(5):
        schedule.step()
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.05, 0.0005])


def test_a_warm_up_without_an_end_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"warm_up_steps=30, and there are only 30 updates .*give fewer"):
        Run(warm_up_steps=TOTAL)


def test_a_schedule_knows_what_it_watches() -> None:
    with pytest.raises(TrainingError, match="'f1' is no figure"):
        Run("f1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1e-4),
        ("momentum", 1.0),
        ("warm_up_steps", -1),
        ("step_epochs", 0),
        ("gamma", 1.0),
        ("clip", 0.0),
    ],
)
def test_values_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(TrainingError, match=f"{field}={value} is out of range: give "):
        OptimiserSettings(**{field: value})  # type: ignore[arg-type]
