"""From the network's two maps to one box around both lungs, and to the numbers that tell how far to trust it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from featurizers.lung_metrics import box_iou
from featurizers.lungs import LungBox, LungMap

#: (2, rows, columns) float32, 0 to 1: the lung on the image's left, the lung on its right.
LungMaps: TypeAlias = npt.NDArray[np.float32]

#: A lung with less than this share of the other's area is taken as hidden: the other one, mirrored, stands for it.
_HIDDEN = 0.25
#: Between the lungs lies this much of one lung's width: the median of 653 human masks of children, the ones trained on.
_MEDIASTINUM = 0.32
#: Levels at which the box is taken once more: one that hardly moves between them has sharp edges on all sides.
_LOOSE, _STRICT = 0.2, 0.8


class Edges(NamedTuple):
    """A box in cells of the map: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float


class Shape(NamedTuple):
    """What the maps show.

    Attributes:
        box: the smallest box around both lungs.
        traits: one number for each of TRAITS.
    """

    box: LungBox
    traits: npt.NDArray[np.float64]


#: What quality is told from.
TRAITS = (
    "doubt",  # mean of min(p, 1 - p) over the lungs' cells: soft, broken outlines
    "loose",  # 1 - IoU of the box with the one at _LOOSE
    "strict",  # 1 - IoU of the box with the one at _STRICT
    "unequal",  # 1 - area of the smaller lung / area of the larger
    "askew",  # 1 - IoU of the rows that the lungs reach over
    "specks",  # share of lung cells outside each lung's largest part
    "small",  # how far both lungs' area falls short of a sixth of the image
    "cut",  # sides of the box on the image's border, of four
    "hollow",  # 1 - area of both lungs / area of the box
)


def shape_of(maps: LungMaps) -> Shape | None:
    """Box and traits; None where the maps show no lung."""
    lungs = [_largest_part(each) for each in maps]
    # Above the level of the edges: a cell that only just reached it would begin where it ends.
    areas = [float((lung > 0.5).sum()) for lung in lungs]
    if max(areas) < 1:
        return None
    found = [_edges(lung, 0.5) if area else None for lung, area in zip(lungs, areas, strict=True)]
    rows, columns = maps.shape[1:]
    both = np.maximum(lungs[0], lungs[1])
    edges = _around(_with_hidden(found, areas, columns))
    box = _box(edges, rows, columns)
    loose, strict = (_edges(both, level) for level in (_LOOSE, _STRICT))
    plain = _edges(both, 0.5) or edges
    cells = sum(areas)
    left, right = found
    traits = [
        float(np.minimum(both, 1 - both).sum()) / cells,
        1 - (box_iou(plain, loose) if loose else 0.0),
        1 - (box_iou(plain, strict) if strict else 0.0),
        1 - min(areas) / max(areas),
        1 - (_shared(left.top, left.bottom, right.top, right.bottom) if left and right else 0.0),
        1 - cells / float((maps > 0.5).sum()),
        max(0.0, 1 - 6 * cells / (rows * columns)),
        sum((box.left < 1 / columns, box.top < 1 / rows, box.right > 1 - 1 / columns, box.bottom > 1 - 1 / rows)) / 4,
        1 - float((both > 0.5).sum()) / ((edges.right - edges.left) * (edges.bottom - edges.top)),
    ]
    return Shape(box, np.array(traits))


def _largest_part(lung: LungMap) -> LungMap:
    """The map without what is not connected to its largest part."""
    parts, count = ndimage.label(lung >= _LOOSE)
    if count < 2:
        return lung
    sizes = np.bincount(parts.ravel(), weights=(lung > 0.5).ravel())
    sizes[0] = -1
    kept: LungMap = np.where((parts == sizes.argmax()) | (parts == 0), lung, np.float32(0))
    return kept


def _edges(lung: LungMap, level: float) -> Edges | None:
    """Where the map's profiles cross a level, between cells; None if they nowhere reach it."""
    across, down = _crossings(lung.max(axis=0), level), _crossings(lung.max(axis=1), level)
    return Edges(across[0], down[0], across[1], down[1]) if across and down else None


def _crossings(profile: npt.NDArray[np.float32], level: float) -> tuple[float, float] | None:
    reached = np.flatnonzero(profile >= level)
    if not reached.size:
        return None
    first, last = int(reached[0]), int(reached[-1])
    # Cell i spans i to i + 1, and its value stands for its centre.
    begin, end = 0.0, float(profile.size)
    if first > 0:
        begin = first + 0.5 - float((profile[first] - level) / (profile[first] - profile[first - 1]))
    if last < profile.size - 1:
        end = last + 0.5 + float((profile[last] - level) / (profile[last] - profile[last + 1]))
    return begin, end


def _with_hidden(found: list[Edges | None], areas: list[float], columns: int) -> list[Edges]:
    """The lungs' edges; for a lung that does not show, the other's, mirrored across the mediastinum."""
    lungs = [edges for edges in found if edges]
    weak = int(np.argmin(areas))
    shown = found[1 - weak]
    if shown is None or min(areas) >= _HIDDEN * max(areas):
        return lungs
    width = shown.right - shown.left
    gap = _MEDIASTINUM * width
    inner = shown.left - gap if weak == 0 else shown.right + gap
    outer = inner - width if weak == 0 else inner + width
    low, high = sorted((min(max(inner, 0.0), columns), min(max(outer, 0.0), columns)))
    return [*lungs, Edges(low, shown.top, high, shown.bottom)]


def _around(lungs: list[Edges]) -> Edges:
    lefts, tops, rights, bottoms = zip(*lungs, strict=True)
    return Edges(min(lefts), min(tops), max(rights), max(bottoms))


def _box(edges: Edges, rows: int, columns: int) -> LungBox:
    return LungBox(edges.left / columns, edges.top / rows, edges.right / columns, edges.bottom / rows)


def _shared(first: float, last: float, other_first: float, other_last: float) -> float:
    """Intersection over union of two stretches."""
    shared = max(min(last, other_last) - max(first, other_first), 0.0)
    return shared / (last - first + other_last - other_first - shared)
