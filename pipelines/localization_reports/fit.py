"""How well places fit annotated boxes, as HTML: the figure to look at first, what to be careful about, all tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from classifiers.evaluation import Figure
from classifiers.reports.charts import LINES, Axis, Plot, Whisker, keys, plot_figure, unit_axis, whiskers
from classifiers.reports.tables import figure, framed, in_words, named, number, table
from pipelines.localization_reports.figures import THRESHOLDS, Figures, Finder, FinderFigures

#: With fewer patients the page warns.
FEW_PATIENTS: Final = 30
#: The overlap that the headline tells the accuracy at, and its place.
_T: Final = 0.25
_AT_T: Final = THRESHOLDS.index(_T)
_WIDTH, _HEIGHT = 330, 220
_MEAN: Final = "mean over classes"

#: Of the tables; goes behind the page's own.
FIT_STYLE: Final = """
.asked { margin: 1.5rem 0 -.9rem; font-weight: 600; }
.headline .beside strong { font-size: 1.9rem; line-height: 1.58; }
.scroll th.finder { position: static; min-width: 0; font-weight: 400; white-space: nowrap; max-width: none; }
tr.own th.finder { font-weight: 700; } tr.own td, tr.own th.finder { background: rgba(var(--shade), .09); }
.words thead th { text-align: left; } tbody.average { border-top: 3px double var(--line); }
"""


def headline(figures: Figures, where: str) -> str:
    """Pointing game and accuracy of the head, large, beside those of who never looks at the image.

    Args:
        figures: of all finders.
        where: which images, in words.
    """
    count = len(figures.by_class)
    over = "one class" if count == 1 else f"mean over {count} classes"
    return _asked(
        f"Pointing game, {where}: how often the hottest place lies in an annotated box ({over})",
        figures,
        lambda one: one.pointing,
    ) + _asked(
        f"Accuracy at IoBB > {_T:g}: how many annotated boxes hold more than a quarter of a found box ({over})",
        figures,
        lambda one: one.iobb_accuracy[_AT_T],
    )


def _asked(question: str, figures: Figures, take: Callable[[FinderFigures], Figure]) -> str:
    tiles = "".join(
        f"<div{'' if finder is Finder.HEAD else _BESIDE}><dt>{finder}</dt>"
        f"<dd><strong>{number(take(figures.mean[finder]).value)}</strong></dd>"
        f"<dd>{_interval(take(figures.mean[finder]))}</dd></div>\n"
        for finder in Finder
    )
    return f'<p class="asked">{question}</p>\n<dl class="headline">\n{tiles}</dl>\n'


_BESIDE: Final = ' class="beside"'


def _interval(measured: Figure) -> str:
    if measured.low is None or measured.high is None:
        return "no interval: too few patients for one"
    return f"95\N{NO-BREAK SPACE}% interval {measured.low:.3f} to {measured.high:.3f}"


def doubts(figures: Figures) -> list[str]:
    """Why the headline may be less than it seems: sentences, HTML."""
    said = []
    pointing = {finder: one.pointing for finder, one in figures.mean.items()}
    low = pointing[Finder.HEAD].low
    if low is not None:
        reached = [str(finder) for finder in (Finder.CENTRE, Finder.LUNGS) if (pointing[finder].value or 0) >= low]
        if reached:
            said.append(
                f"<strong>Not shown to point better than the {' or the '.join(reached)}</strong>, which never looks "
                "at the image: the interval of the head's pointing game reaches down to it."
            )
    few = [f"{named(name)} ({one.patients:,})" for name, one in figures.by_class.items() if one.patients < FEW_PATIENTS]
    if few:
        said.append(
            f"<strong>Few patients.</strong> Fewer than {FEW_PATIENTS} have annotated boxes of: {', '.join(few)}. "
            "Look at the intervals: a handful of other patients could turn these figures."
        )
    return said


def tables(figures: Figures) -> str:
    """All figures of all finders, by class and on average."""
    return (
        "<h3>Pointing game</h3>\n"
        + whiskers(
            "The head by class",
            "the better of centre box and lung box",
            [
                Whisker(name, by_finder[Finder.HEAD].pointing, _better(by_finder))
                for name, by_finder in _with_mean(figures)
            ],
        )
        + _pointing(figures)
        + "<h3>Accuracy and false positives, by IoBB</h3>\n"
        + _curves(figures)
        + _by_finder("Accuracy by T(IoBB)", figures, lambda one: one.iobb_accuracy)
        + _by_finder("False positives per image (AFP) by T(IoBB)", figures, lambda one: one.iobb_false)
        + "<h3>The same by IoU</h3>\n"
        "<p>A found box also has to be as large as the annotated one. The last map of a backbone is coarse, so that "
        "hardly any box does at a high T.</p>\n"
        + _by_finder("Accuracy by T(IoU)", figures, lambda one: one.iou_accuracy)
        + _by_finder("False positives per image (AFP) by T(IoU)", figures, lambda one: one.iou_false)
    )


def _with_mean(figures: Figures) -> Iterator[tuple[str, dict[Finder, FinderFigures]]]:
    for name, one in figures.by_class.items():
        yield name, dict(one.by_finder)
    yield _MEAN, dict(figures.mean)


def _better(by_finder: dict[Finder, FinderFigures]) -> float | None:
    values = [by_finder[finder].pointing.value for finder in (Finder.CENTRE, Finder.LUNGS)]
    return max((value for value in values if value is not None), default=None)


def _pointing(figures: Figures) -> str:
    rows = [
        (
            named(name),
            *(f"{count:,}" for count in (one.images, one.boxes, one.patients)),
            *(figure(one.by_finder[finder].pointing) for finder in Finder),
        )
        for name, one in figures.by_class.items()
    ]
    mean = (_MEAN, "", "", "", *(figure(figures.mean[finder].pointing) for finder in Finder))
    return table(
        "Pointing game by class, and what it rests on",
        ("class", "images", "boxes", "patients", *Finder),
        rows,
        averages=[mean],
    )


def _curves(figures: Figures) -> str:
    across = Axis("T: what a box must exceed", 0.0, 1.0, THRESHOLDS)
    kinds = dict(zip(Finder, LINES, strict=False))
    drawn = ""
    for name, take in _OVERLAPS:
        plot = Plot(across, unit_axis("accuracy"), width=_WIDTH, height=_HEIGHT)
        for finder, kind in kinds.items():
            plot.line(kind, THRESHOLDS, [one.value or 0 for one in take(figures.mean[finder])])
        told = "; ".join(f"{finder} {in_words(take(figures.mean[finder])[_AT_T])}" for finder in Finder)
        label = f"Accuracy by T({name}), {_MEAN}, a falling line for each finder; at {_T:g}: {told}. Tables follow."
        drawn += plot_figure(f"Accuracy by T({name}), {_MEAN}", [plot.svg(label)], "", kind="wide")
    legend = keys((kind, str(finder)) for finder, kind in kinds.items())
    return f'{legend}<div class="plots">\n{drawn}</div>\n'


_OVERLAPS: Final[Sequence[tuple[str, Callable[[FinderFigures], tuple[Figure, ...]]]]] = (
    ("IoBB", lambda one: one.iobb_accuracy),
    ("IoU", lambda one: one.iou_accuracy),
)


def _by_finder(caption: str, figures: Figures, take: Callable[[FinderFigures], tuple[Figure, ...]]) -> str:
    """A table with a row per class and finder, and a column per T."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("class", "by", *(f"T = {t:g}" for t in THRESHOLDS)))
    *classes, mean = (_rows(named(name), by_finder, take) for name, by_finder in _with_mean(figures))
    return framed(caption, f"<tr>{head}</tr>", "".join(classes), mean)


def _rows(
    name: str, by_finder: dict[Finder, FinderFigures], take: Callable[[FinderFigures], tuple[Figure, ...]]
) -> str:
    rows = ""
    for finder in Finder:
        is_head = finder is Finder.HEAD
        whose = f'<th scope="row" rowspan="{len(Finder)}">{name}</th>' if is_head else ""
        cells = "".join(f"<td>{figure(one)}</td>" for one in take(by_finder[finder]))
        rows += f'<tr{_OWN if is_head else ""}>{whose}<th scope="row" class="finder">{finder}</th>{cells}</tr>\n'
    return rows


_OWN: Final = ' class="own"'
