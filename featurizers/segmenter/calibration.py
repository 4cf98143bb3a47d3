"""Fits the quality of boxes to what happens on hard views: how far each box misses the true one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from featurizers.lung_metrics import box_iou
from featurizers.lungs import LungBox, LungMask, box_of_mask
from featurizers.segmenter.finder import lung_maps, one_thread
from featurizers.segmenter.network import SegmenterNet
from featurizers.segmenter.randomise import Batch, Randomiser
from featurizers.segmenter.shape import TRAITS, shape_of
from featurizers.segmenter.training import Example, collate

Floats = npt.NDArray[np.float64]

#: Views of each radiograph, besides itself.
_VIEWS = 12
#: Share of the views that lie on a side or on their head.
_TURNED = 0.1
_BATCH = 32


class Trials(NamedTuple):
    """Boxes found on views whose truth is known; only views where a box was found.

    Attributes:
        traits: (N, traits).
        overlaps: (N,) IoU with the true box; 0 where there is no chest.
    """

    traits: Floats
    overlaps: Floats


def try_views(network: SegmenterNet, examples: Sequence[Example], seed: int) -> Trials:
    """Find the lungs on hard views of examples.

    Args:
        network: as trained.
        examples: radiographs and phantoms that it was not trained on.
        seed: of the views.
    """
    folded = network.folded()
    traits, overlaps = [], []
    # On so small pictures threads that wait for busy cores cost more than they bring.
    with one_thread():
        for view in _views(examples, seed):
            maps = lung_maps(folded, view.images)
            for each, lungs in zip(maps, view.lungs, strict=True):
                if (shape := shape_of(each)) is not None:
                    traits.append(shape.traits)
                    overlaps.append(_overlap(shape.box, lungs.amax(dim=0).numpy() >= 0.5))
    return Trials(np.array(traits).reshape(-1, len(TRAITS)), np.array(overlaps))


def _views(examples: Sequence[Example], seed: int) -> Iterator[Batch]:
    """Examples as they are, views of them, and as many pictures that are no chest."""
    randomiser, rng = Randomiser(seed), np.random.default_rng(seed)
    for first in range(0, len(examples), _BATCH):
        plain = collate(examples[first : first + _BATCH])
        yield plain
        for _ in range(_VIEWS):
            yield _turned(randomiser.view(plain), rng)
        count, _, side, _ = plain.images.shape
        yield Batch(randomiser.no_chests(count, side), torch.zeros_like(plain.lungs), plain.counted)


def _overlap(box: LungBox, lung: LungMask) -> float:
    return box_iou(box, box_of_mask(lung)) if lung.mean() > 0.01 else 0.0


def _turned(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with some views turned by a quarter or more."""
    images, lungs = batch.images.clone(), batch.lungs.clone()
    for i in np.flatnonzero(rng.random(len(images)) < _TURNED):
        turns = int(rng.integers(1, 4))
        images[i], lungs[i] = images[i].rot90(turns, (1, 2)), lungs[i].rot90(turns, (1, 2))
    return Batch(images, lungs, batch.counted)
