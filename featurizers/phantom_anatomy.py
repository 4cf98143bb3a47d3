"""The body that a phantom radiograph is drawn from: its proportions, and the outline of its lungs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from featurizers.phantom_geometry import Points, smooth_closed


class Side(IntEnum):
    """Side of the patient, as the sign of `u` in the picture: the right lung is on the left of a frontal radiograph."""

    RIGHT = -1
    LEFT = 1


class Habitus(StrEnum):
    """Whose proportions the body has: paediatric data sets and adult ones differ in all of them."""

    CHILD = "child"
    ADULT = "adult"


@dataclass(frozen=True)
class Anatomy:
    """One patient's body.

    Lengths are in units of half the inner width of the rib cage (about 13 cm in an adult), places in body coordinates.

    Attributes:
        habitus: whose proportions these are.
        female: whether breasts are drawn.
        seed: of what is random about the body but has no parameter here: the branching of vessels, gas, small bones.
        lung_height: from the lungs' tops to the top of the right dome in health; the scale of everything along `v`.
        lung_taper: how much narrower the rib cage is at the top than an adult's, 0 to 1.
        dome_right: `v` of the top of the right hemidiaphragm.
        dome_left: `v` of the top of the left one.
        dome_curve: how round the domes are.
        sulcus: how far the costophrenic angles reach below the domes.
        heart_width: half the heart's transverse diameter, so that it is about the cardiothoracic ratio.
        heart_height: half the heart's height.
        heart_shift: how far its centre lies to the left.
        aorta: prominence of the aortic knob, 0 to 1.
        mediastinum: half the width of the upper mediastinum.
        fat: thickness of what lies outside the rib cage, beyond the leanest.
        rib_width: height of a rib.
        rib_drop: how far a rib falls from the spine to the side.
        bone: density of all bone; 1 is the average adult's.
        clavicle_tilt: how far a clavicle rises from the breastbone to the shoulder.
        arm_angle: of the upper arms from the vertical, in radians.
        stomach_gas: size of the gastric bubble, 0 to 1; none below 0.35.
        spine_curve: amplitude of the spine's sideways curve.
    """

    habitus: Habitus
    female: bool
    seed: int
    lung_height: float
    lung_taper: float
    dome_right: float
    dome_left: float
    dome_curve: float
    sulcus: float
    heart_width: float
    heart_height: float
    heart_shift: float
    aorta: float
    mediastinum: float
    fat: float
    rib_width: float
    rib_drop: float
    bone: float
    clavicle_tilt: float
    arm_angle: float
    stomach_gas: float
    spine_curve: float

    def dome(self, side: Side) -> float:
        """The height `v` of the top of that side's hemidiaphragm."""
        return self.dome_right if side is Side.RIGHT else self.dome_left

    def wall(self, v: NDArray[np.floating]) -> NDArray[np.float64]:
        """Half the inner width of the rib cage at each height `v`."""
        height = self.lung_height
        knots = np.array([-0.06, 0.0, 0.04, 0.1, 0.2, 0.33, 0.48, 0.64, 0.8, 1.0, 1.2, 1.5, 2.5]) * height
        full = np.array([0.24, 0.42, 0.52, 0.62, 0.74, 0.85, 0.93, 0.98, 1.0, 1.0, 0.99, 0.96, 0.9])
        # Children's cages are bells, narrow at the top.
        shape = full * (1 - self.lung_taper * np.clip(1 - knots / (0.85 * height), 0, 1))
        return np.asarray(np.interp(v, knots, shape))

    def lung_outline(self, side: Side) -> Points:
        """The outline of one lung, the part behind the heart included, as (n, 2) closed points (u, v).

        It is drawn as readers draw it: the medial edge beside the spine, the lower edge on the dome of the diaphragm.
        """
        height, dome = self.lung_height, self.dome(side)
        angle = dome + self.sulcus
        v_side = np.linspace(0.035, 1, 14) * angle
        lateral = np.column_stack([self.wall(v_side), v_side])
        across = np.linspace(0.97, 0.17, 9)
        # A quarter of an ellipse down to the costophrenic angle, and a shallow slope towards the spine.
        outside = np.clip((across - 0.45) / 0.54, 0, 1)
        inside = np.clip((0.45 - across) / 0.32, 0, 1)
        fall = 1 - (1 - outside ** (2.2 / self.dome_curve)) ** 0.6
        base = np.column_stack([across, dome + self.sulcus * (fall + 0.28 * inside**2)])
        inner = 0.13 + 0.02 * int(side is Side.LEFT)
        v_inner = np.array([0.8, 0.55, 0.3, 0.15]) * height
        medial = np.column_stack([np.full(4, inner), v_inner])
        top = 0.34 * float(self.wall(np.array(0.1 * height))) / 0.62
        apex = np.array([[inner + 0.03, 0.065 * height], [0.55 * top + 0.45 * inner, 0.012 * height], [top, -0.01]])
        outline = smooth_closed(np.vstack([apex, lateral, base[1:], medial]))
        return np.asarray(outline * np.array([float(side), 1.0]))


def draw_anatomy(rng: np.random.Generator, habitus: Habitus) -> Anatomy:
    """A body with the proportions of that habitus; people differ by a few per cent in each of them."""
    child = habitus is Habitus.CHILD
    height = rng.normal(1.42, 0.09) if child else rng.normal(1.66, 0.12)
    height = float(np.clip(height, 1.2, 1.95))
    left_lower = rng.normal(0.07, 0.03)
    return Anatomy(
        habitus=habitus,
        female=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
        lung_height=height,
        lung_taper=rng.uniform(0.06, 0.16) if child else rng.uniform(0.0, 0.07),
        dome_right=height,
        dome_left=height + float(np.clip(left_lower, 0.0, 0.16)),
        dome_curve=rng.uniform(0.7, 1.1),
        sulcus=rng.uniform(0.2, 0.3) if child else rng.uniform(0.24, 0.38),
        heart_width=rng.uniform(0.47, 0.54) if child else rng.uniform(0.42, 0.5),
        heart_height=rng.uniform(0.36, 0.42) * height,
        heart_shift=rng.uniform(0.1, 0.17),
        aorta=rng.uniform(0.0, 0.35) if child else rng.uniform(0.3, 1.0),
        mediastinum=rng.uniform(0.2, 0.29) if child else rng.uniform(0.17, 0.23),
        fat=float(rng.gamma(2.0, 0.02) if child else rng.gamma(2.2, 0.035)),
        rib_width=rng.uniform(0.062, 0.078) if child else rng.uniform(0.07, 0.09),
        rib_drop=rng.uniform(0.26, 0.4) if child else rng.uniform(0.36, 0.52),
        bone=rng.uniform(0.75, 1.0) if child else rng.uniform(0.75, 1.2),
        clavicle_tilt=rng.uniform(-0.05, 0.16) if child else rng.uniform(-0.02, 0.2),
        arm_angle=rng.uniform(0.1, 1.0) if child else rng.uniform(0.1, 0.6),
        stomach_gas=rng.uniform(0.0, 1.0),
        spine_curve=rng.normal(0.0, 0.012),
    )
