"""Whether maps show what the model looks at: they must change with the model, and what they show must matter to it.

Adebayo et al. 2018 (Sanity Checks for Saliency Maps, NeurIPS) found that some ways of making maps draw the same for a
network of random weights, or one that learned random labels: those maps tell of the image and not of the model.
Petsiuk et al. 2018 (RISE, BMVC) take pixels away, hottest first, and watch how fast the probability falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter
from scipy.stats import rankdata

from classifiers.evaluation import Figure
from classifiers.resampling import Patients, percentiles
from classifiers.trained import TrainedHead
from featurizers.backbones import Weights, build_untrained, get_backbone
from featurizers.embedder import Embedder, Viewed
from featurizers.radiograph import Pixels
from featurizers.saliency import Method
from pipelines.localization_reports.subject import Checks, Erasure, Likeness
from pipelines.localizer import Localizer

#: Above this, maps of two models are called alike.
ALIKE: Final = 0.5
#: Places that are taken away together: an image has 14 × 14.
_CELLS: Final = 14
_STEPS: Final = 10
#: What is taken away is blurred, by this share of the side: grey squares would be something to see themselves.
_BLUR: Final = 0.1
_HOTTEST, _RANDOM, _CENTRE = "hottest first", "at random", "from the centre"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Images on which maps are checked.

    Attributes:
        pixels: uint8 (n, s, s), as the backbone takes them.
        patients: (n,) whose.
        columns: int (n,): of the localizer's classes, the one that is looked at in each.
    """

    pixels: Pixels
    patients: npt.NDArray[np.str_]
    columns: npt.NDArray[np.int64]


def check_maps(
    localizer: Localizer,
    embedder: Embedder,
    weights: Weights,
    sample: Sample,
    *,
    relabelled: TrainedHead | None,
    why_not_relabelled: str,
    resamples: int,
    seed: int,
    tell: Callable[[int], None],
) -> Checks:
    """Check a localizer.

    Args:
        localizer: that is checked.
        embedder: of its extractor.
        weights: of the backbone.
        sample: of images, at least one.
        relabelled: the same kind of head, fitted on labels that were dealt out at random.
        why_not_relabelled: where there is none.
        resamples: of patients, behind every interval; 0 for none.
        seed: of all that is drawn.
        tell: told how many images one of the checks is done with.
    """
    _, numbers = np.unique(sample.patients, return_inverse=True)
    interval = _Intervals(Patients(numbers, len(numbers)), resamples, seed)
    maps = _Maps(sample, tell)
    own = maps.of(localizer, embedder)

    def likeness(changed: str, other: Localizer, eye: Embedder, shuffled: npt.NDArray[np.int64] | None) -> Likeness:
        # Of whatever sign: evidence that is turned into its opposite shows the same structure.
        return Likeness(changed, interval(np.abs(_rank_correlations(own, maps.of(other, eye, shuffled)))), "")

    spec = get_backbone(embedder.extractor.backbone)
    random = dict(build_untrained(spec, seed + 1).state_dict())
    last = from_stage_on(random, spec.stages[-1])
    features = np.random.default_rng(seed).permutation(embedder.feature_dim)
    likenesses = [
        likeness("the backbone's last stage untrained", localizer, _other_eye(embedder, weights, last), None),
        likeness("the whole backbone untrained", localizer, _other_eye(embedder, weights, random), None),
    ]
    name = "the head's weights dealt to other features"
    if localizer.rules.method is Method.OCCLUSION:
        likenesses.append(Likeness(name, None, "occlusion asks the head itself"))
    else:
        likenesses.append(likeness(name, localizer, embedder, features))
    name = "the head fitted on shuffled labels"
    if relabelled is None:
        likenesses.append(Likeness(name, None, why_not_relabelled))
    else:
        likenesses.append(likeness(name, Localizer(relabelled, localizer.rules), embedder, None))
    eraser = _Eraser(localizer, embedder, sample, tell)
    erasures, doubts = _judged(eraser.curves(eraser.orders(own, seed)), interval)
    alike = [
        f"Maps stay alike with {each.changed} (rank correlation {each.correlation.value:.2f}): they tell of the image "
        "more than of the model."
        for each in likenesses
        if each.correlation and each.correlation.value is not None and each.correlation.value > ALIKE
    ]
    return Checks(len(sample.patients), interval.patients.count, likenesses, erasures, [*alike, *doubts])


@dataclass(frozen=True)
class _Intervals:
    """Means over images, with their intervals over patients."""

    patients: Patients
    resamples: int
    seed: int

    def __call__(self, values: Floats) -> Figure:
        """The mean of values (n,), NaN left out."""
        defined = np.isfinite(values)
        if not defined.any():
            return Figure(None)
        sums = self.patients.sums(np.stack([np.where(defined, values, 0), defined], axis=1))
        low = high = None
        if self.resamples and self.patients.count > 1:

            def of_resample(drawn: Floats) -> Mapping[str, Floats]:
                with np.errstate(invalid="ignore"):
                    return {"": (drawn.T @ sums[:, 0]) / (drawn.T @ sums[:, 1])}

            low, high = percentiles(self.patients.resampled(of_resample, self.resamples, self.seed)[""])
        return Figure(float(values[defined].mean()), low, high)


@dataclass(frozen=True)
class _Maps:
    """Maps of the sample, each of its image's own class."""

    sample: Sample
    tell: Callable[[int], None]

    def of(
        self, localizer: Localizer, embedder: Embedder, shuffled: npt.NDArray[np.int64] | None = None
    ) -> npt.NDArray[np.float32]:
        """(n, h, w) by a localizer and what an embedder sees; with features dealt anew where `shuffled` says so."""
        maps: npt.NDArray[np.float32] | None = None
        for viewed in embedder.view_stream(enumerate(self.sample.pixels), _as_it_is):
            self.tell(viewed.images)
            if not viewed.keys:
                continue
            seen = viewed if shuffled is None else _dealt_anew(viewed, shuffled)
            columns = self.sample.columns[viewed.keys]
            found = localizer.locate(embedder, seen).maps[np.arange(len(columns)), columns]
            if maps is None:
                # Where a network of random weights gives no finite vector there is no map.
                maps = np.full((len(self.sample.pixels), *found.shape[1:]), np.nan, np.float32)
            maps[viewed.keys] = found
        return np.full((len(self.sample.pixels), 1, 1), np.nan, np.float32) if maps is None else maps


def _as_it_is(image: Pixels) -> Pixels:
    return image


def from_stage_on(state: Mapping[str, torch.Tensor], stage: str) -> dict[str, torch.Tensor]:
    """The parameters of a stage and of all that stands behind it, which is what `BackboneSpec.stages` means by one."""
    names = list(state)
    first = next(place for place, name in enumerate(names) if name.startswith(f"{stage}."))
    return {name: state[name] for name in names[first:]}


def _dealt_anew(viewed: Viewed[Any], order: npt.NDArray[np.int64]) -> Viewed[Any]:
    """As if every feature were another one's."""
    activations = None if viewed.activations is None else viewed.activations[:, torch.from_numpy(order)]
    features = np.ascontiguousarray(viewed.features[:, order])
    return replace(viewed, features=features, activations=activations)


def _other_eye(embedder: Embedder, weights: Weights, replaced: Mapping[str, torch.Tensor]) -> Embedder:
    """The same backbone with some of its parameters replaced."""
    extractor = embedder.extractor
    state = {name: replaced.get(name, value) for name, value in weights.state.items()}
    return Embedder(
        extractor.backbone,
        Weights("partly random", state),
        precision=extractor.precision,
        batch_size=embedder.batch_size,
    )


def _rank_correlations(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> Floats:
    """Spearman's of each pair of maps (n, h, w) over the places: (n,); NaN where one is the same everywhere, or NaN."""
    if ours.shape != theirs.shape:
        return np.full(len(ours), np.nan)
    ranks = [rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (ours, theirs)]
    first, second = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    with np.errstate(invalid="ignore"):
        spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
        return np.asarray((first * second).sum(axis=1) / spread)


@dataclass(frozen=True)
class _Eraser:
    """Takes places of the sample's images away, and asks the head what is left of each image's class."""

    localizer: Localizer
    embedder: Embedder
    sample: Sample
    tell: Callable[[int], None]

    def orders(self, maps: npt.NDArray[np.float32], seed: int) -> dict[str, npt.NDArray[np.int64]]:
        """Cells (n, 196), the first to go first, by the name of the order."""
        n = len(maps)
        heat = _by_cell(self.localizer.heat(maps[:, None])[:, 0])
        generator = np.random.default_rng(seed)
        away = np.hypot(*(np.indices((_CELLS, _CELLS)) - (_CELLS - 1) / 2)).reshape(-1)
        return {
            _HOTTEST: np.argsort(-heat, axis=1, kind="stable"),
            _RANDOM: np.stack([generator.permutation(_CELLS**2) for _ in range(n)]),
            _CENTRE: np.tile(np.argsort(away, kind="stable"), (n, 1)),
        }

    def curves(self, orders: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, tuple[Floats, Floats]]:
        """Deletion and insertion (n, steps + 1) of each order."""
        whole = self.sample.pixels
        blurred = np.stack([_blurred(image) for image in whole])
        ends = self._probabilities(whole), self._probabilities(blurred)
        told = {}
        for name, order in orders.items():
            gone = list(_gone(order, whole.shape[1]))
            deletion = [self._probabilities(np.where(each, blurred, whole)) for each in gone]
            insertion = [self._probabilities(np.where(each, whole, blurred)) for each in gone]
            told[name] = (
                np.stack([ends[0], *deletion, ends[1]], axis=1),
                np.stack([ends[1], *insertion, ends[0]], axis=1),
            )
        return told

    def _probabilities(self, images: Pixels) -> Floats:
        trained = self.localizer.trained
        places = [trained.task.classes.index(name) for name in self.localizer.rules.classes]
        scores = trained.score(self.embedder.embed(list(images)))
        self.tell(len(images))
        return np.asarray(scores.probabilities[np.arange(len(images)), np.array(places)[self.sample.columns]])


def _judged(curves: Mapping[str, tuple[Floats, Floats]], interval: _Intervals) -> tuple[list[Erasure], list[str]]:
    """Curves as they are told, and what they leave in doubt."""
    areas = {name: (_area(deletion), _area(insertion)) for name, (deletion, insertion) in curves.items()}
    erasures = [
        Erasure(
            name,
            tuple(deletion.mean(axis=0).tolist()),
            tuple(insertion.mean(axis=0).tolist()),
            interval(areas[name][0]),
            interval(areas[name][1]),
        )
        for name, (deletion, insertion) in curves.items()
    ]
    falls = interval(areas[_RANDOM][0] - areas[_HOTTEST][0])
    rises = interval(areas[_HOTTEST][1] - areas[_RANDOM][1])
    doubts = [
        (falls, "Taking the hottest places away was not shown to lower the probability faster than places at random."),
        (rises, "Giving the hottest places back was not shown to raise the probability faster than places at random."),
    ]
    return erasures, [told for gain, told in doubts if gain.low is None or gain.low <= 0]


def _gone(order: npt.NDArray[np.int64], side: int) -> Iterator[npt.NDArray[np.bool_]]:
    """Which pixels (n, side, side) are gone after each step but the last, when all are."""
    rank = np.argsort(order, axis=1).reshape(-1, _CELLS, _CELLS)
    cell = np.arange(side) * _CELLS // side
    rank_of_pixel = rank[:, cell[:, None], cell[None, :]]
    for step in range(1, _STEPS):
        yield rank_of_pixel < round(_CELLS**2 * step / _STEPS)


def _area(curve: Floats) -> Floats:
    return np.asarray((curve[:, :-1] + curve[:, 1:]).mean(axis=1) / 2)


def _by_cell(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Heatmaps (n, s, s), s a multiple of 14, as their cells' means (n, 196)."""
    n, side, _ = heat.shape
    step = side // _CELLS
    return np.asarray(heat.reshape(n, _CELLS, step, _CELLS, step).mean(axis=(2, 4)).reshape(n, -1))


def _blurred(image: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(_BLUR * image.shape[0])), np.uint8)
