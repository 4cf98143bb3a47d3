"""Trains the segmenter's network on radiographs with human masks and on phantoms."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from featurizers.lung_metrics import dice
from featurizers.lungs import LungMask
from featurizers.radiograph import Pixels
from featurizers.segmenter.network import SegmenterNet, normalised, reduced
from featurizers.segmenter.randomise import Batch, Randomiser

#: Shadow weights follow the trained ones at this rate a step; they generalise better (Polyak averaging).
_FOLLOW = 0.002
_WARM_UP = 200
_CLIP = 1.0
#: A part smaller than this share of the largest is a speck and no lung.
_SMALLER_LUNG = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One radiograph with its truth, as the network looks at it.

    Attributes:
        image: (SIDE, SIDE) uint8.
        lungs: (2, SIDE, SIDE) uint8, 0 to 255: the lung on the image's left, the lung on its right.
        counted: (SIDE, SIDE) bool: where the annotator could tell.
    """

    image: npt.NDArray[np.uint8]
    lungs: npt.NDArray[np.uint8]
    counted: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: updates of the weights.
        batch: radiographs a step.
        phantoms: share of phantoms in a batch.
        learning_rate: at its highest; it warms up, then falls along a cosine.
        weight_decay: of AdamW.
        seed: of weights, order and views.
    """

    steps: int = 6000
    batch: int = 32
    phantoms: float = 0.3
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    seed: int = 0


def example(pixels: Pixels, lung: LungMask, counted: LungMask) -> Example | None:
    """Prepare a radiograph; None where the mask does not show two lungs apart, so that neither can be told.

    Args:
        pixels: (rows, columns) uint8 greyscale, bone bright.
        lung, counted: (rows, columns) bool, as `MaskPair.read` gives them.
    """
    parts = two_lungs(lung)
    if parts is None:
        return None
    return Example(
        reduced(pixels),
        np.stack([reduced(part.astype(np.uint8) * np.uint8(255)) for part in parts]),
        reduced(counted.astype(np.uint8) * np.uint8(255)) > 127,
    )


def two_lungs(lung: LungMask) -> tuple[LungMask, LungMask] | None:
    """The mask's two largest parts, the one on the image's left first; None unless both are lungs by their size."""
    parts, _ = ndimage.label(lung)
    sizes = np.bincount(parts.ravel())[1:]
    if sizes.size < 2:
        return None
    second, first = np.argsort(sizes)[-2:]
    if sizes[second] < _SMALLER_LUNG * sizes[first]:
        return None
    masks = parts == first + 1, parts == second + 1
    left, right = sorted(masks, key=lambda mask: float(np.flatnonzero(mask.any(axis=0)).mean()))
    return left, right


class Trainer:
    """Trains a network from random weights; what it holds can be saved, and taken up again.

    Args:
        pairs: radiographs with human masks.
        phantoms: drawn ones; may be empty.
        recipe: how.

    Attributes:
        step: updates done.
        shadow: the averaged network so far, in evaluation mode.
    """

    def __init__(self, pairs: Sequence[Example], phantoms: Sequence[Example], recipe: Recipe) -> None:
        self._pairs, self._phantoms, self._recipe = pairs, phantoms, recipe
        torch.manual_seed(recipe.seed)
        self._network: SegmenterNet = SegmenterNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shadow = copy.deepcopy(self._network).eval().requires_grad_(False)
        self.step = 0
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser,
            recipe.learning_rate,
            recipe.steps,
            pct_start=min(_WARM_UP / recipe.steps, 0.5),
            cycle_momentum=False,
        )

    def run(self) -> Iterator[float]:
        """Train to the end, and give each step's loss."""
        self._network.train()
        # The next batch is drawn in a thread of its own while the network works on this one.
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._batch, self.step)
            while self.step < self._recipe.steps:
                batch, coming = coming.result(), pool.submit(self._batch, self.step + 1)
                loss = self._update(batch)
                self.step += 1
                _follow(self.shadow, self._network, max(_FOLLOW, 1 / self.step))
                yield loss

    def _batch(self, step: int) -> Batch:
        """Random views; each step has a seed of its own, so that a training taken up again goes on as it would have."""
        rng = np.random.default_rng([self._recipe.seed, step])
        drawn = round(self._recipe.batch * self._recipe.phantoms) if self._phantoms else 0
        chosen = [self._pairs[i] for i in rng.integers(len(self._pairs), size=self._recipe.batch - drawn)]
        chosen += [self._phantoms[i] for i in rng.integers(len(self._phantoms), size=drawn)] if drawn else []
        return Randomiser(int(rng.integers(2**62))).view(collate(chosen))

    def _update(self, batch: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            logits = self._network(normalised(batch.images).contiguous(memory_format=torch.channels_last))
        loss = segmentation_loss(logits.float(), batch)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP)
        self._optimiser.step()
        self._schedule.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as `torch.save` takes it."""
        return {
            "step": self.step,
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, in a trainer made with the same arguments."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.step = state["step"]

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self._network,
            "shadow": self.shadow,
            "optimiser": self._optimiser,
            "schedule": self._schedule,
        }


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples as they are."""
    return Batch(
        torch.from_numpy(np.stack([each.image for each in examples]))[:, None].float() / 255,
        torch.from_numpy(np.stack([each.lungs for each in examples])).float() / 255,
        torch.from_numpy(np.stack([each.counted for each in examples]))[:, None].float(),
    )


def segmentation_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy plus the soft Dice loss of each lung (Milletari et al. 2016, doi:10.1109/3DV.2016.79)."""
    scale = batch.lungs.shape[-1] // logits.shape[-1]
    lungs, counted = functional.avg_pool2d(batch.lungs, scale), functional.avg_pool2d(batch.counted, scale)
    entropy = functional.binary_cross_entropy_with_logits(logits, lungs, reduction="none")
    found = torch.sigmoid(logits)
    overlap, both = (found * lungs * counted).sum((2, 3)), ((found + lungs) * counted).sum((2, 3))
    # A lung that lies outside the view has no Dice.
    shown = (lungs * counted).sum((2, 3)) > 1
    dice = ((1 - (2 * overlap + 1) / (both + 1)) * shown).sum() / shown.sum().clamp_min(1)
    return (entropy * counted).sum() / (2 * counted.sum()).clamp_min(1) + dice


def _follow(shadow: SegmenterNet, network: SegmenterNet, rate: float) -> None:
    with torch.no_grad():
        for old, new in zip(shadow.state_dict().values(), network.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, rate)
            else:
                old.copy_(new)


def mean_dice(network: SegmenterNet, examples: Sequence[Example]) -> float:
    """Mean Dice of both lungs together over examples as they are, at the network's resolution.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("no examples: a mean of none is none")
    folded, scores = network.folded().requires_grad_(False), []
    for each in examples:
        batch = collate([each])
        maps = torch.sigmoid(folded(normalised(batch.images)))
        found = functional.interpolate(maps, size=batch.lungs.shape[-2:], mode="bilinear").amax(1)[0] >= 0.5
        drawn, counted = batch.lungs.amax(1)[0] >= 0.5, batch.counted[0, 0] > 0
        scores.append(dice(found.numpy(), drawn.numpy(), counted.numpy()))
    return float(np.mean(scores))
