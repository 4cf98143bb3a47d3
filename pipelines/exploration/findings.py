"""Sections of the page about findings: how often, in which split, how many at once, and which together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from pipelines.exploration.html import (
    BLANK,
    HATCHED,
    Bar,
    bars,
    histogram,
    matrix,
    numbers,
    percent,
    table,
    with_percent,
)
from pipelines.exploration.survey import SHOWN_FINDINGS, Mentions, Survey

_MENTION_LEGEND: Final = (
    *(("s1", "positive"), ("s4", "negative"), ("s2", "uncertain"), (BLANK, "not mentioned")),
    (HATCHED, "never recorded by its data set, or image without labels"),
)

_RULE: Final = """
<p><strong>How findings are counted.</strong> <em>Positive</em>, <em>negative</em> and <em>uncertain</em> are what the
label file says. A finding that it does not mention of an image counts as absent, as is usual in training, if it
mentions another one of that image, and this one on any image of the data set; else the image is left out of what is
said of the finding. Uncertain labels are left out of shares and correlations.</p>
"""


def findings_section(survey: Survey) -> str:
    """How often each finding is positive, overall and in each split, and how many are at once."""
    if not survey.findings:
        return "<p>The label files tell no findings.</p>\n"
    overall = {name: survey.mentions(name) for name in survey.findings}
    legend = [entry for entry, there in zip(_MENTION_LEGEND, _used(overall.values()), strict=True) if there]
    chart = bars(
        "Findings on all images",
        legend,
        [
            Bar(
                name,
                [n for n, there in zip(_parts(one), _used(overall.values()), strict=True) if there],
                with_percent(one.positive, one.answered),
            )
            for name, one in overall.items()
        ],
    )
    told = (
        "<p>Beside each bar: positive images, and their share of the images that answer for the finding (positive, "
        "negative or not mentioned).</p>\n"
    )
    return (
        _RULE.strip()
        + chart
        + told
        + _mention_table("all images", overall)
        + _positives_by_split(survey)
        + "".join(
            _mention_table(split, {name: survey.mentions(name, split) for name in survey.findings})
            for split in survey.splits
        )
        + _labels_per_image(survey)
    )


def _parts(mentions: Mentions) -> tuple[int, ...]:
    return mentions.positive, mentions.negative, mentions.uncertain, mentions.silent, mentions.unrecorded


def _used(every: Iterable[Mentions]) -> list[bool]:
    return [any(column) for column in zip(*map(_parts, every), strict=True)]


def _mention_table(where: str, mentions: Mapping[str, Mentions]) -> str:
    columns = ("finding", *(meaning for _, meaning in _MENTION_LEGEND), "positive of answered", "constant answer right")
    rows = [
        (
            name,
            *(with_percent(part, sum(_parts(one))) for part in _parts(one)),
            percent(one.positive, one.answered),
            percent(one.majority, one.answered),
        )
        for name, one in mentions.items()
    ]
    return numbers(f"Findings on {where}", columns, rows)


def _positives_by_split(survey: Survey) -> str:
    parts = {name: {split: survey.mentions(name, split) for split in survey.splits} for name in survey.findings}
    rows = [
        (name, *(f"{one.positive:,} ({percent(one.positive, one.answered)})" for one in of_splits.values()))
        for name, of_splits in parts.items()
    ]
    return table("Positive images and their share, by split", ("finding", *survey.splits), rows)


def _labels_per_image(survey: Survey) -> str:
    counts = survey.counts.labels.over("positives")
    rows = {f"{number}": n for number, n in sorted(counts.items())}
    return histogram("Images by number of positive findings", "findings", "images", rows, list(rows)) + (
        "<p>Findings that say that nothing was found, such as <em>normal</em>, count as findings here.</p>\n"
    )


def together_section(survey: Survey) -> str:
    """Which findings occur together: counts and correlations."""
    names = survey.shown
    if len(names) < 2:
        return "<p>There are fewer than two findings.</p>\n"
    positive = {name: survey.mentions(name).positive for name in names}
    both = [[_share_cell(survey.together(first, second), positive[first]) for second in names] for first in names]
    phi = [[_phi_cell(None if a == b else survey.phi(a, b), a == b) for b in names] for a in names]
    cut = (
        f"<p>The {SHOWN_FINDINGS} most frequent of {len(survey.findings)} findings are shown.</p>\n"
        if len(survey.findings) > SHOWN_FINDINGS
        else ""
    )
    return (
        f"{cut}<p>The shade is the share among the row's positive images.</p>\n"
        + matrix("Images positive for both", names, both)
        + matrix("Correlation of the labels (phi)", names, phi)
        + "<p>phi goes from -1 (the two are always opposite) over 0 (one tells nothing of the other) to 1 (always "
        "alike). Orange: together less often than by chance; blue: more often. Between a rare and a frequent finding "
        "it stays near 0 even where they never meet. It is left open (–) where one of them never varies on the images "
        "that answer for both.</p>\n"
    )


def _share_cell(count: int, positives: int) -> tuple[str, float]:
    return f"{count:,}", count / positives if positives else 0.0


def _phi_cell(value: float | None, is_same: bool) -> tuple[str, float]:
    if is_same:
        return "", 0.0
    return ("–", 0.0) if value is None else (f"{round(value, 2) + 0.0:.2f}", value)
