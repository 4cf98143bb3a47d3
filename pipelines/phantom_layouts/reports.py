"""Studies with reports, as CheXpert's labeler reads them: observations affirmed, denied, in doubt or not mentioned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from featurizers.phantoms import Finding
from pipelines.phantom_layouts.base import images_per_patient

NO_FINDING = "No Finding"
_SUPPORT_DEVICES = "Support Devices"
#: Of the observations neither affirmed nor in doubt, so many are denied in words; the others are not mentioned.
_DENIED_SHARE = 0.1
#: Studies that have a lateral beside the frontal.
_LATERAL_SHARE = 0.3


@dataclass(frozen=True)
class Observation:
    """One of the labeler's observations.

    Attributes:
        positive: share of the studies that affirm it.
        uncertain: share of the studies that leave it in doubt.
        drawn_as: what phantoms show for it; None: nothing draws it, so that only the label files tell.
    """

    name: str
    positive: float
    uncertain: float
    drawn_as: Finding | None


#: In the order of CheXpert's files, with the shares of table 1 in Irvin et al., "CheXpert: a large chest radiograph
#: dataset with uncertainty labels and expert comparison", AAAI 2019 (187,641 studies).
OBSERVATIONS = (
    Observation(NO_FINDING, 0.0886, 0.0, None),
    Observation("Enlarged Cardiomediastinum", 0.0481, 0.0541, Finding.CARDIOMEGALY),
    Observation("Cardiomegaly", 0.1226, 0.0352, Finding.CARDIOMEGALY),
    Observation("Lung Opacity", 0.4939, 0.0231, Finding.INFILTRATION),
    Observation("Lung Lesion", 0.0365, 0.0057, Finding.MASS),
    Observation("Edema", 0.2606, 0.0617, Finding.EDEMA),
    Observation("Consolidation", 0.0678, 0.1278, Finding.CONSOLIDATION),
    Observation("Pneumonia", 0.0244, 0.0834, Finding.PNEUMONIA),
    Observation("Atelectasis", 0.1563, 0.1566, Finding.ATELECTASIS),
    Observation("Pneumothorax", 0.0923, 0.0142, Finding.PNEUMOTHORAX),
    Observation("Pleural Effusion", 0.4034, 0.0502, Finding.EFFUSION),
    Observation("Pleural Other", 0.013, 0.0094, Finding.PLEURAL_THICKENING),
    Observation("Fracture", 0.0387, 0.0026, None),
    Observation(_SUPPORT_DEVICES, 0.564, 0.0048, None),
)


@dataclass(frozen=True)
class Report:
    """What a study shows, and what its report says.

    Attributes:
        shown: the findings that are drawn.
        said: observation → 1 affirmed, 0 denied, -1 in doubt; absent: not mentioned.
    """

    shown: tuple[Finding, ...]
    said: Mapping[str, int]

    def cell(self, observation: str) -> str:
        """How label files write it."""
        value = self.said.get(observation)
        return "" if value is None else f"{value:.1f}"

    def consensus(self) -> Report:
        """What radiologists who look at the picture say: everything, and nothing in doubt."""
        is_seen = {
            each.name: each.drawn_as in self.shown if each.drawn_as else self.said.get(each.name) == 1
            for each in OBSERVATIONS
        }
        is_seen[NO_FINDING] = not any(is_seen[each.name] for each in OBSERVATIONS if _is_disease(each))
        return Report(self.shown, {name: int(seen) for name, seen in is_seen.items()})


@dataclass(frozen=True)
class Study:
    """One visit of a patient: a frontal image, a lateral one too if it has any, and the report on both."""

    patient: int
    """Counted from 1."""
    number: int
    """Of the patient's studies, from 1."""
    report: Report
    has_lateral: bool


def plan_studies(rng: np.random.Generator, images: int) -> Iterator[Study]:
    """Studies whose images sum to `images`, patient by patient."""
    for patient, count in enumerate(images_per_patient(rng, images, more=0.6), start=1):
        planned = number = 0
        while planned < count:
            number += 1
            has_lateral = planned + 1 < count and rng.random() < _LATERAL_SHARE
            planned += 1 + has_lateral
            yield Study(patient, number, _draw_report(rng), has_lateral)


def _draw_report(rng: np.random.Generator) -> Report:
    """Each observation by its own share; what is in doubt is there every second time."""
    said: dict[str, int] = {}
    shown: list[Finding] = []
    is_healthy = rng.random() < OBSERVATIONS[0].positive
    for each in OBSERVATIONS[1:]:
        chance = rng.random()
        if chance < each.positive and not (is_healthy and _is_disease(each)):
            said[each.name] = 1
        elif chance < each.positive + each.uncertain and not is_healthy:
            said[each.name] = -1
        elif rng.random() < _DENIED_SHARE:
            said[each.name] = 0
        is_there = said.get(each.name) == 1 or (said.get(each.name) == -1 and rng.random() < 0.5)
        if is_there and each.drawn_as and each.drawn_as not in shown:
            shown.append(each.drawn_as)
    if not any(said.get(each.name) in (1, -1) for each in OBSERVATIONS if _is_disease(each)):
        said[NO_FINDING] = 1
    return Report(tuple(sorted(shown)), said)


def _is_disease(observation: Observation) -> bool:
    """The labeler says No Finding where it reads none of these; tubes and pacemakers don't count."""
    return observation.name not in (NO_FINDING, _SUPPORT_DEVICES)
