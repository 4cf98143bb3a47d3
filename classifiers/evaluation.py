"""What an evaluation says: every figure with its interval, `None` where the rows do not define it, never 0 or NaN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

#: The figures that every class has, in the order that tables show them.
CLASS_FIGURES: Final = (
    "precision", "recall", "specificity", "f1", "auc", "average_precision", "accuracy", "brier",
)  # fmt: skip

#: The averages over classes. `samples` averages over rows, and has precision, recall and F1 only.
AVERAGES: Final = ("micro", "macro", "weighted", "samples")


#: Of more classes, what every class has of a subgroup is not shown: nobody could take it in.
MANY_CLASSES: Final = 5


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval, by bootstrap over patients.

    Attributes:
        value: None where the rows do not define it.
        low, high: None where there is no value, where it rests on fewer than two patients, and where resamples can't
            tell: most do not define it, or it is an average precision of 1, which none would change.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


class Curve(NamedTuple):
    """Points of a curve, thinned to what a drawing shows.

    Attributes:
        x: false positive rate (ROC), recall (precision-recall).
        y: true positive rate (ROC), precision (precision-recall).
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


class ReliabilityBin(NamedTuple):
    """Rows whose probability falls into one bin: how many, their mean probability, and the share that is positive."""

    n: int
    probability: float
    share: float


@dataclass(frozen=True)
class Reliability:
    """How probabilities of a class compare with what came true.

    Attributes:
        bins: those of ten equal widths that hold rows, from 0 up.
        ece: expected calibration error: mean gap of probability and share over the bins, weighted by rows (Naeini et
            al., AAAI 2015); None without rows.
    """

    bins: tuple[ReliabilityBin, ...]
    ece: float | None


@dataclass(frozen=True)
class ClassEvaluation:
    """One class against the rest, over the rows whose target for it is known.

    Attributes:
        n: rows whose target is known.
        support: rows of the class.
        precision: TP / (TP + FP); None when the class was never decided.
        recall: TP / (TP + FN), the sensitivity; None when no row is of the class.
        specificity: TN / (TN + FP); None when every row is of the class.
        f1: 2 TP / (2 TP + FP + FN); None when the class neither occurs nor was decided. A class that occurs and was
            never decided has an undefined precision, but an F1 of 0: its rows were all missed.
        auc: area under the ROC curve; None when no row, or every row, is of the class.
        average_precision: area under the precision-recall steps; None when no row is of the class.
        accuracy: (TP + TN) / n, the "binary accuracy"; None without rows.
        brier: mean squared difference of probability and target; None without rows.
        confusion: TN, FP, FN, TP.
        roc, pr: None where `auc`, `average_precision` are.
        reliability: of the probabilities that decide.
        reliability_before: of the head's own, before calibration; None where there is no calibration.
    """

    n: int
    support: int
    precision: Figure
    recall: Figure
    specificity: Figure
    f1: Figure
    auc: Figure
    average_precision: Figure
    accuracy: Figure
    brier: Figure
    confusion: tuple[int, int, int, int]
    roc: Curve | None
    pr: Curve | None
    reliability: Reliability
    reliability_before: Reliability | None


@dataclass(frozen=True)
class Average:
    """Figures averaged over classes (or rows, for `samples`).

    A class that does not define a figure is left out of that figure's mean; `over` tells how many classes are in the
    mean of AUCs, so that nobody takes a mean over 13 labels for one over 14.

    Attributes:
        over: classes whose AUC is defined.
        precision, recall, specificity, f1, auc, average_precision, brier: as of a class. None for `samples` where it
            has no such average.
    """

    over: int
    precision: Figure
    recall: Figure
    specificity: Figure
    f1: Figure
    auc: Figure
    average_precision: Figure
    brier: Figure


@dataclass(frozen=True)
class Subgroup:
    """The rows of one value of one attribute.

    Attributes:
        attribute, value: such as sex, F. The value "" is "not known".
        n, patients: how many.
        support: class name → rows of the class.
        auc: macro (two exclusive classes: their one AUC).
        balanced_accuracy, f1: mean recall and macro F1 over classes.
        recall: class name → share of its rows that are found. A mean can hide that one class is found at the cost of
            another. Empty in evaluations of versions that did not tell.
    """

    attribute: str
    value: str
    n: int
    patients: int
    support: Mapping[str, int]
    auc: Figure
    balanced_accuracy: Figure
    f1: Figure
    recall: Mapping[str, Figure]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found on one split.

    Attributes:
        multi_label: whether classes exclude each other (False) or each is a question of its own (True).
        n: rows evaluated.
        patients: how many they are of.
        accuracy: share of rows whose decisions are all right (multi-label: the exact match, over known targets).
        binary_accuracy: share of known entries (row, class) that are right; each class of each row is one.
        balanced_accuracy: mean over classes of the recall (multi-label: of the mean of recall and specificity).
        averages: name of `AVERAGES` → figures.
        per_class: class name → its figures, in the task's order.
        confusion: counts, rows the true class, columns the decided one; None for multi-label.
        subgroups: by attribute, values in order.
    """

    multi_label: bool
    n: int
    patients: int
    accuracy: Figure
    binary_accuracy: Figure
    balanced_accuracy: Figure
    averages: Mapping[str, Average]
    per_class: Mapping[str, ClassEvaluation]
    confusion: tuple[tuple[int, ...], ...] | None
    subgroups: tuple[Subgroup, ...]

    @property
    def auc(self) -> Figure:
        """Macro AUC; of two exclusive classes their one AUC."""
        return self.averages["macro"].auc

    @property
    def macro_f1(self) -> Figure:
        """Macro F1."""
        return self.averages["macro"].f1

    @property
    def headline(self) -> tuple[str, Figure]:
        """The figure to look at first: balanced accuracy of exclusive classes, macro AUC of labels."""
        return ("macro AUC", self.auc) if self.multi_label else ("balanced accuracy", self.balanced_accuracy)

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON: plain numbers, strings, lists, dicts and None."""
        plain: dict[str, Any] = asdict(self)
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote, JSON in between or not. Raises KeyError or TypeError on anything else."""
        confusion = values["confusion"]
        figures = {name: Figure(**values[name]) for name in ("accuracy", "binary_accuracy", "balanced_accuracy")}
        return cls(
            **{
                **values,
                **figures,
                "averages": {name: _average(each) for name, each in values["averages"].items()},
                "per_class": {name: _class_evaluation(each) for name, each in values["per_class"].items()},
                "confusion": None if confusion is None else tuple(tuple(row) for row in confusion),
                "subgroups": tuple(_subgroup(each) for each in values["subgroups"]),
            }
        )


def _average(values: Mapping[str, Any]) -> Average:
    figures = {name: Figure(**each) for name, each in values.items() if name != "over"}
    return Average(over=values["over"], **figures)


def _class_evaluation(values: Mapping[str, Any]) -> ClassEvaluation:
    figures = {name: Figure(**values[name]) for name in CLASS_FIGURES}
    curves = {name: None if values[name] is None else Curve(*map(tuple, values[name])) for name in ("roc", "pr")}
    before = values["reliability_before"]
    return ClassEvaluation(
        **{
            **values,
            **figures,
            **curves,
            "confusion": tuple(values["confusion"]),
            "reliability": _reliability(values["reliability"]),
            "reliability_before": None if before is None else _reliability(before),
        }
    )


def _reliability(values: Mapping[str, Any]) -> Reliability:
    return Reliability(tuple(ReliabilityBin(*each) for each in values["bins"]), values["ece"])


def _subgroup(values: Mapping[str, Any]) -> Subgroup:
    figures = {name: Figure(**values[name]) for name in ("auc", "balanced_accuracy", "f1")}
    recall = {name: Figure(**each) for name, each in values.get("recall", {}).items()}
    return Subgroup(**{**values, **figures, "recall": recall})
