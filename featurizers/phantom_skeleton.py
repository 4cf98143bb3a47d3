"""The bones of a phantom: ribs, spine, clavicles, shoulder blades and upper arms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurizers.phantom_anatomy import Anatomy, Habitus, Side
from featurizers.phantom_geometry import Canvas, Frame, Map, Points, edge, smooth_closed

_RIBS = 12
#: Ribs below this one do not come round to the front of the chest.
_FRONT_RIBS = 8


def _rib(anatomy: Anatomy, index: int) -> tuple[Points, Points]:
    """The middle lines of one rib, behind (spine to side) and in front (side to cartilage), for the left side."""
    spacing = 0.107 * anatomy.lung_height
    level = (index - 0.35) * spacing - 0.02
    early = min(index / 5, 1.0)
    drop = anatomy.rib_drop * (0.3 + 0.7 * early)
    lateral = level + drop
    reach = float(anatomy.wall(np.array(lateral))) + 0.03
    t = np.linspace(0, np.pi / 2, 18)
    behind = np.column_stack([0.1 + (reach - 0.1) * np.sin(t), level - 0.05 * np.sin(2 * t) + drop * (1 - np.cos(t))])
    s = np.linspace(0, 1.12, 12)
    fall = 0.36 * (0.5 + 0.5 * early) * anatomy.rib_drop / 0.4
    front = np.column_stack([reach * np.cos(s), lateral + fall * np.sin(s)])
    return behind, front


def _ribbon(centre: Points, width: NDArray[np.float64]) -> tuple[Points, Points]:
    """The two edges of a band of that width (n,) along a (n, 2) middle line."""
    along = np.gradient(centre, axis=0)
    normal = np.column_stack([-along[:, 1], along[:, 0]]) / np.linalg.norm(along, axis=1, keepdims=True)
    return centre + normal * width[:, None] / 2, centre - normal * width[:, None] / 2


def draw_bones(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    """Ribs, spine, clavicles, shoulder blades and upper arms, as attenuation above that of soft tissue."""
    behind, front = Canvas(frame), Canvas(frame)
    for index in range(1, _RIBS + 1):
        back, fore = _rib(anatomy, index)
        for side in Side:
            mirrored = np.array([float(side), 1.0])
            wobble = np.array([0.0, rng.normal(0, 0.008)])
            _draw_rib(behind, (back + wobble) * mirrored, anatomy.rib_width)
            if index <= _FRONT_RIBS:
                moved = (fore + wobble) * mirrored + np.array([0.3 * frame.turn, 0.0])
                _draw_rib(front, moved, anatomy.rib_width * np.linspace(0.9, 1.2, len(fore)))
    sides = np.abs(frame.grid[0])
    # Cartilage, which casts no shadow, takes over before the breastbone.
    calcified = edge(sides - np.float32(0.52), 0.12)
    # Close to the spine the ribs' necks hide behind the vertebrae's own processes.
    free = np.float32(0.35) + np.float32(0.65) * edge(sides - np.float32(0.26), 0.12)
    ribs: Map = 0.3 * behind.map(0.6) * free + 0.17 * front.map(0.8) * calcified
    return ribs + _spine(anatomy, frame, rng) + _shoulders(anatomy, frame, rng)


def _draw_rib(canvas: Canvas, centre: Points, width: float | NDArray[np.float64]) -> None:
    """A tube: its walls, seen edge on, are denser than its middle."""
    upper, lower = _ribbon(centre, np.broadcast_to(width, len(centre)))
    canvas.polygon(np.vstack([upper, lower[::-1]]), 0.55)
    canvas.line(upper, 0.85, 0.012)
    canvas.line(lower, 1.0, 0.016)


def _spine(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    canvas = Canvas(frame)
    level = -0.9
    phase = rng.uniform(0, 6)
    while level < 3.2:
        tall = 0.118 + 0.018 * level
        half = 0.105 + 0.018 * level
        shift = anatomy.spine_curve * np.sin(2 * level + phase) * 3
        top, bottom = level, level + 0.84 * tall
        corners = np.array(
            [
                [-half, top],
                [-0.86 * half, (top + bottom) / 2],
                [-half, bottom],
                [half, bottom],
                [0.86 * half, (top + bottom) / 2],
                [half, top],
            ]
        ) + np.array([shift, 0.0])
        canvas.polygon(corners, 0.62)
        canvas.line(np.vstack([corners, corners[:1]]), 0.86, 0.012)
        for side in Side:
            pedicle = np.array(
                [[side * 0.58 * half + shift, top + 0.25 * tall], [side * 0.58 * half + shift, top + 0.5 * tall]]
            )
            canvas.line(pedicle, 0.95, 0.035)
        process = np.array(
            [[shift - 0.4 * frame.turn, top + 0.5 * tall], [shift - 0.4 * frame.turn, top + 0.85 * tall]]
        )
        canvas.line(process, 1.0, 0.03)
        level += tall
    return 0.2 * canvas.map(0.9)


def _shoulders(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Map:
    """Clavicles, shoulder blades and upper arms, in pairs that differ a little."""
    child = anatomy.habitus is Habitus.CHILD
    tip = 1.02 if child else 1.16
    collar, blade, arm = Canvas(frame), Canvas(frame), Canvas(frame)
    for side in Side:
        mirror = np.array([float(side), 1.0])
        tilt = anatomy.clavicle_tilt + rng.normal(0, 0.02)
        x = np.linspace(0.1, tip, 16)
        t = (x - 0.1) / (tip - 0.1)
        y = 0.14 - tilt * t + 0.045 * np.sin(2 * np.pi * t) - 0.05 * np.sin(np.pi * t)
        moved = np.column_stack([x, y]) * mirror + np.array([0.5 * frame.turn, 0.0])
        thick = (0.065 if child else 0.075) * (1 + 0.45 * (2 * t - 1) ** 2)
        upper, lower = _ribbon(moved, thick)
        collar.polygon(np.vstack([upper, lower[::-1]]), 0.65)
        collar.line(upper, 1.0, 0.014)
        collar.line(lower, 0.95, 0.014)
        out = rng.uniform(0.02, 0.12)
        scapula = np.array(
            [
                [0.8, 0.06],
                [0.86 + out, 0.45],
                [0.94 + out, 0.86],
                [1.0 + out, 0.9],
                [1.1 + out, 0.6],
                [1.16, 0.3],
                [1.14, 0.12],
                [1.0, 0.0],
            ]
        ) * ([0.94, 0.86] if child else [1.02, 1.0])
        shape = smooth_closed(scapula) * mirror
        blade.polygon(shape, 0.35)
        blade.line(np.vstack([shape, shape[:1]]), 0.75, 0.016)
        spine_line = np.array([[0.88, 0.2], [1.05, 0.1], [tip + 0.08, -0.01]]) * mirror
        blade.line(spine_line, 0.8, 0.05)
        head = np.array([(1.12 if child else 1.27) * side, 0.17])
        direction = np.array([side * np.sin(anatomy.arm_angle), np.cos(anatomy.arm_angle)])
        shaft = np.stack([head, head + 1.9 * direction])
        arm.line(shaft, 0.9, 0.13)
        arm.line(shaft, 0.55, 0.07)
        ring = np.linspace(0, 2 * np.pi, 24)
        arm.polygon(head + 0.125 * np.column_stack([np.cos(ring), np.sin(ring)]), 0.7)
    shadows = np.float32(0.26) * collar.map(0.8) + np.float32(0.16) * blade.map(0.8) + np.float32(0.42) * arm.map(0.9)
    return np.asarray(shadows)
