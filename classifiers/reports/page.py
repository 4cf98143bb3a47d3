"""The report: one HTML page that says how good a head is, beside the baseline, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from classifiers.evaluation import Figure
from classifiers.reports import facts, results
from classifiers.reports.document import NOTICE, Section, document
from classifiers.reports.examples import Example, sheet
from classifiers.reports.tables import number

if TYPE_CHECKING:
    from classifiers.trained import TrainedHead

#: An interval wider than this is told as such: it holds heads that nobody would call equally good.
_WIDE: Final = 0.1

_WORDS: Final = """
<dl>
<dt>Recall, or sensitivity</dt><dd>Of the images of a class, the share that the head decided for it.</dd>
<dt>Specificity</dt><dd>Of the images not of the class, the share that it did not decide for it.</dd>
<dt>Precision</dt><dd>Of the images that it decided for the class, the share that are of it. It falls where the class is
rarer.</dd>
<dt>F1</dt><dd>The harmonic mean of precision and recall.</dd>
<dt>AUC</dt><dd>The probability that an image of the class is ranked above one that is not of it: 0.5 is chance, 1
perfect. No threshold plays a part.</dd>
<dt>AP, average precision</dt><dd>The area under the precision-recall curve: chance is the share of the class.</dd>
<dt>Brier score, ECE</dt><dd>How far probabilities are from what came true: by image, squared, and on average over ten
bins of probability.</dd>
<dt>Balanced accuracy</dt><dd>The mean over classes of recall; of labels, of the mean of recall and specificity. Always
answering the same gives 1 / classes, or 0.5 for labels.</dd>
<dt>Micro, macro, weighted, samples</dt><dd>Averages: over all answers as one heap; over classes, each counting the
same; over classes by their support; over images.</dd>
<dt>Support</dt><dd>How many images are of the class.</dd>
<dt>Intervals</dt><dd>95 %: how far a figure might move with other patients of the same kind (bootstrap over patients,
whose images stay together). They do not cover another hospital, nor another training of the head.</dd>
<dt>Majority baseline</dt><dd>A head that has learnt nothing but how frequent each class is.</dd>
</dl>
"""


def render_report(trained: TrainedHead, examples: Sequence[Example] = ()) -> str:
    """Draw a head's report: a whole HTML page that needs nothing but itself, no script, no network.

    The headline is the balanced accuracy (of labels the macro AUC) on test, or on val where there is no test, beside
    the majority baseline's.

    Args:
        trained: the head with its evaluations.
        examples: the worst errors to show, `worst_errors` finds them; their crops are inlined.
    """
    splits = _splits(trained)
    sections = [
        Section("data", "What was trained on what", facts.training_data(trained)),
        *(Section(f"on-{split}", f"On {split}", _results(trained, split)) for split in splits),
        Section("thresholds", "Thresholds", facts.thresholds(trained)),
        Section("learning", "Learning curves", facts.learning_curves(trained)),
        *([Section("errors", "The worst errors", _errors(examples))] if examples else []),
        Section("identity", "What this head is", facts.identity(trained)),
        Section("words", "The words", _WORDS),
        Section("limits", "Limits", _limits(trained)),
    ]
    return document(f"Head {trained.head_name} on task {trained.task.name}", _opening(trained, examples), sections)


def _splits(trained: TrainedHead) -> list[str]:
    """Those with figures: the one to rely on first."""
    return [name for name in ("test", "val") if name in trained.metrics]


def _opening(trained: TrainedHead, examples: Sequence[Example]) -> str:
    private = (
        " This page shows small copies of radiographs: it is as confidential as they are."
        if any(one.crop for one in examples)
        else ""
    )
    untrained = (
        "<br>\n<strong>The backbone is untrained</strong>: the figures show that the way works, not what it can do."
        if "untrained" in trained.provenance.get("Features", "")
        else ""
    )
    notice = f'<p class="notice">{NOTICE}{private}<br>\n{facts.calibration_in_words(trained)}{untrained}</p>\n'
    splits = _splits(trained)
    if not splits:
        return notice + "<p>Not evaluated: neither a val nor a test split had rows that the task answers.</p>\n"
    split = splits[0]
    return notice + _headline(trained, split) + _caution(trained, split)


def _headline(trained: TrainedHead, split: str) -> str:
    head, baseline = trained.metrics[split], trained.baseline[split]
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


def _caution(trained: TrainedHead, split: str) -> str:
    """What keeps a reader from relying on the headline; nothing where nothing does."""
    head, baseline = trained.metrics[split], trained.baseline[split]
    name, measured = head.headline
    chance = baseline.headline[1].value
    said = []
    if split != "test":
        said.append(
            "<strong>No test split.</strong> The figures are of val, which training looked at to stop, to choose "
            "thresholds or to calibrate: they may be too good."
        )
    if measured.low is not None and measured.high is not None:
        if measured.high - measured.low > _WIDE:
            said.append(
                f"<strong>A wide interval.</strong> With other patients of the same kind the {escape(name)} could as "
                f"well be {measured.low:.2f} or {measured.high:.2f}."
            )
        if chance is not None and trained.head_name != "majority" and measured.low <= chance:
            said.append(
                "<strong>Not shown to be better than the majority baseline:</strong> the interval reaches down to it."
            )
    said += results.few_images(head)
    if not said:
        return ""
    return f'<div class="caution">{"".join(f"<p>{one}</p>" for one in said)}</div>\n'


def _results(trained: TrainedHead, split: str) -> str:
    head, baseline = trained.metrics[split], trained.baseline[split]
    note = f"<p>{head.n:,} images of {head.patients:,} patients.</p>\n"
    if split == "val":
        instead = "rely on those of test" if "test" in trained.metrics else "there is no test split to check them on"
        note += (
            "<p>Thresholds, calibration and early stopping were chosen on val, so its figures may be too good: "
            f"{instead}.</p>\n"
        )
    tables = results.summary(head, baseline, split) + results.per_class(head, split)
    rest = "".join(
        f"<h3>{escape(heading)}</h3>\n{content}"
        for heading, content in (
            (f"Confusion on {split}", results.confusion(head, split)),
            (f"ROC and precision-recall on {split}", results.curves(head)),
            (f"Calibration on {split}", results.calibration(head, split)),
            (f"Subgroups on {split}", results.subgroups(head, split)),
        )
    )
    if split == _splits(trained)[0]:
        return note + tables + rest
    # What may be too good is there for who looks for it, and does not make the page twice as long for the others.
    more = f"<summary>Matrices, curves, calibration and subgroups on {escape(split)}</summary>"
    return f"{note}{tables}<details>{more}\n{rest}</details>\n"


def _errors(examples: Sequence[Example]) -> str:
    return (
        "<p>Wrong decisions of which the head was surest. Look for wrong labels, tubes, markers, bad crops. They are "
        "chosen for being wrong, so they say nothing about how often it errs. The probability is the one that the head "
        "gave to its decision; the letters are the beginning of the image's id.</p>\n" + sheet(examples)
    )


def _limits(trained: TrainedHead) -> str:
    decides = (
        "Each label is decided by itself: a head may decide several, or none. That none is decided does not mean that "
        "the image shows nothing."
        if trained.task.multi_label
        else "The head always decides for one of its classes, also on an image that shows none of them, or is no "
        "radiograph of the chest."
    )
    return f"""
<p>Research use only. This head is not a medical device and is not for diagnosis, triage or any other care of
patients.</p>
<p>The figures hold for images like those of the split they were measured on: the same hospitals, machines, views and
ages, labelled in the same way. Labels of public archives are often read from reports or folders by a program, and some
are wrong; a head learns their mistakes, and is then measured against them. It may also answer from what has nothing to
do with the disease, such as a marker, a tube, or the machine. Expect worse figures on images from elsewhere, and
measure them there before you rely on any.</p>
<p>{facts.calibration_in_words(trained)} Where a class is rarer or more frequent than here, precision changes even if
the head does not.</p>
<p>{decides}</p>
<p>Groups that are few here, or absent, were hardly measured: that a group is not in the tables does not mean that the
head serves it well.</p>
"""
