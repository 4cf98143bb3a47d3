"""Sections of the page about the images: sizes, formats, lung crops, grey values, and a few of them in small."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Final

from pipelines.exploration.counts import QUALITY_BANDS
from pipelines.exploration.crops import Crops, Picture
from pipelines.exploration.html import histogram, interval, table, with_percent
from pipelines.exploration.samples import GROUPS_KEPT
from pipelines.exploration.survey import Survey, quantile
from pipelines.sources.base import POSITIVE, UNCERTAIN

_GREY_BAND: Final = 16


def images_section(survey: Survey) -> str:
    """Sizes and formats of the originals."""
    widths, heights = survey.counts.widths, survey.counts.heights
    rows = [
        (
            dataset,
            *_spread(widths.where(dataset=dataset).over("width")),
            *_spread(heights.where(dataset=dataset).over("height")),
        )
        for dataset in survey.datasets
    ]
    columns = (
        *("data set", "width, median", "5 to 95 %", "smallest to largest"),
        *("height, median", "5 to 95 %", "smallest to largest"),
    )
    formats = survey.counts.formats.by("dataset", "bits", "photometric")
    ordered = sorted(formats.items(), key=lambda item: (-item[1], str(item[0])))
    return table("Sizes of the original images, pixels", columns, rows) + table(
        "Formats of the original images",
        ("data set", "bits", "photometric interpretation", "images"),
        [
            (*("not known" if value is None else str(value) for value in key), with_percent(n, survey.images))
            for key, n in ordered
        ],
    )


def _spread(counts: Mapping[int | None, int]) -> tuple[str, str, str]:
    median = quantile(counts, 0.5)
    return (
        "n/a" if median is None else f"{median:,}",
        interval(quantile(counts, 0.05), quantile(counts, 0.95)),
        interval(quantile(counts, 0), quantile(counts, 1)),
    )


def crops_section(survey: Survey, crops: Crops) -> str:
    """How the lungs were found, and grey values of the crops."""
    cube = survey.counts.crops
    bands = {f"{band / QUALITY_BANDS:.1f}–{(band + 1) / QUALITY_BANDS:.1f}": band for band in range(QUALITY_BANDS)}
    counts = cube.over("quality")
    quality = {name: counts.get(band, 0) for name, band in bands.items()}
    croppers = sorted(cube.by("dataset", "cropper").items(), key=lambda item: str(item[0]))
    title = "Images by quality of the lung box (0: lungs not found, 1: sure)"
    return (
        # Nobody looked for the lungs where all qualities are null.
        (histogram(title, "quality", "images", quality, list(quality)) if any(quality.values()) else "")
        + table(
            "How the crops were cut",
            ("data set", "cropper", "images"),
            [(dataset, str(cropper), with_percent(n, survey.datasets[dataset])) for (dataset, cropper), n in croppers],
        )
        + _grey_values(crops)
    )


def _grey_values(crops: Crops) -> str:
    measured = crops.grey_values
    bands = [f"{first}–{first + _GREY_BAND - 1}" for first in range(0, 256, _GREY_BAND)]
    means = Counter(bands[int(one.mean) // _GREY_BAND] for one in measured)
    rows = []
    for dataset in sorted({one.dataset for one in measured}):
        mine = [one for one in measured if one.dataset == dataset]
        brightness: Counter[int | None] = Counter(round(one.mean) for one in mine)
        contrast: Counter[int | None] = Counter(round(one.deviation) for one in mine)
        rows.append((dataset, f"{len(mine):,}", *_spread(brightness)[:2], *_spread(contrast)[:2]))
    return (
        f"<p>Grey values are those of a random sample of {len(measured):,} crops, as they are stored, from at "
        f"most {GROUPS_KEPT} places in the lake's files.</p>\n"
        + histogram("Sampled crops by brightness (mean grey, 0 black to 255 white)", "mean grey", "crops", means, bands)
        + table(
            "Grey values of the sampled crops: brightness is their mean, contrast their standard deviation",
            ("data set", "crops", "brightness, median", "5 to 95 %", "contrast, median", "5 to 95 %"),
            rows,
        )
    )


def examples_section(survey: Survey, crops: Crops, seed: int) -> str:
    """A sheet of small crops for each finding."""
    if not crops.pictures:
        return "<p>None were asked for, or no finding is positive.</p>\n"
    sheets = []
    for name in survey.shown:
        pictures = [crops.pictures[place] for place in survey.counts.examples.places(name)]
        if pictures:
            shown = "".join(map(_picture, pictures))
            sheets.append(f'<h3>{escape(name)}</h3>\n<div class="sheet">{shown}</div>\n')
    return (
        f"<p>Crops drawn at random (seed {seed}) among the positive images of each finding, over all splits, "
        f"in small. They show what the images are like, not what a finding looks like.</p>\n{''.join(sheets)}"
    )


def _picture(picture: Picture) -> str:
    told = picture.split
    for value, word in ((POSITIVE, ""), (UNCERTAIN, "uncertain: ")):
        if names := [name for name, said in picture.findings.items() if said == value]:
            told += f" · {word}{', '.join(names)}"
    data = base64.b64encode(picture.jpeg).decode()
    return (
        f'<figure><img alt="Crop of a radiograph; {escape(told)}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{escape(told)}</figcaption></figure>\n"
    )
