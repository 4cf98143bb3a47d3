"""Losses: torch's own where torch has them, hand-computed where not, and no unknown target in any of them."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn import functional

from featurizers.errors import TrainingError
from featurizers.finetuning.losses import LossBalance, LossKind, LossSettings, TaskLoss

CLASSES = ("normal", "bacterial", "viral")
LABELS = ("effusion", "nodule")
#: 6 normal, 3 bacterial, 1 viral, 1 unknown.
CLASS_TRAIN = np.array([0] * 6 + [1] * 3 + [2, -1])
#: Effusion: 1 of 5 known; nodule: 2 of 4 known.
LABEL_TRAIN = np.array([[1, 1], [0, 1], [0, 0], [0, 0], [0, -1], [-1, -1]], np.int8)


def loss_of(multi_label: bool = False, **settings: object) -> TaskLoss:
    train, names = (LABEL_TRAIN, LABELS) if multi_label else (CLASS_TRAIN, CLASSES)
    return TaskLoss(LossSettings(**settings), train, names)  # type: ignore[arg-type]


def batch(multi_label: bool, rows: int = 40) -> tuple[Tensor, Tensor]:
    """Logits and known targets."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(rows, 2 if multi_label else 3, generator=generator) * 3
    if multi_label:
        return logits, torch.randint(0, 2, (rows, 2), generator=generator).to(torch.int8)
    return logits, torch.randint(0, 3, (rows,), generator=generator)


def agrees(found: tuple[Tensor, Tensor], total: Tensor | float, weight: float) -> None:
    assert found[0].item() == pytest.approx(float(total), rel=1e-5)
    assert float(found[1]) == weight


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_is_torchs(smoothing: float) -> None:
    logits, targets = batch(multi_label=False)
    expected = functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    agrees(loss_of(label_smoothing=smoothing)(logits, targets), expected, 40)


def test_class_weights_of_classes_are_torchs_with_inverse_frequencies() -> None:
    logits, targets = batch(multi_label=False)
    weights = torch.tensor([10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)])
    expected = functional.cross_entropy(logits, targets, weights, reduction="sum")
    agrees(loss_of(balance=LossBalance.CLASS_WEIGHT)(logits, targets), expected, 40)


def test_cross_entropy_of_labels_is_torchs() -> None:
    logits, targets = batch(multi_label=True)
    expected = functional.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum")
    agrees(loss_of(multi_label=True)(logits, targets), expected, 80)


def test_pos_weight_is_torchs() -> None:
    logits, targets = batch(multi_label=True)
    ratio = torch.tensor([4 / 1, 2 / 2])
    expected = functional.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=ratio, reduction="sum")
    agrees(loss_of(multi_label=True, balance=LossBalance.POS_WEIGHT)(logits, targets), expected, 80)


def test_class_weights_of_labels_even_positives_and_negatives_out() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    targets = torch.tensor([[1, 1], [0, 0]], dtype=torch.int8)
    weights = 5 / (2 * 1) + 5 / (2 * 4) + 4 / (2 * 2) + 4 / (2 * 2)
    agrees(loss_of(multi_label=True, balance=LossBalance.CLASS_WEIGHT)(logits, targets), weights * math.log(2), 4)


@pytest.mark.parametrize("multi_label", [False, True])
def test_class_weights_keep_the_scale_of_train(multi_label: bool) -> None:
    targets = torch.from_numpy(LABEL_TRAIN if multi_label else CLASS_TRAIN)
    logits = torch.zeros(len(targets), 2 if multi_label else 3)
    total, weight = loss_of(multi_label, balance=LossBalance.CLASS_WEIGHT)(logits, targets)
    assert float(total / weight) == pytest.approx(math.log(2 if multi_label else 3))


def test_smoothed_labels_cost_as_two_smoothed_classes() -> None:
    logits, targets = batch(multi_label=True)
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=-1).reshape(-1, 2)
    expected = functional.cross_entropy(pairs, targets.reshape(-1).long(), reduction="sum", label_smoothing=0.2)
    agrees(loss_of(multi_label=True, label_smoothing=0.2)(logits, targets), expected, 80)


def test_batch_weights_are_those_of_chestxray14() -> None:
    # Wang et al.: (|P| + |N|) / |P| and (|P| + |N|) / |N|, over all labels of the batch.
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0], [1.0, 1.0]])
    targets = torch.tensor([[1, 0], [0, 0], [-1, 0]], dtype=torch.int8)
    of_one, of_zero = 5 / 1, 5 / 4
    positive = math.log1p(math.exp(-2))
    negatives = sum(math.log1p(math.exp(logit)) for logit in (-1, 0.5, 3, 1))
    found = loss_of(multi_label=True, balance=LossBalance.BATCH_WEIGHT)(logits, targets)
    agrees(found, of_one * positive + of_zero * negatives, 5)


@pytest.mark.parametrize("only", [0, 1])
def test_a_batch_of_one_side_has_batch_weights(only: int) -> None:
    logits = torch.full((4, 2), 1.5, requires_grad=True)
    total, weight = loss_of(multi_label=True, balance=LossBalance.BATCH_WEIGHT)(logits, torch.full((4, 2), only))
    agrees((total, weight), 8 * math.log1p(math.exp(-1.5 if only else 1.5)), 8)
    total.backward()
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_that_of_lin(multi_label: bool, gamma: float) -> None:
    logits, targets = batch(multi_label)
    if multi_label:
        p = torch.sigmoid(logits.double())
        right = torch.where(targets == 1, p, 1 - p)
    else:
        right = torch.softmax(logits.double(), dim=1)[torch.arange(40), targets]
    expected = ((1 - right) ** gamma * -right.log()).sum()
    agrees(loss_of(multi_label, kind=LossKind.FOCAL, gamma=gamma)(logits, targets), expected, right.numel())


def test_focal_loss_takes_class_weights_for_its_alpha() -> None:
    logits, targets = torch.zeros(1, 3), torch.tensor([2])
    expected = 10 / 3 * (2 / 3) ** 2 * math.log(3)
    agrees(loss_of(kind=LossKind.FOCAL, balance=LossBalance.CLASS_WEIGHT)(logits, targets), expected, 1)


ALL_SETTINGS = [
    (multi_label, kind, balance)
    for multi_label, kind, balance in product((False, True), LossKind, LossBalance)
    if multi_label or balance in (LossBalance.NONE, LossBalance.CLASS_WEIGHT)
]


@pytest.mark.parametrize(("multi_label", "kind", "balance"), ALL_SETTINGS)
def test_unknown_targets_cost_nothing_and_move_nothing(multi_label: bool, kind: LossKind, balance: LossBalance) -> None:
    loss = loss_of(multi_label, kind=kind, balance=balance)
    logits, targets = batch(multi_label)
    expected = loss(logits, targets)
    more = torch.cat([logits, logits * 2]).requires_grad_()
    found = loss(more, torch.cat([targets, torch.full_like(targets, -1)]))
    agrees(found, expected[0], float(expected[1]))
    found[0].backward()
    assert not more.grad[40:].any()  # type: ignore[index]
    assert more.grad[:40].any()  # type: ignore[index]


@pytest.mark.parametrize(("multi_label", "kind", "balance"), ALL_SETTINGS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_extreme_logits_give_numbers(multi_label: bool, kind: LossKind, balance: LossBalance, gamma: float) -> None:
    loss = loss_of(multi_label, kind=kind, balance=balance, gamma=gamma)
    logits, targets = batch(multi_label)
    logits = (logits.sign() * 1e4).requires_grad_()
    targets[:5] = -1
    total, _ = loss(logits, targets)
    total.backward()
    assert bool(total.isfinite())
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]


def test_nothing_known_is_nothing() -> None:
    for multi_label, balance in ((False, LossBalance.CLASS_WEIGHT), (True, LossBalance.BATCH_WEIGHT)):
        logits, targets = batch(multi_label)
        agrees(loss_of(multi_label, balance=balance)(logits, torch.full_like(targets, -1)), 0, 0)


def test_parts_of_a_batch_add_up() -> None:
    logits, targets = batch(multi_label=False)
    loss = loss_of(balance=LossBalance.CLASS_WEIGHT)
    parts = [loss(logits[part], targets[part]) for part in (slice(0, 11), slice(11, None))]
    total, weight = loss(logits, targets)
    agrees((total, weight), sum(float(part[0]) for part in parts), sum(float(part[1]) for part in parts))


def share_a_batch(rank: int, folder: str) -> None:
    """One of two processes: its rows of the batch, in training mode, then all rows alone, judging."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    loss = loss_of(multi_label=True, balance=LossBalance.BATCH_WEIGHT)
    logits, targets = batch(multi_label=True)
    mine = slice(0, 7) if rank == 0 else slice(7, None)
    both = torch.stack(loss(logits[mine], targets[mine]))
    distributed.all_reduce(both)
    if rank == 0:
        # The other one does not take part, and is not waited for.
        torch.save({"shared": both, "judged": torch.stack(loss.eval()(logits, targets))}, f"{folder}/found.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_weigh_a_batch_as_one(tmp_path: Path) -> None:
    multiprocessing.spawn(share_a_batch, (str(tmp_path),), nprocs=2)
    expected = loss_of(multi_label=True, balance=LossBalance.BATCH_WEIGHT)(*batch(multi_label=True))
    for found in torch.load(tmp_path / "found.pt", weights_only=True).values():
        agrees((found[0], found[1]), expected[0], float(expected[1]))


def test_a_class_missing_from_train_is_named() -> None:
    with pytest.raises(TrainingError, match=r"no image of train is of viral: .*add such images"):
        TaskLoss(LossSettings(), np.array([0, 1, 1, -1]), CLASSES)
    with pytest.raises(TrainingError, match="is positive for effusion, nodule:"):
        TaskLoss(LossSettings(), np.array([[0, 0], [0, -1]], np.int8), LABELS)
    with pytest.raises(TrainingError, match="is negative for nodule:"):
        TaskLoss(LossSettings(), np.array([[0, 1], [1, -1]], np.int8), LABELS)


@pytest.mark.parametrize("balance", [LossBalance.POS_WEIGHT, LossBalance.BATCH_WEIGHT])
def test_weights_of_labels_are_refused_for_classes(balance: LossBalance) -> None:
    with pytest.raises(TrainingError, match=f"balance={balance.value} .*choose balance=class_weight"):
        loss_of(balance=balance)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"gamma": -0.1}, "gamma=-0.1 .* at least 0"),
        ({"gamma": math.nan}, "gamma=nan"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0 .* below 1"),
        ({"kind": LossKind.FOCAL, "label_smoothing": 0.1}, "kind=focal.* Choose label_smoothing=0"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        LossSettings(**settings)  # type: ignore[arg-type]
