"""The report: one HTML page that says how good a head is, beside the baseline, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from classifiers.reports import facts, headline, results, words
from classifiers.reports.document import NOTICE, Section, document
from classifiers.reports.examples import Example, sheet

if TYPE_CHECKING:
    from classifiers.trained import TrainedHead


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
        Section("words", "The words", words.figures("head")),
        Section(
            "limits", "Limits", words.limits("head", facts.calibration_in_words(trained), trained.task.multi_label)
        ),
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
    return notice + _headline(trained, splits[0])


def _headline(trained: TrainedHead, split: str) -> str:
    head, baseline = trained.metrics[split], trained.baseline[split]
    said = []
    if split != "test":
        said.append(
            "<strong>No test split.</strong> The figures are of val, which training looked at to stop, to choose "
            "thresholds or to calibrate: they may be too good."
        )
    said += headline.doubts(head, None if trained.head_name == "majority" else baseline)
    return headline.beside(head, baseline, split) + headline.caution(said)


def _results(trained: TrainedHead, split: str) -> str:
    head, baseline = trained.metrics[split], trained.baseline[split]
    note = f"<p>{head.n:,} images of {head.patients:,} patients.</p>\n"
    if split == "val":
        instead = "rely on those of test" if "test" in trained.metrics else "there is no test split to check them on"
        note += (
            "<p>Thresholds, calibration and early stopping were chosen on val, so its figures may be too good: "
            f"{instead}.</p>\n"
        )
    # What may be too good is there for who looks for it, and does not make the page twice as long for the others.
    return note + results.on_split(head, baseline, split, folded=split != _splits(trained)[0])


def _errors(examples: Sequence[Example]) -> str:
    return (
        "<p>Wrong decisions of which the head was surest. Look for wrong labels, tubes, markers, bad crops. They are "
        "chosen for being wrong, so they say nothing about how often it errs. The probability is the one that the head "
        "gave to its decision; the letters are the beginning of the image's id.</p>\n" + sheet(examples)
    )
