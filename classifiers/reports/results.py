"""What an evaluation says, as sections of a page: tables, matrices, curves, calibration, subgroups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Final

from classifiers.evaluation import MANY_CLASSES, Average, ClassEvaluation, Evaluation, Figure, Reliability, Subgroup
from classifiers.reports.charts import Plot, Whisker, keys, plot_figure, unit_axis, whiskers
from classifiers.reports.tables import NOT_DEFINED, figure, in_words, matrix, named, number, shaded, table

#: Below this many images of a class a page warns: its recall moves by more than 3 % with each image.
FEW_IMAGES: Final = 30

#: Figures that both a class and an average over classes have: column → attribute.
_FIGURES: Final = {
    "precision": "precision",
    "recall": "recall",
    "specificity": "specificity",
    "F1": "f1",
    "AUC": "auc",
    "AP": "average_precision",
}


def few(support: Mapping[str, int]) -> list[tuple[str, int]]:
    """The classes with too few images for a figure to rely on, fewest first."""
    return sorted((pair for pair in support.items() if pair[1] < FEW_IMAGES), key=lambda pair: pair[1])


def few_images(evaluation: Evaluation) -> list[str]:
    """What a reader must know of classes with no or few images: sentences, HTML."""
    scarce = few({name: one.support for name, one in evaluation.per_class.items()})
    none = [escape(name) for name, count in scarce if not count]
    some = [f"{escape(name)} ({count})" for name, count in scarce if count]
    said = []
    if none:
        said.append(
            f"<strong>Not measured:</strong> there is no image of {', '.join(none)} here. Nothing is known about how "
            "well it is found, and means of recall and AUC leave it out."
        )
    if some:
        said.append(
            f"<strong>Few images</strong> of {', '.join(some)}. With fewer than {FEW_IMAGES}, one image more "
            "or less moves a recall by more than 3\N{NO-BREAK SPACE}%, so do not rank heads or classes by these "
            "figures: look at the intervals."
        )
    return said


def on_split(head: Evaluation, baseline: Evaluation, split: str, who: str = "head", *, folded: bool = False) -> str:
    """All that is known of one split.

    Args:
        head: what answered.
        baseline: the majority's on the same images.
        split: its name.
        who: a word for what answered.
        folded: whether all but the tables of figures waits for a reader who asks for it.
    """
    tables = summary(head, baseline, split, who) + per_class(head, split)
    rest = "".join(
        f"<h3>{escape(heading)}</h3>\n{content}"
        for heading, content in (
            (f"Confusion on {split}", confusion(head, split)),
            (f"ROC and precision-recall on {split}", curves(head, who)),
            (f"Calibration on {split}", calibration(head, split)),
            (f"Subgroups on {split}", subgroups(head, split)),
        )
    )
    if not folded:
        return tables + rest
    more = f"<summary>Matrices, curves, calibration and subgroups on {escape(split)}</summary>"
    return f"{tables}<details>{more}\n{rest}</details>\n"


def summary(head: Evaluation, baseline: Evaluation, split: str, who: str = "head") -> str:
    """The whole in a few figures, the majority baseline beside it; `who` is a word for what answered."""

    def figures(of: Evaluation) -> dict[str, Figure]:
        macro, micro = of.averages["macro"], of.averages["micro"]
        exact = "all labels of the image right" if of.multi_label else "accuracy"
        return {
            "balanced accuracy": of.balanced_accuracy,
            exact: of.accuracy,
            "accuracy over all answers": of.binary_accuracy,
            "AUC" if _is_binary(of) else "AUC, macro": macro.auc,
            "AUC, micro": micro.auc,
            "average precision, macro": macro.average_precision,
            "F1, macro": macro.f1,
            "F1, micro": micro.f1,
            "Brier score, macro (lower is better)": macro.brier,
        }

    theirs = figures(baseline)
    rows = [(named(name), figure(mine), figure(theirs[name])) for name, mine in figures(head).items()]
    caption = f"{who.capitalize()} and majority baseline on {split}"
    return table(caption, ("figure", who, "majority baseline"), rows)


def per_class(evaluation: Evaluation, split: str) -> str:
    """Every class and the averages over them, as papers print them."""
    classes = evaluation.per_class
    rows = [(named(name), *_cells(one), f"{one.support:,}") for name, one in classes.items()]
    total = f"{sum(one.support for one in classes.values()):,}"
    averages = [(named(name), *_cells(one), total) for name, one in evaluation.averages.items()]
    columns = ("class", *_FIGURES, "support")
    caption = f"Per class on {split}, with 95 % intervals"
    return table(caption, columns, rows, averages=averages) + _partial_means(evaluation)


def _cells(one: ClassEvaluation | Average) -> Iterator[str]:
    return (figure(getattr(one, attribute)) for attribute in _FIGURES.values())


def _partial_means(evaluation: Evaluation) -> str:
    """Which means are not over all classes: nobody should take a mean over 13 labels for one over 14."""
    noun = "labels" if evaluation.multi_label else "classes"
    items = []
    for column, attribute in _FIGURES.items():
        left_out = [name for name, one in evaluation.per_class.items() if getattr(one, attribute).value is None]
        if left_out:
            k = len(evaluation.per_class)
            items.append(
                f"<li>{column}: over {k - len(left_out)} of {k} {noun}, without {escape(', '.join(left_out))}</li>\n"
            )
    if not items:
        return ""
    return f"<p>Macro and weighted means leave out what is {NOT_DEFINED}:</p>\n<ul>{''.join(items)}</ul>\n"


def confusion(evaluation: Evaluation, split: str) -> str:
    """Counts of truth and decision: k × k, or 2 × 2 of every label in a row."""
    if evaluation.confusion is not None:
        caption = f"Confusion on {split}: rows the true class, columns the decision, shade and per cent of the row"
        return matrix(caption, "true \\ decided", list(evaluation.per_class), evaluation.confusion)
    rows = []
    for name, one in evaluation.per_class.items():
        tn, fp, fn, tp = one.confusion
        rows.append(
            (
                named(name),
                shaded(tp, tp + fn), shaded(fn, tp + fn), shaded(fp, fp + tn), shaded(tn, fp + tn),
                figure(one.accuracy),
            )
        )  # fmt: skip
    return table(
        f"Confusion of every label on {split}: shade and per cent of the images that have the label, or have it not",
        ("label", "decided", "missed", "decided", "not decided", "accuracy"),
        rows,
        groups=(("image has it", 2), ("image has it not", 2), ("both", 1)),
    )


def curves(evaluation: Evaluation, who: str = "head") -> str:
    """ROC and precision-recall curves, a pair for each class; of two exclusive classes the second alone."""
    legend = keys((("l1", f"the {who}"), ("chance", "chance"), ("d1", "where it decides")))
    drawn = "".join(_curves(name, one) for name, one in drawn_classes(evaluation).items())
    return f'{legend}<div class="plots">\n{drawn}</div>\n'


def drawn_classes(evaluation: Evaluation) -> Mapping[str, ClassEvaluation]:
    """Those worth a drawing of their own."""
    classes = evaluation.per_class
    # The first of two exclusive classes is the second one's mirror image.
    return dict([list(classes.items())[-1]]) if _is_binary(evaluation) else classes


def _curves(name: str, one: ClassEvaluation) -> str:
    told = f"AUC {in_words(one.auc)}<br>AP {in_words(one.average_precision)}<br>{one.support:,} of {one.n:,} images"
    drawings = []
    if one.roc is not None:
        plot = Plot(unit_axis("false positive rate"), unit_axis("recall"))
        plot.line("chance", (0, 1), (0, 1))
        plot.line("l1", *one.roc)
        if one.specificity.value is not None and one.recall.value is not None:
            plot.dot("d1", 1 - one.specificity.value, one.recall.value)
        drawings.append(plot.svg(f"ROC curve of {name}: AUC {_plain(one.auc)}"))
    if one.pr is not None:
        plot = Plot(unit_axis("recall"), unit_axis("precision"))
        plot.line("chance", (0, 1), (one.support / one.n, one.support / one.n))
        plot.line("l1", *one.pr)
        if one.precision.value is not None and one.recall.value is not None:
            plot.dot("d1", one.recall.value, one.precision.value)
        drawings.append(
            plot.svg(f"Precision-recall curve of {name}: average precision {_plain(one.average_precision)}")
        )
    return plot_figure(name, drawings, told, kind="pair")


def _plain(measured: Figure) -> str:
    return "not defined" if measured.value is None else in_words(measured)


def calibration(evaluation: Evaluation, split: str) -> str:
    """Reliability diagrams and calibration errors, before and after calibration where there is one."""
    classes = drawn_classes(evaluation)
    is_calibrated = any(one.reliability_before is not None for one in classes.values())
    after = "as used, calibrated" if is_calibrated else "as used, not calibrated"
    before = [("l2", "the head's own, before calibration")] if is_calibrated else []
    legend = keys((("l1", after), *before, ("chance", "perfect: what is given 0.8 is right 8 times in 10")))
    drawn = "".join(_diagram(name, one) for name, one in classes.items())
    rows = [(named(name), *_errors(one, is_calibrated), figure(one.brier)) for name, one in classes.items()]
    columns = ("ECE before", "ECE after") if is_calibrated else ("ECE",)
    caption = f"Expected calibration error (ECE, ten bins) and Brier score on {split}: 0 is best"
    return (
        f'{legend}<div class="plots">\n{drawn}</div>\n'
        "<p>Dots are tenths of the range of probabilities, larger where there are more images; a lone small dot far "
        "from the diagonal may be chance.</p>\n" + table(caption, ("class", *columns, "Brier score"), rows)
    )


def _diagram(name: str, one: ClassEvaluation) -> str:
    plot = Plot(unit_axis("probability"), unit_axis("share that came true"))
    plot.line("chance", (0, 1), (0, 1))
    told = f"ECE {number(one.reliability.ece)}"
    label = f"Reliability diagram of {name}: calibration error {_error(one.reliability)}"
    if one.reliability_before is not None:
        _points(plot, "l2", "d2", one.reliability_before)
        told = f"ECE {number(one.reliability_before.ece)} → {number(one.reliability.ece)}"
        label += f", {_error(one.reliability_before)} before calibration"
    _points(plot, "l1", "d1", one.reliability)
    return plot_figure(name, [plot.svg(label)], told)


def _points(plot: Plot, line: str, dot: str, reliability: Reliability) -> None:
    bins = reliability.bins
    plot.line(line, [one.probability for one in bins], [one.share for one in bins])
    most = max((one.n for one in bins), default=1)
    for one in bins:
        # Its area grows with the images, down to what can be seen.
        plot.dot(dot, one.probability, one.share, radius=max(4 * (one.n / most) ** 0.5, 1.5))


def _errors(one: ClassEvaluation, is_calibrated: bool) -> list[str]:
    before = one.reliability_before
    return [*([number(before.ece if before else None)] if is_calibrated else []), number(one.reliability.ece)]


def _error(reliability: Reliability) -> str:
    return "not defined" if reliability.ece is None else f"{reliability.ece:.3f}"


def subgroups(evaluation: Evaluation, split: str) -> str:
    """A table and a drawing for every attribute."""
    if not evaluation.subgroups:
        return f"<p>No attributes of the images of {escape(split)} were given, so there are no subgroups.</p>\n"
    by_attribute = groupby(evaluation.subgroups, key=lambda one: one.attribute)
    drawn = "".join(_by_attribute(evaluation, split, name, list(groups)) for name, groups in by_attribute)
    return (
        "<p>A difference between groups means something only where their intervals lie apart; with many groups, some "
        f"lie apart by chance. Groups with fewer than {FEW_IMAGES} images of a class are marked; "
        f"means over classes leave out those that a group does not have.</p>\n{drawn}"
    )


def _by_attribute(evaluation: Evaluation, split: str, attribute: str, groups: list[Subgroup]) -> str:
    auc = "AUC" if _is_binary(evaluation) else "AUC, macro"
    shows_recall = len(evaluation.per_class) <= MANY_CLASSES and all(one.recall for one in groups)
    rows = [
        (
            escape(one.value) or "not known",
            f"{one.n:,}",
            f"{one.patients:,}",
            _supports(one.support),
            *map(figure, (one.auc, one.balanced_accuracy, one.f1)),
            *([_recalls(one)] if shows_recall else []),
        )
        for one in groups
    ]
    columns = [attribute, "images", "patients", "images per class", auc, "balanced accuracy", "F1, macro"]
    columns += ["recall of each class"] if shows_recall else []
    dots = [Whisker(one.value or "not known", one.auc, evaluation.auc.value) for one in groups]
    return table(f"By {attribute} on {split}", columns, rows) + whiskers(
        f"{auc} by {attribute} on {split}", "all images", dots
    )


def _recalls(group: Subgroup) -> str:
    return "<br>".join(f"{escape(name)} {in_words(recall)}" for name, recall in group.recall.items())


def _supports(support: Mapping[str, int]) -> str:
    scarce = few(support)
    if len(support) > MANY_CLASSES:
        told = f"{min(support.values()):,} to {max(support.values()):,}"
        warning = f"{len(scarce)} of {len(support)} classes few"
    else:
        told = "<br>".join(f"{escape(name)} {count:,}" for name, count in support.items())
        warning = f"few: {', '.join(name for name, _ in scarce)}"
    return told + (f"<small><strong>⚠ {escape(warning)}</strong></small>" if scarce else "")


def _is_binary(evaluation: Evaluation) -> bool:
    return not evaluation.multi_label and len(evaluation.per_class) == 2
