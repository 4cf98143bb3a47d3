"""A phantom's chest on its canvas: how thick each tissue is along every ray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from featurizers.phantom_anatomy import Anatomy, Habitus, Side
from featurizers.phantom_geometry import Canvas, Frame, Map, Points, ball, blur, edge, ellipse, lookup, noise
from featurizers.phantom_skeleton import draw_bones


@dataclass
class Chest:
    """A body on its canvas, tissue by tissue, still open to what findings change.

    Every map is float32 (height, width). Thicknesses are in units of the chest's depth.

    Attributes:
        anatomy: the body.
        frame: where it lies.
        lungs: for each side, how much of a pixel its lung covers, 0 to 1.
        body: soft tissue from skin to skin, as if the lungs were filled with it.
        lung_depth: the air-filled lung along the ray.
        vessels: the share of that lung that vessels take, 0 to 1.
        opacity: the share of that lung that disease fills with fluid or cells, 0 to 1.
        extra: soft tissue or, negative, air, added whatever the lung holds.
        bones: attenuation that bone adds to the soft tissue it replaces.
        heart: the heart's outline, 0 to 1.
    """

    anatomy: Anatomy
    frame: Frame
    lungs: dict[Side, Map]
    body: Map
    lung_depth: Map
    vessels: Map
    opacity: Map
    extra: Map
    bones: Map
    heart: Map

    def fill(self, share: Map) -> None:
        """Let disease fill `share` of what air is left in the lung."""
        self.opacity = 1 - (1 - self.opacity) * (1 - np.clip(share, 0, 1))

    def place_in_lung(self, side: Side) -> tuple[Map, Map]:
        """Every pixel's place in that side's lung: 0 midline to 1 rib cage, and 0 apex to 1 top of the dome."""
        u, v = self.frame.grid
        table = np.linspace(-0.2, 3.0, 1024)
        wall = lookup(self.anatomy.wall(table), -0.2, 3.0, v)
        return u * np.float32(side) / wall, v / np.float32(self.anatomy.dome(side))

    @property
    def lung(self) -> Map:
        """Both lungs, 0 to 1."""
        return np.maximum(self.lungs[Side.RIGHT], self.lungs[Side.LEFT])


def build_chest(anatomy: Anatomy, frame: Frame) -> Chest:
    """The healthy body on its canvas."""
    rng = np.random.default_rng(anatomy.seed)
    u, v = frame.grid
    lungs = {}
    for side in Side:
        canvas = Canvas(frame)
        canvas.polygon(anatomy.lung_outline(side), 1.0)
        lungs[side] = canvas.map(0.6)
    body, depth = _soft_tissue(anatomy, frame)
    heart, middle = _heart_and_mediastinum(anatomy, frame)
    lung = np.maximum(lungs[Side.RIGHT], lungs[Side.LEFT])
    table = np.linspace(-0.2, 3.0, 1024)
    wall = lookup(anatomy.wall(table) + 0.035, -0.2, 3.0, v)
    across = np.clip(np.abs(u) / wall, 0, 1)
    profile = np.sqrt(1 - across**3)
    # Lung hangs behind the dome into the recess, thinner and thinner: the liver's upper edge is not the whole story.
    recess = blur(lung, 0.06 * frame.scale) * (1 - lung) * (v > 0.8 * anatomy.lung_height) * np.float32(0.45)
    shallow = lookup(np.interp(table, [-0.1, 0.25, 0.7], [0.5, 0.85, 1.0]), -0.2, 3.0, v)
    lung_depth = np.clip((0.66 * profile * shallow) * (lung + recess) - middle, 0, None)
    extra = -0.12 * _airways(anatomy, frame)
    extra += _breasts(anatomy, frame, rng) + _abdominal_gas(anatomy, frame, rng)
    return Chest(
        anatomy=anatomy,
        frame=frame,
        lungs=lungs,
        body=body,
        lung_depth=lung_depth,
        vessels=_vessels(anatomy, frame, rng),
        opacity=np.zeros_like(u),
        extra=extra * np.minimum(depth, 1),
        bones=draw_bones(anatomy, frame, rng) * np.float32(anatomy.bone),
        heart=heart,
    )


def _soft_tissue(anatomy: Anatomy, frame: Frame) -> tuple[Map, Map]:
    """The torso, neck, head and arms from skin to skin; and the torso's own depth by height."""
    u, v = frame.grid
    child = anatomy.habitus is Habitus.CHILD
    wide = 0.08 + anatomy.fat
    table = np.linspace(-1.5, 3.5, 2048)
    neck, shoulder = (0.36, 1.2) if child else (0.4, 1.34)
    half_width = np.interp(
        table,
        [-1.5, -0.5, -0.34, -0.2, -0.08, 0.05, 0.2, 0.42, 0.7, 1.2, 1.8, 3.5],
        [neck, neck, neck + 0.08, 0.74, 1.0, shoulder, shoulder + wide / 2, 1.13 + wide, 1.06 + wide, 1.03 + wide,
         1.0 + wide, 1.0 + 1.3 * wide],
    )  # fmt: skip
    half_width = ndimage.gaussian_filter1d(half_width, 24)
    depth_table = np.interp(table, [-1.0, -0.35, 0.0, 0.5, 1.4, 2.2], [0.55, 0.6, 0.78, 0.97, 1.06, 1.06])
    depth = lookup(depth_table, -1.5, 3.5, v)
    across = np.clip(np.abs(u) / lookup(half_width, -1.5, 3.5, v), 0, 1)
    body = depth * (1 - across**4) ** np.float32(0.45)
    head_v = -0.95 if child else -1.2
    head = 1.15 * ball(ellipse(frame, (-frame.turn, head_v), (0.62 if child else 0.5, 0.58)))
    body = np.maximum(body, head)
    for side in Side:
        top = np.array([side * (shoulder - 0.2), 0.27])
        direction = np.array([side * np.sin(anatomy.arm_angle), np.cos(anatomy.arm_angle)])
        radius = (0.24 if child else 0.28) + 0.5 * anatomy.fat
        du, dv = u - np.float32(top[0]), v - np.float32(top[1])
        along = np.clip(du * np.float32(direction[0]) + dv * np.float32(direction[1]), 0, None)
        distance = (du - along * np.float32(direction[0])) ** 2 + (dv - along * np.float32(direction[1])) ** 2
        arm = 2 * np.sqrt(np.clip(np.float32(radius**2) - distance, 0, None))
        body = np.maximum(body, arm * np.float32(0.9))
    return body, depth


def _heart_and_mediastinum(anatomy: Anatomy, frame: Frame) -> tuple[Map, Map]:
    """The heart's outline, 0 to 1; and how much lung the heart and the great vessels displace."""
    u, v = frame.grid
    height = anatomy.lung_height
    width, tall = anatomy.heart_width, anatomy.heart_height
    shift = anatomy.heart_shift + 0.6 * frame.turn
    centre_v = anatomy.dome(Side.LEFT) - (0.4 if anatomy.habitus is Habitus.ADULT else 0.5) * tall
    # Two ellipsoids: the ventricles lean to the apex, the right atrium makes the other border.
    ventricles = ball(ellipse(frame, (shift + 0.02, centre_v), (1.1 * width, 0.78 * tall), lean=0.66))
    atrium = ball(ellipse(frame, (shift - 0.5 * width, centre_v - 0.12), (0.42 * width, 0.8 * tall)))
    heart = np.maximum(ventricles, 0.85 * atrium)
    table = np.linspace(-0.6, 2.2, 1024) / height
    base = anatomy.mediastinum + 0.02
    turn = 0.5 * frame.turn
    left = base * 0.75 + anatomy.aorta * 0.09 * _bump(table, 0.27, 0.07) + 0.08 * _bump(table, 0.42, 0.06)
    left = left + 0.12 * _bump(table, 0.54, 0.08) + 0.25 * _bump(table, 1.05, 0.2) + turn
    right = (
        base * 0.85
        + 0.08 * _bump(table, 1.02, 0.16)
        + 0.03 * _bump(table, 0.22, 0.14)
        + 0.035 * _bump(table, 0.48, 0.08)
        - turn
    )
    edges = np.where(u > 0, lookup(left, -0.6, 2.2, v), lookup(right, -0.6, 2.2, v))
    across = np.clip(np.abs(u) / edges, 0, 1)
    column = np.sqrt(1 - across**8)
    knob = ball(ellipse(frame, (0.13 + turn, 0.28 * height), (0.1 + 0.05 * anatomy.aorta, 0.1 + 0.04 * anatomy.aorta)))
    middle = np.maximum(0.58 * np.sqrt(heart), 0.62 * column)
    middle = np.maximum(middle, 0.34 * knob * np.float32(anatomy.aorta))
    if anatomy.habitus is Habitus.CHILD:
        # The thymus: a soft sail beside the upper mediastinum.
        thymus = ball(ellipse(frame, (-0.05, 0.3 * height), (base * 1.15, 0.3 * height)))
        middle = np.maximum(middle, 0.3 * thymus)
    outline = edge(np.maximum(ventricles, atrium) - np.float32(0.05), 0.05)
    return outline, middle


def _bump(at: NDArray[np.float64], centre: float, width: float) -> NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * ((at - centre) / width) ** 2))


def _airways(anatomy: Anatomy, frame: Frame) -> Map:
    """Trachea and main bronchi, 0 to 1."""
    height = anatomy.lung_height
    shift = 0.5 * frame.turn
    carina = np.array([0.0 + shift, 0.4 * height])
    canvas = Canvas(frame)
    canvas.line(np.array([[0.01, -0.8], [0.005 + shift, 0.0], carina]), 1.0, 0.125)
    canvas.line(carina + np.array([[0.0, -0.02], [-0.2, 0.12]]), 0.6, 0.085)
    canvas.line(carina + np.array([[0.0, -0.02], [0.26, 0.15]]), 0.55, 0.075)
    return canvas.map(0.022 * frame.scale)


def _breasts(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    """The soft shadows over the lower lungs in women; nothing in children and men."""
    u, v = frame.grid
    out = np.zeros_like(u)
    if anatomy.habitus is Habitus.CHILD or not anatomy.female:
        return out
    size = rng.uniform(0.34, 0.52)
    low = anatomy.lung_height * rng.uniform(0.72, 0.92)
    for side in Side:
        shape = ellipse(frame, (side * rng.uniform(0.56, 0.66), low), (size, size * rng.uniform(0.8, 1.0)))
        fade = edge(v - np.float32(low - 0.35 * size), 0.5 * size)
        out += np.float32(rng.uniform(0.08, 0.17)) * ball(shape) * fade
    return out


def _abdominal_gas(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    """Air in the stomach under the left dome, and in the bowel."""
    top = anatomy.dome_left
    gas = np.zeros_like(frame.grid[0])
    if anatomy.stomach_gas > 0.35:
        wide = 0.12 + 0.2 * (anatomy.stomach_gas - 0.35)
        shape = ellipse(
            frame, (rng.uniform(0.38, 0.55), top + 0.12 + 0.6 * wide), (wide, 0.5 * wide), rng.uniform(-0.4, 0.3)
        )
        gas -= np.float32(rng.uniform(0.08, 0.26)) * edge(1 - shape + 0.2 * noise(rng, frame, 0.15), 0.3)
    for _ in range(int(rng.gamma(1.2, 1.8))):
        radius = rng.uniform(0.05, 0.13)
        place = (rng.uniform(-0.5, 0.75), top + rng.uniform(0.38, 0.9))
        loop = ellipse(frame, place, (radius, radius * rng.uniform(0.5, 1.0)), rng.uniform(-1, 1))
        gas -= np.float32(rng.uniform(0.04, 0.13)) * edge(1 - loop, 0.6)
    return gas


def _vessels(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    """The pulmonary vessels: trees that fork from each hilum and thin out towards the periphery."""
    canvas = Canvas(frame)
    for side in Side:
        hilum = np.array(
            [side * (0.22 + 0.4 * side * frame.turn), (0.47 if side is Side.RIGHT else 0.44) * anatomy.lung_height]
        )
        for pieces, widths in _tree(rng, hilum, side, reach=0.2 * anatomy.lung_height):
            canvas.lines(pieces, np.minimum(0.05 + 9 * widths, 0.42), widths)
    return np.asarray(np.maximum(canvas.map(0.7), np.float32(0.55) * _hila(anatomy, frame, rng)))


def _hila(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    hila = np.zeros_like(frame.grid[0])
    for side in Side:
        level = (0.5 if side is Side.RIGHT else 0.46) * anatomy.lung_height
        for _ in range(3):
            place = (side * rng.uniform(0.16, 0.27) + 0.4 * frame.turn, level + rng.uniform(-0.1, 0.14))
            shape = ellipse(frame, place, (rng.uniform(0.05, 0.09), rng.uniform(0.09, 0.16)), -side * 0.3)
            hila = np.maximum(hila, np.exp(-1.2 * shape))
    return hila


def _tree(rng: np.random.Generator, root: Points, side: Side, reach: float) -> list[tuple[Points, NDArray[np.float64]]]:
    """A forking tree level by level, (pieces (n, 3, 2), widths (n,)); thick ones last, so that they lie on top."""
    trunks = 13
    # Angles from straight up (towards the apex) round the lateral side to straight down (towards the base).
    angle = np.linspace(-1.35, 1.45, trunks) + rng.normal(0, 0.1, trunks)
    start = root + np.column_stack([side * rng.uniform(-0.05, 0.05, trunks), rng.uniform(-0.12, 0.14, trunks)])
    length = reach * rng.uniform(0.7, 1.3, trunks) * (1 + 0.35 * np.sin(np.clip(angle, 0, None)))
    width = rng.uniform(0.016, 0.034, trunks)
    levels = []
    for _ in range(4):
        step = np.column_stack([side * np.cos(angle), np.sin(angle)]) * length[:, None]
        end = start + step
        middle = (start + end) / 2 + np.column_stack([-step[:, 1], step[:, 0]]) * rng.normal(0, 0.08, (len(step), 1))
        levels.append((np.stack([start, middle, end], 1), width))
        spread = rng.uniform(0.2, 0.5, len(angle))
        angle = np.concatenate([angle + spread, angle - spread]) + rng.normal(0, 0.1, 2 * len(angle))
        start = np.concatenate([end, end])
        length = np.concatenate([length, length]) * rng.uniform(0.55, 0.9, len(angle))
        width = np.concatenate([width, width]) * rng.uniform(0.55, 0.8, len(angle))
    return levels[::-1]
