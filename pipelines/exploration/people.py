"""Sections of the page about whom and how: age, sex and view, over all images and for each finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pipelines.exploration.counts import OLDEST
from pipelines.exploration.html import (
    BLANK,
    COLOURS,
    ORDERED_COLOURS,
    Bar,
    bars,
    interval,
    numbers,
    whole_percent,
    with_percent,
)
from pipelines.exploration.survey import Contrast, Survey, quantile
from pipelines.sources.base import POSITIVE

#: First years of the age bands, with their names.
_AGE_BANDS: Final = {0: "0–17", 18: "18–39", 40: "40–59", 60: "60–79", 80: "80 and older"}
_UNKNOWN: Final = "not known"
_SEX_NAMES: Final = {"F": "female", "M": "male", "O": "other", None: _UNKNOWN}
_VIEW_NAMES: Final = {"PA": "PA", "AP": "AP", "LATERAL": "lateral", None: _UNKNOWN}


def people_section(survey: Survey) -> str:
    """Age and sex."""
    ages = "<p>No age is known.</p>\n"
    if survey.unknown("age") < survey.images:
        ages = _ages_by_sex(survey) + _ages_of_findings(survey)
    return ages + _sexes_of_findings(survey)


def _ages_by_sex(survey: Survey) -> str:
    sexes = [sex for sex in _SEX_NAMES if sex in survey.counts.ages.over("sex")]
    decades = {f"{first}–{first + 9}" if first < OLDEST else f"{OLDEST} and older": first for first in range(0, 91, 10)}
    counts: Counter[tuple[str | None, int | None]] = Counter()
    for (sex, age), n in survey.counts.ages.by("sex", "age").items():
        counts[sex, None if age is None else age // 10 * 10] += n
    rows = {name: [counts[sex, first] for sex in sexes] for name, first in (decades | {_UNKNOWN: None}).items()}
    legend = _legend(_SEX_NAMES, sexes)
    chart = bars(
        "Images by age in years and sex",
        legend,
        [Bar(name, parts, with_percent(sum(parts), survey.images)) for name, parts in rows.items()],
        longest=max(map(sum, rows.values())),
    )
    return chart + numbers(
        "Images by age and sex",
        ("age", *(name for _, name in legend)),
        [(name, *(f"{part:,}" for part in parts)) for name, parts in rows.items()],
    )


def _legend(names: Mapping[str | None, str], values: Sequence[str | None]) -> list[tuple[str, str]]:
    """Colours of the values that are there; a value has the same colour on every page."""
    colours = dict(zip(names, COLOURS, strict=False)) | {None: BLANK}
    return [(colours[value], names[value]) for value in values]


def _ages_of_findings(survey: Survey) -> str:
    groups = {"all images": survey.ages()} | {name: survey.ages(name) for name in survey.findings}
    names = [*_AGE_BANDS.values(), _UNKNOWN]
    legend = list(zip((*ORDERED_COLOURS, BLANK), names, strict=True))
    rows = {}
    for name, ages in groups.items():
        banded: Counter[str] = Counter()
        for age, n in ages.items():
            banded[_UNKNOWN if age is None else _AGE_BANDS[max(first for first in _AGE_BANDS if first <= age)]] += n
        rows[name] = [banded[band] for band in names]
    medians = {name: quantile(ages, 0.5) for name, ages in groups.items()}
    shown = {name: _UNKNOWN if median is None else f"median {median} years" for name, median in medians.items()}
    return bars(
        "Age of the images that are positive for a finding",
        legend,
        [Bar(name, parts, shown[name]) for name, parts in rows.items()],
    ) + numbers(
        "Age of the images that are positive for a finding",
        ("finding", "median", "middle half", *names),
        [
            (
                name,
                shown[name].removeprefix("median "),
                interval(quantile(groups[name], 0.25), quantile(groups[name], 0.75)),
                *(with_percent(part, sum(parts)) for part in parts),
            )
            for name, parts in rows.items()
        ],
    )


@dataclass(frozen=True)
class _Grouping:
    """How images are told apart by a column: its name, title and values, and the share that is compared."""

    key: str
    title: str
    names: Mapping[str | None, str]
    share_of: str
    contrast: Callable[[str], Contrast | None]


def _sexes_of_findings(survey: Survey) -> str:
    return _groups_of_findings(survey, _Grouping("sex", "Sex", _SEX_NAMES, "female", survey.female_share))


def views_section(survey: Survey) -> str:
    """Views."""
    return _groups_of_findings(survey, _Grouping("view", "View", _VIEW_NAMES, "AP", survey.ap_share))


def _groups_of_findings(survey: Survey, grouping: _Grouping) -> str:
    """Shares of sexes or views on all images and on those with each finding, and how the others differ."""
    everywhere = survey.counts.images.over(grouping.key)
    if set(everywhere) == {None}:
        return f"<p>No {grouping.key} is known.</p>\n"
    values = [value for value in grouping.names if value in everywhere]
    names = [grouping.names[value] for value in values]
    by_finding = survey.counts.findings.where(value=POSITIVE).by("finding", grouping.key)
    rows = {"all images": [everywhere[value] for value in values]} | {
        name: [by_finding.get((name, value), 0) for value in values] for name in survey.findings
    }
    told = {"all images": ""} | {
        name: "n/a"
        if one is None
        else f"{grouping.share_of} {whole_percent(one.positives.value)}, else {whole_percent(one.others.value)}"
        for name, one in ((name, grouping.contrast(name)) for name in survey.findings)
    }
    caption = f"{grouping.title} of the images that are positive for a finding"
    return (
        bars(caption, _legend(grouping.names, values), [Bar(name, rows[name], told[name]) for name in rows])
        + f"<p>Beside each bar: the share of {grouping.share_of} images among those with the finding and (else) among "
        f"those without it, where the {grouping.key} is known.</p>\n"
        + numbers(
            caption,
            ("finding", *names, f"{grouping.share_of}, with against without"),
            [(name, *(with_percent(part, sum(parts)) for part in parts), told[name]) for name, parts in rows.items()],
        )
    )
