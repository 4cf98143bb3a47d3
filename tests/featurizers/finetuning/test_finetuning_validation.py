"""Figures of validation: scikit-learn's over what is known, None where there is nothing to tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from numpy.typing import NDArray

from featurizers.errors import TrainingError
from featurizers.finetuning.losses import LossBalance, LossSettings, TaskLoss
from featurizers.finetuning.validation import METRICS, is_better, judge

RNG = np.random.default_rng(3)
EXCLUSIVE = TaskLoss(LossSettings(), np.array([0, 1, 2]), ("a", "b", "c"))
LABELS = TaskLoss(LossSettings(), np.array([[0, 0, 0], [1, 1, 1]], np.int8), ("a", "b", "c"))


def logits_of(rows: int, columns: int = 3) -> NDArray[np.float32]:
    return RNG.normal(size=(rows, columns)).astype(np.float32)


def agrees(found: dict[str, float | None], **expected: float) -> None:
    assert tuple(found) == METRICS
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_classes_are_judged_as_by_scikit_learn() -> None:
    logits, targets = logits_of(60), RNG.integers(0, 3, 60)
    p = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    found = judge(logits, targets, EXCLUSIVE)
    agrees(
        found,
        loss=sk.log_loss(targets, p),
        auc=sk.roc_auc_score(targets, p, multi_class="ovr", average="macro"),
        macro_f1=sk.f1_score(targets, p.argmax(1), average="macro"),
        recall=sk.balanced_accuracy_score(targets, p.argmax(1)),
        accuracy=sk.accuracy_score(targets, p.argmax(1)),
    )


def test_two_classes_have_the_area_of_the_last() -> None:
    logits, targets = logits_of(50, 2), RNG.integers(0, 2, 50)
    loss = TaskLoss(LossSettings(), targets, ("normal", "pneumonia"))
    agrees(judge(logits, targets, loss), auc=sk.roc_auc_score(targets, logits[:, 1] - logits[:, 0]))


def test_labels_are_judged_as_by_scikit_learn() -> None:
    logits, targets = logits_of(60), RNG.integers(0, 2, (60, 3)).astype(np.int8)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    agrees(
        judge(logits, targets, LABELS),
        loss=np.mean([sk.log_loss(targets[:, i], p[:, i]) for i in range(3)]),
        auc=sk.roc_auc_score(targets, p, average="macro"),
        macro_f1=sk.f1_score(targets, p >= 0.5, average="macro"),
        recall=sk.recall_score(targets, p >= 0.5, average="macro"),
        accuracy=np.mean(targets == (p >= 0.5)),
    )


@pytest.mark.parametrize("loss", [EXCLUSIVE, LABELS])
def test_unknown_targets_count_nowhere(loss: TaskLoss) -> None:
    shape = (40, 3) if loss is LABELS else 40
    logits, targets = logits_of(40), RNG.integers(0, 2, shape).astype(np.int64)
    expected = judge(logits, targets, loss)
    more = np.concatenate([targets, np.full_like(targets, -1)])
    agrees(judge(np.concatenate([logits, -logits]), more, loss), **expected)  # type: ignore[arg-type]


def test_an_entry_unknown_leaves_its_row_s_others() -> None:
    logits = np.array([[1, -9, 1], [-1, 1, 2], [-1, -1, -1]], np.float32)
    targets = np.array([[1, -1, 1], [0, 1, 0], [0, 0, -1]], np.int8)
    agrees(
        judge(logits, targets, LABELS), auc=(1 + 1 + 0) / 3, macro_f1=(1 + 1 + 2 / 3) / 3, recall=1.0, accuracy=6 / 7
    )


def test_a_class_that_validation_lacks_is_in_no_mean() -> None:
    logits = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 3], [0, 2, 1]], np.float32)
    targets = np.array([0, 1, 1, 0])
    found = judge(logits, targets, EXCLUSIVE)
    agrees(found, recall=0.5, accuracy=0.5, macro_f1=(2 / 3 + 0.5) / 2)
    margins = [logits[:, i] - np.log(np.exp(np.delete(logits, i, 1)).sum(1)) for i in (0, 1)]
    agrees(found, auc=np.mean([sk.roc_auc_score(targets == i, margins[i]) for i in (0, 1)]))


def test_what_is_undefined_is_none() -> None:
    for loss, targets in ((EXCLUSIVE, np.full(4, -1)), (LABELS, np.full((4, 3), -1))):
        assert judge(logits_of(4), targets, loss) == dict.fromkeys(METRICS)
    one_class = judge(logits_of(4), np.zeros(4, np.int64), EXCLUSIVE)
    assert one_class["auc"] is None
    assert one_class["recall"] is not None
    no_positives = judge(logits_of(4), np.zeros((4, 3), np.int8), LABELS)
    assert [no_positives[name] for name in ("auc", "macro_f1", "recall")] == [None] * 3
    assert no_positives["accuracy"] is not None


def test_sure_answers_are_still_ranked() -> None:
    # As float32 probabilities all four are 1.
    logits = np.array([[0, 60], [0, 70], [0, 80], [0, 90]], np.float32)
    loss = TaskLoss(LossSettings(), np.array([0, 1]), ("a", "b"))
    agrees(judge(logits, np.array([0, 0, 1, 1]), loss), auc=1.0)


def test_all_rows_are_one_batch_and_the_loss_stays_in_its_mode() -> None:
    targets = np.array([[1], [0], [0], [0]], np.int8)
    loss = TaskLoss(LossSettings(balance=LossBalance.BATCH_WEIGHT), targets, ("a",))
    found = judge(np.zeros((4, 1), np.float32), targets, loss)
    agrees(found, loss=2 * math.log(2))
    assert loss.training


def test_answers_that_are_no_numbers_are_refused() -> None:
    logits = logits_of(4)
    logits[1, 0] = np.nan
    with pytest.raises(TrainingError, match=r"1 of 4 validation images are not finite.*[Ll]ower the learning rate"):
        judge(logits, np.array([0, 1, 2, 0]), EXCLUSIVE)


def test_better_is_less_loss_and_more_of_all_else() -> None:
    for metric in METRICS:
        better, worse = (0.1, 0.2) if metric == "loss" else (0.2, 0.1)
        assert is_better(metric, better, worse)
        assert not is_better(metric, worse, better)
        assert not is_better(metric, better, better)
        assert is_better(metric, worse, None)
        assert not is_better(metric, None, worse)
        assert not is_better(metric, None, None)
    with pytest.raises(TrainingError, match=r"'f1' is no figure .*macro_f1"):
        is_better("f1", 1.0, None)
