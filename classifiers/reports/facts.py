"""What a head was trained on and how it decides, as sections of its report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from classifiers.heads import OWN_TOP
from classifiers.reports.charts import LINES, Plot, axis, keys, plot_figure
from classifiers.reports.tables import named, number, table

if TYPE_CHECKING:
    from classifiers.trained import TrainedHead

_RULES: Final = {
    "argmax": "The class that the head itself scores highest is decided, and no other; there are no levels.",
    "fixed": "The level was fixed beforehand.",
    "best_f1": "The level with the highest F1 on val.",
    "youden": "The level with the highest sum of recall and specificity on val (Youden).",
    "sensitivity": "The highest level that reaches the wanted recall (sensitivity) on val.",
    "precision": "The lowest level that reaches the wanted precision on val.",
}
NOT_CALIBRATED: Final = (
    "The probabilities are <strong>not calibrated</strong>: 0.8 does not mean right eight times in ten. They serve to "
    "rank images."
)
_METHODS: Final = {
    "temperature": "temperature scaling",
    "platt": "Platt's logistic scaling",
    "isotonic": "isotonic regression",
}


def definitions(facts: Mapping[str, str]) -> str:
    """Names and what they stand for, both plain text."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(told)}</dd>\n" for name, told in facts.items() if told)
    return f"<dl>\n{items}</dl>\n"


def training_data(trained: TrainedHead) -> str:
    """Where the rows are from, and how many there are, of whom, of what class, before and after balancing."""
    counts = trained.class_counts
    rows = [
        (escape(split), f"{one.rows:,}", f"{one.patients:,}", f"{one.unanswered:,}") for split, one in counts.items()
    ]
    description = f"<p>{escape(trained.task.description)}</p>\n" if trained.task.description else ""
    return (
        f"{description}{definitions(trained.provenance)}"
        + table(
            "Images and patients; images that the task does not answer were left out",
            ("split", "images", "patients", "left out"),
            rows,
        )
        + _per_class(trained)
    )


def _per_class(trained: TrainedHead) -> str:
    splits = list(trained.class_counts)
    columns = ["class"]
    fitted = "fine-tuned" if trained.head_name == OWN_TOP else "fitted"
    for split in splits:
        columns += [split, f"{split}, as {fitted}"] if split == "train" else [split]
    rows = []
    for name in trained.task.classes:
        cells = [named(name)]
        for split in splits:
            counts = trained.class_counts[split]
            unknown = counts.unknown.get(name, 0)
            cells.append(f"{counts.per_class[name]:,}" + (f"<small>{unknown:,} not known</small>" if unknown else ""))
            if split == "train":
                cells.append(f"{trained.balanced_counts[name]:,}")
        rows.append(tuple(cells))
    balance = str(trained.params.get("balance", "none"))
    told = (
        "This head was not fitted by itself: it was fine-tuned along with its backbone, on the images of train."
        if trained.head_name == OWN_TOP
        else "Train was not balanced."
        if balance == "none"
        else f"Balance is {balance}: of train only, and never of the rows that figures are measured on. Weights leave "
        "the counts as they are."
    )
    if "val" not in splits:
        told += " Without a val split, a head that stops early was fitted without those patients of train it watched."
    return table("Images of each class, by split", columns, rows) + f"<p>{escape(told)}</p>\n"


def calibration_in_words(trained: TrainedHead) -> str:
    """Whether a probability may be read as one: HTML."""
    method = trained.calibrator.method.value
    left_out = trained.calibrator.left_out
    if method == "none" or len(left_out) == len(trained.task.classes):
        return NOT_CALIBRATED
    but = f", but not those of {escape(', '.join(left_out))}, of which val has too little" if left_out else ""
    return (
        f"The probabilities are <strong>calibrated</strong> on val by {_METHODS.get(method, escape(method))}{but}. "
        "That holds where the classes are as frequent as on val."
    )


def thresholds(trained: TrainedHead) -> str:
    """The rule, and the level of every class."""
    chosen = trained.thresholds
    rule = chosen.rule.value
    wanted = "" if chosen.value is None else f" ({chosen.value:g})"
    where = f" chosen on {escape(chosen.chosen_on)}" if chosen.chosen_on else ""
    told = f"<p>Rule: <strong>{escape(rule)}{wanted}</strong>{where}. {_RULES.get(rule, '')}</p>\n"
    if chosen.levels is None:
        return told
    rows = [
        (named(name), number(level), f"not decided by {chosen.chosen_on or 'val'}" if name in chosen.defaulted else "")
        for name, level in zip(trained.task.classes, chosen.levels, strict=True)
    ]
    classes = trained.task.classes
    if chosen.multi_label:
        told += "<p>A label is decided where its probability is at its level or above it.</p>\n"
    elif len(classes) == 2:
        told += (
            f"<p>{escape(classes[1])} is decided where its probability is at its level or above it, "
            f"{escape(classes[0])} elsewhere.</p>\n"
        )
    else:
        told += "<p>The class whose probability is the largest multiple of its level is decided.</p>\n"
    if chosen.defaulted:
        told += (
            f'<p class="caution">{escape(chosen.chosen_on or "val")} could not decide the level of '
            f"{escape(', '.join(chosen.defaulted))}: too few images, no order to speak of, or a target out of reach. "
            "0.5 stands in its place; among three exclusive classes or more, the geometric mean of the others.</p>\n"
        )
    return told + table("Level of each class", ("class", "level", "note"), rows)


def learning_curves(trained: TrainedHead) -> str:
    """Losses, step by step; those of train and val in one plot where their names say that they belong together."""
    if trained.head_name == OWN_TOP:
        return "<p>It learned along with its backbone, whose report has the curves.</p>\n"
    if not trained.learning_curves:
        return "<p>This kind of head is fitted in one piece: there are no steps to draw.</p>\n"
    plots: dict[str, dict[str, tuple[float, ...]]] = {}
    for name, values in trained.learning_curves.items():
        split, _, rest = name.partition(" ")
        title, line = (rest, split) if rest and split in {"train", "val"} else (name, name)
        plots.setdefault(title, {})[line] = values
    drawn = "".join(_losses(title, lines) for title, lines in plots.items())
    legend = keys((("l1", "train"), ("l2", "val")))
    return (
        "<p>Where val rises while train still falls, the head learns train by heart.</p>\n"
        f'{legend}<div class="plots">\n{drawn}</div>\n'
    )


def _losses(title: str, lines: Mapping[str, Sequence[float]]) -> str:
    longest = max(len(values) for values in lines.values())
    steps = axis("epoch, round or iteration", (1, longest) if longest > 1 else (0, 1, 2))
    plot = Plot(steps, axis(title, (value for values in lines.values() for value in values)), width=300, height=190)
    told = []
    for number_of, (name, values) in enumerate(lines.items()):
        kind = {"train": "l1", "val": "l2"}.get(name, LINES[number_of % len(LINES)])
        plot.line(kind, range(1, len(values) + 1), values)
        finite = [(value, step) for step, value in enumerate(values, 1) if math.isfinite(value)]
        if finite:
            lowest, at = min(finite)
            told.append(f"{name}: lowest {lowest:.4g} at {at} of {len(values)}")
        else:
            told.append(f"{name}: never a finite number")
    label = f"Learning curve, {title}. {'; '.join(told)}"
    return plot_figure(title, [plot.svg(label)], "<br>".join(map(escape, told)), kind="wide")


def identity(trained: TrainedHead) -> str:
    """Fingerprints, parameters, and what the classes mean."""
    told = definitions(
        {
            "Head's fingerprint": trained.fingerprint,
            "Extractor's fingerprint": trained.extractor,
            "Features": f"{trained.feature_dim} per image",
            "Kind of head": trained.head_name,
            "Parameters": json.dumps(trained.params, sort_keys=True),
            "Decision rule": trained.thresholds.describe(),
            "Calibration": trained.calibrator.describe(),
        }
    )
    rows = [
        (named(rule.name), *(escape(", ".join(part)) for part in (rule.any, rule.all, rule.none)), rule.uncertain.value)
        for rule in trained.task.rules
    ]
    columns = ("class", "any of", "all of", "none of", "an uncertain finding counts as")
    return told + table("What each class asks of an image's findings", columns, rows, kind="words")
