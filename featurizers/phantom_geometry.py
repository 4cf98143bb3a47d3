"""Drawing in body coordinates: where a body lies on a canvas, smooth shapes, soft fields, lines and polygons.

Body coordinates: `u` to the right of the picture (the patient's left), 0 on the midline, 1 at the widest inside of the
rib cage; `v` downwards, 0 at the tops of the lungs. A `Frame` maps them to pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

Map = NDArray[np.float32]
Points = NDArray[np.float64]

#: Lines and polygons are drawn this much larger and then averaged down, which smooths their edges.
_SUPERSAMPLING = 2


@dataclass(frozen=True)
class Frame:
    """Where the body lies on a canvas of `height` × `width` pixels.

    Attributes:
        scale: pixels per unit of body length.
        origin_x: the midline's place at `v` = 0, in pixels.
        origin_y: the lung tops' place on the midline, in pixels.
        tilt: rotation in the plane of the picture, in radians.
        turn: how far the chest is turned about its long axis; moves what lies in front against what lies behind.
    """

    height: int
    width: int
    scale: float
    origin_x: float
    origin_y: float
    tilt: float
    turn: float

    def to_pixels(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Body points (n, 2) as pixel places (n, 2), x first."""
        turned = points @ np.array([[np.cos(self.tilt), np.sin(self.tilt)], [-np.sin(self.tilt), np.cos(self.tilt)]])
        return np.asarray(turned * self.scale + np.array([self.origin_x, self.origin_y]))

    @cached_property
    def grid(self) -> tuple[Map, Map]:
        """The body coordinates (u, v) of every pixel's centre, each float32 (height, width)."""
        x = ((np.arange(self.width) + 0.5 - self.origin_x) / self.scale).astype(np.float32)[None, :]
        y = ((np.arange(self.height) + 0.5 - self.origin_y) / self.scale).astype(np.float32)[:, None]
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        return x * cos + y * sin, y * cos - x * sin


def smooth_closed(points: Points, steps: int = 6) -> Points:
    """A closed Catmull–Rom spline through (n, 2) points, `steps` places between one and the next."""
    before, after, beyond = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, points, after, beyond))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.asarray(curve.reshape(-1, 2))


def blur(image: Map, sigma: float) -> Map:
    """`image` blurred by a Gaussian of `sigma` pixels; wide ones are taken on a coarser grid, which nobody can see."""
    factor = int(sigma // 3)
    if factor < 2:
        return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=2.5), dtype=np.float32)
    height, width = image.shape
    small = Image.fromarray(image).resize((max(width // factor, 2), max(height // factor, 2)), Image.Resampling.BOX)
    soft = ndimage.gaussian_filter(np.asarray(small), sigma / factor, mode="nearest", truncate=2.5)
    return np.array(Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC))


def noise(rng: np.random.Generator, frame: Frame, grain: float) -> Map:
    """A smooth random field of about unit variance, its bumps `grain` body lengths wide; float32 (height, width)."""
    step = max(grain * frame.scale, 1.0)
    shape = (int(frame.height / step) + 3, int(frame.width / step) + 3)
    coarse = rng.standard_normal(shape, dtype=np.float32)
    crop = (0.5, 0.5, 0.5 + frame.width / step, 0.5 + frame.height / step)
    field = Image.fromarray(coarse).resize((frame.width, frame.height), Image.Resampling.BICUBIC, box=crop)
    return np.array(field) * np.float32(1.4)


def lookup(table: NDArray[np.floating], low: float, high: float, at: Map) -> Map:
    """A function tabulated evenly from `low` to `high`, read at each value of `at` (the nearest entry)."""
    index = ((at - np.float32(low)) * np.float32((len(table) - 1) / (high - low))).astype(np.int32)
    return np.asarray(table, dtype=np.float32)[np.clip(index, 0, len(table) - 1)]


def ellipse(frame: Frame, centre: tuple[float, float], radii: tuple[float, float], lean: float = 0.0) -> Map:
    """The squared elliptic distance from the centre (u, v): below 1 inside. `lean` turns the ellipse, in radians."""
    grid_u, grid_v = frame.grid
    du, dv = grid_u - np.float32(centre[0]), grid_v - np.float32(centre[1])
    if lean:
        cos, sin = np.float32(np.cos(lean)), np.float32(np.sin(lean))
        du, dv = du * cos + dv * sin, dv * cos - du * sin
    return (du / np.float32(radii[0])) ** 2 + (dv / np.float32(radii[1])) ** 2


def ball(distance: Map) -> Map:
    """How thick an ellipsoid is, 0 to 1, from the squared elliptic distance."""
    return np.sqrt(np.clip(1 - distance, 0, None))


def edge(values: Map, softness: float) -> Map:
    """0 below zero and 1 above it, going over smoothly within ± `softness`."""
    t = np.clip(values * np.float32(0.5 / softness) + np.float32(0.5), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


class Canvas:
    """Lines and polygons in body coordinates, drawn smooth-edged into one map of values 0 to 1."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._image = Image.new("L", (frame.width * _SUPERSAMPLING, frame.height * _SUPERSAMPLING), 0)
        self._draw = ImageDraw.Draw(self._image)

    def _flat(self, points: NDArray[np.floating]) -> list[float]:
        return [float(x) for x in (self._frame.to_pixels(points) * _SUPERSAMPLING).ravel()]

    def polygon(self, points: NDArray[np.floating], value: float) -> None:
        """Fill a closed (n, 2) outline."""
        self._draw.polygon(self._flat(points), fill=round(255 * value))

    def line(self, points: NDArray[np.floating], value: float, width: float) -> None:
        """Draw an open (n, 2) line, `width` body lengths wide and no thinner than half a pixel."""
        pixels = max(round(width * self._frame.scale * _SUPERSAMPLING), 1)
        self._draw.line(
            self._flat(points), fill=round(255 * value), width=pixels, joint="curve" if pixels > 3 else None
        )

    def lines(self, lines: Points, values: NDArray[np.floating], widths: NDArray[np.floating]) -> None:
        """Draw n lines of k points, an (n, k, 2) array, each with its value and width; much faster than one by one."""
        places = (self._frame.to_pixels(lines) * _SUPERSAMPLING).reshape(len(lines), -1).tolist()
        inks = np.round(255 * values).astype(int).tolist()
        pixels = np.maximum(np.round(widths * self._frame.scale * _SUPERSAMPLING), 1).astype(int).tolist()
        for place, ink, width in zip(places, inks, pixels, strict=True):
            self._draw.line(place, fill=ink, width=width)

    def map(self, softness: float = 0.0) -> Map:
        """What is drawn so far, blurred by about `softness` pixels, float32 (height, width), 0 to 1."""
        small = self._image.reduce(_SUPERSAMPLING)
        if softness:
            small = small.filter(ImageFilter.BoxBlur(softness))
        return np.asarray(small, dtype=np.float32) * np.float32(1 / 255)
