"""What a lung finder does with each radiograph that has a human mask."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from featurizers.lung_metrics import box_iou, dice, lung_lost, mask_iou
from featurizers.lungs import WHOLE_IMAGE, LungBox, LungFinder, box_of_mask
from featurizers.mask_pairs import MaskPair


@dataclass(frozen=True)
class Judged:
    """One radiograph under one finder, at the radiograph's own resolution.

    Attributes:
        pair: which radiograph.
        dice, mask_iou: of the finder's mask with the human one, left out where the annotator could not tell; None
            where the finder knows no masks.
        box_iou: of the finder's box, before any margin, with the human mask's.
        crop: the part of the image that is kept: the finder's box with its margin, or the whole image.
        lost: share of the human lung outside the crop.
        lost_untrusted: the same if every box were used, whatever its quality.
        quality: the finder's.
        is_whole: whether the whole image is kept, for the quality is below the one to trust.
        milliseconds: of wall clock to find, decoding left out.
    """

    pair: MaskPair
    dice: float | None
    mask_iou: float | None
    box_iou: float
    crop: LungBox
    lost: float
    lost_untrusted: float
    quality: float
    is_whole: bool
    milliseconds: float


def evaluate_finder(
    finder: LungFinder,
    pairs: Sequence[MaskPair],
    margin: float,
    min_quality: float | None = None,
    done: Callable[[], None] = lambda: None,
) -> list[Judged]:
    """Judge a finder on each of `pairs`, in their order.

    Args:
        finder: what finds.
        pairs: radiographs with human masks.
        margin: added to the box on each side, as a fraction of the box's own side.
        min_quality: below it the whole image is kept; None: the finder's own.
        done: called after each.

    Raises:
        FeaturizerError: a pair can't be read.
    """
    trusted_from = finder.min_quality if min_quality is None else min_quality
    rows = []
    for pair in pairs:
        rows.append(_judge(finder, pair, margin, trusted_from))
        done()
    if any(row.dice is not None for row in rows):
        # A finder of masks that found nothing drew an empty one.
        rows = [row if row.dice is not None else replace(row, dice=0.0, mask_iou=0.0) for row in rows]
    return rows


def _judge(finder: LungFinder, pair: MaskPair, margin: float, min_quality: float) -> Judged:
    pixels, drawn, counted = pair.read()
    start = time.perf_counter()
    lungs = finder.find(pixels)
    milliseconds = 1000 * (time.perf_counter() - start)
    found = lungs.mask(*pixels.shape)
    box = lungs.box.expanded(margin)
    is_whole = not lungs.is_trusted(min_quality)
    crop = WHOLE_IMAGE if is_whole else box
    return Judged(
        pair=pair,
        dice=None if found is None else dice(found, drawn, counted),
        mask_iou=None if found is None else mask_iou(found, drawn, counted),
        box_iou=box_iou(lungs.box, box_of_mask(drawn)),
        crop=crop,
        lost=lung_lost(drawn, crop),
        lost_untrusted=lung_lost(drawn, box),
        quality=lungs.quality,
        is_whole=is_whole,
        milliseconds=milliseconds,
    )
