"""Figures of validation: how good answers are, and which of two figures is the better one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from featurizers.errors import TrainingError
from featurizers.finetuning.losses import POSITIVE, UNKNOWN, TaskLoss

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

LOSS: Final = "loss"
METRICS: Final = (LOSS, "auc", "macro_f1", "recall", "accuracy")
"""What `judge` tells, and a training may watch.

loss: as trained on, without what training alone draws.
auc: area under the ROC curve, mean over labels, or over classes, each against the rest.
macro_f1, recall: means of F1 and recall over labels or classes; of classes that exclude each other, the mean recall is
    the balanced accuracy. Of labels it knows of no false alarm: where it chooses weights, "yes" to all wins.
accuracy: share of rows, or of known entries of labels, that are decided right.

Decisions are the most probable class, or each label from a probability of 0.5 on.
"""


def judge(logits: Floats, targets: NDArray[np.integer[Any]], loss: TaskLoss) -> dict[str, float | None]:
    """Compare answers with the truth; unknown targets count nowhere.

    Args:
        logits: float (n, k), of the whole validation split; ranked by themselves, since probabilities near 1 round to
            ties.
        targets: (n,) class indices or -1 for unknown; or (n, k) of 1, 0 and -1.
        loss: what was trained on; BATCH_WEIGHT takes all rows for one batch.

    Returns:
        A figure for each of METRICS; None where the targets do not define it. A class without rows, or a label without
        positives, is in no mean of F1 and recall; one without both sides is in none of AUC.

    Raises:
        TrainingError: an answer is not finite.
    """
    if bad := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise TrainingError(
            f"the network's answers to {bad:,} of {len(logits):,} validation images are not finite: training diverged. "
            "Lower the learning rate, clip gradients, or train in fp32."
        )
    found = _of_labels(logits, targets) if targets.ndim == 2 else _of_classes(logits, targets)
    return {LOSS: _loss(logits, targets, loss), **found}


def is_better(metric: str, a: float | None, b: float | None) -> bool:
    """Whether `a` beats `b`: the lower loss, or the higher of any other figure. None is beaten by any figure.

    Raises:
        TrainingError: there is no such metric.
    """
    check_metric(metric)
    if a is None or b is None:
        return a is not None
    return a < b if metric == LOSS else a > b


def check_metric(metric: str) -> None:
    """Refuse a name that is none of METRICS.

    Raises:
        TrainingError: it is none.
    """
    if metric not in METRICS:
        raise TrainingError(f"'{metric}' is no figure of validation: say one of {', '.join(METRICS)}")


def _loss(logits: Floats, targets: NDArray[np.integer[Any]], loss: TaskLoss) -> float | None:
    # In training mode, a loss may wait for other processes.
    was_training = loss.training
    with torch.no_grad():
        total, weight = loss.eval()(torch.from_numpy(logits), torch.from_numpy(targets))
    loss.train(was_training)
    return float(total / weight) if weight > 0 else None


def _of_classes(logits: Floats, targets: NDArray[np.integer[Any]]) -> dict[str, float | None]:
    known = targets != UNKNOWN
    logits, truth = logits[known].astype(np.float64), targets[known]
    decided, present = logits.argmax(axis=1), np.unique(truth)
    # The log odds of a class against the rest; of two classes both columns rank alike, and their mean is the last's.
    odds = [logits[:, each] - logsumexp(np.delete(logits, each, axis=1), axis=1) for each in range(logits.shape[1])]
    one_of_each = [(truth == each, decided == each) for each in present]
    return {
        "auc": _mean_auc((truth == each, scores) for each, scores in enumerate(odds)),
        **_means(one_of_each),
        "accuracy": _mean(decided == truth),
    }


def _of_labels(logits: Floats, targets: NDArray[np.integer[Any]]) -> dict[str, float | None]:
    columns = [
        (truth[truth != UNKNOWN] == POSITIVE, scores[truth != UNKNOWN])
        for truth, scores in zip(targets.T, logits.T, strict=True)
    ]
    decided = [(truth, scores >= 0) for truth, scores in columns]
    return {
        "auc": _mean_auc(columns),
        **_means([(truth, positive) for truth, positive in decided if truth.any()]),
        "accuracy": _mean(np.concatenate([truth == positive for truth, positive in decided])),
    }


def _mean_auc(columns: Iterable[tuple[Flags, Floats]]) -> float | None:
    return _mean([roc_auc_score(truth, scores) for truth, scores in columns if 0 < truth.sum() < len(truth)])


def _means(decided: list[tuple[Flags, Flags]]) -> dict[str, float | None]:
    return {
        "macro_f1": _mean([f1_score(truth, positive) for truth, positive in decided]),
        "recall": _mean([recall_score(truth, positive) for truth, positive in decided]),
    }


def _mean(values: list[float] | Flags) -> float | None:
    return float(np.mean(values)) if len(values) else None
