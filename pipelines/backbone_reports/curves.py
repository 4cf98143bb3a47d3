"""Learning curves, epoch by epoch: drawn in a page, as a picture of their own, and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from classifiers.reports.charts import Axis, Plot, axis, keys, plot_figure, unit_axis
from pipelines.backbone_reports.epochs import LOSS, best_epoch, figure_name, figures_of, phase_spans, values_of

if TYPE_CHECKING:
    from featurizers.finetuning.trainer import EpochResult

_WIDTH, _HEIGHT = 300, 190
#: Ticks of an axis of epochs, at most.
_TICKS: Final = 8
#: Powers of ten that an axis of learning rates spans, at most: a schedule may end near 0.
_POWERS: Final = 5
#: CSS classes of lines and marks.
_TRAIN, _LONE, _VAL, _BEST, _END = "l1", "d1", "l2", "d2", "chance"

#: Viewers of pictures know neither variables nor the reader's colours; the page's dashes and shapes are kept.
_SVG_STYLE: Final = """
text { font: 10px system-ui, "DejaVu Sans", sans-serif; fill: #1f2937; } .title { font-size: 14px; font-weight: 600; }
.grid { stroke: #d1d5db; stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 1.75; stroke-linecap: round; stroke-linejoin: round; }
.l1 { stroke: #2563eb; } .l2 { stroke: #c2660a; stroke-dasharray: 5 3; }
.chance { stroke: #6b7280; stroke-width: 1; stroke-dasharray: 2 3; }
.d1 { fill: #2563eb; } .d2 { fill: #ffffff; stroke: #c2660a; stroke-width: 1.5; }
"""
_GAP: Final = 20
_HEAD: Final = 66

#: The table's columns before and behind the figures of val.
_BEFORE: Final = (
    pa.field("epoch", pa.int32()),
    pa.field("phase", pa.string()),
    pa.field("updates", pa.int64()),
    pa.field("images", pa.int64()),
    pa.field("learning_rate", pa.float64()),
    pa.field("train_loss", pa.float64()),
)
_AFTER: Final = (
    pa.field("is_best", pa.bool_()),
    pa.field("seconds", pa.float64()),
    pa.field("images_per_second", pa.float64()),
)


def learning_curves(history: Sequence[EpochResult], monitor: str, best: int) -> str:
    """Plots of losses and of every figure of val, with phases and the best epoch marked: HTML.

    Args:
        history: the epochs.
        monitor: the figure that chose the best epoch.
        best: that epoch, counted from 1.
    """
    meanings = [(_TRAIN, "train"), (_VAL, "val"), (_BEST, f"best epoch, {best}")]
    if len(phase_spans(history)) > 1:
        meanings.append((_END, "a phase ends"))
    others = [name for name in figures_of(history) if name != LOSS]
    drawn = _losses(history, best) + "".join(_figure(history, name, monitor, best) for name in others)
    return f'{keys(meanings)}<div class="plots">\n{drawn}</div>\n'


def pace_curves(history: Sequence[EpochResult]) -> str:
    """Plots of the learning rate, and of images per second: HTML."""
    rates = [epoch.learning_rate for epoch in history]
    told = _first_and_last(history, rates)
    rate = _plot(history, power_axis("learning rate", rates))
    powers = [math.log10(value) if value > 0 else -math.inf for value in rates]
    for _, first, last in phase_spans(history):
        # A phase starts anew: no line leads there.
        within = [
            power if first <= epoch.epoch <= last else math.nan for epoch, power in zip(history, powers, strict=True)
        ]
        _draw(rate, history, within)
    drawn = plot_figure(
        "Learning rate of each epoch's last update", [rate.svg(f"Learning rate: {told}")], escape(told), kind="wide"
    )
    # An epoch that was all but done when training was taken up again has no speed.
    speeds = [epoch.images_per_second or math.nan for epoch in history]
    known = [value for value in speeds if math.isfinite(value)]
    slowest, fastest = (f"{each(known, default=0):,.0f}" for each in (min, max))
    told = (slowest if slowest == fastest else f"{slowest} to {fastest}") + " images/s" if known else "not measured"
    speed = _plot(history, axis("images/s", (0, *known)))
    _draw(speed, history, speeds)
    drawn += plot_figure(
        "Speed of training, without validation", [speed.svg(f"Images per second: {told}")], escape(told), kind="wide"
    )
    return f'<div class="plots">\n{drawn}</div>\n'


def phases_in_words(history: Sequence[EpochResult]) -> str:
    """Each phase with its epochs, plain text."""
    return " · ".join(
        f"{name}: epoch {first}" if first == last else f"{name}: epochs {first}–{last}"
        for name, first, last in phase_spans(history)
    )


def curves_svg(history: Sequence[EpochResult], monitor: str) -> bytes:
    """A picture of the losses, and of the monitored figure beside them: an SVG file, UTF-8, for any viewer.

    Args:
        history: the epochs.
        monitor: the figure that chose the best epoch.
    """
    best = best_epoch(history)
    full = 2 * _WIDTH + _GAP
    plots = [_loss_plot(history, best, width=full if monitor == LOSS else _WIDTH)]
    if monitor != LOSS:
        plots.append(_figure_plot(history, monitor, best))
    drawn = "".join(
        f'<g transform="translate({place * (_WIDTH + _GAP)} {_HEAD})">{plot.content()}</g>\n'
        for place, plot in enumerate(plots)
    )
    chosen = "" if best is None else f" · best: epoch {best}, by the {figure_name(monitor)} on val"
    told = phases_in_words(history) + chosen
    height = _HEAD + _HEIGHT
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -10 {full + 20} {height + 20}" width="{2 * (full + 20)}" \
height="{2 * (height + 20)}" role="img" aria-label="{escape(f"Learning curves. {told}")}">
<style>{_SVG_STYLE}</style>
<rect x="-10" y="-10" width="{full + 20}" height="{height + 20}" fill="#ffffff"/>
<text class="title" x="0" y="14">Learning curves</text>
<text x="0" y="32">{escape(told)}</text>
{_svg_keys(is_phased=len(phase_spans(history)) > 1)}
{drawn}</svg>
""".encode()


def epochs_table(history: Sequence[EpochResult]) -> pa.Table:
    """One row for each epoch: int32 `epoch`, its phase, counts, losses and speed.

    Figures of validation are float64 columns `val_NAME`, null where they are not defined. `is_best` says that the
    monitored figure had not been as good before; the best epoch is the last such.
    """
    figures = figures_of(history)
    schema = pa.schema([*_BEFORE, *(pa.field(f"val_{name}", pa.float64()) for name in figures), *_AFTER])
    fixed = [field.name for field in (*_BEFORE, *_AFTER)]
    rows = [
        {name: getattr(epoch, name) for name in fixed} | {f"val_{name}": epoch.figures.get(name) for name in figures}
        for epoch in history
    ]
    return pa.Table.from_pylist(rows, schema)


def _svg_keys(*, is_phased: bool) -> str:
    meanings = [(_TRAIN, "train"), (_VAL, "val"), (_BEST, "best epoch")]
    if is_phased:
        meanings.append((_END, "a phase ends"))
    drawn = ""
    for place, (kind, meaning) in enumerate(meanings):
        left = 100 * place
        drawn += (
            f'<circle class="{kind}" cx="{left + 10}" cy="48" r="3"/>'
            if kind == _BEST
            else f'<path class="line {kind}" d="M{left} 48h20"/>'
        )
        drawn += f'<text x="{left + 26}" y="51.5">{escape(meaning)}</text>'
    return drawn


def _losses(history: Sequence[EpochResult], best: int) -> str:
    train = [epoch.train_loss for epoch in history]
    told = [f"train: {_first_and_last(history, train)}", f"val: {_extreme(history, LOSS)}"]
    plot = _loss_plot(history, best)
    return plot_figure(
        "Loss", [plot.svg(f"Loss of train and val by epoch. {'; '.join(told)}")], "<br>".join(told), kind="wide"
    )


def _figure(history: Sequence[EpochResult], figure: str, monitor: str, best: int) -> str:
    name = figure_name(figure)
    told = _extreme(history, figure)
    title = f"{name[0].upper()}{name[1:]} on val" + (", which chose the best epoch" if figure == monitor else "")
    plot = _figure_plot(history, figure, best)
    return plot_figure(title, [plot.svg(f"{name} on val by epoch: {told}")], escape(told), kind="wide")


def _loss_plot(history: Sequence[EpochResult], best: int | None, *, width: int = _WIDTH) -> Plot:
    train = [epoch.train_loss for epoch in history]
    plot = _plot(history, axis("loss", [*train, *values_of(history, LOSS)]), width)
    _draw(plot, history, train)
    _draw_val(plot, history, LOSS, best)
    return plot


def _figure_plot(history: Sequence[EpochResult], figure: str, best: int | None) -> Plot:
    values = values_of(history, figure)
    name = figure_name(figure)
    # A lone value spans nothing: its place in all that is possible says more.
    plot = _plot(
        history, axis(name, values) if len({each for each in values if math.isfinite(each)}) > 1 else unit_axis(name)
    )
    _draw_val(plot, history, figure, best)
    return plot


def _draw(plot: Plot, history: Sequence[EpochResult], values: Sequence[float]) -> None:
    """A line of what training itself tells; a dot where it is but one point."""
    plot.line(_TRAIN, _epochs(history), values)
    finite = [(epoch, value) for epoch, value in zip(_epochs(history), values, strict=True) if math.isfinite(value)]
    if len(finite) == 1:
        plot.dot(_LONE, *finite[0])


def _draw_val(plot: Plot, history: Sequence[EpochResult], figure: str, best: int | None) -> None:
    values = values_of(history, figure)
    plot.line(_VAL, _epochs(history), values)
    for epoch, value in zip(_epochs(history), values, strict=True):
        if epoch == best and math.isfinite(value):
            plot.dot(_BEST, epoch, value)


def _plot(history: Sequence[EpochResult], up: Axis, width: int = _WIDTH) -> Plot:
    """An empty plot over the epochs, with a mark where a phase ends."""
    plot = Plot(epoch_axis(_epochs(history)), up, width=width, height=_HEIGHT)
    for _, _, last in phase_spans(history)[:-1]:
        plot.line(_END, (last + 0.5, last + 0.5), (up.low, up.high))
    return plot


def _epochs(history: Sequence[EpochResult]) -> list[int]:
    return [epoch.epoch for epoch in history]


def epoch_axis(epochs: Sequence[int]) -> Axis:
    """Whole epochs, with room at both ends for marks."""
    first, last = min(epochs, default=1), max(epochs, default=1)
    steps = (digit * 10**power for power in range(9) for digit in (1, 2, 5))
    step = next(each for each in steps if (last - first + 1) / each <= _TICKS)
    ticks = tuple(float(epoch) for epoch in range(first, last + 1) if epoch % step == 0)
    return Axis("epoch", first - 0.5, last + 0.5, ticks)


def power_axis(label: str, values: Sequence[float]) -> Axis:
    """An axis of powers of ten, which holds the largest values; it takes their logarithms."""
    powers = [math.log10(value) for value in values if value > 0]
    highest = math.ceil(max(powers, default=0) - 1e-9)
    lowest = max(math.floor(min(powers, default=0) + 1e-9), highest - _POWERS)
    if lowest == highest:
        lowest, highest = lowest - 1, highest + 1
    ticks = range(lowest, highest + 1)
    labels = tuple(f"1e{power}" if abs(power) > 3 else f"{10.0**power:g}" for power in ticks)
    return Axis(label, lowest, highest, tuple(map(float, ticks)), labels)


def _first_and_last(history: Sequence[EpochResult], values: Sequence[float]) -> str:
    told = [f"{_four(value)} in epoch {epoch}" for epoch, value in zip(_epochs(history), values, strict=True)]
    return told[0] if len(told) == 1 else f"{told[0]}, {told[-1]}"


def _extreme(history: Sequence[EpochResult], figure: str) -> str:
    """The best value of a figure and its epoch, plain text."""
    finite = [
        (value, epoch)
        for value, epoch in zip(values_of(history, figure), _epochs(history), strict=True)
        if math.isfinite(value)
    ]
    if not finite:
        return "not defined in any epoch"
    value, epoch = min(finite) if figure == LOSS else max(finite, key=lambda pair: (pair[0], -pair[1]))
    return f"{'lowest' if figure == LOSS else 'highest'} {_four(value)} in epoch {epoch}"


def _four(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "no number"
