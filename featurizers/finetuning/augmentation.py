"""Augmentation: random views of training images, whole batches at once, every image its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import v2

from featurizers.errors import TrainingError
from featurizers.finetuning.ranges import check
from featurizers.radiograph import Pixels

#: What is erased: its share of the image's area, and how much longer one side of it may be than the other (the area of
#: torchvision's RandomErasing, the sides of Zhong et al., Random erasing data augmentation, AAAI 2020).
_ERASED, _LONGER = (0.02, 0.33), 1 / 0.3


@dataclass(frozen=True)
class Augmentation:
    """How far views differ from their images. By default, not at all; each draw is uniform.

    Attributes:
        shift: along each axis, up to this fraction of the side.
        rotate: up to so many degrees, either way.
        zoom: least and most enlargement; above 1 the chest becomes larger.
        flip: probability that left and right change sides.
        brightness: grey values times 1 - brightness to 1 + brightness.
        contrast: distance from the image's mean times 1 - contrast to 1 + contrast.
        gamma: grey values to the power of 1 / (1 + gamma) to 1 + gamma, its logarithm uniform.
        erase: probability that a rectangle is filled with the image's mean.

    Raises:
        TrainingError: a value is out of range.
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        least, most = self.zoom
        check("shift", self.shift, 0 <= self.shift < 1, "a fraction of the side, from 0 to below 1")
        check("rotate", self.rotate, 0 <= self.rotate <= 180, "degrees from 0 to 180")
        check("zoom", self.zoom, 0 < least <= most < math.inf, "the least and the most, above 0, as in [0.9, 1.1]")
        check("gamma", self.gamma, 0 <= self.gamma < math.inf, "a number of at least 0")
        for name in ("brightness", "contrast"):
            share = getattr(self, name)
            check(name, share, 0 <= share <= 1, "a fraction from 0 to 1")
        for name in ("flip", "erase"):
            share = getattr(self, name)
            check(name, share, 0 <= share <= 1, "a probability from 0 to 1")

    @property
    def moves(self) -> bool:
        """Whether a view may show things elsewhere."""
        return bool(self.shift or self.rotate or self.flip) or tuple(self.zoom) != (1.0, 1.0)

    @property
    def exposes(self) -> bool:
        """Whether a view may have other grey values."""
        return bool(self.brightness or self.contrast or self.gamma)


class _Draw(IntEnum):
    """Which column of an image's random numbers decides what; all are drawn, whatever the settings."""

    SHIFT_X = 0
    SHIFT_Y = 1
    ANGLE = 2
    ZOOM = 3
    FLIP = 4
    BRIGHTNESS = 5
    CONTRAST = 6
    GAMMA = 7
    ERASE = 8
    ERASED_AREA = 9
    ERASED_SHAPE = 10
    ERASED_X = 11
    ERASED_Y = 12


class Augmenter(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """A torchvision v2 transform of batches of radiographs that draws for every image by itself.

    v2's own random transforms, given a batch, draw once for all of it, and from torch's global generator, which
    everything else moves as well. Here each image has a row of random numbers, drawn on the CPU from a generator that
    the caller holds: the same on any device, with any setting changed, and for any number of processes that share a
    batch.

    Moves are one bilinear resampling. Beyond its border an image goes on as it ends there: a lung crop's border is
    body, and black wedges would show the angle, look like air, and move the image's mean. What is erased gets the mean
    for that reason, too.

    Args:
        settings: how far views differ. Those that change nothing give the images themselves back.
        generator: what calls without one draw from, as in a `v2.Compose`.
    """

    def __init__(self, settings: Augmentation, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.settings, self._generator = settings, generator

    def forward(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        places: NDArray[np.int64] | None = None,
        count: int | None = None,
    ) -> Tensor:
        """A new view of every image.

        Args:
            images: float32 (b, 1, rows, columns), 0 to 1, on any device; without a generator, any sample of v2 that
                holds them.
            generator: on the CPU; what is drawn from.
            places: (b,) of these images in a batch of `count`, for which is drawn; by default they are the batch.
            count: see `places`.

        Raises:
            TrainingError: there is no generator, neither here nor from the beginning.
        """
        if generator is None:
            return super().forward(images)  # type: ignore[no-any-return]
        draws = _drawn(len(images) if count is None else count, generator)
        return self.transform(images, {"draws": draws if places is None else draws[torch.from_numpy(places)]})

    def make_params(self, flat_inputs: Sequence[Tensor]) -> dict[str, Any]:
        """Draw for the images of a sample; v2 asks for it."""
        if self._generator is None:
            raise TrainingError("an Augmenter has nothing to draw from: give it, or its call, a torch.Generator")
        return {"draws": _drawn(len(flat_inputs[0]), self._generator)}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        """Give the views that numbers drawn before decide; v2 asks for it."""
        images, settings, draws = inpt, self.settings, params["draws"]
        if settings.moves:
            images = grid_sample(
                images, _grid(settings, draws, images), mode="bilinear", padding_mode="border", align_corners=False
            )
        if settings.exposes:
            images = _exposed(settings, draws, images)
        return _erased(settings, draws, images) if settings.erase else images


def augmented_copy(pixels: Pixels, settings: Augmentation, seed: int) -> Pixels:
    """A view of one image: uint8 (rows, columns) of uint8 (rows, columns); the same seed gives the same one."""
    images = torch.from_numpy(pixels.astype(np.float32) / 255)[None, None]
    view = Augmenter(settings)(images, torch.Generator().manual_seed(seed))
    return np.asarray((view[0, 0] * 255).round_().to(torch.uint8).numpy())


def _drawn(count: int, generator: torch.Generator) -> Tensor:
    """(count, _Draw) float32, uniform from 0 to 1."""
    return torch.rand(count, len(_Draw), generator=generator)


def _between(draws: Tensor, which: _Draw, low: float, high: float) -> Tensor:
    return low + (high - low) * draws[:, which]


def _around(draws: Tensor, which: _Draw, most: float) -> Tensor:
    return _between(draws, which, -most, most)


def _on(images: Tensor, *values: Tensor) -> list[Tensor]:
    """Bring values of images to their device, in one go, each (b, 1, 1, 1)."""
    return list(torch.stack(values).to(images.device, non_blocking=True)[..., None, None, None])


def _grid(settings: Augmentation, draws: Tensor, images: Tensor) -> Tensor:
    """Where each pixel of a view lies in its image: (b, rows, columns, 2), x and y from -1 to 1 across the image."""
    count, _, rows, columns = images.shape
    angle = _around(draws, _Draw.ANGLE, math.radians(settings.rotate))
    shrink = 1 / _between(draws, _Draw.ZOOM, *settings.zoom)
    mirror = torch.where(draws[:, _Draw.FLIP] < settings.flip, -1.0, 1.0)
    cos, sin = shrink * angle.cos(), shrink * angle.sin()
    # A fraction of the side is twice as much of a range from -1 to 1.
    back_x, back_y = (_around(draws, each, 2 * settings.shift) for each in (_Draw.SHIFT_X, _Draw.SHIFT_Y))
    of_x = torch.stack([mirror * cos, mirror * -sin * rows / columns, back_x])
    of_y = torch.stack([sin * columns / rows, cos, back_y])
    lines = torch.stack([of_x, of_y]).to(images.device, non_blocking=True)[..., None]
    x, y = (_centres(length, images.device) for length in (columns, rows))
    # As torch's affine_grid, in a twentieth of its time on a CPU: sums of rows and columns in place of products of
    # matrices.
    grid = torch.empty(count, rows, columns, 2, device=images.device)
    for axis, (along_x, along_y, offset) in enumerate(lines):
        torch.add((along_y * y + offset)[:, :, None], (along_x * x)[:, None, :], out=grid[..., axis])
    return grid


def _centres(pixels: int, device: torch.device) -> Tensor:
    return (torch.arange(pixels, device=device) * 2 + 1) / pixels - 1


def _exposed(settings: Augmentation, draws: Tensor, images: Tensor) -> Tensor:
    power = _around(draws, _Draw.GAMMA, math.log1p(settings.gamma)).exp()
    contrast = 1 + _around(draws, _Draw.CONTRAST, settings.contrast)
    brightness = 1 + _around(draws, _Draw.BRIGHTNESS, settings.brightness)
    power, scale, kept = _on(images, power, contrast * brightness, (1 - contrast) * brightness)
    if settings.gamma:
        images = images.pow(power)
    return torch.addcmul(_mean(images) * kept, images, scale).clamp_(0, 1)


def _erased(settings: Augmentation, draws: Tensor, images: Tensor) -> Tensor:
    erased = draws[:, _Draw.ERASE] < settings.erase
    area = _between(draws, _Draw.ERASED_AREA, *_ERASED)
    longer = _around(draws, _Draw.ERASED_SHAPE, math.log(_LONGER)).exp()
    # A side that is longer than the image's ends with it, so that the rectangle is whole wherever it lies.
    high, wide = ((area * ratio).sqrt().clamp_max(1) for ratio in (longer, 1 / longer))
    top, left = draws[:, _Draw.ERASED_Y] * (1 - high), draws[:, _Draw.ERASED_X] * (1 - wide)
    inside = torch.ones(1, dtype=torch.bool, device=images.device)
    for axis, edge, length in ((2, top, torch.where(erased, high, 0.0)), (3, left, wide)):
        first, last = _on(images, edge, edge + length)
        at = (_centres(images.shape[axis], images.device) + 1) / 2
        at = at[:, None] if axis == 2 else at
        inside = inside & (at >= first) & (at < last)
    return torch.where(inside, _mean(images), images)


def _mean(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3), keepdim=True)
