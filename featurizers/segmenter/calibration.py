"""What the quality of boxes is fitted to and judged on: views of known truth, from films as they are to no chest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from featurizers.lung_metrics import box_iou
from featurizers.lungs import LungBox, LungMask, box_of_mask
from featurizers.segmenter.finder import lung_maps, one_thread
from featurizers.segmenter.network import SegmenterNet
from featurizers.segmenter.quality import Quality
from featurizers.segmenter.randomise import Batch, Randomiser
from featurizers.segmenter.shape import TRAITS, shape_of
from featurizers.segmenter.training import Example, collate

Floats = npt.NDArray[np.float64]

#: Hard views of each radiograph, besides one or two of each other kind.
_VIEWS = 12
_PARTS = 2
_BATCH = 32
#: A box that overlaps the true one by less is wrong: with its margin it would cut lung off, or show much that is none.
WRONG = 0.7


class Kind(StrEnum):
    """What a view does to a radiograph."""

    PLAIN = "as it is"
    VIEW = "as training draws it"
    TURNED = "on a side, or on its head"
    PART = "a part, enlarged"
    HALF_WHITE = "one half white"
    NO_CHEST = "no chest"


class Trials(NamedTuple):
    """Boxes found on views.

    Attributes:
        kinds: (N,) of every view.
        traits: (N, traits); NaN where no box was found.
        overlaps: (N,) IoU with the true box; 0 where there is no chest.
    """

    kinds: npt.NDArray[np.str_]
    traits: Floats
    overlaps: Floats

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(N,): where a box was found."""
        found: npt.NDArray[np.bool_] = np.isfinite(self.traits[:, 0])
        return found


class Trust(NamedTuple):
    """How views of one kind fared.

    Attributes:
        kind: which.
        views: how many.
        trusted: how many of them were cropped, their quality being high enough.
        wrong: how many of the trusted boxes overlap the true one by less than WRONG.
    """

    kind: Kind
    views: int
    trusted: int
    wrong: int


def fit_quality(trials: Trials, seed: int) -> Quality:
    """Fit the quality to the boxes that were found.

    Raises:
        FeaturizerError: hardly any were.
    """
    return Quality.fit(trials.traits[trials.found], trials.overlaps[trials.found], seed)


def judge_quality(trials: Trials, quality: Quality, min_quality: float) -> list[Trust]:
    """What a quality lets pass, by kind of view: on trials that it was not fitted to."""
    told = [quality.of(traits) if found else 0.0 for traits, found in zip(trials.traits, trials.found, strict=True)]
    trusted, wrong = np.array(told) >= min_quality, trials.overlaps < WRONG
    return [
        Trust(kind, int(of.sum()), int((of & trusted).sum()), int((of & trusted & wrong).sum()))
        for kind in Kind
        for of in [trials.kinds == kind]
    ]


def try_views(network: SegmenterNet, examples: Sequence[Example], seed: int) -> Trials:
    """Find the lungs on views of examples.

    Args:
        network: as trained.
        examples: radiographs and phantoms that it was not trained on.
        seed: of the views.
    """
    folded = network.folded()
    kinds, traits, overlaps = [], [], []
    # On so small pictures threads that wait for busy cores cost more than they bring.
    with one_thread():
        for kind, view in _views(examples, seed):
            for maps, lungs in zip(lung_maps(folded, view.images), view.lungs, strict=True):
                shape = shape_of(maps)
                kinds.append(str(kind))
                traits.append(shape.traits if shape else np.full(len(TRAITS), np.nan))
                overlaps.append(_overlap(shape.box, lungs.amax(dim=0).numpy() >= 0.5) if shape else 0.0)
    return Trials(np.array(kinds), np.array(traits).reshape(-1, len(TRAITS)), np.array(overlaps))


def _views(examples: Sequence[Example], seed: int) -> Iterator[tuple[Kind, Batch]]:
    randomiser = Randomiser(seed)
    for first in range(0, len(examples), _BATCH):
        plain = collate(examples[first : first + _BATCH])
        yield Kind.PLAIN, plain
        for _ in range(_VIEWS):
            yield Kind.VIEW, randomiser.view(plain)
        for _ in range(_PARTS):
            yield Kind.PART, randomiser.parts(plain)
        yield Kind.TURNED, randomiser.turned(plain)
        yield Kind.HALF_WHITE, randomiser.half_white(plain)
        count, _, side, _ = plain.images.shape
        yield Kind.NO_CHEST, Batch(randomiser.no_chests(count, side), torch.zeros_like(plain.lungs), plain.counted)


def _overlap(box: LungBox, lung: LungMask) -> float:
    return box_iou(box, box_of_mask(lung)) if lung.mean() > 0.01 else 0.0
