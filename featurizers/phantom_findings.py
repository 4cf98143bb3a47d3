"""What each finding does to a phantom's body and lungs, after how textbooks describe its look on a frontal film."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from featurizers.errors import FeaturizerError
from featurizers.phantom_anatomy import Anatomy, Habitus, Side
from featurizers.phantom_chest import Chest
from featurizers.phantom_geometry import Canvas, Map, ball, edge, ellipse, noise


class Finding(StrEnum):
    """What a phantom can show: the classes of the paediatric pneumonia set, and the 14 labels of ChestX-ray14."""

    NORMAL = "normal"
    VIRAL = "viral"
    BACTERIAL = "bacterial"
    ATELECTASIS = "Atelectasis"
    CARDIOMEGALY = "Cardiomegaly"
    EFFUSION = "Effusion"
    INFILTRATION = "Infiltration"
    MASS = "Mass"
    NODULE = "Nodule"
    PNEUMONIA = "Pneumonia"
    PNEUMOTHORAX = "Pneumothorax"
    CONSOLIDATION = "Consolidation"
    EDEMA = "Edema"
    EMPHYSEMA = "Emphysema"
    FIBROSIS = "Fibrosis"
    PLEURAL_THICKENING = "Pleural_Thickening"
    HERNIA = "Hernia"


@dataclass(frozen=True)
class Case:
    """One finding in one patient.

    Attributes:
        finding: what it is.
        side: the side it is on, or the worse one.
        severity: 0 barely there to 1 severe.
    """

    finding: Finding
    side: Side
    severity: float


def parse_findings(names: Iterable[str]) -> tuple[Finding, ...]:
    """The findings of these names, each once, in the order given.

    Raises:
        FeaturizerError: a name that is not drawn, or `normal` beside another finding.
    """
    findings: list[Finding] = []
    for name in dict.fromkeys(names):
        try:
            findings.append(Finding(name))
        except ValueError:
            known = ", ".join(Finding)
            raise FeaturizerError(f"phantoms can't show {str(name)!r}: choose from {known}") from None
    if Finding.NORMAL in findings and len(findings) > 1:
        raise FeaturizerError("a phantom can't be normal and show another finding: leave one of them out")
    return tuple(findings)


def draw_case(rng: np.random.Generator, finding: Finding) -> Case:
    """A side and a severity; most cases are moderate, some so mild that a reader could miss them."""
    side = Side.RIGHT if rng.random() < 0.55 else Side.LEFT
    return Case(finding, side, float(0.08 + 0.92 * rng.beta(2.0, 1.9)))


_Shaping = Callable[[Anatomy, float, Side], Anatomy]
_Sign = Callable[[Chest, Case, np.random.Generator], list[Map]]
_SHAPINGS: dict[Finding, _Shaping] = {}
_SIGNS: dict[Finding, _Sign] = {}


def _shapes(finding: Finding) -> Callable[[_Shaping], _Shaping]:
    """Register what a finding does to the body's proportions."""

    def register(shaping: _Shaping) -> _Shaping:
        _SHAPINGS[finding] = shaping
        return shaping

    return register


def _shows(finding: Finding) -> Callable[[_Sign], _Sign]:
    """Register what a finding shows in the chest."""

    def register(sign: _Sign) -> _Sign:
        _SIGNS[finding] = sign
        return sign

    return register


def change_body(anatomy: Anatomy, case: Case) -> Anatomy:
    """The body as the finding shapes it: a larger heart, higher or flatter domes."""
    shaping = _SHAPINGS.get(case.finding)
    return anatomy if shaping is None else shaping(anatomy, case.severity, case.side)


def change_chest(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Let the finding change what the rays meet.

    Returns:
        One map per place where it shows, each float32 (height, width), 0 to 1.
    """
    return _SIGNS[case.finding](chest, case, rng)


@_shapes(Finding.CARDIOMEGALY)
def _wide_heart(anatomy: Anatomy, severity: float, _side: Side) -> Anatomy:
    wider = anatomy.heart_width * (1.14 + 0.32 * severity)
    return replace(anatomy, heart_width=wider, heart_shift=anatomy.heart_shift + 0.03)


@_shapes(Finding.EDEMA)
def _failing_heart(anatomy: Anatomy, severity: float, _side: Side) -> Anatomy:
    return replace(anatomy, heart_width=anatomy.heart_width * (1.0 + 0.2 * severity))


@_shapes(Finding.EMPHYSEMA)
def _overinflated(anatomy: Anatomy, severity: float, _side: Side) -> Anatomy:
    longer = 1 + 0.14 * severity
    return replace(
        anatomy,
        lung_height=anatomy.lung_height * longer,
        dome_right=anatomy.dome_right * longer,
        dome_left=anatomy.dome_left * longer,
        sulcus=anatomy.sulcus * (1 - 0.6 * severity),
        heart_width=anatomy.heart_width * (1 - 0.15 * severity),
    )


@_shapes(Finding.FIBROSIS)
def _shrunken(anatomy: Anatomy, severity: float, _side: Side) -> Anatomy:
    shorter = 1 - 0.1 * severity
    return replace(anatomy, dome_right=anatomy.dome_right * shorter, dome_left=anatomy.dome_left * shorter)


@_shapes(Finding.ATELECTASIS)
def _volume_loss(anatomy: Anatomy, severity: float, side: Side) -> Anatomy:
    raised = 0.14 * severity
    shift = anatomy.heart_shift + side * 0.055 * severity
    if side is Side.RIGHT:
        return replace(anatomy, dome_right=anatomy.dome_right - raised, heart_shift=shift)
    return replace(anatomy, dome_left=anatomy.dome_left - raised, heart_shift=shift)


def add_texture(chest: Chest, rng: np.random.Generator) -> None:
    """The faint markings that every lung has, more in some people: no healthy lung is clean."""
    amount = min(0.02 + float(rng.gamma(1.6, 0.018)), 0.14)
    chest.fill(np.float32(amount) * _net(chest, 0.05, rng) * chest.lung)


def _net(chest: Chest, grain: float, rng: np.random.Generator) -> Map:
    """A reticular pattern, 0 to 1: thin curved lines, where a smooth random field crosses zero."""
    return np.clip(1 - np.abs(noise(rng, chest.frame, grain)) * np.float32(2.2), 0, 1)


def _patches(chest: Chest, grain: float, threshold: float, rng: np.random.Generator) -> Map:
    """Ill-defined patches, 0 to 1; a higher threshold leaves fewer."""
    return edge(noise(rng, chest.frame, grain) - np.float32(threshold), 0.9)


@_shows(Finding.NORMAL)
def _normal(_chest: Chest, _case: Case, _rng: np.random.Generator) -> list[Map]:
    return []


@_shows(Finding.CARDIOMEGALY)
def _cardiomegaly(chest: Chest, _case: Case, _rng: np.random.Generator) -> list[Map]:
    """Nothing that the shape of the heart does not show already."""
    return [chest.heart]


@_shows(Finding.VIRAL)
def _viral(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Both lungs: reticular markings, streaks and cuffs about the hila, patches of ground glass."""
    net = np.maximum(_net(chest, 0.05, rng), 0.8 * _net(chest, 0.085, rng))
    patches = _patches(chest, 0.3, 0.35, rng)
    haze = 0.1 + 0.9 * _patches(chest, 0.45, 0.1, rng)
    out = []
    for side in Side:
        x, y = chest.place_in_lung(side)
        perihilar = np.exp(-(((x - 0.3) / 0.32) ** 2) - ((y - 0.58) / 0.34) ** 2)
        share = case.severity * (
            0.3 * net * (0.3 + haze) + 0.42 * patches + 0.42 * perihilar * (0.5 + net) + 0.18 * haze
        )
        share = np.float32(rng.uniform(0.75, 1.1)) * share * chest.lungs[side]
        chest.fill(share)
        out.append(share)
    chest.vessels = np.clip(chest.vessels * np.float32(1 + 0.5 * case.severity), 0, 1)
    return out


#: Centre and radii (x, y, rx, ry) of what a filled lobe or segment takes of a lung, in `Chest.place_in_lung` units.
_LOBES = {
    Side.RIGHT: ((0.5, 0.28, 0.5, 0.22), (0.35, 0.78, 0.36, 0.22), (0.5, 0.86, 0.55, 0.34), (0.55, 0.6, 0.5, 0.5)),
    Side.LEFT: ((0.45, 0.3, 0.45, 0.3), (0.5, 0.7, 0.4, 0.26), (0.5, 0.88, 0.55, 0.36), (0.5, 0.6, 0.55, 0.55)),
}


def _lobe(chest: Chest, side: Side, density: float, rng: np.random.Generator) -> Map:
    """One lobe or segment filled, with the bronchi in it still open; it hides whatever border it touches."""
    lobes = _LOBES[side]
    centre_x, centre_y, radius_x, radius_y = lobes[rng.choice(len(lobes), p=[0.27, 0.27, 0.36, 0.1])]
    size = rng.uniform(0.72, 1.15)
    x, y = chest.place_in_lung(side)
    distance = ((x - np.float32(centre_x + rng.normal(0, 0.05))) / np.float32(radius_x * size)) ** 2
    distance += ((y - np.float32(centre_y + rng.normal(0, 0.04))) / np.float32(radius_y * size)) ** 2
    distance += 0.22 * noise(rng, chest.frame, 0.26) + 0.1 * noise(rng, chest.frame, 0.09)
    region = edge(1 - distance, 0.5)
    if side is Side.RIGHT and centre_y < 0.5 and rng.random() < 0.6:
        # The minor fissure stops an upper lobe's disease at a sharp line.
        region *= edge(np.float32(0.47) + 0.05 * x - y, 0.015)
    share = np.float32(density) * region * chest.lungs[side]
    share *= 1 + 0.12 * noise(rng, chest.frame, 0.12) - np.float32(0.32) * _open_bronchi(chest, side, rng)
    chest.fill(share)
    return share


def _open_bronchi(chest: Chest, side: Side, rng: np.random.Generator) -> Map:
    """Air-filled bronchi, 0 to 1, which only show where the lung about them does not hold air."""
    canvas = Canvas(chest.frame)
    hilum = np.array([side * 0.22, 0.5 * chest.anatomy.lung_height])
    for angle in np.linspace(-1.3, 1.4, 8) + rng.normal(0, 0.1, 8):
        bend = angle + rng.normal(0, 0.3)
        middle = hilum + 0.28 * np.array([side * np.cos(angle), np.sin(angle)])
        end = middle + 0.25 * np.array([side * np.cos(bend), np.sin(bend)])
        canvas.line(np.stack([hilum, middle]), 1.0, 0.028)
        canvas.line(np.stack([middle, end]), 0.8, 0.018)
    return canvas.map(1.0)


@_shows(Finding.BACTERIAL)
def _bacterial(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """A lobe filled on one side, now and then a second focus or some fluid beside it."""
    out = [_lobe(chest, case.side, 0.3 + 0.65 * case.severity, rng)]
    if rng.random() < 0.3:
        other = Side(-case.side) if rng.random() < 0.4 else case.side
        out.append(_lobe(chest, other, 0.15 + 0.45 * case.severity * rng.random(), rng))
    if case.severity > 0.5 and rng.random() < 0.3:
        _fluid(chest, case.side, rng.uniform(0.1, 0.4), rng)
    # A little of the perihilar streaks that viral disease has more of.
    chest.fill(np.float32(0.1 * rng.random()) * _net(chest, 0.06, rng) * chest.lung)
    return out


@_shows(Finding.CONSOLIDATION)
def _consolidation(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    return [_lobe(chest, case.side, 0.35 + 0.6 * case.severity, rng)]


@_shows(Finding.PNEUMONIA)
def _pneumonia(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Any pattern: the label says nothing of the cause, and overlaps with the others as it does in the real set."""
    return _bacterial(chest, case, rng) if rng.random() < 0.65 else _infiltration(chest, case, rng)


@_shows(Finding.INFILTRATION)
def _infiltration(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """One to three patches without a clear edge, on one or both sides."""
    out = []
    net = _net(chest, 0.06, rng)
    for index in range(rng.integers(1, 4)):
        side = case.side if index == 0 or rng.random() < 0.5 else Side(-case.side)
        x, y = chest.place_in_lung(side)
        centre = (rng.uniform(0.25, 0.75), rng.uniform(0.35, 0.95))
        distance = ((x - np.float32(centre[0])) / np.float32(rng.uniform(0.25, 0.45))) ** 2
        distance += ((y - np.float32(centre[1])) / np.float32(rng.uniform(0.14, 0.28))) ** 2
        patch = np.exp(-distance + 0.25 * noise(rng, chest.frame, 0.15))
        share = np.float32(0.18 + 0.5 * case.severity) * np.clip(patch, 0, 1) * (0.7 + 0.5 * net) * chest.lungs[side]
        chest.fill(share)
        out.append(share)
    return out


def _fluid(chest: Chest, side: Side, amount: float, rng: np.random.Generator) -> Map:
    """Free pleural fluid: it lies at the base and climbs the side wall (the meniscus)."""
    x, y = chest.place_in_lung(side)
    sulcus = chest.anatomy.sulcus / chest.anatomy.dome(side)
    level = 1 + 0.75 * sulcus - amount * (0.55 + 0.75 * sulcus)
    rise = np.float32(rng.uniform(0.12, 0.24)) * np.clip(x, 0, 1) ** 5
    surface = y - np.float32(level) + rise + 0.012 * noise(rng, chest.frame, 0.3)
    wet = edge(surface, 0.045)
    chest.fill(0.97 * wet)
    return wet * chest.lungs[side]


@_shows(Finding.EFFUSION)
def _effusion(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    out = [_fluid(chest, case.side, 0.16 + 0.84 * case.severity**1.3, rng)]
    if rng.random() < 0.35:
        out.append(_fluid(chest, Side(-case.side), rng.uniform(0.08, 0.5), rng))
    return out


@_shows(Finding.ATELECTASIS)
def _atelectasis(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Plates of airless lung over a raised dome, or a lower lobe folded behind the heart."""
    side = case.side
    x, y = chest.place_in_lung(side)
    if rng.random() < 0.3 + 0.2 * case.severity:
        wedge = edge(np.float32(0.2 + 0.5 * case.severity) * np.clip((y - 0.5) * 2, 0, 1.3) - x, 0.05)
        share = np.float32(0.4 + 0.5 * case.severity) * wedge * edge(y - np.float32(0.5), 0.08) * chest.lungs[side]
        chest.fill(share)
        return [share]
    out = []
    for _ in range(rng.integers(1, 4)):
        centre = (rng.uniform(0.4, 0.7), rng.uniform(0.72, 0.98))
        slope = rng.normal(0, 0.25)
        away = y - np.float32(centre[1]) - np.float32(slope) * (x - np.float32(centre[0]))
        away += 0.008 * noise(rng, chest.frame, 0.3)
        thick = rng.uniform(0.012, 0.028) * (0.7 + case.severity)
        extent = edge(np.float32(rng.uniform(0.18, 0.34)) - np.abs(x - np.float32(centre[0])), 0.08)
        share = np.float32(0.45 + 0.5 * case.severity) * np.exp(-((away / np.float32(thick)) ** 2)) * extent
        share *= chest.lungs[side]
        chest.fill(share)
        out.append(share)
    loss = np.float32(0.25 * case.severity) * edge(y - np.float32(0.8), 0.2) * chest.lungs[side]
    chest.fill(loss)
    return out


def _lump(chest: Chest, side: Side, radius: float, rng: np.random.Generator) -> Map:
    """A solid round body in the lung, a little lobulated: a nodule up to about 3 cm, a mass above."""
    height = chest.anatomy.lung_height
    v = rng.uniform(0.14, 0.9) * height
    room = float(chest.anatomy.wall(np.array(v)))
    u = side * rng.uniform(0.34, max(0.92 * room - radius, 0.36))
    shape = ellipse(chest.frame, (u, v), (radius, radius * rng.uniform(0.8, 1.15)), rng.uniform(-1, 1))
    rough = shape * (1 + 0.14 * noise(rng, chest.frame, max(0.7 * radius, 0.05)))
    solid = ball(rough)
    # As thick as wide, but no thicker than the lung that it displaces; small ones are only seen when dense.
    thickness = min(1.6 * radius, 0.4) * rng.uniform(0.8, 1.3) + 0.07
    share = np.float32(thickness) * solid / np.maximum(chest.lung_depth, np.float32(0.05)) * chest.lungs[side]
    chest.fill(np.asarray(share, dtype=np.float32))
    return edge(1 - shape, 0.05)


@_shows(Finding.MASS)
def _mass(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    return [_lump(chest, case.side, 0.12 + 0.16 * case.severity, rng)]


@_shows(Finding.NODULE)
def _nodules(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    count = 1 + int(rng.random() < 0.25) + int(rng.random() < 0.1)
    return [_lump(chest, case.side, 0.04 + 0.06 * rng.random() * case.severity**0.5, rng) for _ in range(count)]


@_shows(Finding.PNEUMOTHORAX)
def _pneumothorax(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Air beside the lung: no vessels, darker, and the visceral pleura as a thin line; widest at the apex."""
    side = case.side
    x, y = chest.place_in_lung(side)
    gap = case.severity * (0.05 + 0.5 * np.exp(-np.clip(y, 0, None) * np.float32(rng.uniform(1.2, 3.0)))) + 0.035
    gap += 0.012 * noise(rng, chest.frame, 0.5)
    line = 1 - np.maximum(gap, 0.02)
    # Over the apex the line arches towards the spine.
    line -= 0.5 * np.exp(-np.clip(y, 0, None) * np.float32(14)) * np.float32(0.3 + case.severity)
    air = edge(x - line, 0.012) * chest.lungs[side]
    chest.vessels = chest.vessels * (1 - air)
    chest.opacity = chest.opacity * (1 - air)
    chest.lung_depth = chest.lung_depth * (1 + 0.12 * air)
    pleura = np.exp(-(((x - line) / np.float32(0.009)) ** 2)) * chest.lungs[side]
    chest.extra = chest.extra + 0.05 * pleura
    chest.fill(np.float32(0.3 * case.severity) * (1 - air) * chest.lungs[side])
    return [air]


@_shows(Finding.EDEMA)
def _edema(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Haze that spreads from both hila like wings, wide upper vessels, septal lines, fluid at the bases."""
    net = _net(chest, 0.06, rng)
    out = []
    for side in Side:
        x, y = chest.place_in_lung(side)
        wing = np.exp(-(((x - 0.32) / 0.33) ** 2) - ((y - 0.58) / 0.34) ** 2)
        wing *= 1 + 0.3 * noise(rng, chest.frame, 0.18)
        septal = np.clip(1 - np.abs(np.sin(y * np.float32(60))) * 3, 0, 1) * edge(x - np.float32(0.86), 0.03)
        septal *= edge(y - np.float32(0.65), 0.1)
        share = (
            np.float32(0.15 + 0.85 * case.severity)
            * (0.75 * wing + 0.2 * net + 0.24 + 0.3 * septal)
            * chest.lungs[side]
        )
        chest.fill(share)
        out.append(share)
        if rng.random() < 0.45:
            _fluid(chest, side, rng.uniform(0.05, 0.1 + 0.25 * case.severity), rng)
    chest.vessels = np.clip(chest.vessels * np.float32(1 + 0.9 * case.severity), 0, 1)
    return out


@_shows(Finding.EMPHYSEMA)
def _emphysema(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Large dark lungs with few vessels, and bullae in the upper zones."""
    sparse = 1 - np.float32(0.65 * case.severity) * _patches(chest, 0.4, -0.4, rng)
    chest.vessels = chest.vessels * sparse
    chest.opacity = chest.opacity * np.float32(1 - 0.5 * case.severity)
    chest.lung_depth = chest.lung_depth * np.float32(1 + 0.16 * case.severity)
    for _ in range(rng.integers(0, 4)):
        side = Side.RIGHT if rng.random() < 0.5 else Side.LEFT
        radius = rng.uniform(0.08, 0.2)
        place = (side * rng.uniform(0.35, 0.6), rng.uniform(0.15, 0.5) * chest.anatomy.lung_height)
        shape = ellipse(chest.frame, place, (radius, 1.2 * radius))
        inside = edge(1 - shape, 0.1) * chest.lungs[side]
        chest.vessels = chest.vessels * (1 - inside)
        wall = np.exp(-((1 - shape) ** 2) * np.float32(60)) * chest.lungs[side]
        chest.extra = chest.extra - np.float32(0.04) * inside + np.float32(0.03) * wall
    return [chest.lungs[side] for side in Side]


@_shows(Finding.FIBROSIS)
def _fibrosis(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """Coarse net and honeycomb, most at the bases and the periphery, in lungs that have shrunk."""
    coarse = np.maximum(_net(chest, 0.05, rng), _net(chest, 0.075, rng))
    upper = rng.random() < 0.25
    patches = 0.5 + _patches(chest, 0.35, 0.2, rng)
    out = []
    for side in Side:
        x, y = chest.place_in_lung(side)
        place = edge(np.float32(0.5) - y, 0.3) if upper else edge(y - np.float32(0.45), 0.4)
        share = np.float32(0.12 + 0.5 * case.severity) * coarse * place * (0.35 + 0.65 * np.clip(x, 0, 1)) * patches
        share *= chest.lungs[side]
        chest.fill(share)
        out.append(place * chest.lungs[side])
    return out


@_shows(Finding.PLEURAL_THICKENING)
def _pleural_thickening(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """A band of soft tissue with a wavy inner edge along the side wall and over the apex."""
    x, y = chest.place_in_lung(case.side)
    band = np.float32(0.03 + 0.08 * case.severity) * (1 + 0.45 * noise(rng, chest.frame, 0.2))
    low, high = (0.0, rng.uniform(0.3, 0.7)) if rng.random() < 0.4 else (rng.uniform(0.2, 0.6), 1.2)
    reach = edge(y - np.float32(low), 0.05) * edge(np.float32(high) - y, 0.08)
    share = edge(x - (1 - band), 0.025) * reach * chest.lungs[case.side]
    if low == 0.0:
        cap = np.float32(0.06 + 0.06 * case.severity) * (1 + 0.2 * noise(rng, chest.frame, 0.15))
        share = np.maximum(share, edge(cap - y, 0.03) * chest.lungs[case.side])
    chest.extra = chest.extra + np.float32(0.12 + 0.14 * case.severity) * share
    return [share]


@_shows(Finding.HERNIA)
def _hernia(chest: Chest, case: Case, rng: np.random.Generator) -> list[Map]:
    """The stomach behind the heart: a round shadow on the diaphragm, often with air over a fluid level."""
    radius = 0.16 + 0.16 * case.severity
    u, v = rng.uniform(0.02, 0.18), chest.anatomy.dome(Side.LEFT) - 0.55 * radius
    shape = ellipse(chest.frame, (u, v), (radius * rng.uniform(1.0, 1.25), radius))
    sac = edge(1 - shape, 0.08)
    chest.extra = chest.extra + np.float32(0.1) * ball(shape) + np.float32(0.03) * sac
    if rng.random() < 0.75:
        level = np.float32(v + rng.uniform(-0.35, 0.2) * radius)
        bubble = edge(0.86 - shape, 0.06) * edge(level - chest.frame.grid[1], 0.008)
        chest.extra = chest.extra - np.float32(0.2) * bubble
    return [sac]


def usual_habitus(rng: np.random.Generator, findings: Iterable[Finding]) -> Habitus:
    """Children for the classes of the paediatric set, adults for ChestX-ray14's, either for none."""
    either = Habitus.CHILD if rng.random() < 0.5 else Habitus.ADULT
    shown = set(findings) - {Finding.NORMAL}
    if not shown:
        return either
    return Habitus.CHILD if shown <= {Finding.VIRAL, Finding.BACTERIAL} else Habitus.ADULT
