"""Metrics: how good a head's probabilities and decisions are on rows whose targets are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, roc_auc_score

from classifiers.errors import EvaluationError


@dataclass(frozen=True)
class ClassMetrics:
    """One class against the rest. `None` marks a value that these rows do not define.

    Attributes:
        precision: TP / (TP + FP); None when the class was never decided.
        recall: TP / (TP + FN), the sensitivity; None when no row is of the class.
        f1: 2 TP / (2 TP + FP + FN); None when the class neither occurs nor was decided. A class that occurs and was
            never decided has an undefined precision, but an F1 of 0: its rows were all missed.
        auc: area under the ROC curve of the class's probability; None when no row, or every row, is of the class.
        support: rows of the class.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    support: int


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found on one split. `None` marks a value that these rows do not define, never 0 or NaN.

    Attributes:
        n: rows evaluated.
        accuracy: share of right decisions.
        balanced_accuracy: mean recall over the task's classes; None when a class is missing from the rows.
        macro_f1: mean F1 over the task's classes; None when the F1 of a class is.
        auc: two classes: the AUC of class 1; more: the unweighted mean of the one-vs-rest AUCs (macro). None when a
            class is missing from the rows.
        per_class: class name → its metrics, in the task's order.
        confusion: counts, rows the true class, columns the decided one, in the task's order.
    """

    n: int
    accuracy: float
    balanced_accuracy: float | None
    macro_f1: float | None
    auc: float | None
    per_class: Mapping[str, ClassMetrics]
    confusion: tuple[tuple[int, ...], ...]

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON: plain numbers, strings, lists and None."""
        return asdict(self) | {"confusion": [list(row) for row in self.confusion]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Read what `as_dict` wrote. Raises KeyError or TypeError on anything else."""
        per_class = {name: ClassMetrics(**metrics) for name, metrics in values["per_class"].items()}
        confusion = tuple(tuple(row) for row in values["confusion"])
        return cls(**{**values, "per_class": per_class, "confusion": confusion})


def evaluate(y_true: NDArray[np.int64], probabilities: NDArray[np.floating], classes: Sequence[str]) -> Evaluation:
    """Compare a head's probabilities with the truth; the decision is the most probable class, the first one on a tie.

    Args:
        y_true: int64 (n,), class indices 0..k-1; rows the task leaves unanswered are not to be among them.
        probabilities: float (n, k), finite.
        classes: k class names in index order.

    Raises:
        EvaluationError: on no rows, shapes that do not fit, an index outside 0..k-1, or probabilities not finite.
    """
    y_true, k = np.asarray(y_true), len(classes)
    if y_true.ndim != 1 or np.shape(probabilities) != (len(y_true), k):
        raise EvaluationError(
            f"{np.shape(y_true)} targets and {np.shape(probabilities)} probabilities of {k} classes do not fit: "
            "give (n,) and (n, k) of the same rows"
        )
    if len(y_true) == 0:
        raise EvaluationError("there are no rows to evaluate: leave out a split that has no answered rows")
    if y_true.min() < 0 or y_true.max() >= k:
        raise EvaluationError(
            f"targets run from {y_true.min()} to {y_true.max()} where only 0 to {k - 1} are classes: "
            "leave out the rows that the task does not answer"
        )
    if not np.isfinite(probabilities).all():
        raise EvaluationError("some probabilities are NaN or infinite: look for the fault in the head that gave them")

    decided = np.argmax(probabilities, axis=1)
    confusion = confusion_matrix(y_true, decided, labels=range(k))
    right, of_class, of_decision = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    per_class = {
        name: ClassMetrics(
            precision=_ratio(right[i], of_decision[i]),
            recall=_ratio(right[i], of_class[i]),
            f1=_ratio(2 * right[i], of_class[i] + of_decision[i]),
            auc=_one_vs_rest_auc(y_true == i, probabilities[:, i]),
            support=int(of_class[i]),
        )
        for i, name in enumerate(classes)
    }
    metrics = list(per_class.values())
    return Evaluation(
        n=len(y_true),
        accuracy=float(right.sum() / len(y_true)),
        balanced_accuracy=_mean([one.recall for one in metrics]),
        macro_f1=_mean([one.f1 for one in metrics]),
        auc=metrics[1].auc if k == 2 else _mean([one.auc for one in metrics]),
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if len(defined) == len(values) else None


def _one_vs_rest_auc(is_class: NDArray[np.bool_], probability: NDArray[np.floating]) -> float | None:
    if is_class.all() or not is_class.any():
        return None
    return float(roc_auc_score(is_class, probability))
