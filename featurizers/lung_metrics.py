"""How well lungs that a method found fit the lungs that a human drew."""

from __future__ import annotations

import numpy as np

from featurizers.lungs import LungBox, LungMask


def dice(found: LungMask, drawn: LungMask, counted: LungMask | None = None) -> float:
    """Dice coefficient of two masks, 0 to 1; 1 where both are empty (Dice 1945, doi:10.2307/1932409).

    Args:
        found, drawn: (rows, columns).
        counted: where a human could tell; None: everywhere.
    """
    both, found_cells, drawn_cells = _areas(found, drawn, counted)
    return 2 * both / (found_cells + drawn_cells) if found_cells + drawn_cells else 1.0


def mask_iou(found: LungMask, drawn: LungMask, counted: LungMask | None = None) -> float:
    """Intersection over union of two masks, 0 to 1; 1 where both are empty. Arguments as in `dice`."""
    both, found_cells, drawn_cells = _areas(found, drawn, counted)
    union = found_cells + drawn_cells - both
    return both / union if union else 1.0


def box_iou(a: LungBox, b: LungBox) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = max(min(a.right, b.right) - max(a.left, b.left), 0.0)
    height = max(min(a.bottom, b.bottom) - max(a.top, b.top), 0.0)
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def lung_lost(drawn: LungMask, kept: LungBox) -> float:
    """Share of a non-empty mask's cells whose centre lies outside the box that is kept, 0 to 1."""
    rows, columns = (np.arange(n) + 0.5 for n in drawn.shape)
    inside_rows = (rows >= kept.top * drawn.shape[0]) & (rows <= kept.bottom * drawn.shape[0])
    inside_columns = (columns >= kept.left * drawn.shape[1]) & (columns <= kept.right * drawn.shape[1])
    return float(1 - drawn[np.ix_(inside_rows, inside_columns)].sum() / drawn.sum())


def _areas(found: LungMask, drawn: LungMask, counted: LungMask | None) -> tuple[int, int, int]:
    """Cells in both, found and drawn."""
    if counted is not None:
        found, drawn = found & counted, drawn & counted
    return int((found & drawn).sum()), int(found.sum()), int(drawn.sum())
