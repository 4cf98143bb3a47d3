"""Phantoms: chest radiographs drawn from a parametric body, with known lungs, findings and boxes.

Attenuation is summed along each ray, turned into exposure by the law of Beer and Lambert, blurred by scatter, made
noisy as photons are, and displayed on a logarithmic, S-shaped scale with bone bright and lung dark (MONOCHROME2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from featurizers.errors import FeaturizerError
from featurizers.phantom_anatomy import Anatomy, Habitus, Side, draw_anatomy
from featurizers.phantom_chest import Chest, build_chest
from featurizers.phantom_findings import (
    Case,
    Finding,
    add_texture,
    change_body,
    change_chest,
    draw_case,
    parse_findings,
    usual_habitus,
)
from featurizers.phantom_geometry import Frame, Map, blur

__all__ = ["Finding", "FindingBox", "Habitus", "Phantom", "contact_sheet", "draw_phantom"]

#: The body is drawn no larger than this (long side, pixels); larger pictures are enlarged before noise and markers.
_BODY_LONG_SIDE = 416
#: The smallest side that still shows a chest.
_SMALLEST_SIDE = 32
#: Effective attenuation of soft tissue over a chest's depth, and how much of it an air-filled lung takes away.
_SOFT_TISSUE = 2.3
_LUNG_AIR = 0.74


@dataclass(frozen=True)
class FindingBox:
    """Where a finding shows: edges as fractions of the picture's width (left, right) and height (top, bottom)."""

    finding: Finding
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class Phantom:
    """A radiograph whose truth is known.

    Attributes:
        pixels: uint8 (height, width), bone bright and lung dark.
        lung_mask: bool (height, width), both lungs as anatomy has them: behind the heart and under disease too.
        findings: what it shows; empty is the same as `normal`.
        boxes: one per place where a finding shows.
        habitus: whose proportions the body has.
        sex: DICOM's PatientSex of the body, which shows in adults.
    """

    pixels: NDArray[np.uint8]
    lung_mask: NDArray[np.bool_]
    findings: tuple[Finding, ...]
    boxes: tuple[FindingBox, ...]
    habitus: Habitus
    sex: Literal["F", "M"]


def draw_phantom(
    seed: int,
    findings: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    *,
    habitus: Habitus | None = None,
    patient: int | None = None,
) -> Phantom:
    """Draw one frontal chest radiograph.

    Args:
        seed: decides everything that is not given below; the same seed draws the same pixels.
        findings: names of `Finding`, each at a severity of its own.
        size: (height, width) in pixels; without it drawn too, with a long side of 400 to 1400.
        habitus: child or adult; without it the usual one for these findings.
        patient: the seed of the body alone: pictures of one patient share it, and differ in pose, exposure and disease.

    Raises:
        FeaturizerError: an unknown finding, `normal` beside another one, or a size too small to show a chest.
    """
    shown = parse_findings(findings)
    # One stream each, so that a finding changes the lungs and leaves the body, the pose and the film as they are.
    view, texture, disease, film = np.random.default_rng(seed).spawn(4)
    whose = usual_habitus(view, shown) if habitus is None else habitus
    body = draw_anatomy(np.random.default_rng([seed if patient is None else patient, 1]), whose)
    height, width = _draw_size(view, whose) if size is None else size
    if min(height, width) < _SMALLEST_SIDE:
        raise FeaturizerError(
            f"a phantom of {height} × {width} pixels shows no chest: ask for {_SMALLEST_SIDE} or more"
        )
    cases = [draw_case(disease, finding) for finding in shown]
    for case in cases:
        body = change_body(body, case)
    frame = _draw_frame(view, body, height, width)
    chest = build_chest(body, _shrunk(frame))
    add_texture(chest, texture)
    boxes = _show_findings(chest, cases, disease)
    pixels = _expose(film, chest, frame)
    return Phantom(pixels, _lung_mask(body, frame), shown, boxes, whose, "F" if body.female else "M")


def _draw_size(rng: np.random.Generator, habitus: Habitus) -> tuple[int, int]:
    """Children's pictures are wide crops, adults' whole films, nearly square."""
    long_side = int(rng.uniform(400, 1400))
    aspect = rng.uniform(1.0, 1.55) if habitus is Habitus.CHILD else rng.uniform(0.82, 1.1)
    return (round(long_side / aspect), long_side) if aspect >= 1 else (long_side, round(long_side * aspect))


def _draw_frame(rng: np.random.Generator, body: Anatomy, height: int, width: int) -> Frame:
    """Centre and zoom so that the lungs are on the film, never quite alike."""
    child = body.habitus is Habitus.CHILD
    lowest = max(body.dome_right, body.dome_left) + body.sulcus
    above = rng.uniform(0.08, 0.4) if child else rng.uniform(0.1, 0.4)
    below = rng.uniform(0.05, 0.4) if child else rng.uniform(0.05, 0.3)
    half_width = rng.uniform(1.06, 1.3) if child else rng.uniform(1.18, 1.5)
    scale = min(width / (2 * half_width), height / (above + lowest + below))
    slack = height / scale - (above + lowest + below)
    return Frame(
        height=height,
        width=width,
        scale=scale,
        origin_x=width / 2 + scale * rng.normal(0, 0.035),
        origin_y=scale * (above + slack * rng.uniform(0.3, 0.7)),
        tilt=float(np.clip(rng.normal(0, 0.025), -0.08, 0.08)),
        turn=float(np.clip(rng.normal(0, 0.035), -0.1, 0.1)),
    )


def _shrunk(frame: Frame) -> Frame:
    """The same view on the canvas that the body is drawn on."""
    factor = min(_BODY_LONG_SIDE / max(frame.height, frame.width), 1.0)
    height, width = max(round(frame.height * factor), 1), max(round(frame.width * factor), 1)
    return replace(
        frame,
        height=height,
        width=width,
        scale=frame.scale * factor,
        origin_x=frame.origin_x * factor,
        origin_y=frame.origin_y * factor,
    )


def _show_findings(chest: Chest, cases: Sequence[Case], rng: np.random.Generator) -> tuple[FindingBox, ...]:
    boxes = (_box(case.finding, place) for case in cases for place in change_chest(chest, case, rng))
    return tuple(box for box in boxes if box is not None)


def _box(finding: Finding, place: Map) -> FindingBox | None:
    """The smallest box round the clearly changed part; none where nothing of it is on the film."""
    peak = float(place.max())
    if peak < 0.01:
        return None
    clear = place > 0.4 * peak
    columns, rows = np.flatnonzero(clear.any(axis=0)), np.flatnonzero(clear.any(axis=1))
    height, width = place.shape
    return FindingBox(
        finding,
        left=float(columns[0]) / width,
        top=float(rows[0]) / height,
        right=float(columns[-1] + 1) / width,
        bottom=float(rows[-1] + 1) / height,
    )


def _attenuation(chest: Chest) -> Map:
    """The line integral of attenuation, without unit, at every pixel of the canvas."""
    airy = chest.lung_depth * (1 - chest.opacity) * (1 - chest.vessels)
    tissue = chest.body - np.float32(_LUNG_AIR) * airy + chest.extra
    inside = chest.body > 0
    return np.clip(np.float32(_SOFT_TISSUE) * tissue + 0.95 * chest.bones, 0.02, None) * inside


def _expose(rng: np.random.Generator, chest: Chest, frame: Frame) -> NDArray[np.uint8]:
    """From attenuation to the displayed picture, uint8 (height, width)."""
    small = chest.frame
    attenuation = _attenuation(chest)
    primary = np.exp(-attenuation)
    scatter = blur(primary, 0.3 * small.scale)
    signal = -np.log(primary + np.float32(rng.uniform(0.04, 0.3)) * scatter)
    # Digital systems lift detail against the coarse picture, some more than others.
    detail = np.float32(rng.uniform(0.1, 0.5))
    signal = signal - detail * blur(signal, 0.35 * small.scale)
    lung = chest.lung > 0.5
    trunk = np.abs(small.grid[0]) < 0.9
    dark, bright = np.percentile(signal[lung][::7], 4), np.percentile(signal[trunk][::11], 97)
    level = (signal - np.float32(dark)) / np.float32(max(bright - dark, 0.2))
    shape = (frame.width, frame.height)
    if shape != (small.width, small.height):
        level = np.asarray(Image.fromarray(level).resize(shape, Image.Resampling.BICUBIC))
    level = level + _quantum_noise(rng, level)
    black, white = rng.uniform(0.26, 0.5), rng.uniform(0.66, 0.82)
    contrast = np.float32(rng.uniform(0.8, 1.4))
    # The characteristic curve: straight in the middle, flat at both ends.
    shown = np.float32(black) + np.float32(white - black) * level
    shown = 1 / (1 + np.exp(-4 * contrast * (shown - np.float32(0.5))))
    low, high = 1 / (1 + np.exp(2 * contrast)), 1 / (1 + np.exp(-2 * contrast))
    shown = (shown - low) / (high - low)
    fog = np.float32(rng.gamma(1.5, 5.0))
    picture = np.clip(fog + shown * (255 - fog), 0, 255).astype(np.uint8)
    return _label_film(rng, picture, chest.anatomy.habitus)


def _quantum_noise(rng: np.random.Generator, level: Map) -> Map:
    """Photon noise (Poisson, in the Gaussian limit): on a logarithmic scale it grows as fewer photons come through.

    It is drawn a little coarser than the picture, since a detector's own blur correlates neighbouring pixels.
    """
    height, width = level.shape
    grain = rng.standard_normal((height * 2 // 3 + 1, width * 2 // 3 + 1), dtype=np.float32)
    coarse = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR))
    amount = np.float32(rng.uniform(0.008, 0.026))
    return np.asarray(coarse * amount * np.exp(np.clip(level, -0.5, 1.2) * np.float32(0.6)))


def _label_film(rng: np.random.Generator, picture: NDArray[np.uint8], habitus: Habitus) -> NDArray[np.uint8]:
    """The collimator's shadow, and the lead letter for the side: on the picture's left is the patient's right."""
    height, width = picture.shape
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.35:
        shade = int(rng.integers(0, 16))
        left, top, right, bottom = (
            rng.uniform(0.005, 0.03, 4) * (rng.random(4) < 0.6) * [width, height, width, height]
        ).round()
        for box in (
            (0, 0, left, height),
            (0, 0, width, top),
            (width - right, 0, width, height),
            (0, height - bottom, width, height),
        ):
            if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=shade)
    if rng.random() < 0.85:
        right_letter = rng.random() < (0.85 if habitus is Habitus.CHILD else 0.3)
        size = max(round(rng.uniform(0.035, 0.075) * height), 8)
        x = rng.uniform(0.015, 0.06) if right_letter else rng.uniform(0.9, 0.95)
        where = (round(x * width), round(rng.uniform(0.03, 0.4 if right_letter else 0.15) * height))
        letter = "R" if right_letter else "L"
        draw.text(where, letter, fill=int(rng.integers(190, 256)), font=ImageFont.load_default(size))
        if habitus is Habitus.ADULT and rng.random() < 0.3:
            above = (round(0.68 * width), round(0.015 * height))
            draw.text(above, "PORTABLE", fill=240, font=ImageFont.load_default(max(round(0.022 * height), 8)))
    return np.array(image)


def _lung_mask(body: Anatomy, frame: Frame) -> NDArray[np.bool_]:
    image = Image.new("1", (frame.width, frame.height), 0)
    draw = ImageDraw.Draw(image)
    for side in Side:
        draw.polygon([(float(x), float(y)) for x, y in frame.to_pixels(body.lung_outline(side))], fill=1)
    return np.array(image, dtype=np.bool_)


def contact_sheet(seeds: Sequence[int] = (0, 1, 2, 3, 4), cell: int = 168) -> Image.Image:
    """Every finding, one labelled row each, drawn from each of the seeds: what phantoms look like at a glance.

    Returns:
        A greyscale image, `cell` pixels square per phantom, in two blocks of rows side by side.
    """
    findings = tuple(Finding)
    rows = (len(findings) + 1) // 2
    font = ImageFont.load_default(13)
    sheet = Image.new("L", (2 * len(seeds) * cell, rows * (cell + 18)), 0)
    draw = ImageDraw.Draw(sheet)
    for number, finding in enumerate(findings):
        block, row = divmod(number, rows)
        left, top = block * len(seeds) * cell, row * (cell + 18)
        draw.text((left + 4, top + 2), finding.value, fill=255, font=font)
        for column, seed in enumerate(seeds):
            # A seed of its own for each cell: no two show the same body.
            phantom = draw_phantom(seed + 1000 * number, [finding])
            small = Image.fromarray(phantom.pixels)
            small.thumbnail((cell - 2, cell - 2), Image.Resampling.BOX)
            sheet.paste(small, (left + column * cell, top + 18))
    return sheet
