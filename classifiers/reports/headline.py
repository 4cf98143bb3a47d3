"""The figure to look at first, beside the majority baseline's, and what keeps a reader from relying on it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from classifiers.evaluation import Evaluation, Figure
from classifiers.reports import results
from classifiers.reports.tables import number

#: An interval wider than this is told as such: it holds heads that nobody would call equally good.
_WIDE: Final = 0.1


def beside(head: Evaluation, baseline: Evaluation, split: str) -> str:
    """The headline figure of one split, large, and that of the majority beside it."""
    name, measured = head.headline
    return (
        '<dl class="headline">\n'
        f"<div><dt>{escape(name[0].upper() + name[1:])} on {escape(split)}</dt>"
        f"<dd><strong>{number(measured.value)}</strong></dd><dd>{_interval(measured)}</dd>"
        f"<dd>{head.n:,} images of {head.patients:,} patients</dd></div>\n"
        f'<div class="beside"><dt>Majority baseline, same images</dt>'
        f"<dd><strong>{number(baseline.headline[1].value)}</strong></dd><dd>{_interval(baseline.headline[1])}</dd>"
        "</div>\n</dl>\n"
    )


def _interval(measured: Figure) -> str:
    if measured.low is None or measured.high is None:
        return "no interval: too few patients for one"
    return f"95\N{NO-BREAK SPACE}% interval {measured.low:.3f} to {measured.high:.3f}"


def doubts(head: Evaluation, baseline: Evaluation | None) -> list[str]:
    """Why the headline may be less than it seems: sentences, HTML.

    Args:
        head: whose headline it is.
        baseline: the majority's; None where it is what `head` is.
    """
    name, measured = head.headline
    said = []
    if measured.low is not None and measured.high is not None:
        if measured.high - measured.low > _WIDE:
            said.append(
                f"<strong>A wide interval.</strong> With other patients of the same kind the {escape(name)} could as "
                f"well be {measured.low:.2f} or {measured.high:.2f}."
            )
        chance = None if baseline is None else baseline.headline[1].value
        if chance is not None and measured.low <= chance:
            said.append(
                "<strong>Not shown to be better than the majority baseline:</strong> the interval reaches down to it."
            )
    return said + results.few_images(head)


def caution(said: Sequence[str]) -> str:
    """A box of sentences, HTML; nothing where there are none."""
    if not said:
        return ""
    return f'<div class="caution">{"".join(f"<p>{one}</p>" for one in said)}</div>\n'
