"""What the page about localized findings is given: the words, the checks' outcome, and the images that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from classifiers.evaluation import Figure
from featurizers.heat_boxes import HeatBox


@dataclass(frozen=True)
class Subject:
    """What was localized by what, in words.

    Attributes:
        head: `task/name`.
        head_fingerprint, localizer: fingerprints.
        features: backbone, weights and extractor.
        is_untrained: whether the backbone is.
        classes: that were looked for.
        method: how maps were made, in a sentence.
        level: of the greatest intensity, what a box is drawn around.
        split: whose images; all of them where it is None.
        images: that are localized in that split.
        annotated: of them, those with boxes of these classes.
        unscored: why the others do not count in the figures, in sentences.
        truth: where the annotated boxes are from.
        calibration: whether probabilities are calibrated, in words.
        thresholds: how probabilities become decisions, in words.
        made: when and with which version.
    """

    head: str
    head_fingerprint: str
    localizer: str
    features: str
    is_untrained: bool
    classes: Sequence[str]
    method: str
    level: float
    split: str | None
    images: int
    annotated: int
    unscored: Sequence[str]
    truth: str
    calibration: str
    thresholds: str
    made: str


@dataclass(frozen=True, eq=False)
class Shown:
    """One class in one image, for the gallery.

    Attributes:
        image_id: of the image.
        finding: the class.
        probability: of it.
        threshold: that the probability is held against; None where the largest class is decided.
        decision: whether the head decides for it.
        crop: 8-bit greyscale PNG.
        heat: (side, side) from 0 to 1, of the crop.
        peak: x and y of the hottest place, as fractions of the crop; None where the map is 0 everywhere.
        found: boxes in fractions of the crop, the hottest first.
        truth: (t, 4) annotated boxes in fractions of the crop, which may reach out of it; none where t is 0.
        is_hit: whether the hottest place lies in a true box; None where none is annotated.
        iobb: the greatest IoBB of a found box with a true one; None where none is annotated.
    """

    image_id: str
    finding: str
    probability: float
    threshold: float | None
    decision: bool
    crop: bytes
    heat: npt.NDArray[np.float32]
    peak: tuple[float, float] | None
    found: Sequence[HeatBox]
    truth: npt.NDArray[np.float64]
    is_hit: bool | None
    iobb: float | None


@dataclass(frozen=True)
class Likeness:
    """How alike maps are to those of a model that must not give them (Adebayo et al. 2018).

    Attributes:
        changed: what was made random, in a few words, such as "backbone untrained".
        correlation: Spearman's rank correlation of both maps over the places, without its sign, mean over the images; 1
            is the same or its opposite, and two maps of 7 × 7 places that have nothing in common come to 0.12. None
            where it was not looked at.
        note: why it was not looked at, or what else there is to know.
    """

    changed: str
    correlation: Figure | None
    note: str


@dataclass(frozen=True)
class Erasure:
    """What the head says while an image is taken away, or given back, place by place (Petsiuk et al. 2018, RISE).

    Attributes:
        order: which places go first, such as "hottest first", "at random", "from the centre".
        deletion: mean probability of the class by share of the image that is gone, (steps + 1,): falls early where the
            order knows what matters.
        insertion: by share that is back, (steps + 1,): rises early.
        deletion_area, insertion_area: means of the curves, with intervals.
    """

    order: str
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    deletion_area: Figure
    insertion_area: Figure


@dataclass(frozen=True)
class Checks:
    """Whether maps show what the model looks at.

    Attributes:
        images: that they were made on, each with the most probable class that the head decides for.
        patients: how many they are of.
        likenesses: to maps of random models.
        erasures: the maps' own order first.
        doubts: sentences on what speaks against the maps; none where nothing does.
    """

    images: int
    patients: int
    likenesses: Sequence[Likeness]
    erasures: Sequence[Erasure]
    doubts: Sequence[str]
