"""Whether maps show what the model looks at, as HTML: likeness to random models' maps, deletion and insertion."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from classifiers.reports.charts import LINES, Plot, axis, keys, plot_figure, unit_axis
from classifiers.reports.tables import figure, table
from pipelines.localization_reports.subject import Checks, Erasure, Likeness

_WIDTH, _HEIGHT = 330, 220


def checked(checks: Checks | None) -> str:
    """The outcome of all checks; None where there were none."""
    if checks is None:
        return (
            "<p>Whether the maps show what the model looks at was not checked: nobody asked for it, or the head "
            "decides for none of these classes in any image.</p>\n"
        )
    found = (
        f'<div class="caution">{"".join(f"<p>{escape(doubt)}</p>" for doubt in checks.doubts)}</div>\n'
        if checks.doubts
        else "<p><strong>Nothing was found against the maps.</strong> That does not prove them right.</p>\n"
    )
    return (
        f"{found}<p>Made on {checks.images:,} images of {checks.patients:,} patients, each with the most "
        f"probable class that the head decides for.</p>\n{_likenesses(checks.likenesses)}{_erasures(checks.erasures)}"
    )


def _likenesses(likenesses: Sequence[Likeness]) -> str:
    if not likenesses:
        return ""
    rows = [
        (
            escape(one.changed),
            "not looked at" if one.correlation is None else figure(one.correlation),
            escape(one.note),
        )
        for one in likenesses
    ]
    return (
        "<h3>Do maps change when the model is made random?</h3>\n"
        "<p>The nearer to 0, the better: the maps are then of what the model learned. Near 1 a random model gives the "
        "same maps, and they show the image, not the model.</p>\n"
        + table(
            "Likeness to the maps of random models",
            ("made random", "rank correlation, without its sign", "note"),
            rows,
            kind="words",
        )
    )


def _erasures(erasures: Sequence[Erasure]) -> str:
    if not erasures:
        return ""
    orders = [one.order for one in erasures]
    legend = keys((LINES[number], order) for number, order in enumerate(orders))
    drawn = _curves(
        "Deletion: the image is taken away", "share of the image gone", orders, [one.deletion for one in erasures]
    ) + _curves("Insertion: it is given back", "share of the image back", orders, [one.insertion for one in erasures])
    rows = [(escape(one.order), figure(one.deletion_area), figure(one.insertion_area)) for one in erasures]
    return (
        "<h3>Does the answer follow the heat?</h3>\n"
        f"<p>If the hot places are what the answer rests on, then “{escape(orders[0])}” falls first while the image is "
        "taken away, and rises first while it is given back.</p>\n"
        f'{legend}<div class="plots">\n{drawn}</div>\n'
        + table(
            "Area under the curves",
            ("order", "deletion: low is good", "insertion: high is good"),
            rows,
        )
    )


def _curves(title: str, across: str, orders: Sequence[str], curves: Sequence[Sequence[float]]) -> str:
    up = axis("mean probability", [0.0, *(value for curve in curves for value in curve)])
    plot = Plot(unit_axis(across), up, width=_WIDTH, height=_HEIGHT)
    told = []
    for number, (order, curve) in enumerate(zip(orders, curves, strict=True)):
        steps = len(curve) - 1
        plot.line(LINES[number], [step / steps for step in range(steps + 1)], curve)
        told.append(f"{order}: {curve[0]:.2f}, half way {curve[steps // 2]:.2f}, {curve[-1]:.2f}")
    label = f"{title}. Mean probability at the start, half way, and at the end: {'; '.join(told)}."
    return plot_figure(title, [plot.svg(label)], "", kind="wide")
