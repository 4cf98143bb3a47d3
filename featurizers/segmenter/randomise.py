"""Random views of training radiographs: pose, exposure, collimation, writing, devices, opacities, a white lung.

The real pairs are children on good films. What the network meets later (adults, portable films, other detectors) it has
to meet here first: so each view is drawn far wider than the pairs vary by themselves. Every random number comes from
one generator, so that a seed repeats a training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

#: Least amount of a view's pose and exposure; drawn from here to 1.
_CALM = 0.2
#: Clouds of so few cells are drawn with curves.
_SMOOTH_CELLS = 5
#: Share of views of a part of the body without lungs: of this part of the side, with lung on less than this share.
_ELSEWHERE, _PART, _LITTLE_LUNG = 0.03, 0.4, 0.1


@dataclass(frozen=True, slots=True)
class Batch:
    """Radiographs with their truth.

    Attributes:
        images: (N, 1, rows, columns) float32, 0 to 1, bone bright.
        lungs: (N, 2, rows, columns) float32, 0 to 1: the lung on the image's left, the lung on its right.
        counted: (N, 1, rows, columns) float32: 1 where the annotator could tell, 0 elsewhere.
    """

    images: Tensor
    lungs: Tensor
    counted: Tensor


class Randomiser:
    """Draws views, all at once for a batch."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def view(self, batch: Batch) -> Batch:
        """A new view of every radiograph; shapes stay."""
        images, lungs = self._diseased(batch.images, batch.lungs)
        # Some views stay near the original, so that the usual film is met too.
        amount = self._uniform(_CALM, 1, len(images), 1, 1, 1)
        images, lungs, counted = self._posed(images, lungs, batch.counted, amount[:, 0, 0, 0])
        images, lungs = self._elsewhere(images, lungs)
        images = self._exposed(images, amount)
        images = self._littered(images)
        images = self._collimated(images, lungs)
        return Batch(images, lungs, counted)

    def no_chests(self, count: int, side: int) -> Tensor:
        """Pictures (count, 1, side, side) that are no chest: clouds, plates and discs, with writing and wires."""
        fields = torch.cat([self._clouds(1, int(cells), side) for cells in self._uniform(2, 24, count)])
        grid = torch.linspace(-1, 1, side)
        rows, columns = grid[None, None, :, None], grid[None, None, None, :]
        high, wide = self._uniform(0.2, 0.9, count, 1, 1, 1), self._uniform(0.2, 0.9, count, 1, 1, 1)
        disc = (rows / high) ** 2 + (columns / wide) ** 2 < 1
        plate = (rows.abs() < high) & (columns.abs() < wide)
        shape = torch.where(self._chosen(0.5, count), disc, plate)
        shaped = shape * self._uniform(0.3, 1, count, 1, 1, 1) + fields * self._uniform(0, 0.1, count, 1, 1, 1)
        return self._littered(torch.where(self._chosen(0.5, count), shaped, 0.5 + fields * 0.2))

    def turned(self, batch: Batch) -> Batch:
        """Every radiograph on a side, or on its head."""
        turns = torch.randint(1, 4, (len(batch.images),), generator=self._generator).tolist()
        images, lungs = (
            torch.stack([each.rot90(turn, (1, 2)) for each, turn in zip(maps, turns, strict=True)])
            for maps in (batch.images, batch.lungs)
        )
        return Batch(images, lungs, torch.ones_like(batch.counted))

    def parts(self, batch: Batch) -> Batch:
        """A part of every radiograph, from two fifths of its height and width up, enlarged."""
        count, _, side, _ = batch.images.shape
        images, lungs = torch.empty_like(batch.images), torch.empty_like(batch.lungs)
        for i, (high, wide) in enumerate((self._uniform(_PART, 1, count, 2) * side).int().tolist()):
            top, left = (int(self._uniform(0, side - length + 1, 1)) for length in (high, wide))
            place = ..., slice(top, top + high), slice(left, left + wide)
            images[i] = functional.interpolate(batch.images[i : i + 1][place], size=(side, side))[0]
            lungs[i] = functional.interpolate(batch.lungs[i : i + 1][place], size=(side, side))[0]
        return Batch(images, lungs, torch.ones_like(batch.counted))

    def half_white(self, batch: Batch) -> Batch:
        """Every radiograph with one half as bright as its heart: a lung, and its border with all around, unseen."""
        images, (count, _, side, _) = batch.images, batch.images.shape
        tissue = images[:, 0, ::4, ::4].flatten(1).quantile(0.85, dim=1)[:, None, None, None]
        columns = torch.linspace(-1, 1, side)[None, None, None, :]
        half = torch.sigmoid(columns * torch.where(self._chosen(0.5, count), 40.0, -40.0))
        white = tissue + self._clouds(count, 12, side) * 0.03
        return Batch(torch.lerp(images, white, half), batch.lungs, batch.counted)

    # Draws ------------------------------------------------------------------------------------------------------------

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self._generator)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def _chosen(self, share: float, count: int) -> Tensor:
        """(count, 1, 1, 1) bool, true for about this share."""
        return torch.rand((count, 1, 1, 1), generator=self._generator) < share

    def _clouds(self, count: int, cells: int, side: int) -> Tensor:
        """(count, 1, side, side): smooth noise of unit variance, some `side / cells` pixels wide."""
        # Straight lines between many cells look no worse than curves, and cost a quarter.
        mode = "bicubic" if cells <= _SMOOTH_CELLS else "bilinear"
        return functional.interpolate(self._normal(count, 1, cells, cells), size=side, mode=mode)

    # Steps ------------------------------------------------------------------------------------------------------------

    def _diseased(self, images: Tensor, lungs: Tensor) -> tuple[Tensor, Tensor]:
        """Opacities in the lungs, from patches to a whole white lung; the lungs stay where they are."""
        count, _, side, _ = images.shape
        # What a lung without air looks like: about as bright as the heart and the abdomen of the same film.
        sample = images[:, 0, ::4, ::4].flatten(1)
        tissue = sample.kthvalue(int(0.85 * sample.shape[1]), dim=1).values[:, None, None, None]
        both = lungs.sum(dim=1, keepdim=True).clamp(0, 1)
        texture = self._clouds(count, 12, side) * 0.04

        patches = torch.sigmoid((self._clouds(count, 5, side) - self._uniform(0.2, 1.4, count, 1, 1, 1)) * 5)
        patches = patches * self._uniform(0.2, 1.0, count, 1, 1, 1) * self._chosen(0.35, count)
        images = images + patches * both * (tissue + texture - images)

        # A white lung, or its lower part as an effusion: what lies below a slanting level.
        white = torch.nonzero(self._chosen(0.15, count).flatten()).flatten()
        some = len(white)
        rows = torch.linspace(0, 1, side)[None, None, :, None]
        columns = torch.linspace(-0.5, 0.5, side)[None, None, None, :]
        level = torch.where(self._chosen(0.4, some), -1.0, self._uniform(0.3, 0.85, some, 1, 1, 1))
        below = torch.sigmoid((rows - level + columns * self._uniform(-0.6, 0.6, some, 1, 1, 1)) * 30)
        one = torch.where(self._chosen(0.5, some), lungs[white, :1], lungs[white, 1:])
        share = functional.avg_pool2d(one, 9, 1, 4) * below * self._uniform(0.6, 1.0, some, 1, 1, 1)
        images[white] = torch.lerp(images[white], (tissue + texture)[white], share)
        return images, lungs

    def _posed(self, images: Tensor, lungs: Tensor, counted: Tensor, amount: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turned, scaled on each axis, moved, sheared, bent and mirrored."""
        count, _, side, _ = images.shape
        angle = self._normal(count).mul(7).clamp(-15, 15) * (math.pi / 180) * amount
        zoom = torch.exp(self._uniform(-0.45, 0.3, count) * amount)
        aspect = torch.exp(self._normal(count).mul(0.18).clamp(-0.4, 0.4) * amount)
        mirrored = self._chosen(0.5, count)
        flip = torch.where(mirrored[:, 0, 0, 0], -1.0, 1.0)
        across, down = zoom * aspect.sqrt(), zoom / aspect.sqrt()
        cos, sin = torch.cos(angle), torch.sin(angle)
        shear = self._normal(count) * 0.05 * amount
        move_x, move_y = (self._normal(count) * 0.12 * amount for _ in range(2))
        theta = torch.stack(
            [
                torch.stack([flip * cos / across, -flip * (sin + shear) / across, move_x], 1),
                torch.stack([sin / down, cos / down, move_y], 1),
            ],
            1,
        )
        grid = functional.affine_grid(theta, [count, 1, side, side], align_corners=False)
        bend = torch.cat([self._clouds(count, 4, side), self._clouds(count, 4, side)], 1).permute(0, 2, 3, 1)
        grid = grid + bend * (0.03 * amount[:, None, None, None])
        # Beyond the film lies nothing, or more of the same body.
        outside = (grid.abs() > 1).any(dim=-1)[:, None] & self._chosen(0.5, count)
        images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        images = images.masked_fill(outside, 0.0)
        lungs = functional.grid_sample(lungs, grid, align_corners=False)
        counted = functional.grid_sample(counted, grid, "nearest", "border", align_corners=False)
        return images, torch.where(mirrored, lungs.flip(1), lungs), counted

    def _elsewhere(self, images: Tensor, lungs: Tensor) -> tuple[Tensor, Tensor]:
        """A few images show a part of the body with hardly any lung, enlarged: nothing is to be found there."""
        images, lungs = images.clone(), lungs.clone()
        for i in torch.nonzero(self._chosen(_ELSEWHERE, len(images)).flatten()).flatten().tolist():
            if (part := self._part_without_lung(lungs[i])) is not None:
                images[i] = functional.interpolate(images[i : i + 1][..., part[0], part[1]], size=images.shape[-2:])[0]
                lungs[i] = 0
        return images, lungs

    def _part_without_lung(self, lungs: Tensor) -> tuple[slice, slice] | None:
        side = lungs.shape[-1]
        part = int(_PART * side)
        lung = lungs.amax(dim=0)
        for top, left in torch.randint(0, side - part, (20, 2), generator=self._generator).tolist():
            place = slice(top, top + part), slice(left, left + part)
            if lung[place].mean() < _LITTLE_LUNG:
                return place
        return None

    def _exposed(self, images: Tensor, amount: Tensor) -> Tensor:
        """Another film: gamma, an uneven field, contrast, blur, noise, steps of grey; sometimes air bright."""
        count, _, side, _ = images.shape
        images = images.clamp(0, 1)
        images = images ** torch.exp(self._normal(count, 1, 1, 1) * 0.45 * amount)
        # An S-shaped film curve of random place and steepness, mixed in by a random share.
        steep, middle = self._uniform(3, 12, count, 1, 1, 1), self._uniform(0.25, 0.75, count, 1, 1, 1)
        images = torch.lerp(
            images,
            torch.sigmoid(steep * (images - middle)),
            self._uniform(0, 1, count, 1, 1, 1) * amount * self._chosen(0.5, count),
        )
        images = images + self._clouds(count, 3, side) * self._uniform(0, 0.12, count, 1, 1, 1) * amount
        images = images * self._uniform(0.4, 1.0, count, 1, 1, 1) + self._uniform(0, 0.3, count, 1, 1, 1)
        images = torch.where(self._chosen(0.04, count), 1 - images, images)
        for share, width in ((0.25, 3), (0.15, 5)):
            blurred = self._chosen(share, count).flatten()
            images[blurred] = _blurred(images[blurred], width)
        grain = self._normal(*images.shape) * self._uniform(0, 0.05, count, 1, 1, 1)
        return images + grain * self._chosen(0.5, count)

    def _littered(self, images: Tensor) -> Tensor:
        """Letters, tubes and metal: bright, or dark, small and sharp."""
        count, _, side, _ = images.shape
        grid = torch.linspace(0, 1, side)
        rows, columns = grid[None, None, :, None], grid[None, None, None, :]
        for share in (0.4, 0.3, 0.2):  # blocks of writing, plates and electrodes
            top, left = self._uniform(0, 1, count, 1, 1, 1), self._uniform(0, 1, count, 1, 1, 1)
            high, wide = self._uniform(0.02, 0.09, count, 1, 1, 1), self._uniform(0.02, 0.14, count, 1, 1, 1)
            round_one = ((rows - top) / high) ** 2 + ((columns - left) / wide) ** 2 < 1
            square = ((rows - top).abs() < high) & ((columns - left).abs() < wide)
            written = square & (self._clouds(count, side // 4, side) > 0.3)
            shape = torch.where(self._chosen(0.5, count), round_one, written)
            images = torch.where(shape & self._chosen(share, count), self._uniform(0, 1.2, count, 1, 1, 1), images)
        for share in (0.25, 0.15):  # tubes and wires
            start, slope = self._uniform(0, 1, count, 1, 1, 1), self._uniform(-0.8, 0.8, count, 1, 1, 1)
            waves = 0.08 * torch.sin(rows * self._uniform(2, 12, count, 1, 1, 1) + 6 * start)
            distance = (columns - start - slope * (rows - 0.5) - waves).abs()
            tube = (1 - distance * side / self._uniform(1, 2.5, count, 1, 1, 1)).clamp(0, 1)
            images = images + tube * self._uniform(0.1, 0.6, count, 1, 1, 1) * self._chosen(share, count)
        return images

    def _collimated(self, images: Tensor, lungs: Tensor) -> Tensor:
        """Black, grey or white beyond straight edges outside the lungs."""
        count, _, side, _ = images.shape
        both = lungs.amax(dim=1) > 0.5
        grid = torch.arange(side)
        inside = torch.ones(count, 1, side, side, dtype=torch.bool)
        for axis in (1, 2):
            lung = both.any(dim=3 - axis)
            first = torch.where(lung, grid, side).amin(dim=1)
            last = torch.where(lung, grid, -1).amax(dim=1)
            low = (first * torch.rand(count, generator=self._generator))[:, None]
            high = (side - (side - 1 - last) * torch.rand(count, generator=self._generator))[:, None]
            line = (grid >= low) & (grid < high)
            inside &= line[:, None, :, None] if axis == 1 else line[:, None, None, :]
        empty = (~both.flatten(1).any(dim=1))[:, None, None, None]
        shade = torch.where(self._chosen(0.7, count), torch.zeros(count, 1, 1, 1), self._uniform(0, 1, count, 1, 1, 1))
        return torch.where(inside | empty | ~self._chosen(0.2, count), images, shade)


def _blurred(images: Tensor, width: int) -> Tensor:
    return functional.avg_pool2d(functional.avg_pool2d(images, width, 1, width // 2), width, 1, width // 2)
