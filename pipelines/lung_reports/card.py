"""The card of trained weights: what a reader has to know before using them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from featurizers.segmenter.calibration import WRONG, Trust
from pipelines import __version__
from pipelines.lung_reports.figures import Estimate, Verdict


@dataclass(frozen=True)
class Schooling:
    """What weights come from.

    Attributes:
        about: what the pairs are, in their owner's words.
        train, val: pairs trained on, and pairs that the quality was fitted to.
        phantoms: trained on.
        adults: share of adults among the phantoms.
        overrides: settings that were not the defaults, as the command line takes them.
    """

    about: str
    train: int
    val: int
    phantoms: int
    adults: float
    overrides: str


def render_card(schooling: Schooling, verdicts: Sequence[Verdict], trust: Sequence[Trust], min_quality: float) -> str:
    """The card as Markdown.

    Args:
        schooling: what the weights come from.
        verdicts: of finders on the same pairs, one or more.
        trust: of the weights' own quality on views of pairs left out.
        min_quality: the quality that `trust` asked for.
    """
    judged = verdicts[0].figures
    drawn = f", {schooling.adults:.0%} of them adults" if schooling.phantoms else ""
    return "\n".join(
        [
            "# Lung segmenter",
            "",
            "Finds both lungs of a frontal chest radiograph, parts behind the heart and under disease included, so "
            "that the image can be cropped to them. For research; no number of it is a diagnosis.",
            "",
            "## Trained on",
            "",
            f"- {schooling.about}",
            f"- {schooling.train:,} pairs of it, and {schooling.val:,} more to fit the quality",
            f"- {schooling.phantoms:,} phantoms drawn by Pleura {__version__}{drawn}",
            "",
            f"## Judged on {judged.images:,} pairs of {judged.patients:,} patients left out",
            "",
            "Means with their 95 % intervals over patients.",
            "",
            "| finder | Dice | box IoU | images losing more than 1 % of lung | kept whole |",
            "|---|---|---|---|---|",
            *(_row(verdict) for verdict in verdicts),
            "",
            "They come from the same collection as the pairs trained on: elsewhere expect less.",
            "",
            "## When not to trust it",
            "",
            f"Views of the same pairs left out. Trusted: quality of at least {min_quality:g}, so the image is cropped. "
            f"Wrong: the box overlaps the true one by less than {WRONG:g}, or there is no chest.",
            "",
            "| view | views | trusted | of them wrong |",
            "|---|---|---|---|",
            *(f"| {each.kind} | {each.views:,} | {each.trusted:,} | {each.wrong:,} |" for each in trust),
            "",
            "## Train again",
            "",
            "```",
            f"python jobs/train_segmenter.py pairs=DIR out=DIR {schooling.overrides}".rstrip(),
            "```",
            "",
        ]
    )


def _row(verdict: Verdict) -> str:
    figures = verdict.figures
    shares = (f"{each.mean:.1%}{_interval(each, 100, 1)}" for each in (figures.losing, figures.whole))
    return f"| {verdict.finder.name} | {_scored(figures.dice)} | {_scored(figures.box_iou)} | {' | '.join(shares)} |"


def _scored(estimate: Estimate | None) -> str:
    return "no mask" if estimate is None else f"{estimate.mean:.3f}{_interval(estimate, 1, 3)}"


def _interval(estimate: Estimate, scale: float, digits: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" ({scale * estimate.low:.{digits}f}–{scale * estimate.high:.{digits}f})"
