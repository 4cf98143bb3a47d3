"""Tables and numbers as HTML: every figure with its interval, and n/a, with a link to what it means, for none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Final

from classifiers.evaluation import Figure
from classifiers.reports.document import UNDEFINED_ID

NOT_DEFINED: Final = f'<a href="#{UNDEFINED_ID}">n/a</a>'

#: The most opaque shade: the page's own text colour keeps its contrast on it, in light and in dark.
_OPAQUE: Final = 0.5


def named(name: str) -> str:
    """A name as HTML, which may be broken where it has underscores."""
    return escape(name).replace("_", "_<wbr>")


def number(value: float | None) -> str:
    """Three decimals, or n/a."""
    return NOT_DEFINED if value is None else f"{value:.3f}"


def figure(measured: Figure) -> str:
    """A value with its interval below it in smaller type."""
    return number(measured.value) + _below(measured, number)


def difference(measured: Figure) -> str:
    """The same of a difference, with its sign."""
    return _signed(measured.value) + _below(measured, _signed)


def in_words(measured: Figure) -> str:
    """A value with its interval in one line."""
    if measured.low is None or measured.high is None:
        return number(measured.value)
    return f"{number(measured.value)} ({measured.low:.3f}–{measured.high:.3f})"


def _below(measured: Figure, told: Callable[[float], str]) -> str:
    if measured.low is None or measured.high is None:
        return ""
    return f"<small>{told(measured.low)} to {told(measured.high)}</small>"


def _signed(value: float | None) -> str:
    return NOT_DEFINED if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    averages: Iterable[Sequence[str]] = (),
    groups: Sequence[tuple[str, int]] = (),
    kind: str = "",
) -> str:
    """Frame rows of cells that are HTML already, the first of a row being its header.

    Args:
        caption: plain text.
        columns: names, plain text.
        rows: cells.
        averages: rows below them, set off.
        groups: (name, columns) of headers above those of the columns behind the first, plain text.
        kind: CSS class.
    """
    above, names = "", "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    if groups:
        first, *others = columns
        over = "".join(f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in groups)
        above = f'<tr><th scope="col" rowspan="2">{escape(first)}</th>{over}</tr>\n'
        names = "".join(f'<th scope="col">{escape(name)}</th>' for name in others)
    body = "".join(_row(cells) for cells in rows)
    foot = "".join(_row(cells) for cells in averages)
    return framed(caption, f"{above}<tr>{names}</tr>", body, foot, kind)


def framed(caption: str, head: str, body: str, foot: str = "", kind: str = "") -> str:
    """Frame rows that are HTML already; a wide table scrolls inside its frame, by keyboard too."""
    shown = f'<tbody class="average">{foot}</tbody>' if foot else ""
    attribute = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(caption)}">'
        f"<table{attribute}><caption><span>{escape(caption)}</span></caption>\n"
        f"<thead>{head}</thead>\n<tbody>{body}</tbody>{shown}</table></div>\n"
    )


def matrix(caption: str, corner: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A square table of counts, each shaded by its share of the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in (corner, *names))
    body = "".join(
        f'<tr><th scope="row">{named(name)}</th>{"".join(shaded(count, sum(row)) for count in row)}</tr>\n'
        for name, row in zip(names, counts, strict=True)
    )
    return framed(caption, f"<tr>{head}</tr>", body, kind="upright" if len(names) > 4 else "")


def shaded(count: int, whole: int) -> str:
    """A cell with a count, and its share below and as a shade."""
    if not whole:
        return f"<td>{count:,}</td>"
    share = count / whole
    return (
        f'<td style="background: rgba(var(--shade), {_OPAQUE * share:.2f})">{count:,}'
        f"<small>{100 * share:.0f}\N{NO-BREAK SPACE}%</small></td>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    # Cells that bring their own <td>, for a shade, are left as they are.
    drawn = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in rest)
    return f'<tr><th scope="row">{first}</th>{drawn}</tr>\n'
