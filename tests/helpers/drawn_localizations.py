"""Localizations for pages: phantoms with their boxes, a blurry heat near them, and cases that are judged."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from classifiers.evaluation import Figure
from featurizers.crops import CropBox
from featurizers.heat_boxes import hotspot
from featurizers.phantoms import draw_phantom
from pipelines.localization_reports.figures import Case, lies_in, overlaps
from pipelines.localization_reports.subject import Checks, Erasure, Likeness, Shown, Subject

SUBJECT = Subject(
    head="chestxray14/logistic",
    head_fingerprint="a" * 64,
    localizer="b" * 64,
    features="resnet50, imagenet weights, extractor " + "c" * 64,
    is_untrained=False,
    classes=("Mass", "Nodule", "Effusion"),
    method="Class activation maps: the slope of the head weighs the last map of the backbone (Zhou et al. 2016).",
    level=180 / 255,
    split="test",
    images=1200,
    annotated=90,
    unscored=("The other 1,110 images have no annotated box of these classes.",),
    truth="ChestX-ray14's BBox_List_2017.csv",
    calibration="not calibrated: the probabilities are the head's own",
    thresholds="Youden's index, chosen on val.",
    made="Made on 2026-11-30 with Pleura 1.0.",
)


def draw_cases(counts: dict[str, int], seed: int = 0) -> list[Case]:
    """Cases of each class: one image each, of two patients in three images, found near the truth or far from it."""
    rng = np.random.default_rng(seed)
    cases = []
    for finding, count in counts.items():
        for number in range(count):
            corner, size = rng.uniform(0.1, 0.6, 2), rng.uniform(0.1, 0.3, 2)
            middle = corner + size / 2 + rng.normal(0, 0.12, 2)
            found = np.array([[*(middle - 0.08), *(middle + 0.08)], [0.7, 0.7, 0.9, 0.9]])[: rng.integers(1, 3)]
            truth = np.array([[*corner, *(corner + size)]])
            image_id = f"{number:064x}"
            cases.append(
                Case(
                    image_id,
                    f"{2 * number // 3}",
                    finding,
                    float(rng.uniform()),
                    truth,
                    (float(middle[0]), float(middle[1])),
                    np.clip(found, 0, 1),
                    CropBox(0.05, 0.08, 0.95, 0.97),
                )
            )
    return cases


def draw_shown(
    seed: int, finding: str = "Mass", *, away: float = 0.0, has_truth: bool = True, probability: float = 0.8
) -> Shown:
    """A phantom with a mass, heat on it or away from it, and what follows from that."""
    phantom = draw_phantom(seed, ["Mass"], (256, 256))
    png = BytesIO()
    Image.fromarray(phantom.pixels).save(png, "PNG")
    truth = np.array([[box.left, box.top, box.right, box.bottom] for box in phantom.boxes])
    x, y = (truth[0, :2] + truth[0, 2:]) / 2 + (0 if truth[0, 0] > 0.5 else away, -away / 2)
    coarse = np.exp(-((np.arange(8)[None] - 8 * x + 0.5) ** 2 + (np.arange(8)[:, None] - 8 * y + 0.5) ** 2) / 3)
    coarse += np.random.default_rng(seed).uniform(0, 0.35, coarse.shape)
    large = np.array(Image.fromarray(coarse.astype(np.float32)).resize((112, 112), Image.Resampling.BILINEAR))
    heat = (large - large.min()) / (large.max() - large.min())
    peak, found = hotspot(coarse.astype(np.float32), heat)
    boxes = np.array([box[:4] for box in found]).reshape(-1, 4)
    return Shown(
        image_id=f"{seed:02d}" * 32,
        finding=finding,
        probability=probability,
        threshold=0.4,
        decision=probability >= 0.4,
        crop=png.getvalue(),
        heat=heat,
        peak=peak,
        found=found,
        truth=truth if has_truth else np.empty((0, 4)),
        is_hit=lies_in(peak, truth) if has_truth else None,
        iobb=float(overlaps(boxes, truth)[1].max(initial=0.0)) if has_truth else None,
    )


def draw_checks(doubts: Sequence[str] = ()) -> Checks:
    """Checks of maps that hold."""
    steps = np.linspace(0, 1, 11)

    def erasure(order: str, power: float, area: float) -> Erasure:
        deletion = tuple((0.1 + 0.7 * (1 - steps) ** power).tolist())
        insertion = tuple((0.1 + 0.7 * steps ** (1 / power)).tolist())
        return Erasure(order, deletion, insertion, Figure(area, area - 0.021, area + 0.023), Figure(1 - area))

    return Checks(
        images=64,
        patients=50,
        likenesses=[
            Likeness("backbone untrained", Figure(0.047, 0.013, 0.111), ""),
            Likeness("head's weights shuffled", None, "A tree head has no weights to shuffle."),
        ],
        erasures=[
            erasure("hottest first", 3, 0.281),
            erasure("at random", 1.2, 0.437),
            erasure("from the centre", 1.8, 0.359),
        ],
        doubts=doubts,
    )
