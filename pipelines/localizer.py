"""A localizer: a head, a way of making maps and a rule for boxes, which together say where in an image a class is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from classifiers.feature_weights import Weighting
from classifiers.trained import Scores, TrainedHead
from featurizers.embedder import Embedder, Viewed
from featurizers.errors import FeaturizerError
from featurizers.heat_boxes import Hotspot, hotspot
from featurizers.radiograph import Pixels
from featurizers.saliency import Method, class_maps, heat, occlusion_maps
from pipelines.errors import ConfigError

#: Changes whenever the code would find other places with the same settings.
FORMAT_VERSION = 2
#: Side of a heatmap in which boxes are looked for, pixels: edges are told to a hundredth of the crop.
SIDE = 112
#: How maps may be made of what weighs a head's features, the default first. Occlusion asks any head.
METHODS: Mapping[Weighting, tuple[Method, ...]] = MappingProxyType(
    {
        Weighting.LINEAR: (Method.CAM, Method.GRAD_CAM, Method.OCCLUSION),
        Weighting.GRADIENT: (Method.GRAD_CAM, Method.OCCLUSION),
        Weighting.SHAP: (Method.SHAP, Method.OCCLUSION),
    }
)


@dataclass(frozen=True)
class Rules:
    """What decides where a head finds a class.

    Attributes:
        head: its fingerprint, which covers the extractor's.
        classes: of its task, that are looked for.
        method: how maps are made.
        level: of the greatest intensity, what a box is drawn around.
        side: of the heatmap in which boxes are looked for, pixels.
        format_version: of this code.
    """

    head: str
    classes: tuple[str, ...]
    method: Method
    level: float
    side: int = SIDE
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of all of the above: hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Located(NamedTuple):
    """What a localizer says of n images.

    Attributes:
        scores: of the head, all of its classes.
        maps: float32 (n, k, h, w): of the classes that are looked for, in their order.
    """

    scores: Scores
    maps: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Localizer:
    """A head and rules, ready to look at what a backbone saw."""

    trained: TrainedHead
    rules: Rules

    def locate(self, embedder: Embedder, viewed: Viewed[Any]) -> Located:
        """Find the classes in some images.

        Args:
            embedder: that viewed them, of the head's extractor.
            viewed: n images, at least 1.
        """
        scores = self.trained.score(viewed.features)
        columns = self._columns
        if self.rules.method is Method.OCCLUSION:
            return Located(scores, occlusion_maps(viewed.pixels, self._scores_of(embedder))[:, columns])
        if self.rules.method is Method.SHAP and viewed.activations is not None and bool((viewed.activations < 0).any()):
            raise FeaturizerError(
                "method=shap spreads what a tree owes to a feature over the feature's map, and this backbone's last "
                "map has negative places, on which that means nothing. Use method=occlusion, or a backbone whose last "
                "layer is a ReLU."
            )
        weights = self.trained.head.feature_weights(viewed.features)
        return Located(scores, class_maps(viewed.activations, weights[:, columns]))

    def heat(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps (n, k, h, w) as heatmaps (n, k, side, side) from 0 to 1."""
        return heat(maps, self.rules.method, self.rules.side)

    def hotspots(self, maps: npt.NDArray[np.float32]) -> list[list[Hotspot]]:
        """Peak and boxes of each class in each image, as fractions of the crop."""
        level = self.rules.level
        return [
            [hotspot(cells, picture, level) for cells, picture in zip(*of_image, strict=True)]
            for of_image in zip(maps, self.heat(maps), strict=True)
        ]

    @property
    def _columns(self) -> list[int]:
        return [self.trained.task.classes.index(name) for name in self.rules.classes]

    def _scores_of(self, embedder: Embedder) -> Callable[[Pixels], npt.NDArray[np.float64]]:
        def scores(images: Pixels) -> npt.NDArray[np.float64]:
            features = embedder.embed(list(images))
            told = np.full((len(features), len(self.trained.task.classes)), np.nan)
            finite = np.isfinite(features).all(axis=1)
            if finite.any():
                told[finite] = self.trained.head.scores(features[finite])
            return told

        return scores


def make_localizer(
    trained: TrainedHead, fingerprint: str, *, classes: Sequence[str], method: Method | None, level: float
) -> Localizer:
    """A localizer of a head.

    Args:
        trained: the head.
        fingerprint: the head's.
        classes: of its task; none: all of them.
        method: how maps are made; None: what suits the head.
        level: see `Rules`.

    Raises:
        ConfigError: a class that the head does not have, or a method that is not for it.
        HeadError: a head that looks at no feature.
    """
    there = trained.task.classes
    if unknown := [name for name in classes if name not in there]:
        raise ConfigError(
            f"classes: the head answers task {trained.task.name} and has no class {', '.join(map(repr, unknown))}. "
            f"It has: {', '.join(there)}."
        )
    weighting = trained.head.weighting
    if weighting is None:
        # Says what is wrong with such a head.
        trained.head.feature_weights(np.zeros((1, trained.feature_dim), np.float32))
        raise AssertionError("a head without weighting has no weights")
    methods = METHODS[weighting]
    if method is not None and method not in methods:
        raise ConfigError(
            f"method={method} is not for {trained.head_name}, whose features are weighed by a {weighting} rule. "
            f"Use one of: {', '.join(methods)}."
        )
    # In the task's own order: the same classes are the same localizer however they were written down.
    chosen = tuple(name for name in there if name in classes) if classes else there
    return Localizer(trained, Rules(fingerprint, chosen, method or methods[0], level))
