"""The finders of the lungs, opened by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias, assert_never

from featurizers.atlas import AtlasFinder
from featurizers.errors import FeaturizerError
from featurizers.lungs import LungFinder
from featurizers.mask_pairs import list_pairs
from featurizers.projection import ProjectionFinder

#: As in the `cropper` column.
FinderName: TypeAlias = Literal["segmenter", "atlas", "projection"]


def open_finder(name: FinderName, *, atlas: Path | None = None, weights: Path | None = None) -> LungFinder:
    """Open a finder, with all that it needs in memory: it can be sent to other machines.

    Args:
        name: which one.
        atlas: only for the atlas: a folder of radiographs with lung masks, as `list_pairs` reads it.
        weights: only for the segmenter: a safetensors file; None: the weights that come with Pleura.

    Raises:
        FeaturizerError: there is no atlas, or it or the weights can't be read.
    """
    match name:
        case "projection":
            return ProjectionFinder()
        case "atlas":
            return _open_atlas(atlas)
        case "segmenter":
            return _open_segmenter(weights)
        case _:
            assert_never(name)


def _open_atlas(folder: Path | None) -> LungFinder:
    if folder is None:
        raise FeaturizerError(
            "the atlas finder has no atlas: give it a folder with radiographs in images/ and their lung masks in masks/"
        )
    return AtlasFinder.of_pairs(list_pairs(folder))


def _open_segmenter(weights: Path | None) -> LungFinder:
    # torch takes a second or two to import, which whoever asks for another finder need not wait.
    from featurizers.segmenter.finder import SegmenterFinder  # noqa: PLC0415

    return SegmenterFinder.shipped() if weights is None else SegmenterFinder.of_file(weights)
