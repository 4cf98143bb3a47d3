"""The page about a lake's studies: one self-contained HTML file, with no script and nothing to load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from classifiers.reports.document import html_file
from pipelines.exploration.crops import Crops
from pipelines.exploration.findings import findings_section, together_section
from pipelines.exploration.html import STYLE, histogram, table, with_percent
from pipelines.exploration.images import crops_section, examples_section, images_section
from pipelines.exploration.notes import notes
from pipelines.exploration.people import people_section, views_section
from pipelines.exploration.survey import Survey

_NOTE_CLASS: Final = {True: "careful", False: "fact"}
#: First numbers of the bands of images per patient, with their names.
_IMAGE_BANDS: Final = {1: "1", 2: "2", 3: "3–5", 6: "6–10", 11: "11 and more"}

_LIMITS: Final = """
<p>Research use only; nothing here is for diagnosis or any other care of patients.</p>
<p>Labels are what the data sets' label files say. Those of public archives are often read from reports or folders by a
program, and some are wrong. A share in such a set is not the frequency of a disease among patients: archives are
selected. Correlation between labels may come from how the labels were made.</p>
"""


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        lake: the lake's name.
        dataset: the only data set that was read; None for all.
        made: when and with what, in words.
        seed: of the samples.
        quarantine: inputs by data set and reason.
    """

    lake: str
    dataset: str | None
    made: str
    seed: int
    quarantine: Mapping[tuple[str, str], int]


def render_page(subject: Subject, survey: Survey, crops: Crops) -> str:
    """Draw the page: a whole HTML document."""
    title = f"The studies of {subject.lake}" + (f": {subject.dataset}" if subject.dataset else "")
    sections = "".join(
        f"<h2>{heading}</h2>\n{content}"
        for heading, content in (
            ("What the numbers say", _notes(survey)),
            ("Splits and patients", _splits(survey)),
            ("Findings", findings_section(survey)),
            ("Findings together", together_section(survey)),
            ("Age and sex", people_section(survey)),
            ("Views", views_section(survey)),
            ("Images", images_section(survey)),
            ("Lung crops", crops_section(survey, crops)),
            ("Quarantine and duplicates", _quarantine(subject, survey)),
            ("Examples", examples_section(survey, crops, subject.seed)),
            ("Limits", _LIMITS.strip()),
        )
    )
    body = f"""<h1>{escape(title)}</h1>
<p class="notice"><strong>Research software; not a medical device; not for diagnosis.</strong> This page tells what
the label files say of the images and shows {len(crops.pictures):,} small crops of them: it is as confidential as the
images.</p>
{_tiles(subject, survey)}
{sections}
<p>{escape(subject.made)}</p>"""
    return html_file(title, STYLE, body)


def _tiles(subject: Subject, survey: Survey) -> str:
    tiles = {
        "images": f"{survey.images:,}",
        "patients" if survey.counts.patients.is_exact else "patients, estimated": f"{survey.patients:,}",
        "data sets": f"{len(survey.datasets):,}",
        "findings": f"{len(survey.findings):,}",
        "inputs in quarantine": f"{sum(subject.quarantine.values()):,}",
    }
    items = "".join(f"<li><strong>{number}</strong>{name}</li>" for name, number in tiles.items())
    return f'<ul class="tiles">{items}</ul>'


def _notes(survey: Survey) -> str:
    items = "".join(
        f'<li class="{_NOTE_CLASS[note.is_caution]}"><strong>{escape(note.about)}.</strong> {escape(note.text)}</li>\n'
        for note in notes(survey)
    )
    return f'<ul class="notes">\n{items}</ul>\n'


def _splits(survey: Survey) -> str:
    sample = survey.counts.patients
    by_splits = sample.patients_by_splits()
    patients = {
        split: survey.scaled(sum(n for splits, n in by_splits.items() if split in splits)) for split in survey.splits
    }
    rows = [
        (split, with_percent(images, survey.images), f"{patients[split]:,}", f"{images / patients[split]:.1f}")
        for split, images in survey.splits.items()
    ]
    estimated = (
        ""
        if sample.is_exact
        else f"<p>Patients are estimated from {len(sample.images_of_patients()):,} of them, to within about 1 %.</p>"
    )
    per_patient = Counter(_image_band(images) for images in sample.images_of_patients().values())
    several = Counter({band: survey.scaled(n) for band, n in per_patient.items()})
    return (
        table("Images and patients of each split", ("split", "images", "patients", "images per patient"), rows)
        + estimated
        + histogram("Patients by number of images", "images", "patients", several, list(_IMAGE_BANDS.values()))
        + _by_dataset(survey)
    )


def _image_band(images: int) -> str:
    return _IMAGE_BANDS[max(first for first in _IMAGE_BANDS if first <= images)]


def _by_dataset(survey: Survey) -> str:
    counts = survey.counts.images.by("dataset", "split")
    rows = [
        (dataset, f"{images:,}", *(f"{counts.get((dataset, split), 0):,}" for split in survey.splits))
        for dataset, images in survey.datasets.items()
    ]
    return table("Images of each data set", ("data set", "images", *survey.splits), rows)


def _quarantine(subject: Subject, survey: Survey) -> str:
    if not subject.quarantine:
        return "<p>Nothing is in quarantine: every input became a study.</p>\n"
    total = sum(subject.quarantine.values())
    rows = [
        (reason, dataset, f"{n:,}")
        for (dataset, reason), n in sorted(subject.quarantine.items(), key=lambda item: (-item[1], item[0]))
    ]
    return (
        f"<p>{with_percent(total, total + survey.images)} of the inputs are no studies, and count nowhere else on this "
        "page.</p>\n" + table("Inputs in quarantine", ("reason", "data set", "inputs"), rows)
    )
