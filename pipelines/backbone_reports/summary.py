"""The top of the page: what was fine-tuned on what, how good it is, and what films taken apart cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from classifiers.evaluation import MANY_CLASSES, Evaluation, Figure, Subgroup
from classifiers.reports import headline
from classifiers.reports.facts import definitions
from classifiers.reports.tables import difference, figure, table
from pipelines.acquisition import ACQUISITION, AS_TRAIN
from pipelines.backbone_reports.epochs import figure_name, phase_spans

if TYPE_CHECKING:
    from featurizers.finetuning.trainer import EpochResult
    from pipelines.finetuned import BackboneCard, Judged

#: What answers, in a word.
WHO: Final = "network"
TEST, VAL = "test", "val"


def judged_splits(judged: Mapping[str, Judged]) -> list[str]:
    """Those with figures: the one to rely on first."""
    return [split for split in (TEST, VAL) if split in judged]


def summary(card: BackboneCard, history: Sequence[EpochResult], judged: Mapping[str, Judged]) -> str:
    """All that a reader in a hurry must know, as HTML."""
    splits = judged_splits(judged)
    facts = definitions(
        {
            "Task": f"{card.task}: {_listed(card.classes)}" + (" (each by itself)" if card.multi_label else ""),
            "Backbone": f"{card.backbone}, started from {card.started_from}",
            "Best epoch": f"{card.best_epoch} of {len(history)}, chosen by the {figure_name(card.monitor)} on val"
            + ("" if len(phase_spans(history)) < 2 else f"; in phase {_phase(history, card.best_epoch)}"),
        }
    )
    if not splits:
        not_judged = "<p>Not evaluated: neither a val nor a test split had images that the task answers.</p>\n"
        return facts + not_judged + headline.caution(_leaks(card))
    first = judged[splits[0]]
    return (
        headline.beside(first.evaluation, first.baseline, splits[0])
        + facts
        + _figures({split: judged[split] for split in splits})
        + (drop(judged[VAL].evaluation) if VAL in judged else "")
        + headline.caution([*_leaks(card), *_doubts(card, judged), *headline.doubts(first.evaluation, first.baseline)])
    )


def _listed(classes: Sequence[str]) -> str:
    return f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}, {', '.join(classes)}"


def _phase(history: Sequence[EpochResult], epoch: int) -> str:
    return next((name for name, first, last in phase_spans(history) if first <= epoch <= last), "")


def _figures(judged: Mapping[str, Judged]) -> str:
    def told(evaluation: Evaluation) -> list[Figure]:
        answered = evaluation.binary_accuracy if evaluation.multi_label else evaluation.accuracy
        return [evaluation.balanced_accuracy, evaluation.auc, evaluation.macro_f1, answered]

    columns = [told(of) for one in judged.values() for of in (one.evaluation, one.baseline)]
    is_multi_label = next(iter(judged.values())).evaluation.multi_label
    names = ("balanced accuracy", "AUC", "F1, macro", "accuracy over all answers" if is_multi_label else "accuracy")
    rows = [(name, *(figure(column[place]) for column in columns)) for place, name in enumerate(names)]
    return table(
        f"The {WHO} of the best epoch and the majority baseline, with 95 % intervals",
        ("figure", *(name for _ in judged for name in (WHO, "majority"))),
        rows,
        groups=[(split, 2) for split in judged],
    )


def _leaks(card: BackboneCard) -> list[str]:
    if card.caution is None:
        return []
    return [f"<strong>What it started from may have learned images of val:</strong> {escape(card.caution)}."]


def _doubts(card: BackboneCard, judged: Mapping[str, Judged]) -> list[str]:
    said = []
    if TEST not in judged:
        said.append(
            "<strong>No test split.</strong> The figures are of val, by which the best epoch was chosen: they may be "
            "too good."
        )
    if card.held_out_by is None:
        said.append(
            "<strong>Nothing was held out by acquisition.</strong> Val was filmed as train was, so its figures say "
            "little of films from other machines."
        )
    return said


def drop(evaluation: Evaluation) -> str:
    """What is lost on films that were taken apart from train's; nothing where val does not tell them apart."""
    parts = [part for part in evaluation.subgroups if part.attribute == ACQUISITION]
    alike = next((part for part in parts if part.value == AS_TRAIN), None)
    apart = [part for part in parts if part.value not in ("", AS_TRAIN)]
    if not apart:
        return ""
    if alike is None:
        return (
            f"<p>All of val was {escape(apart[0].value)}: its figures are of films taken apart from those of train, "
            "and there are none taken alike to hold them against.</p>\n"
        )
    told = "".join(f"<p>{_in_words(evaluation, alike, part)}</p>\n" for part in apart)
    return told + "".join(_side_by_side(alike, part) for part in apart)


def _in_words(evaluation: Evaluation, alike: Subgroup, apart: Subgroup) -> str:
    name, mine, theirs = (
        ("AUC", apart.auc, alike.auc)
        if evaluation.multi_label
        else ("balanced accuracy", apart.balanced_accuracy, alike.balanced_accuracy)
    )
    if mine.value is None or theirs.value is None:
        return (
            f"What films {escape(apart.value)} cost can't be told: the {name} is not defined on both them and films "
            "taken as train's."
        )
    lost = theirs.value - mine.value
    against = f"{mine.value:.3f} against {theirs.value:.3f} on films taken as train's"
    if lost <= 0:
        said = f"<strong>No drop on films {escape(apart.value)}:</strong> the {name} is {against}."
    else:
        said = f"<strong>On films {escape(apart.value)} the {name} is {lost:.3f} lower:</strong> {against}."
    overlap = _overlap(mine, theirs)
    if overlap is not None:
        said += f" Their intervals {'overlap' if overlap else 'lie apart'}."
    return said + " Films from another hospital may cost more."


def _overlap(one: Figure, other: Figure) -> bool | None:
    """Whether two intervals have a value in common; None where there are not two."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return None
    return one.low <= other.high and other.low <= one.high


def _side_by_side(alike: Subgroup, apart: Subgroup) -> str:
    rows = [
        ("images", f"{alike.n:,}", f"{apart.n:,}", ""),
        ("patients", f"{alike.patients:,}", f"{apart.patients:,}", ""),
    ]
    for name, mine, theirs in (
        ("balanced accuracy", apart.balanced_accuracy, alike.balanced_accuracy),
        ("AUC", apart.auc, alike.auc),
        ("F1, macro", apart.f1, alike.f1),
        *((f"recall of {escape(name)}", apart.recall[name], alike.recall[name]) for name in _few(alike.recall)),
    ):
        known = mine.value is not None and theirs.value is not None
        less = (mine.value or 0.0) - (theirs.value or 0.0) if known else None
        rows.append((name, figure(theirs), figure(mine), difference(Figure(less))))
    caption = f"Val apart: films taken as train's, and films {apart.value}"
    columns = ("figure", alike.value, apart.value, "difference")
    return table(caption, columns, rows) + _absent(alike, apart)


def _few(names: Collection[str]) -> Collection[str]:
    return names if len(names) <= MANY_CLASSES else ()


def _absent(alike: Subgroup, apart: Subgroup) -> str:
    """Means over other classes are no comparison."""
    absent = [name for name, images in alike.support.items() if bool(images) != bool(apart.support.get(name))]
    if not absent:
        return ""
    return (
        f"<p>One of the two has no image of {escape(', '.join(absent))}: the means are over other classes, and their "
        "difference is not only the films'.</p>\n"
    )
