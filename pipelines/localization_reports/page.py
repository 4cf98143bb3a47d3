"""The page about localized findings: one self-contained HTML file, with no script and nothing to load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from classifiers.reports.document import NOTICE, UNDEFINED_ID, Section, html_file
from classifiers.reports.facts import definitions
from classifiers.reports.headline import caution
from classifiers.reports.style import STYLE
from pipelines.localization_reports.figures import Figures
from pipelines.localization_reports.fit import FEW_PATIENTS, FIT_STYLE, doubts, headline, tables
from pipelines.localization_reports.gallery import GALLERY_STYLE, gallery
from pipelines.localization_reports.subject import Checks, Shown, Subject
from pipelines.localization_reports.trust import checked

_WORDS: Final = f"""
<dl>
<dt>Heat</dt><dd>Where in the crop the evidence for a class lies that the head weighs, from 0 to 1 of each image's own
most. It does not tell how much evidence there is: the probability does.</dd>
<dt>Found box</dt><dd>A box around a place where the heat reaches the level told above.</dd>
<dt>Annotated box</dt><dd>A box that somebody drew around the finding.</dd>
<dt>Pointing game</dt><dd>The share of the images of a class whose hottest place lies in an annotated box of it.</dd>
<dt>IoU</dt><dd>Intersection over union: what a found and an annotated box have in common, over the area that either
covers. 1 is the same box.</dd>
<dt>IoBB</dt><dd>Intersection over the found box: the share of the found box that lies in the annotated one. A small box
inside a large finding has 1; a found box that covers the whole image has little.</dd>
<dt>Accuracy at T</dt><dd>The share of the annotated boxes for which a found box has an IoU, or IoBB, of more than
T.</dd>
<dt>AFP at T</dt><dd>Average false positives: found boxes per image that have no more than T with any annotated box of
the class. The lower, the better.</dd>
<dt>Centre box, lung box</dt><dd>Finders that never look at the image: the middle of it, half as wide and half as high;
and all that the crop shows. A head that sees anything must do better.</dd>
<dt>Deletion, insertion</dt><dd>The head's probability while the image is taken away place by place, or given back. The
area under the curve is its mean.</dd>
<dt>Rank correlation</dt><dd>Whether two maps order the places of an image alike (Spearman), without its sign: 1 in the
same order or the reverse, 0 no relation; by chance two maps of 7 × 7 places come to 0.12.</dd>
<dt>Intervals</dt><dd>95 %: how far a figure might move with other patients of the same kind (bootstrap over patients,
whose images stay together). They do not cover another hospital, another annotator, nor another training of the
head.</dd>
<dt id="{UNDEFINED_ID}">n/a</dt><dd>Nothing to measure it by, which is not the same as 0. A value without an interval
rests on too few patients for one.</dd>
</dl>
"""

_LIMITS: Final = """
<ul>
<li>Research use only. Nothing here is for diagnosis, triage or any other care of patients.</li>
<li>Heat is about the head, not about the patient: it shows where evidence for the head's answer lies, also where the
answer is wrong, or rests on a marker, a tube or the machine.</li>
<li>Maps are coarse. The last map of a backbone has a few places across, enlarged smoothly: an edge of a found box is
not the edge of a finding, and a small finding is a part of one place.</li>
<li>Findings that often come together are learned together: the heat of one may lie on the other.</li>
<li>Annotated images are a selection: somebody chose which findings and which images to draw boxes on, often the plain
ones. Elsewhere places may fit less well.</li>
<li>Places are shown also for classes that the head did not decide for: every map has a hottest place, whether there is
a finding or not.</li>
</ul>
"""


def render_page(subject: Subject, figures: Figures | None, checks: Checks | None, shown: Sequence[Shown]) -> str:
    """Draw the page: a whole HTML document.

    Args:
        subject: what it is about, in plain text.
        figures: how well places fit; None where no image has an annotated box.
        checks: whether maps can be trusted; None where it was not looked at.
        shown: images of the gallery, in any order.
    """
    title = f"Places found by head {subject.head}"
    sections = list(_sections(subject, figures, checks, shown))
    contents = "".join(f'<li><a href="#{one.id}">{one.heading}</a></li>\n' for one in sections)
    drawn = "".join(
        f'<section aria-labelledby="{one.id}">\n<h2 id="{one.id}">{one.heading}</h2>\n'
        f"{one.content.strip()}\n</section>\n"
        for one in sections
    )
    body = f"""<header>
<h1>{escape(title)}</h1>
{_notice(subject, shown)}{_opening(subject, figures, checks)}</header>
<nav aria-label="Contents"><ol>
{contents}</ol></nav>
<main>
{drawn}</main>"""
    return html_file(title, STYLE + FIT_STYLE + GALLERY_STYLE, body)


def _sections(
    subject: Subject, figures: Figures | None, checks: Checks | None, shown: Sequence[Shown]
) -> Iterator[Section]:
    if figures is not None:
        yield Section("fit", "Against annotated boxes", _why(subject) + tables(figures))
    yield Section("checks", "Can the maps be trusted?", checked(checks))
    yield Section("images", "The images", _images(subject, shown))
    yield Section("identity", "What this is", _identity(subject))
    yield Section("words", "The words", _WORDS)
    yield Section("limits", "Limits", _LIMITS)


def _notice(subject: Subject, shown: Sequence[Shown]) -> str:
    private = " This page shows radiographs: it is as confidential as they are." if shown else ""
    untrained = (
        "<br>\n<strong>The backbone is untrained</strong>: the page shows that the way works, not what it can do."
        if subject.is_untrained
        else ""
    )
    return (
        f'<p class="notice">{NOTICE}{private}<br>\nA heatmap shows where the head\'s evidence lies, not where disease '
        f"is.<br>\nProbabilities: {escape(subject.calibration)}.{untrained}</p>\n"
    )


def _opening(subject: Subject, figures: Figures | None, checks: Checks | None) -> str:
    said = [] if figures is None else doubts(figures)
    if checks is None:
        said.append("<strong>The maps were not checked:</strong> they may convince and still be of little use.")
    else:
        said += [f"<strong>The maps:</strong> {escape(doubt)}" for doubt in checks.doubts]
        if checks.patients < FEW_PATIENTS:
            said.append(f"<strong>Few patients.</strong> The maps were checked on images of {checks.patients:,} alone.")
    if figures is None:
        unknown = (
            f"<p><strong>No annotated box to hold places against</strong>, {_where(subject)}: nothing is known about "
            f"how well they fit.</p>\n{_why(subject)}"
        )
        return unknown + caution(said)
    return headline(figures, _where(subject)) + caution(said)


def _where(subject: Subject) -> str:
    return "on all images" if subject.split is None else f"on {escape(subject.split)}"


def _why(subject: Subject) -> str:
    """How many images count, and why the others do not."""
    counted = f"{subject.annotated:,} of {subject.images:,} images have annotated boxes of these classes."
    return f"<p>{escape(' '.join([counted, *subject.unscored]))}</p>\n"


def _images(subject: Subject, shown: Sequence[Shown]) -> str:
    if not shown:
        return "<p>No image is shown.</p>"
    count = len({one.image_id for one in shown})
    images = "One image" if count == 1 else f"{count:,} images"
    return (
        f"<p>{images}, by class. What is shown is a choice, not a sample: how often places fit is told above, not "
        "here. Orange is heat, a cross the hottest place; found boxes have solid white lines, annotated ones dashed "
        "cyan lines. Tick a layer off to see what is under it. The letters are the beginning of the image's id.</p>\n"
        + gallery(shown, list(dict.fromkeys([*subject.classes, *(one.finding for one in shown)])))
    )


def _identity(subject: Subject) -> str:
    return definitions(
        {
            "Head": f"{subject.head}, fingerprint {subject.head_fingerprint}",
            "Localizer": f"fingerprint {subject.localizer}",
            "Features": subject.features,
            "Method": subject.method,
            "Found boxes": f"around what reaches {100 * subject.level:.0f} % of the map's greatest intensity",
            "Classes": ", ".join(subject.classes),
            "Decisions": subject.thresholds,
            "Split": subject.split or "all images",
            "Images": f"{subject.images:,}, of them {subject.annotated:,} with annotated boxes of these classes",
            "Annotated boxes": subject.truth,
            "Made": subject.made,
        }
    )
