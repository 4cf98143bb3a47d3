"""The few means of the page: tables, bars and shaded matrices, in HTML and CSS alone.

Bars are boxes, not pictures: they keep the reader's font size on a phone, follow light and dark, and print.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --shade: 37, 99, 235; --other-shade: 217, 119, 6;
  --s1: #2563eb; --s2: #d97706; --s3: #0d9488; --s4: #9ca3af;
  --o1: #bfdbfe; --o2: #7fb2fb; --o3: #3b82f6; --o4: #1d4ed8; --o5: #172554; }
@media (prefers-color-scheme: dark) { :root { --s1: #60a5fa; --s2: #fbbf24; --s3: #2dd4bf; --s4: #6b7280;
  --o1: #1e3a8a; --o2: #2563eb; --o3: #60a5fa; --o4: #93c5fd; --o5: #dbeafe;
  --shade: 96, 165, 250; --other-shade: 251, 191, 36; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { margin: 1.75rem 0 .25rem; font-size: 1.05rem;
  overflow-wrap: anywhere; }
.notice, .caution { border: 2px solid #d97706; border-radius: .4rem; padding: .6rem .9rem; }
.notes { list-style: none; padding: 0; } .notes li { border-left: .3rem solid var(--line); padding: .1rem .8rem;
  margin: .6rem 0; overflow-wrap: anywhere; } .notes li.careful { border-color: #d97706; }
.tiles { display: flex; flex-wrap: wrap; gap: .5rem 2rem; padding: 0; list-style: none; }
.tiles strong { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
figure.chart { margin: 1.25rem 0 .5rem; }
figcaption, caption { text-align: left; font-weight: 600; padding: .25rem 0; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .9rem; margin: 0 0 .3rem; padding: 0;
  list-style: none; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: .15em; }
.bar { display: grid; grid-template-columns: 11rem 1fr 11rem; gap: 0 .75rem; align-items: center; margin: .2rem 0; }
.bar .name { overflow-wrap: anywhere; line-height: 1.2; } .bar .told { font-variant-numeric: tabular-nums;
  font-size: .9rem; }
.track { display: flex; height: 1.05rem; background: #8882; border-radius: .15rem; overflow: hidden; }
.track i { display: block; min-width: 1px; } .s1 { background: var(--s1); } .s2 { background: var(--s2); }
.s3 { background: var(--s3); } .s4 { background: var(--s4); } .o1 { background: var(--o1); }
.o2 { background: var(--o2); } .o3 { background: var(--o3); } .o4 { background: var(--o4); }
.o5 { background: var(--o5); } .blank, .hatched { box-shadow: inset 0 0 0 1px var(--line); }
.hatched { background: repeating-linear-gradient(-45deg, var(--line) 0 2px, #0000 2px 6px); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: right; } td { white-space: nowrap; }
th[scope=row], thead th:first-child { text-align: left; max-width: 14rem; overflow-wrap: break-word; }
.scroll th[scope=row], .scroll thead th:first-child { position: sticky; left: 0; background: Canvas; }
.matrix th, .matrix td { font-size: .8rem; padding: .25rem .35rem; } .matrix thead th:not(:first-child) {
  writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; max-height: 11rem; font-weight: 400; }
details { margin: 0 0 1rem; } summary { cursor: pointer; font-size: .9rem; }
.sheet { display: flex; flex-wrap: wrap; gap: .75rem; } .sheet figure { margin: 0; width: 9rem; }
.sheet img { width: 100%; height: auto; display: block; border-radius: .2rem; }
.sheet figcaption { font: .8rem/1.3 system-ui, sans-serif; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .bar { grid-template-columns: 1fr auto; margin: .45rem 0; }
  .bar .track { grid-row: 2; grid-column: 1 / 3; } .sheet figure { width: calc(50% - .4rem); } }
@media print { body { max-width: none; font-size: 10pt; } table, figure { break-inside: avoid; }
  td, i { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_PERCENT: Final = "\N{NO-BREAK SPACE}%"

#: CSS classes of the colours: of kinds that have no order, of ordered ones, and of what is not told.
COLOURS: Final = ("s1", "s2", "s3", "s4")
ORDERED_COLOURS: Final = ("o1", "o2", "o3", "o4", "o5")
BLANK, HATCHED = "blank", "hatched"

#: The most opaque shade: the page's own text colour keeps its contrast on it, in light and in dark.
_OPAQUE: Final = 0.5


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its parts as counts, and what stands behind it."""

    name: str
    parts: Sequence[float]
    told: str


def percent(part: float, whole: float) -> str:
    """A share as text; never 0 % or 100 % unless it is."""
    if not whole:
        return "n/a"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return f"<0.1{_PERCENT}"
    if 99.9 < share < 100:
        return f">99.9{_PERCENT}"
    return f"{share:.1f}{_PERCENT}"


def whole_percent(share: float) -> str:
    """A share, 0 to 1, without decimals."""
    return f"{100 * share:.0f}{_PERCENT}"


def with_percent(part: int, whole: int) -> str:
    """A count with its share."""
    return f"{part:,} ({percent(part, whole)})"


def interval(low: int | None, high: int | None) -> str:
    """Two numbers as text."""
    return "n/a" if low is None else f"{low:,}–{high:,}"


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; the first cell of a row is its header."""
    body = "".join(_row(first, (f"<td>{escape(cell)}</td>" for cell in rest)) for first, *rest in rows)
    return _framed("", caption, columns, body)


def numbers(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The table behind a chart, folded."""
    return f"<details><summary>Numbers: {escape(caption)}</summary>{table(caption, columns, rows)}</details>\n"


def bars(title: str, legend: Sequence[tuple[str, str]], rows: Sequence[Bar], *, longest: float | None = None) -> str:
    """Horizontal bars.

    Args:
        title: stands above.
        legend: (CSS class of the colour, meaning) of each part.
        rows: the bars, each with as many parts as the legend has.
        longest: what fills the track; None: each bar's own sum, so that the parts are shares.
    """
    keys = "".join(f'<li><i class="{colour}"></i>{escape(meaning)}</li>' for colour, meaning in legend)
    drawn = "".join(_bar(row, [colour for colour, _ in legend], longest or sum(row.parts)) for row in rows)
    shown = f'<ul class="legend">{keys}</ul>' if len(legend) > 1 else ""
    label = escape(f"Bar chart: {title}. The table below it has the numbers.")
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{shown}\n'
        f'<div role="img" aria-label="{label}">{drawn}</div></figure>\n'
    )


def _bar(row: Bar, colours: Sequence[str], longest: float) -> str:
    parts = "".join(
        f'<i class="{colour}" style="width: {100 * part / longest:.2f}%"></i>'
        for colour, part in zip(colours, row.parts, strict=True)
        if part
    )
    return (
        f'<div class="bar"><span class="name">{escape(row.name)}</span><span class="track">{parts}</span>'
        f'<span class="told">{escape(row.told)}</span></div>\n'
    )


def histogram(title: str, what: str, unit: str, counts: Mapping[str, int], names: Sequence[str]) -> str:
    """Bars of one colour, one for each of `names`, with their numbers."""
    total = sum(counts.values())
    told = {name: with_percent(counts.get(name, 0), total) for name in names}
    longest = max(counts.values(), default=1)
    drawn = bars(title, [("s1", unit)], [Bar(n, [counts.get(n, 0)], told[n]) for n in names], longest=longest)
    return drawn + numbers(title, (what, unit), [(name, told[name]) for name in names])


def matrix(caption: str, names: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]]) -> str:
    """A shaded square table.

    Args:
        caption: stands above.
        names: of rows and columns.
        cells: (text, strength) row by row; strength is -1 to 1, the sign chooses the colour.
    """
    body = "".join(
        _row(name, (_shaded(text, strength) for text, strength in row)) for name, row in zip(names, cells, strict=True)
    )
    return _framed(' class="matrix"', caption, ["", *names], body)


def _shaded(text: str, strength: float) -> str:
    shade = "--shade" if strength >= 0 else "--other-shade"
    return f'<td style="background: rgba(var({shade}), {_OPAQUE * abs(strength):.2f})">{escape(text)}</td>'


def _row(first: str, cells: Iterable[str]) -> str:
    return f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>\n'


def _framed(attributes: str, caption: str, columns: Sequence[str], body: str) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<div class="scroll"><table{attributes}><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )
