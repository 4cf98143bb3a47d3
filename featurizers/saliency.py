"""Where in an image the evidence for a class lies: class activation maps, Grad-CAM, SHAP on the map, and occlusion.

A backbone's vector pools its last map, so a head's weight of a feature weighs that feature's map. What weighs is the
head's own affair:

- the slope of a linear head: CAM (Zhou et al. 2016, Learning Deep Features for Discriminative Localization, CVPR);
- the slope, at this image, of any head that has one: Grad-CAM (Selvaraju et al. 2017, ICCV). The gradient of a mean is
  the same at every place, and what maximum or log-sum-exp pooling hand back sums up to as much, so that nothing has to
  go back through the backbone;
- what a tree head owes to each feature (TreeSHAP: Lundberg et al. 2020, Nature Machine Intelligence 2), spread over
  the map as the feature itself is.

Occlusion knows nothing of the head but its answers (Zeiler and Fergus 2014, Visualizing and Understanding Convolutional
Networks, ECCV).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from featurizers.errors import FeaturizerError
from featurizers.radiograph import Pixels

Float32Array = npt.NDArray[np.float32]

NO_MAP = (
    "this backbone makes its vector in a way of its own (pool=own), so that no place of a map stands for a part of it. "
    "Use method=occlusion, or extract features of the backbone with pool=avg and fit a head on those."
)
#: An image is cut into so many rows and columns of cells; squares of 2 × 2 cells are hidden, one after the other.
#: Squares may reach out of the image, so that every cell is in as many of them.
_CELLS, _HIDDEN = 7, 2
#: Of each image, the whole one among them.
OCCLUDED_COPIES = (_CELLS + _HIDDEN - 1) ** 2 + 1
#: Occluded copies that are scored together at most.
_COPIES_AT_ONCE = 512


class Method(StrEnum):
    """How a map is made."""

    #: Evidence for and against, relative to the least and the most of the image; linear heads.
    CAM = "cam"
    #: Evidence for; heads with a gradient, linear ones too.
    GRAD_CAM = "grad_cam"
    #: Evidence for; tree heads.
    SHAP = "shap"
    #: What hiding a place costs the class; any head, at 65 passes of the backbone an image.
    OCCLUSION = "occlusion"


def class_maps(activations: Tensor | None, weights: Float32Array) -> Float32Array:
    """The map of every class: activations, each weighed by what its feature counts for the class.

    Args:
        activations: (n, d, h, w), the last map of n images.
        weights: (n, k, d), of each image, or (1, k, d), of all.

    Returns:
        (n, k, h, w): the mean over the places is what all features together count for the class, where they are means.

    Raises:
        FeaturizerError: if there are no activations: the backbone has no map.
    """
    if activations is None:
        raise FeaturizerError(NO_MAP)
    n, d, height, width = activations.shape
    places = activations.to(torch.float32).reshape(n, d, height * width)
    weighed = torch.from_numpy(np.ascontiguousarray(weights)).to(places.device)
    maps = torch.matmul(weighed, places)
    return np.asarray(maps.reshape(n, weights.shape[1], height, width).cpu().numpy(), np.float32)


def occlusion_maps(images: Pixels, score: Callable[[Pixels], npt.NDArray[np.float64]]) -> Float32Array:
    """How much each class's score falls when a square of the image's mean grey hides a place.

    Args:
        images: uint8 (n, s, s).
        score: uint8 (m, s, s) to (m, k), higher for more evidence; asked for 65 copies of each image. NaN for a copy
            that has no score: what it hides then costs nothing.

    Returns:
        (n, k, 7, 7): of each cell the mean over the four squares that hide it.
    """
    n, side, _ = images.shape
    edges = np.linspace(0, side, _CELLS + 1).round().astype(int)
    spans = [slice(max(0, first), first + _HIDDEN) for first in range(1 - _HIDDEN, _CELLS)]
    squares = [(rows, columns) for rows in spans for columns in spans]
    maps: list[Float32Array] = []
    at_once = max(1, _COPIES_AT_ONCE // (len(squares) + 1))
    for start in range(0, n, at_once):
        some = images[start : start + at_once]
        copies = np.repeat(some[:, None], len(squares) + 1, axis=1)
        greys = some.mean(axis=(1, 2)).round().astype(np.uint8)[:, None, None]
        # The first copy of each stays whole.
        for number, (rows, columns) in enumerate(squares, 1):
            copies[:, number, _pixels(edges, rows), _pixels(edges, columns)] = greys
        scores = score(copies.reshape(-1, side, side)).reshape(len(some), len(squares) + 1, -1)
        drops = np.nan_to_num(scores[:, :1] - scores[:, 1:])
        summed = np.zeros((len(some), scores.shape[2], _CELLS, _CELLS))
        for number, (rows, columns) in enumerate(squares):
            summed[..., rows, columns] += drops[:, number, :, None, None]
        maps.append((summed / _HIDDEN**2).astype(np.float32))
    return np.concatenate(maps)


def _pixels(edges: npt.NDArray[np.int64], cells: slice) -> slice:
    return slice(edges[cells.start], edges[min(cells.stop, _CELLS)])


def heat(maps: Float32Array, method: Method, side: int) -> Float32Array:
    """Maps as pictures: enlarged (bilinear), and normalised to 0..1 by themselves.

    CAM runs from the image's least to its most (Wang et al. 2017 normalise so); of the others what is against the
    class is 0. A map that is the same everywhere, or for the class nowhere, is 0 everywhere.

    Args:
        maps: (n, k, h, w).
        method: that made them.
        side: of the pictures, pixels.

    Returns:
        (n, k, side, side).
    """
    large = functional.interpolate(torch.from_numpy(maps), (side, side), mode="bilinear", align_corners=False).numpy()
    low = large.min(axis=(2, 3), keepdims=True) if method is Method.CAM else np.float32(0)
    above = np.maximum(large - low, 0)
    span = above.max(axis=(2, 3), keepdims=True)
    # What rounding leaves of a map that is the same everywhere is no evidence.
    least = 1e-6 * np.abs(large).max(axis=(2, 3), keepdims=True)
    return np.asarray(np.divide(above, span, out=np.zeros_like(above), where=span > least))
