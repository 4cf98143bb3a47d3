"""The comparison: several heads, or settings of one, side by side on the same rows, and how far to trust the order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from classifiers.evaluation import Evaluation, Figure
from classifiers.reports import results
from classifiers.reports.charts import LINES, Plot, Whisker, keys, plot_figure, unit_axis, whiskers
from classifiers.reports.document import NOTICE, Section, document
from classifiers.reports.facts import definitions
from classifiers.reports.tables import NOT_DEFINED, difference, figure, named, table

_BEST: Final = "★"
#: Below this a p value is told as such.
_SMALLEST_P: Final = 0.001


@dataclass(frozen=True)
class ComparedHead:
    """One head, or one setting, on one task.

    Attributes:
        name: what a reader knows it by.
        task: the task's name; heads of one task were evaluated on the same rows.
        settings: what it was trained with, name → value, such as balance → smote.
        evaluation: its own.
        baseline: the majority head's on the same rows.
        difference: figure → its difference to the reference, by paired bootstrap over patients, `_` in its name shown
            as a blank; None where there is no reference, and of the reference itself.
        p_values: class → p of DeLong's test against the reference's AUC (None where it is not defined); as above.
        seconds: that fitting took.
    """

    name: str
    task: str
    settings: Mapping[str, str]
    evaluation: Evaluation
    baseline: Evaluation
    difference: Mapping[str, Figure] | None = None
    p_values: Mapping[str, float | None] | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What a page compares.

    Attributes:
        title: of the page.
        question: what it asks, in a sentence.
        rows: the heads.
        reference: the name of the head that others are held against; None: no other.
        how: on what rows and by what procedure they were compared, in sentences.
        provenance: name → value, such as the extractor's fingerprint.
    """

    title: str
    question: str
    rows: tuple[ComparedHead, ...]
    reference: str | None
    how: str
    provenance: Mapping[str, str]


def render_comparison(compared: Comparison) -> str:
    """Draw the page: a whole HTML document that needs nothing but itself, no script, no network."""
    tasks: dict[str, list[ComparedHead]] = {}
    for row in compared.rows:
        tasks.setdefault(row.task, []).append(row)
    sections = [
        Section("question", "What was compared", f"<p>{escape(compared.how)}</p>\n{definitions(compared.provenance)}"),
        *(
            Section(f"task-{number}", f"Task {name}", _OneTask(heads, compared.reference).drawn())
            for number, (name, heads) in enumerate(tasks.items(), 1)
        ),
        Section("limits", "Limits", _LIMITS),
    ]
    opening = f'<p class="notice">{NOTICE}</p>\n<p>{escape(compared.question)}</p>\n{_curse(tasks)}'
    return document(compared.title, opening, sections)


_LIMITS: Final = """
<p>Research use only; nothing here is for diagnosis, triage or any other care of patients.</p>
<p>The figures hold for images like those they were measured on, labelled in the same way, and for these settings. The
intervals (95 %, bootstrap over patients) tell how far a figure might move with other patients of the same kind; they do
not cover another training with other random numbers, another hospital, or the choice of the best among several.</p>
"""


def _curse(tasks: Mapping[str, Sequence[ComparedHead]]) -> str:
    most = max((len(heads) for heads in tasks.values()), default=0)
    if most < 2:
        return ""
    return (
        '<p class="caution"><strong>The best of many looks better than it is.</strong> The highest of '
        f"{most} figures is the highest partly by luck on these images (the winner's curse), the more so the more are "
        "compared and the fewer the patients. Heads whose intervals overlap widely are not told apart here. Take the "
        "simplest of the good ones, and measure it once on images that had no part in the choice.</p>\n"
    )


class _OneTask:
    """The heads of one task, the best headline first."""

    def __init__(self, heads: Sequence[ComparedHead], reference: str | None) -> None:
        self._heads = sorted(heads, key=lambda head: _or_last(head.evaluation.headline[1].value), reverse=True)
        self._reference = reference
        settings = dict.fromkeys(name for head in heads for name in head.settings)
        # A setting that is the same in all is told once, above the table.
        self._varying = [name for name in settings if len({head.settings.get(name) for head in heads}) > 1]
        self._common = {name: heads[0].settings[name] for name in settings if name not in self._varying}

    def drawn(self) -> str:
        first = self._heads[0].evaluation
        cautions = "".join(f"<p>{said}</p>" for said in results.few_images(first))
        return (
            f"<p>{first.n:,} images of {first.patients:,} patients, {len(self._heads)} heads; the highest "
            f"{escape(first.headline[0])} first.</p>\n"
            + (f'<div class="caution">{cautions}</div>\n' if cautions else "")
            + definitions(self._common)
            + self._figures()
            + self._whiskers()
            + self._differences()
            + self._aucs()
            + self._p_values()
            + self._curves()
        )

    def _label(self, head: ComparedHead) -> str:
        same = [other for other in self._heads if other.name == head.name]
        settings = [head.settings[name] for name in self._varying if name in head.settings]
        return head.name if len(same) == 1 else ", ".join((head.name, *settings))

    def _figures(self) -> str:
        """Every head, its settings and its figures; the best value of a column is told by a sign and bold type."""
        read = _COLUMNS
        best = {
            name: _best([of(head.evaluation) for head in self._heads], lowest) for name, (of, lowest) in read.items()
        }
        timed = [head.seconds for head in self._heads if head.seconds is not None]
        rows = []
        for head in self._heads:
            cells = [named(self._label(head))]
            for name, (of, _) in read.items():
                measured = of(head.evaluation)
                cells.append(_starred(figure(measured), _rounded(measured.value) == best[name]))
            if timed:
                told = NOT_DEFINED if head.seconds is None else f"{head.seconds:,.1f}"
                cells.append(_starred(told, head.seconds == min(timed)))
            cells += [named(head.settings.get(name, "")) for name in self._varying]
            rows.append(tuple(cells))
        columns = ("head", *read, *(["seconds to fit"] if timed else []), *self._varying)
        caption = f"Heads side by side; {_BEST} and bold: the best of the column"
        return table(caption, columns, rows, averages=self._baselines(bool(timed)))

    def _baselines(self, is_timed: bool) -> list[tuple[str, ...]]:
        """The majority baseline: one row, unless heads were measured on rows of their own."""
        found: dict[tuple[Figure, ...], list[str]] = {}
        for head in self._heads:
            key = tuple(of(head.baseline) for of, _ in _COLUMNS.values())
            found.setdefault(key, []).append(self._label(head))
        rows = []
        for figures, names in found.items():
            name = "majority baseline" + ("" if len(found) == 1 else f" of {', '.join(names)}")
            blank = ["–"] * (len(self._varying) + is_timed)
            rows.append((named(name), *map(figure, figures), *blank))
        return rows

    def _whiskers(self) -> str:
        rows = [
            Whisker(self._label(head), head.evaluation.headline[1], head.baseline.headline[1].value)
            for head in self._heads
        ]
        name = self._heads[0].evaluation.headline[0]
        return whiskers(f"{name[0].upper()}{name[1:]} of every head", "majority baseline", rows)

    def _differences(self) -> str:
        told = [head for head in self._heads if head.difference is not None]
        names = list(dict.fromkeys(name for head in told for name in head.difference or {}))
        if not names:
            return ""
        rows = [
            (
                named(self._label(head)),
                *(_told_apart((head.difference or {}).get(name, Figure(None))) for name in names),
            )
            for head in told
        ]
        return table(
            f"Difference to {self._reference}, with 95 % intervals over the same patients",
            ("head", *(name.replace("_", " ") for name in names)),
            rows,
        ) + (
            "<p>≈ marks a difference whose interval holds 0: the two are not told apart here. That does not mean that "
            "they are the same.</p>\n"
        )

    def _aucs(self) -> str:
        """AUC of every class, as papers on many labels print them; two exclusive classes have but one."""
        classes = list(self._heads[0].evaluation.per_class)
        if len(classes) == 2 and not self._heads[0].evaluation.multi_label:
            return ""
        best = {
            name: _best([head.evaluation.per_class[name].auc for head in self._heads], lowest=False) for name in classes
        }
        rows = [
            (
                named(self._label(head)),
                *(
                    _starred(figure(one.auc), _rounded(one.auc.value) == best[name])
                    for name, one in head.evaluation.per_class.items()
                ),
            )
            for head in self._heads
        ]
        return table(f"AUC of every class; {_BEST} and bold: the best of the column", ("head", *classes), rows)

    def _p_values(self) -> str:
        told = [(head, head.p_values) for head in self._heads if head.p_values is not None]
        if not told:
            return ""
        classes = list(results.drawn_classes(told[0][0].evaluation))
        tests = sum(values.get(name) is not None for _, values in told for name in classes)
        level = 0.05 / max(tests, 1)
        rows = [
            (named(self._label(head)), *(_p_value(values.get(name), level) for name in classes))
            for head, values in told
        ]
        return table(f"DeLong's test of AUC against {self._reference}: p", ("head", *classes), rows) + (
            f"<p>{tests} tests: about one in twenty falls below 0.05 by chance alone. {_BEST} and bold: below "
            f"{level:.2g}, which is 0.05 divided by their number (Bonferroni).</p>\n"
        )

    def _curves(self) -> str:
        shown = self._heads[: len(LINES)]
        meanings = [(kind, self._label(head)) for kind, head in zip(LINES, shown, strict=False)]
        legend = keys((*meanings, ("chance", "chance")))
        drawn = ""
        for name in results.drawn_classes(shown[0].evaluation):
            plot = Plot(unit_axis("false positive rate"), unit_axis("recall"), width=210, height=200)
            plot.line("chance", (0, 1), (0, 1))
            curves = [(kind, head.evaluation.per_class[name].roc) for kind, head in zip(LINES, shown, strict=False)]
            for kind, roc in curves:
                if roc is not None:
                    plot.line(kind, *roc)
            told = "" if any(roc for _, roc in curves) else f"AUC {NOT_DEFINED}"
            drawn += plot_figure(name, [plot.svg(f"ROC curves of {name} by {_listed(meanings)}")], told)
        return f'<h3>ROC curves of the first {len(shown)}</h3>\n{legend}<div class="plots">\n{drawn}</div>\n'


#: Column → the figure of an evaluation, and whether the lowest is best.
_COLUMNS: Final[Mapping[str, tuple[Callable[[Evaluation], Figure], bool]]] = {
    "balanced accuracy": (lambda one: one.balanced_accuracy, False),
    "AUC (macro)": (lambda one: one.auc, False),
    "AP (macro)": (lambda one: one.averages["macro"].average_precision, False),
    "F1 (macro)": (lambda one: one.macro_f1, False),
    "accuracy": (lambda one: one.accuracy, False),
    "Brier (macro, lower is better)": (lambda one: one.averages["macro"].brier, True),
}


def _or_last(value: float | None) -> float:
    return float("-inf") if value is None else value


def _rounded(value: float | None) -> float | None:
    # Values that look the same are equally good.
    return None if value is None else round(value, 3)


def _best(figures: Sequence[Figure], lowest: bool) -> float | None:
    values = [value for value in (_rounded(one.value) for one in figures) if value is not None]
    if not values:
        return None
    return min(values) if lowest else max(values)


def _starred(cell: str, is_best: bool) -> str:
    return f'<span class="best">{_BEST} {cell}</span>' if is_best and cell != NOT_DEFINED else cell


def _told_apart(measured: Figure) -> str:
    holds_zero = measured.low is not None and measured.high is not None and measured.low <= 0 <= measured.high
    return ("≈ " if holds_zero else "") + difference(measured)


def _p_value(value: float | None, level: float) -> str:
    if value is None:
        return NOT_DEFINED
    told = f"&lt;{_SMALLEST_P:g}" if value < _SMALLEST_P else f"{value:.3f}"
    return _starred(told, value < level)


def _listed(meanings: Sequence[tuple[str, str]]) -> str:
    return ", ".join(name for _, name in meanings)
