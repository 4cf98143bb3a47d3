"""Losses: what a batch's answers cost, class imbalance and unknown targets taken into account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from featurizers.errors import TrainingError
from featurizers.finetuning.ranges import check

POSITIVE: Final = 1
NEGATIVE: Final = 0
UNKNOWN: Final = -1


class LossKind(StrEnum):
    """What an answer costs.

    Attributes:
        CROSS_ENTROPY: minus the logarithm of the probability given to what is true; of a softmax for classes that
            exclude each other, of a sigmoid per label for multi-label.
        FOCAL: the same, times (1 - that probability) to the power of gamma, which takes weight off what is already
            right (Lin et al., Focal loss for dense object detection, ICCV 2017).
    """

    CROSS_ENTROPY = "cross_entropy"
    FOCAL = "focal"


class LossBalance(StrEnum):
    """How a loss makes up for classes of unequal size.

    Attributes:
        NONE: not at all.
        CLASS_WEIGHT: every target weighs inversely to its class's frequency in train, so that each class adds the same:
            n / (k n_c) for classes that exclude each other; for each label by itself n_known / (2 n_pos) for positives
            and n_known / (2 n_neg) for negatives. With FOCAL, the alpha of Lin et al.
        BATCH_WEIGHT: multi-label only. Positives weigh (|P| + |N|) / |P| and negatives (|P| + |N|) / |N|, with P and N
            the ones and the zeros over all labels of the batch (Wang et al., ChestX-ray8, CVPR 2017).
        POS_WEIGHT: multi-label only. Positives weigh n_neg / n_pos of their label in train, negatives 1.
    """

    NONE = "none"
    CLASS_WEIGHT = "class_weight"
    BATCH_WEIGHT = "batch_weight"
    POS_WEIGHT = "pos_weight"


@dataclass(frozen=True)
class LossSettings:
    """What is minimised.

    Attributes:
        kind: what an answer costs.
        balance: what it weighs.
        gamma: FOCAL only, at least 0; 2 is Lin et al.'s, 0 is cross-entropy.
        label_smoothing: share of a target that is spread evenly over all classes, or over yes and no of a label
            (Szegedy et al., Rethinking the Inception architecture, CVPR 2016); 0 to below 1.

    Raises:
        TrainingError: a value is out of range, or labels are to be smoothed under FOCAL.
    """

    kind: LossKind = LossKind.CROSS_ENTROPY
    balance: LossBalance = LossBalance.NONE
    gamma: float = 2.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check("gamma", self.gamma, 0 <= self.gamma < math.inf, "a number of at least 0")
        check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "a share from 0 to below 1")
        if self.kind == LossKind.FOCAL and self.label_smoothing:
            raise TrainingError(
                f"label_smoothing={self.label_smoothing} with kind=focal: the one makes sure answers cost, the other "
                "makes them free. Choose label_smoothing=0, or kind=cross_entropy."
            )


class TaskLoss(nn.Module):
    """The loss of a task's targets.

    It is given as a sum and what to divide it by, so that processes that share a batch can add up both. Under
    torch.distributed, in training mode, BATCH_WEIGHT also adds P and N up over all processes, which therefore have to
    call it equally often: however many share a batch, its weights are the same.

    Args:
        settings: what is minimised.
        train_targets: of the whole train split: (n,) class indices or -1 for unknown; or (n, k) of 1, 0 and -1.
        classes: names of the k classes or labels.

    Raises:
        TrainingError: a class is missing from train, or the balance is for multi-label targets only.
    """

    _weights: Tensor

    def __init__(self, settings: LossSettings, train_targets: NDArray[np.integer[Any]], classes: Sequence[str]) -> None:
        super().__init__()
        self._settings = settings
        counts = _counts(train_targets, classes)
        weights = _label_weights if train_targets.ndim == 2 else _class_weights
        # Not in the state dict: they follow from train, and an nn.Module only moves what it knows of.
        self.register_buffer("_weights", torch.from_numpy(weights(counts, settings.balance)), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch.

        Args:
            logits: (b, k) float.
            targets: (b,) class indices, or (b, k) of 1, 0 and -1; -1 is unknown, and costs nothing.

        Returns:
            The weighted sum over known targets, and their number: 0-dimensional float32. The loss is the one by the
            other, and that number is 0 where nothing is known. Of multi-label targets it is thus the mean over entries,
            so that a learning rate means the same for two labels and for fourteen. Weights do not count in the divisor:
            over train they average to 1 (CLASS_WEIGHT), and a batch that holds only the frequent class would
            otherwise weigh as much as any.
        """
        logits, known = logits.float(), targets != UNKNOWN
        losses = self._multi_label(logits, targets) if targets.ndim == 2 else self._exclusive(logits, targets)
        return (losses * self._target_weights(targets) * known).sum(), known.sum().float()

    def _exclusive(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self._settings.label_smoothing
        return self._focused(
            cross_entropy(logits, targets.long().clamp_min(0), reduction="none", label_smoothing=smoothing)
        )

    def _multi_label(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self._settings.label_smoothing
        smooth = (targets == POSITIVE).float() * (1 - smoothing) + smoothing / 2
        return self._focused(binary_cross_entropy_with_logits(logits, smooth, reduction="none"))

    def _focused(self, losses: Tensor) -> Tensor:
        if self._settings.kind != LossKind.FOCAL:
            return losses
        # exp(-loss) is the probability given to what is true. Where it rounds to 1, the slope of a power below 1 has no
        # end, and ends every weight; a clamp's slope is 0.
        rest = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).eps)
        return rest.pow(self._settings.gamma) * losses

    def _target_weights(self, targets: Tensor) -> Tensor:
        weights = self._weights.to(targets.device)
        if targets.ndim == 1:
            return weights[targets.long().clamp_min(0)]
        if self._settings.balance == LossBalance.BATCH_WEIGHT:
            weights = self._batch_weights(targets)
        return torch.where(targets == POSITIVE, weights[POSITIVE], weights[NEGATIVE])

    def _batch_weights(self, targets: Tensor) -> Tensor:
        counts = torch.stack([(targets == value).sum() for value in (NEGATIVE, POSITIVE)]).float()
        # Validation may be any process's own business: only in training do all call this together.
        if self.training and distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(counts)
        # Of what the batch has none, nothing is weighed.
        return counts.sum() / counts.clamp_min(1)


def _counts(targets: NDArray[np.integer[Any]], classes: Sequence[str]) -> NDArray[np.float64]:
    """(k,) rows of every class, or (2, k) negatives and positives of every label; all above 0."""
    if targets.ndim == 2:
        counts = np.stack([(targets == value).sum(axis=0) for value in (NEGATIVE, POSITIVE)])
        told = {"negative for": counts[NEGATIVE], "positive for": counts[POSITIVE]}
    else:
        counts = np.bincount(targets[targets != UNKNOWN], minlength=len(classes))
        told = {"of": counts}
    for kind, each in told.items():
        if missing := [name for name, count in zip(classes, each, strict=True) if not count]:
            raise TrainingError(
                f"no image of train is {kind} {', '.join(missing)}: leave that out of the task, or add such images to "
                "train"
            )
    return counts.astype(np.float64)


def _class_weights(counts: NDArray[np.float64], balance: LossBalance) -> NDArray[np.float32]:
    if balance == LossBalance.CLASS_WEIGHT:
        return np.asarray(counts.sum() / (len(counts) * counts), np.float32)
    if balance != LossBalance.NONE:
        raise TrainingError(
            f"balance={balance} weighs positives against negatives of labels, and these classes exclude each other: "
            "choose balance=class_weight, or none"
        )
    return np.ones(len(counts), np.float32)


def _label_weights(counts: NDArray[np.float64], balance: LossBalance) -> NDArray[np.float32]:
    weights = np.ones_like(counts)
    if balance == LossBalance.CLASS_WEIGHT:
        weights = counts.sum(axis=0) / (2 * counts)
    elif balance == LossBalance.POS_WEIGHT:
        weights[POSITIVE] = counts[NEGATIVE] / counts[POSITIVE]
    return weights.astype(np.float32)
