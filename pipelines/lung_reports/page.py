"""The page about ways of finding the lungs: one self-contained HTML file, with no script and nothing to load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

import numpy as np

from classifiers.reports.document import html_file
from featurizers.mask_pairs import MaskPair
from pipelines.exploration.html import (
    ORDERED_COLOURS,
    STYLE,
    Bar,
    bars,
    numbers,
    percent,
    table,
    whole_percent,
    with_percent,
)
from pipelines.lung_reports.charts import (
    CHART_STYLE,
    COVERAGES,
    calibration,
    keys,
    oracle_at,
    risk_at,
    risk_chart,
    round_up,
    scatter_chart,
)
from pipelines.lung_reports.figures import LOSS_LIMIT, Estimate, Figures, Verdict
from pipelines.lung_reports.sheets import RANDOM, SHEET_STYLE, WORST, layer_keys, sheet, worst_first

#: With fewer patients the page warns.
_FEW_PATIENTS: Final = 30
#: Upper ends of the bands of lost lung, with their names; nothing lost comes before.
_LOST_BANDS: Final = (
    (0.0, "none"),
    (0.001, "up to 0.1 %"),
    (LOSS_LIMIT, "up to 1 %"),
    (0.05, "up to 5 %"),
    (1.0, "more"),
)

#: Tables of figures fit on a phone: intervals go below their means there.
_STYLE: Final = """
.figures td { white-space: normal; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .figures table { font-size: .72rem; } .figures th, .figures td { padding: .25rem .2rem; }
  .figures th[scope=row], .figures thead th:first-child { max-width: 5rem; } }
"""

_WORDS: Final = """
<dl>
<dt>Dice, mask IoU</dt><dd>How well a finder's outline of the lungs agrees with the human one, from 0, nothing in
common, to 1, the same. Dice is twice the common area over the sum of both areas; IoU is the common area over the area
that either covers, and is always the lower of the two. Where the annotator could not tell, nothing is counted. n/a: the
finder gives a box and no outline.</dd>
<dt>Box IoU</dt><dd>The same for the boxes: the smallest one around both lungs as the human drew them, and the finder's,
before the margin.</dd>
<dt>Lung lost</dt><dd>Share of the lung that the human drew, that part of it included which the heart or disease hides,
which is outside the crop: the finder's box with its margin, or the whole image where the quality is too low.</dd>
<dt>Quality</dt><dd>The finder's own number, 0 to 1, for how far to trust its box. Below the finder's limit the whole
image is kept.</dd>
<dt>Risk-coverage curve</dt><dd>The images are ordered by quality, and the mean risk, 1 less box IoU, is told of the
best-trusted share, from the very best to all. If the quality were perfect, the curve would be that of the best order;
if it told nothing, it would be the flat line. AURC is the area under the curve; its excess is what lies above the best
order's.</dd>
<dt>Intervals</dt><dd>In brackets, 95 %: how far the mean might move with other patients of the same kind (bootstrap
over patients, whose images stay together; for a share of none or all, Clopper and Pearson's interval).</dd>
</dl>
"""

_LIMITS: Final = """
<p>Research use only; nothing here is for diagnosis or any other care of patients.</p>
<p>The figures hold for radiographs like these: the same machines, views, ages and diseases, outlined in the same way.
Human outlines differ between annotators too, so that no finder can reach 1. Measure on radiographs of your own before
you rely on any of it.</p>
"""


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        name: of the pairs.
        chosen: which of them were judged, and why those, in sentences.
        numbers: what a reader knows each pair by.
        margin: added to every box, as a fraction of its side.
        made: when and with what, in words.
        seed: of the images at random.
    """

    name: str
    chosen: str
    numbers: Mapping[MaskPair, int]
    margin: float
    made: str
    seed: int


def render_page(subject: Subject, verdicts: Sequence[Verdict]) -> str:
    """Draw the page: a whole HTML document.

    Args:
        subject: what it is about.
        verdicts: one for each finder, on the same images in one order; the first one's worst images are shown.

    Raises:
        FeaturizerError: a pair can't be read any more.
    """
    title = f"Finding the lungs in {subject.name}"
    sections = "".join(
        f"<h2>{heading}</h2>\n{content}"
        for heading, content in (
            ("What was judged", _facts(subject, verdicts)),
            ("Side by side", _side_by_side(verdicts)),
            ("What it means", _notes(verdicts)),
            ("By class", _by_class(verdicts)),
            ("Lung lost by the crop", _lost(verdicts)),
            ("Does it know when it failed?", _risk(verdicts) + _calibration(verdicts)),
            ("The radiographs", _sheets(subject, verdicts)),
            ("The words", _WORDS.strip()),
            ("Limits", _LIMITS.strip()),
        )
        if content
    )
    figures = verdicts[0].figures
    tiles = {"radiographs": figures.images, "patients": figures.patients, "ways of finding lungs": len(verdicts)}
    shown = "".join(f"<li><strong>{number:,}</strong>{name}</li>" for name, number in tiles.items())
    body = f"""<h1>{escape(title)}</h1>
<p class="notice"><strong>Research software; not a medical device; not for diagnosis.</strong> This page compares ways
of finding the lungs with outlines that humans drew. It shows small copies of radiographs: it is as confidential as
they are.</p>
<ul class="tiles">{shown}</ul>
{sections}
<p>{escape(subject.made)}</p>"""
    return html_file(title, STYLE + CHART_STYLE + SHEET_STYLE + _STYLE, body)


def _side_by_side(verdicts: Sequence[Verdict]) -> str:
    figures = {verdict.finder.name: verdict.figures for verdict in verdicts}
    several = list(figures.values())
    more = (
        ("Dice, 5th percentile", [_tail(one.dice) for one in several]),
        ("box IoU, 5th percentile", [_tail(one.box_iou) for one in several]),
        ("lung lost, 95th percentile", [_lung(one.lost.tail or 0) for one in several]),
        ("losing > 1 %, were every box used", [_shared(one.losing_untrusted) for one in several]),
        ("time to find, median", [f"{one.milliseconds:.1f}\N{NO-BREAK SPACE}ms" for one in several]),
    )
    return _figures_table("All images", figures, more)


def _by_class(verdicts: Sequence[Verdict]) -> str:
    return "".join(
        _figures_table(label or "no class told", {verdict.finder.name: verdict.by_class[label] for verdict in verdicts})
        for label in verdicts[0].by_class
    )


def _figures_table(caption: str, figures: Mapping[str, Figures], more: Sequence[tuple[str, list[str]]] = ()) -> str:
    """Figures of several finders on the same images, by the finders' names, with more rows below."""
    several = list(figures.values())
    rows = (
        ("Dice", [_scored(one.dice) for one in several]),
        ("mask IoU", [_scored(one.mask_iou) for one in several]),
        ("box IoU", [_scored(one.box_iou) for one in several]),
        ("lung lost", [_lung(one.lost.mean) + _bracketed(one.lost, _hundredths) for one in several]),
        ("images losing > 1 %", [_shared(one.losing) for one in several]),
        ("images kept whole", [_shared(one.whole) for one in several]),
        ("rank correlation of quality and box IoU", [_number(one.rho) for one in several]),
        *more,
    )
    told = f"{several[0].images:,} images of {several[0].patients:,} patients"
    shown = table(f"{caption}: {told}", ("mean (95 % interval)", *figures), [(name, *cells) for name, cells in rows])
    return f'<div class="figures">{shown}</div>\n'


def _scored(estimate: Estimate | None) -> str:
    return "n/a" if estimate is None else f"{estimate.mean:.3f}" + _bracketed(estimate, "{:.3f}".format)


def _shared(estimate: Estimate) -> str:
    return percent(estimate.mean, 1) + _bracketed(estimate, lambda share: f"{100 * share:.1f}")


def _lung(share: float) -> str:
    # Never 0 % unless it is.
    told = _hundredths(share) if share == 0 or share >= 0.0001 else "<0.01"
    return f"{told}\N{NO-BREAK SPACE}%"


def _hundredths(share: float) -> str:
    return f"{100 * share:.2f}"


def _bracketed(estimate: Estimate, told: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({told(estimate.low)}–\N{WORD JOINER}{told(estimate.high)})"


def _tail(estimate: Estimate | None) -> str:
    return _number(None if estimate is None else estimate.tail)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _notes(verdicts: Sequence[Verdict]) -> str:
    items = []
    patients = verdicts[0].figures.patients
    if patients < _FEW_PATIENTS:
        items.append(
            f'<li class="careful"><strong>Few patients.</strong> {patients:,} are too few to tell the finders apart: '
            "look at the intervals.</li>\n"
        )
    for verdict in verdicts:
        kind = "careful" if verdict.figures.losing.mean > LOSS_LIMIT else "fact"
        items.append(
            f'<li class="{kind}"><strong>{escape(verdict.finder.name)}.</strong> '
            f"{escape(' '.join(_sentences(verdict)))}</li>\n"
        )
    return f'<ul class="notes">\n{"".join(items)}</ul>\n'


def _sentences(verdict: Verdict) -> Iterator[str]:
    figures, curve = verdict.figures, verdict.curve
    losing = round(figures.losing.mean * figures.images)
    yield (
        f"It keeps {percent(figures.whole.mean, 1)} of the images whole, for it does not trust its box there, and "
        "crops the others."
        if figures.whole.mean
        else "It trusts its box on every image, and crops it."
    )
    yield (
        f"On average {_lung(figures.lost.mean)} of the lung is outside the crop; {losing:,} of {figures.images:,} "
        f"images lose more than {whole_percent(LOSS_LIMIT)}."
    )
    if figures.losing_untrusted.mean != figures.losing.mean:
        untrusted = round(figures.losing_untrusted.mean * figures.images)
        yield f"Were every box used, whatever its quality, {untrusted:,} images would."
    if figures.dice is not None:
        yield f"Its outlines agree with the human ones to a Dice of {figures.dice.mean:.3f}."
    if figures.rho is None:
        yield "Its quality says nothing here about how good its boxes are: one of the two is the same everywhere."
        return
    yield (
        f"The half of the images that it trusts most has a mean box IoU of {1 - risk_at(curve, 0.5):.3f}, all have "
        f"{1 - curve.random:.3f}; the best half there is would have {1 - oracle_at(curve, 0.5):.3f}."
    )


def _lost(verdicts: Sequence[Verdict]) -> str:
    names = [name for _, name in _LOST_BANDS]
    edges = [-1.0, *(high for high, _ in _LOST_BANDS)]
    drawn, rows = [], []
    for verdict in verdicts:
        lost = np.array([row.lost for row in verdict.rows])
        counts = [int(((lost > low) & (lost <= high)).sum()) for low, high in pairwise(edges)]
        losing = int((lost > LOSS_LIMIT).sum())
        drawn.append(Bar(verdict.finder.name, counts, f"{with_percent(losing, lost.size)} lose more than 1 %"))
        rows.append((verdict.finder.name, *(with_percent(count, lost.size) for count in counts)))
    title = "Images by the share of lung that is outside the crop"
    legend = list(zip(ORDERED_COLOURS, names, strict=True))
    return bars(title, legend, drawn) + numbers(title, ("finder", *names), rows)


def _risk(verdicts: Sequence[Verdict]) -> str:
    highest = round_up(max(float(verdict.curve.risk.max()) for verdict in verdicts))
    charts = "".join(risk_chart(verdict, highest) for verdict in verdicts)
    legend = keys((("main", "ordered by its quality"), ("best", "best order there is"), ("chance", "no order at all")))
    rows = [
        (
            verdict.finder.name,
            *(f"{risk_at(verdict.curve, share):.3f}" for share in COVERAGES),
            f"{verdict.curve.area:.3f}",
            f"{verdict.curve.excess_area:.3f}",
        )
        for verdict in verdicts
    ]
    columns = ("finder", *(f"best {whole_percent(share)}" for share in COVERAGES[:-1]), "all", "AURC", "excess")
    return (
        "<p>Mean risk, 1 less box IoU, of the images that each finder trusts most. The nearer the curve to the best "
        "order, the better the quality tells good boxes from bad.</p>\n"
        f'{legend}<div class="plots">{charts}</div>\n' + table("Risk of the best-trusted share", columns, rows)
    )


def _calibration(verdicts: Sequence[Verdict]) -> str:
    charts = "".join(scatter_chart(verdict) for verdict in verdicts)
    legend = keys(
        (
            ("best", "mean of each tenth of the quality"),
            ("chance", "quality = box IoU"),
            ("limit", "below it, kept whole"),
        )
    )
    rows = [
        (
            f"{verdict.finder.name}, {one.low:.1f}–{one.high:.1f}",
            f"{one.images:,}",
            f"{one.quality:.3f}",
            f"{one.box_iou:.3f}",
        )
        for verdict in verdicts
        for one in calibration(verdict)
    ]
    return (
        "<p>Each dot is a radiograph. If the quality were a forecast of the box IoU, the means would lie on the "
        "diagonal.</p>\n"
        f'{legend}<div class="plots">{charts}</div>\n'
        + numbers("Mean box IoU by quality", ("finder and quality", "images", "mean quality", "mean box IoU"), rows)
    )


def _facts(subject: Subject, verdicts: Sequence[Verdict]) -> str:
    finders = "".join(
        f"<dt>{escape(one.finder.name)}</dt><dd>{escape(one.finder.description)}. The whole image is kept below a "
        f"quality of {one.min_quality:g}.</dd>\n"
        for one in verdicts
    )
    return (
        f"<p>{escape(subject.chosen)} Boxes were given a margin of {percent(subject.margin, 1)} of their own side on "
        "each side. All is measured at the radiographs' own resolution. Times are this machine's, decoding left "
        "out.</p>\n"
        f"<dl>{finders}</dl>\n"
    )


def _sheets(subject: Subject, verdicts: Sequence[Verdict]) -> str:
    order = worst_first(verdicts[0].rows)
    worst, others = order[:WORST], order[WORST:]
    drawn = np.random.default_rng(subject.seed).permutation(len(others))[:RANDOM]
    at_random = [others[number] for number in drawn]
    first = escape(verdicts[0].finder.name)
    told = "Dice" if verdicts[0].figures.dice else "box IoU"
    return (
        "<p>Lines round the lungs are outlines; rectangles are what the crop keeps, margin included. Take lines away "
        "to see what is under them. An image's number is its place in the folder of pairs, in order of the names; "
        "names themselves are not told, for they may identify somebody.</p>\n"
        + layer_keys(verdicts)
        + f"<h3>The worst {len(worst)} of {first}</h3>\n<p>First those that lose more than 1 % of the lung, the "
        f"greatest loss first; then those of the lowest {told}.</p>\n"
        + sheet(verdicts, worst, subject.numbers)
        + (
            f"<h3>{len(at_random)} of the others at random</h3>\n{sheet(verdicts, at_random, subject.numbers)}"
            if at_random
            else ""
        )
    )
