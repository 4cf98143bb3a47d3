"""The page of a fine-tuned backbone: how well it learned its task, from what, how, and what it is not good for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from classifiers.reports import results, words
from classifiers.reports.document import NOTICE, Section, document
from classifiers.reports.facts import NOT_CALIBRATED, definitions
from classifiers.reports.tables import NOT_DEFINED, named, table
from pipelines.backbone_reports.curves import learning_curves, pace_curves, phases_in_words
from pipelines.backbone_reports.epochs import LOSS, figure_name, figures_of
from pipelines.backbone_reports.summary import TEST, VAL, WHO, judged_splits, summary
from pipelines.finetuned import without_places

if TYPE_CHECKING:
    from featurizers.finetuning.trainer import EpochResult
    from pipelines.finetuned import BackboneCard, Judged

_BEST: Final = "★"


def render_page(card: BackboneCard, history: Sequence[EpochResult], judged: Mapping[str, Judged]) -> str:
    """Draw the page: a whole HTML document that needs nothing but itself, no script, no network.

    Args:
        card: of the backbone.
        history: its epochs, at least one.
        judged: what the network of the best epoch says of each split, by the split's name: test, val.
    """
    splits = judged_splits(judged)
    sections = [
        Section("data", "What it learned from", _data(card)),
        *(Section(f"on-{split}", f"On {split}", _on_split(card, judged, split)) for split in splits),
        Section("learning", "Learning curves", _learning(card, history)),
        Section("identity", "What this backbone is", _identity(card)),
        Section("settings", "Settings and environment", _settings(card)),
        Section("words", "The words", words.figures(WHO)),
        Section("limits", "Limits", _limits(card, history)),
    ]
    title = f"Backbone {card.name}, fine-tuned on task {card.task}"
    notice = (
        f'<p class="notice">{NOTICE}<br>\nThe figures are of the {WHO} itself, from image to answer. '
        f"{NOT_CALIBRATED}</p>\n"
    )
    return document(title, notice + summary(card, history, judged), sections)


def _data(card: BackboneCard) -> str:
    splits = list(card.images)
    rows = [(escape(split), f"{card.images[split]:,}", f"{card.patients.get(split, 0):,}") for split in splits]
    noun = "label" if card.multi_label else "class"
    shares = [
        (
            named(name),
            *(_share(card.class_counts.get(split, {}).get(name, 0), card.images[split]) for split in splits),
        )
        for name in card.classes
    ]
    return (
        f"<p>{escape(_held_out(card))}</p>\n"
        + table("Images and patients that the task answers", ("split", "images", "patients"), rows)
        + table(f"Images of each {noun}, and their share of the split", (noun, *splits), shares)
    )


def _share(images: int, of: int) -> str:
    share = f"<small>{100 * images / of:.1f}\N{NO-BREAK SPACE}%</small>" if of else ""
    return f"{images:,}{share}"


def _held_out(card: BackboneCard) -> str:
    if card.held_out_by is None:
        return "Nothing was held out by acquisition: val is the lake's own."
    told = card.hold_out
    return (
        f"Held out by {card.held_out_by}, about {100 * told['share']:g}\N{NO-BREAK SPACE}% of the images of train: "
        f"{told['images']:,} images of {told['patients']:,} patients. They count as val, and were not trained on."
    )


def _on_split(card: BackboneCard, judged: Mapping[str, Judged], split: str) -> str:
    evaluation, baseline = judged[split].evaluation, judged[split].baseline
    decided = "A label is decided at 0.5 or above." if card.multi_label else "The likeliest class is decided."
    note = f"<p>{evaluation.n:,} images of {evaluation.patients:,} patients. {decided}</p>\n"
    if split == VAL:
        instead = "rely on those of test" if TEST in judged else "there is no test split to check them on"
        note += (
            f"<p>The best epoch was chosen by the {escape(figure_name(card.monitor))} on val, so its figures may be a "
            f"little too good: {instead}.</p>\n"
        )
    return note + results.on_split(evaluation, baseline, split, WHO, folded=split != judged_splits(judged)[0])


def _learning(card: BackboneCard, history: Sequence[EpochResult]) -> str:
    last = history[-1].epoch
    more = (
        "<p>The best epoch is the last: more epochs might have done better.</p>\n"
        if card.best_epoch == last and last > 1
        else ""
    )
    return (
        f"<p>{escape(phases_in_words(history))}</p>\n"
        "<p>Where val's loss rises while train's still falls, the network learns train by heart. Train's loss is the "
        "mean over an epoch in which the network changes and its images are augmented; val's is taken after it, so it "
        "may be the lower one.</p>\n"
        f"{more}{learning_curves(history, card.monitor, card.best_epoch)}"
        f"<h3>Learning rate and speed</h3>\n{pace_curves(history)}"
        f"<details><summary>Every epoch in numbers</summary>\n{_epochs(history, card.best_epoch)}</details>\n"
    )


def _epochs(history: Sequence[EpochResult], best: int) -> str:
    figures = figures_of(history)
    rows = [
        (
            f"{_BEST} {epoch.epoch}" if epoch.epoch == best else f"{epoch.epoch}",
            escape(epoch.phase),
            _number(epoch.train_loss),
            *(_number(epoch.figures.get(name)) for name in figures),
            f"{epoch.learning_rate:.3g}",
            f"{epoch.images_per_second:,.0f}" if epoch.images_per_second else NOT_DEFINED,
            _duration(epoch.seconds),
        )
        for epoch in history
    ]
    val = (f"val {figure_name(name)}" for name in figures)
    columns = ("epoch", "phase", f"train {LOSS}", *val, "learning rate", "images/s", "time")
    return table(f"Epochs; {_BEST} the best", columns, rows)


def _number(value: float | None) -> str:
    return NOT_DEFINED if value is None or not math.isfinite(value) else f"{value:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _identity(card: BackboneCard) -> str:
    return definitions(
        {
            "Name in the lake": card.name,
            "Architecture": card.backbone,
            "Started from": card.started_from,
            "On top of its features": card.top,
            "Parameters": f"{card.parameters:,}, of which the last phase trained {card.trained_parameters:,}",
            "Crops": card.crops,
            "Hold-out": _held_out(card),
            **({"Caution": card.caution} if card.caution else {}),
            "Trained on": f"{card.device}; {_duration(card.seconds)}",
            "Data's fingerprint": card.data,
            "Identity": card.identity,
            "Licence of the architecture": card.licence,
        }
    )


def _settings(card: BackboneCard) -> str:
    settings = [(escape(name), escape(told)) for name, told in _flat(without_places(card.config))]
    versions = [(escape(name), escape(version)) for name, version in card.versions.items()]
    return (
        "<details><summary>All settings</summary>\n"
        + table("Settings", ("setting", "value"), settings, kind="words")
        + "</details>\n<details><summary>Versions of libraries</summary>\n"
        + table("Versions", ("library", "version"), versions, kind="words")
        + "</details>\n"
    )


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings by their dotted names, as a command line takes them."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value, default=str)


def _limits(card: BackboneCard, history: Sequence[EpochResult]) -> str:
    seed = f" (seed {card.config['seed']})" if "seed" in card.config else ""
    best = (
        f"<li>Figures on val are a little too good: the best of {len(history)} epochs was chosen there.</li>\n"
        if len(history) > 1
        else ""
    )
    return f"""
<ul>
{best}<li>It was trained once{escape(seed)}. Another training with other random numbers gives somewhat other figures;
the intervals do not cover that.</li>
<li>Features of train images look better than they are, for the backbone has seen those images. Choose heads,
thresholds and calibration on val, and judge them on test.</li>
<li>Here the {WHO} answers with its own top. What heads make of its features has figures of its own, in their
reports.</li>
</ul>
""" + words.limits(WHO, NOT_CALIBRATED, card.multi_label)
