"""Overlay sheets: radiographs with the lungs that a human and the finders drew, and the finders' crops.

Outlines are SVG over a small JPEG: they stay sharp when enlarged or printed, and a reader can take each away.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.lungs import LungBox, LungMask
from featurizers.mask_pairs import MaskPair
from featurizers.radiograph import Pixels
from pipelines.exploration.html import percent
from pipelines.lung_reports.figures import LOSS_LIMIT, Verdict
from pipelines.lung_reports.judging import Judged

#: How many of the worst are shown, and how many at random.
WORST, RANDOM = 24, 12

_LONG_SIDE: Final = 320
_JPEG_QUALITY: Final = 75
_HUMAN: Final = "human"
#: Colour and dashes of the human outline, then of the finders' in their order; apart for the colour-blind too.
_STROKES: Final = (("#fff", "none"), ("#60a5fa", "7 3"), ("#fbbf24", "3 3"), ("#2dd4bf", "9 3 2 3"))

#: Of the sheets; goes behind the page's own.
SHEET_STYLE: Final = (
    """
.sheet.overlays figure { width: 18.5rem; } .overlays svg { width: 100%; height: auto; display: block; }
.outline { fill: none; stroke-width: 2.2; vector-effect: non-scaling-stroke; }
.l0 { filter: drop-shadow(0 0 1px #000); }
.crop { stroke-width: 1.5; }
.layers { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: .5rem 0; margin: 0; border: 0; position: sticky;
  top: 0; background: Canvas; z-index: 1; font-size: .9rem; } .layers label { white-space: nowrap; }
.layers svg { width: 2.6rem; height: 1rem; vertical-align: middle; background: #333; margin: 0 .3rem; }
.overlays figcaption b { font-weight: 600; } .overlays figcaption span { display: block; font-weight: 400; }
@media (max-width: 40rem) { .sheet.overlays figure { width: 100%; } }
@media print { .layers { position: static; } .layers input { display: none; } .overlays svg, .layers svg {
  print-color-adjust: exact; -webkit-print-color-adjust: exact; } .sheet.overlays figure { width: 30%; } }
"""
    + "\n".join(
        f".l{number} {{ stroke: {colour}; stroke-dasharray: {dashes}; }} "
        f"body:has(#layer{number}:not(:checked)) .overlays .l{number} {{ display: none; }}"
        for number, (colour, dashes) in enumerate(_STROKES)
    )
    + "\n"
)


def worst_first(rows: Sequence[Judged]) -> list[int]:
    """Positions of the images: those that lose lung first, then by Dice (box IoU, where the finder has no masks)."""

    def goodness(position: int) -> tuple[float, float]:
        row = rows[position]
        return -row.lost if row.lost > LOSS_LIMIT else 0.0, row.box_iou if row.dice is None else row.dice

    return sorted(range(len(rows)), key=goodness)


def layer_keys(verdicts: Sequence[Verdict]) -> str:
    """What each line means, each with a box to tick that takes it away."""
    names = [_HUMAN, *(verdict.finder.name for verdict in verdicts)]
    labels = "".join(
        f'<label><input type="checkbox" id="layer{number}" checked><svg viewBox="0 0 42 16" aria-hidden="true">'
        f'<path class="outline l{number}" d="M2 8h38"/></svg>{escape(name)}</label>\n'
        for number, name in enumerate(names)
    )
    return f'<fieldset class="layers" aria-label="Lines shown on the radiographs">{labels}</fieldset>\n'


def sheet(verdicts: Sequence[Verdict], positions: Sequence[int], numbers: Mapping[MaskPair, int]) -> str:
    """Pictures of the judged images at these positions, each found anew by every finder.

    Args:
        verdicts: of the finders, whose rows are in one order.
        positions: into those rows.
        numbers: what the reader knows each pair by.

    Raises:
        FeaturizerError: a pair can't be read any more.
    """
    pictures = "".join(_picture(verdicts, position, numbers) for position in positions)
    return f'<div class="sheet overlays">{pictures}</div>\n'


def _picture(verdicts: Sequence[Verdict], position: int, numbers: Mapping[MaskPair, int]) -> str:
    pair = verdicts[0].rows[position].pair
    pixels, drawn, _ = pair.read()
    scale = min(_LONG_SIDE / max(pixels.shape), 1)
    rows, columns = (max(round(scale * side), 1) for side in pixels.shape)
    layers = []
    told = []
    for number, verdict in enumerate(verdicts, 1):
        row, found = verdict.rows[position], verdict.finder.find(pixels).mask(rows, columns)
        layers.append(_box(number, row.crop, rows, columns) + ("" if found is None else _outline(number, found)))
        told.append((verdict.finder.name, _told(row)))
    layers.append(_outline(0, _reduced(drawn, rows, columns)))
    name = f"No. {numbers[pair]}" + (f" · {pair.label}" if pair.label else "")
    label = "; ".join([f"Radiograph {name} with its outlines", *(f"{finder}: {figures}" for finder, figures in told)])
    lines = "".join(f"<span><b>{escape(finder)}</b> {escape(figures)}</span>" for finder, figures in told)
    return (
        f'<figure><svg viewBox="0 0 {columns} {rows}" role="img" aria-label="{escape(label)}">'
        f'<image width="{columns}" height="{rows}" href="{_jpeg(pixels, rows, columns)}"/>{"".join(layers)}</svg>'
        f"<figcaption>{escape(name)}{lines}</figcaption></figure>\n"
    )


def _told(row: Judged) -> str:
    overlap = "" if row.dice is None else f"Dice {row.dice:.3f}, "
    kept = ", kept whole" if row.is_whole else ""
    return f"{overlap}box IoU {row.box_iou:.3f}, lost {percent(row.lost, 1)}, quality {row.quality:.2f}{kept}"


def _jpeg(pixels: Pixels, rows: int, columns: int) -> str:
    buffer = BytesIO()
    picture = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS)
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _reduced(mask: LungMask, rows: int, columns: int) -> LungMask:
    grey = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    return np.asarray(grey.resize((columns, rows), Image.Resampling.BOX)) >= 128


def _box(layer: int, box: LungBox, rows: int, columns: int) -> str:
    x, y = box.left * columns, box.top * rows
    width, height = (box.right - box.left) * columns, (box.bottom - box.top) * rows
    return f'<rect class="outline crop l{layer}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _outline(layer: int, mask: LungMask) -> str:
    path = "".join(f"M{'L'.join(f'{x:g} {y:g}' for x, y in loop)}Z" for loop in outlines(mask))
    return f'<path class="outline l{layer}" d="{path}"/>'


def outlines(mask: LungMask) -> list[npt.NDArray[np.float64]]:
    """The closed outlines of a mask, holes included: (points, 2) each, x and y in cells.

    Points are the middles of the sides between the cells in and out, every other one of them: half a cell from the
    edge at most.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    ends: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Round every cell clockwise: (is there a side, its start, its end), as (x, y) from the cell's corner.
    for outside, start, end in (
        (~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (~padded[1:-1, 2:], (1, 0), (1, 1)),
        (~padded[2:, 1:-1], (1, 1), (0, 1)),
        (~padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        for y, x in np.argwhere(inside & outside).tolist():
            ends.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while ends:
        loop = [next(iter(ends))]
        while loop[-1] in ends:
            following = ends[loop[-1]]
            step = following.pop()
            if not following:
                del ends[loop[-1]]
            loop.append(step)
        corners = np.array(loop, dtype=np.float64)
        loops.append(((corners[:-1] + corners[1:]) / 2)[::2])
    return loops
