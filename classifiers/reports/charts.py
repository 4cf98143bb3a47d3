"""Drawings as inline SVG: plots with axes of any range, and rows of dots with whiskers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from classifiers.evaluation import Figure
from classifiers.reports.tables import in_words

_LEFT, _TOP, _RIGHT, _BOTTOM = 34, 6, 8, 30
#: Height of a line of a plot's text, in its own units.
_TEXT: Final = 10
#: Width of a digit, at most.
_DIGIT: Final = 0.6 * _TEXT
#: CSS classes of lines that can be told apart, without colour too.
LINES: Final = ("l1", "l2", "l3", "l4")


@dataclass(frozen=True)
class Axis:
    """One side of a plot; ticks lie within low and high, and are labelled by their values unless told otherwise."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    tick_labels: tuple[str, ...] = ()

    def labelled(self) -> list[tuple[float, str]]:
        """Ticks with their labels."""
        return list(zip(self.ticks, self.tick_labels or [f"{tick:g}" for tick in self.ticks], strict=True))


def unit_axis(label: str) -> Axis:
    """An axis of shares, 0 to 1."""
    return Axis(label, 0.0, 1.0, (0.0, 0.5, 1.0))


def axis(label: str, values: Iterable[float], *, ticks: int = 4) -> Axis:
    """An axis that holds all finite values, with about so many round ticks."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(label, first * step, last * step, tuple(number * step for number in range(first, last + 1)))


class Plot:
    """Two axes, and what is drawn between them; what lies outside is drawn on the edge.

    Args:
        x, y: the axes.
        width, height: in pixels where there is room; the plot shrinks and grows with its place.
    """

    def __init__(self, x: Axis, y: Axis, *, width: int = 160, height: int = 150) -> None:
        self._x, self._y = x, y
        self._width, self._height = width, height
        # Long labels of ticks would reach into the axis's own.
        self._left = max(_LEFT, 1.4 * _TEXT + _DIGIT * max((len(told) for _, told in y.labelled()), default=0) + 4)
        self._drawn: list[str] = []

    def _at(self, x: float, y: float) -> tuple[float, float]:
        across = min(max((x - self._x.low) / (self._x.high - self._x.low), 0), 1)
        up = min(max((y - self._y.low) / (self._y.high - self._y.low), 0), 1)
        return (
            self._left + across * (self._width - self._left - _RIGHT),
            self._height - _BOTTOM - up * (self._height - _TOP - _BOTTOM),
        )

    def line(self, kind: str, xs: Iterable[float], ys: Iterable[float]) -> None:
        """Join points; those that are not finite interrupt nothing and are left out. A single one becomes a dot."""
        finite = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        points = list(dict.fromkeys("{:.1f} {:.1f}".format(*self._at(x, y)) for x, y in finite))
        if points:
            self._drawn.append(f'<path class="line {kind}" d="M{"L".join(points)}{"" if points[1:] else "h0"}"/>')

    def dot(self, kind: str, x: float, y: float, radius: float = 3) -> None:
        """Mark a point."""
        across, down = self._at(x, y)
        self._drawn.append(f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="{radius:.1f}"/>')

    def svg(self, label: str) -> str:
        """Draw everything; `label` tells in plain text what it shows."""
        return (
            f'<svg viewBox="0 0 {self._width} {self._height}" role="img" aria-label="{escape(label)}">'
            f"{self.content()}</svg>"
        )

    def content(self) -> str:
        """Everything without its frame, for an SVG that holds several."""
        left, right, bottom = self._left, self._width - _RIGHT, self._height - _BOTTOM
        middle, grid, texts = (left + right) / 2, "", ""
        for tick, told in self._x.labelled():
            across, _ = self._at(tick, self._y.low)
            grid += f"M{across:.1f} {bottom}V{_TOP}"
            texts += f'<text x="{across:.1f}" y="{bottom + 12}" text-anchor="middle">{escape(told)}</text>'
        for tick, told in self._y.labelled():
            _, down = self._at(self._x.low, tick)
            grid += f"M{left:g} {down:.1f}H{right}"
            texts += f'<text x="{left - 4:g}" y="{down + 3.5:.1f}" text-anchor="end">{escape(told)}</text>'
        texts += (
            f'<text x="{middle:g}" y="{self._height - 5}" text-anchor="middle">{escape(self._x.label)}</text>'
            f'<text transform="translate({_TEXT - 2} {(bottom + _TOP) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._y.label)}</text>"
        )
        return f'<path class="grid" d="{grid}"/>{texts}{"".join(self._drawn)}'


def plot_figure(title: str, drawings: Sequence[str], told: str, *, kind: str = "one") -> str:
    """Drawings side by side under a title, what they tell below.

    Args:
        title: plain text.
        drawings: HTML of SVG.
        told: HTML.
        kind: `one`, `pair` or `wide`.
    """
    drawn = "".join(drawings)
    inner = f'<div class="pair">{drawn}</div>' if kind == "pair" else drawn
    return (
        f'<figure class="{kind if kind != "pair" else "two"}"><figcaption>{escape(title)}</figcaption>'
        f"{inner}<p>{told}</p></figure>\n"
    )


def keys(meanings: Iterable[tuple[str, str]]) -> str:
    """What kinds of lines (`l1`...) and dots (`d1`, `d2`), by CSS class, mean in plain text."""
    items = "".join(
        '<li><svg viewBox="0 0 32 12" aria-hidden="true">'
        + (
            f'<circle class="{kind}" cx="16" cy="6" r="4"/>'
            if kind.startswith("d")
            else f'<path class="line {kind}" d="M1 6h30"/>'
        )
        + f"</svg>{escape(meaning)}</li>"
        for kind, meaning in meanings
    )
    return f'<ul class="keys">{items}</ul>\n'


@dataclass(frozen=True)
class Whisker:
    """A row: its name in plain text, a value with its interval, and the value to hold it against."""

    name: str
    measured: Figure
    limit: float | None


def whiskers(title: str, what: str, rows: Sequence[Whisker]) -> str:
    """A dot and its interval for each row, on one scale, with a mark at what it is held against.

    Args:
        title: plain text.
        what: the mark's name, in plain text.
        rows: top to bottom.
    """
    values = [
        value
        for row in rows
        for value in (row.measured.value, row.measured.low, row.measured.high, row.limit)
        if value is not None
    ]
    scale = axis("", values)
    drawn = "".join(_whisker(row, scale, what) for row in rows)
    ticks = "".join(f"<span>{tick:g}</span>" for tick in scale.ticks)
    key = keys((("d1", "value, with its 95 % interval"), ("limit", what)))
    return (
        f'<figure class="whiskers"><figcaption>{escape(title)}</figcaption>{key}{drawn}'
        f'<div class="whisker"><span class="scale" aria-hidden="true">{ticks}</span></div></figure>\n'
    )


def _whisker(row: Whisker, scale: Axis, what: str) -> str:
    def at(value: float) -> str:
        return f"{100 * (value - scale.low) / (scale.high - scale.low):.2f}%"

    measured = row.measured
    drawn, label = "", f"{row.name}: not defined"
    if row.limit is not None:
        drawn += f'<line class="limit" x1="{at(row.limit)}" x2="{at(row.limit)}" y1="0" y2="100%"/>'
    if measured.low is not None and measured.high is not None:
        drawn += f'<line class="range" x1="{at(measured.low)}" x2="{at(measured.high)}" y1="50%" y2="50%"/>'
    if measured.value is not None:
        drawn += f'<circle class="d1" cx="{at(measured.value)}" cy="50%" r="4"/>'
        label = f"{row.name}: {in_words(measured)}" + ("" if row.limit is None else f"; {what} {row.limit:.3f}")
    return (
        f'<div class="whisker"><span class="name">{escape(row.name)}</span>'
        f'<svg role="img" aria-label="{escape(label)}">{drawn}</svg>'
        f'<span class="told">{in_words(measured)}</span></div>\n'
    )
