"""The page's drawings: risk-coverage curves and quality against box IoU, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np

from featurizers.lung_metrics import Floats, RiskCoverage
from pipelines.lung_reports.figures import Verdict

#: Of the drawings; goes behind the page's own.
CHART_STYLE: Final = """
.plots { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.plots figure { flex: 1 1 18rem; max-width: 24rem; margin: 0; }
.plots svg { width: 100%; height: auto; display: block; } .plots text { fill: currentColor; font: 12px system-ui,
  sans-serif; } .plots .grid { stroke: var(--line); stroke-width: 1; } .plots .line { fill: none; stroke-width: 2; }
.plots .main { stroke: var(--s1); } .plots .best { stroke: var(--s3); stroke-dasharray: 6 3; }
.plots .chance { stroke: var(--s2); stroke-dasharray: 2 3; } .plots .dot { fill: var(--s1); fill-opacity: .35; }
.plots .limit { stroke: currentColor; stroke-dasharray: 1 3; }
.keys { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; margin: .5rem 0; list-style: none;
  font-size: .9rem; }
.keys.plots svg { display: inline-block; width: 2rem; height: .8rem; vertical-align: middle; margin-right: .35rem; }
"""

_WIDTH, _HEIGHT = 340, 250
_LEFT, _TOP, _RIGHT, _BOTTOM = 44, 8, 8, 40
#: A curve needs no more points than the drawing is wide.
_POINTS: Final = 200
_BINS: Final = 10
#: Coverages whose risk the table tells.
COVERAGES: Final = (0.5, 0.8, 0.9, 0.95, 1.0)


class CalibrationBin(NamedTuple):
    """The images whose quality falls into one tenth of the range."""

    low: float
    high: float
    images: int
    quality: float
    box_iou: float


def risk_chart(verdict: Verdict, highest: float) -> str:
    """The finder's risk-coverage curve between the oracle's and that of a quality that tells nothing.

    Args:
        verdict: of the finder.
        highest: top of the risk axis, the same for all finders.
    """
    curve = verdict.curve
    frame = _Frame(highest)
    drawn = (
        frame.line("chance", (0, 1), (curve.random, curve.random))
        + frame.line("best", *_thinned(curve.coverage, curve.oracle))
        + frame.line("main", *_thinned(curve.coverage, curve.risk))
    )
    label = (
        f"Risk-coverage curve of {verdict.finder.name}: mean risk {curve.random:.3f} of all images, "
        f"{risk_at(curve, 0.5):.3f} of the better-trusted half. The table below has the numbers."
    )
    return _figure(verdict.finder.name, label, frame.drawn("share of images taken, best trusted first", "risk", drawn))


def scatter_chart(verdict: Verdict) -> str:
    """Each image's quality and box IoU, with the mean of every tenth of the quality's range."""
    frame = _Frame(1.0)
    bins = calibration(verdict)
    limit = frame.line("limit", (verdict.min_quality, verdict.min_quality), (0, 1)) if verdict.min_quality <= 1 else ""
    drawn = (
        frame.line("chance", (0, 1), (0, 1))
        + limit
        + frame.dots((row.quality, row.box_iou) for row in verdict.rows)
        + frame.line("best", [one.quality for one in bins], [one.box_iou for one in bins])
    )
    label = (
        f"Quality against box IoU of {verdict.finder.name}, a dot for each of {len(verdict.rows):,} images. "
        "The table below has the means."
    )
    return _figure(verdict.finder.name, label, frame.drawn("quality", "box IoU", drawn))


def keys(meanings: Iterable[tuple[str, str]]) -> str:
    """What the kinds of lines, by CSS class, mean."""
    items = "".join(
        f'<li><svg viewBox="0 0 32 12" aria-hidden="true"><path class="line {kind}" d="M0 6h32"/></svg>'
        f"{escape(meaning)}</li>"
        for kind, meaning in meanings
    )
    return f'<ul class="keys plots">{items}</ul>\n'


def calibration(verdict: Verdict) -> list[CalibrationBin]:
    """Means of quality and box IoU in the tenths of the quality's range that hold images, from 0 up."""
    quality = np.array([row.quality for row in verdict.rows])
    box_ious = np.array([row.box_iou for row in verdict.rows])
    tenth = np.minimum((quality * _BINS).astype(int), _BINS - 1)
    return [
        CalibrationBin(
            number / _BINS,
            (number + 1) / _BINS,
            int((tenth == number).sum()),
            float(quality[tenth == number].mean()),
            float(box_ious[tenth == number].mean()),
        )
        for number in np.unique(tenth).tolist()
    ]


def risk_at(curve: RiskCoverage, coverage: float) -> float:
    """The risk of the best-trusted share, at least one image."""
    return float(curve.risk[_last_of(curve, coverage)])


def oracle_at(curve: RiskCoverage, coverage: float) -> float:
    """The risk of the same share if the images were ordered by their losses."""
    return float(curve.oracle[_last_of(curve, coverage)])


def _last_of(curve: RiskCoverage, coverage: float) -> int:
    return max(round(coverage * curve.risk.size), 1) - 1


def round_up(risk: float) -> float:
    """The top of an axis that holds `risk`: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(risk, 1e-3)))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= risk))


class _Frame:
    """Axes from 0: coverage or quality to 1, and something else to `highest`."""

    def __init__(self, highest: float) -> None:
        self._highest = highest

    def _at(self, x: float, y: float) -> str:
        across = _LEFT + x * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - min(y / self._highest, 1) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f} {down:.1f}"

    def line(self, kind: str, xs: Sequence[float] | Floats, ys: Sequence[float] | Floats) -> str:
        points = "L".join(self._at(float(x), float(y)) for x, y in zip(xs, ys, strict=True))
        return f'<path class="line {kind}" d="M{points}"/>'

    def dots(self, points: Iterable[tuple[float, float]]) -> str:
        circles = "".join(f"M{self._at(x, y)}m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0" for x, y in points)
        return f'<path class="dot" d="{circles}"/>'

    def drawn(self, across: str, up: str, content: str) -> str:
        grid, texts = [], []
        for tick in np.linspace(0, 1, 5):
            x, bottom = self._at(tick, 0).split()
            left, y = self._at(0, tick * self._highest).split()
            right = _WIDTH - _RIGHT
            grid.append(f"M{left} {y}H{right}M{x} {bottom}V{_TOP}")
            texts.append(f'<text x="{x}" y="{float(bottom) + 15}" text-anchor="middle">{tick:g}</text>')
            texts.append(
                f'<text x="{float(left) - 5}" y="{float(y) + 4}" text-anchor="end">{tick * self._highest:g}</text>'
            )
        middle = (_HEIGHT - _BOTTOM + _TOP) / 2
        names = (
            f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>'
            f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>'
        )
        return f'<path class="grid" d="{"".join(grid)}"/>{"".join(texts)}{names}{content}'


def _figure(title: str, label: str, content: str) -> str:
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{content}</svg></figure>\n'
    )


def _thinned(xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
    kept = np.unique(np.linspace(0, xs.size - 1, _POINTS).astype(int))
    return xs[kept], ys[kept]
