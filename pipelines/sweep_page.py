"""The page of a sweep: every trial with its figures, their learning curves side by side, and what settings did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from classifiers.reports.charts import LINES, Axis, Plot, axis, keys, plot_figure
from classifiers.reports.document import NOTICE, Section, document
from classifiers.reports.facts import definitions
from classifiers.reports.tables import NOT_DEFINED, table
from featurizers.finetuning.validation import METRICS
from pipelines.backbone_reports.curves import epoch_axis, power_axis
from pipelines.backbone_reports.epochs import figure_name, values_of
from pipelines.progress import clock
from pipelines.sweep_call import Status
from pipelines.sweep_table import TrialRow
from pipelines.sweep_trials import short_keys, told

_BEST: Final = "★"
_OTHERS: Final = "chance"
_WIDTH, _HEIGHT = 380, 240
#: So many values stand apart on an axis, each with its label.
_APART: Final = 6
#: From this ratio of the largest to the smallest on, values are drawn by their powers of ten.
_WIDE: Final = 50


def render_sweep(
    name: str, rows: Sequence[TrialRow], monitor: str, how: Sequence[str], facts: Mapping[str, str]
) -> str:
    """Draw the page: a whole HTML document that needs nothing but itself, no script, no network.

    Args:
        name: of the sweep.
        rows: its trials, the best first.
        monitor: the figure on val that ranks them.
        how: what was tried in what way, sentences in plain text.
        facts: name → value, plain text: data, common settings, provenance.
    """
    failed = {row.name: row.error or "" for row in rows if row.result.status is Status.FAILED}
    sections = [
        Section("tried", "What was tried", f"<p>{escape(' '.join(how))}</p>\n{definitions(facts)}"),
        Section("trials", "Trials", _trials(rows, monitor)),
        Section("curves", "Learning curves", _curves(rows, monitor)),
        Section("settings", "What the settings did", _effects(rows, monitor)),
        *([Section("failed", "Trials that failed", definitions(failed))] if failed else []),
        Section("limits", "Limits", _LIMITS),
    ]
    opening = f'<p class="notice">{NOTICE}</p>\n{_first(rows, monitor)}{_caution(rows, monitor)}'
    return document(f"Sweep {name}", opening, sections)


_LIMITS: Final = """
<p>Research use only; nothing here is for diagnosis, triage or any other care of patients.</p>
<p>Every trial was trained once. Another training of the same settings, with other random numbers, gives somewhat other
figures: small differences between trials are no differences between settings. All figures are of val, which chose each
trial's best epoch and the order of the trials; test had no part in it. The figures hold for images like those of val,
labelled in the same way. Expect worse on images from elsewhere, and measure there.</p>
"""


def _first(rows: Sequence[TrialRow], monitor: str) -> str:
    best = rows[0]
    if best.best is None:
        return "<p>No trial came to the end of an epoch.</p>\n"
    count = {status: sum(row.result.status is status for row in rows) for status in Status}
    ended = ", ".join(f"{count[status]} {word}" for status, word in _ENDED.items() if count[status])
    return definitions(
        {
            "Trials": f"{len(rows)}: {ended}",
            "Best": f"{best.name}: {figure_name(monitor)} {_number(best.figure(monitor), 'not defined')} on val, in "
            f"epoch {best.best.epoch} of {len(best.result.history)}",
            "Its settings": ", ".join(f"{key}={told(value)}" for key, value in best.settings.items()),
            "Its weights": f"lake://backbones/{best.backbone}" if best.result.run else "",
        }
    )


_ENDED: Final = {Status.DONE: "trained to the end", Status.STOPPED: "stopped early", Status.FAILED: "failed"}


def _caution(rows: Sequence[TrialRow], monitor: str) -> str:
    judged = [row for row in rows if row.figure(monitor) is not None]
    if len(judged) < 2:
        return ""
    return (
        '<p class="caution"><strong>The best of many trials looks better than it is.</strong> The first of '
        f"{len(judged)} was chosen by the very figures that are shown here, and is first partly by luck on these "
        "images, the more so the more are tried and the fewer the patients. Take the simplest of the good ones, and "
        "measure it once on images that had no part in the choice.</p>\n"
    )


def _trials(rows: Sequence[TrialRow], monitor: str) -> str:
    varying = list(rows[0].settings)
    others = [name for name in METRICS if name != monitor]
    cells = [
        (
            f"{_BEST if place == 0 and row.best is not None else ''} {escape(row.name)}".strip(),
            _number(row.figure(monitor)),
            *(escape(told(row.settings[key])) for key in varying),
            row.result.status.value,
            f"{len(row.result.history)} of {row.epochs}",
            NOT_DEFINED if row.best is None else str(row.best.epoch),
            *(_number(row.figure(name)) for name in others),
            clock(row.result.seconds),
            NOT_DEFINED if row.result.parameters is None else f"{row.result.parameters:,}",
        )
        for place, row in enumerate(rows)
    ]
    columns = (
        "trial",
        figure_name(monitor),
        *short_keys(varying).values(),
        *("status", "epochs", "best epoch"),
        *map(figure_name, others),
        *("time", "parameters"),
    )
    stopped = any(row.result.status is Status.STOPPED for row in rows)
    note = (
        "<p>What was stopped early has the figures of the epochs that it had; more epochs might have made it better. "
        "Its checkpoint is kept: fine-tuned with the settings of trials.json, it goes on from there. To free the "
        "space, remove the folder _courses of its backbone.</p>\n"
        if stopped
        else ""
    )
    caption = f"Figures on val at each trial's best epoch; the best {figure_name(monitor)} first"
    return table(caption, columns, cells) + note


def _curves(rows: Sequence[TrialRow], monitor: str) -> str:
    """One plot for each figure: the best trials told apart, the others behind them."""
    trained = [row for row in rows if row.result.history]
    if not trained:
        return "<p>There are none: no trial came to the end of an epoch.</p>\n"
    kinds = [*LINES, *[_OTHERS] * len(trained)][: len(trained)]
    meanings = [(kind, row.name) for kind, row in zip(kinds, trained, strict=False) if kind != _OTHERS]
    if len(trained) > len(LINES):
        meanings.append((_OTHERS, f"the other {len(trained) - len(LINES)}"))
    histories = [row.result.history for row in trained]
    figures = {
        f"{figure_name(name)} on val": [values_of(history, name) for history in histories]
        for name in (monitor, *(each for each in METRICS if each != monitor))
    }
    figures["loss on train"] = [[epoch.train_loss for epoch in history] for history in histories]
    drawn = ""
    for title, lines in figures.items():
        plot = Plot(
            epoch_axis([epoch.epoch for history in histories for epoch in history]),
            axis(title, [value for line in lines for value in line]),
            width=_WIDTH,
            height=_HEIGHT,
        )
        # The best last, so that they lie above the others.
        for kind, history, line in reversed(list(zip(kinds, histories, lines, strict=True))):
            plot.line(kind, [epoch.epoch for epoch in history], line)
        label = f"{title} by epoch, of {len(trained)} trials"
        drawn += plot_figure(f"{title[0].upper()}{title[1:]}", [plot.svg(label)], "", kind="wide")
    return f'{keys(meanings)}<div class="plots">\n{drawn}</div>\n'


def _effects(rows: Sequence[TrialRow], monitor: str) -> str:
    """The monitored figure of every trial, by each setting that is a number."""
    judged = [(row, figure) for row in rows if (figure := row.figure(monitor)) is not None]
    drawn = ""
    for key in rows[0].settings:
        pairs = [(row.settings[key], figure) for row, figure in judged]
        if len({value for value, _ in pairs if _is_number(value)}) > 1 and all(_is_number(value) for value, _ in pairs):
            drawn += _effect(key, pairs, monitor)
    if not drawn:
        return "<p>No setting that varies is a number that could be drawn: see the table.</p>\n"
    return (
        "<p>A dot is a trial. Where several settings vary, a dot's height is not the one setting's doing.</p>\n"
        f'<div class="plots">\n{drawn}</div>\n'
    )


def _effect(key: str, pairs: Sequence[tuple[float, float]], monitor: str) -> str:
    values = sorted({value for value, _ in pairs})
    name = figure_name(monitor)
    if len(values) <= _APART:
        across = Axis(key, -0.5, len(values) - 0.5, tuple(map(float, range(len(values)))), tuple(map(told, values)))
        places = {value: float(place) for place, value in enumerate(values)}
    elif values[0] > 0 and values[-1] / values[0] > _WIDE:
        across, places = power_axis(key, values), {value: math.log10(value) for value in values}
    else:
        across, places = axis(key, values), {value: float(value) for value in values}
    plot = Plot(across, axis(f"{name} on val", [figure for _, figure in pairs]), width=_WIDTH, height=_HEIGHT)
    for value, figure in pairs:
        plot.dot("d1", places[value], figure)
    return plot_figure(key, [plot.svg(f"{name} on val of {len(pairs)} trials, by {key}")], "", kind="wide")


def _is_number(value: Any) -> bool:  # noqa: ANN401  whatever a config holds
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float | None, otherwise: str = NOT_DEFINED) -> str:
    return otherwise if value is None else f"{value:.4f}"
