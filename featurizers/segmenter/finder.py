"""Finds the lungs with the trained network: the `LungFinder` that ingest uses unless told otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from featurizers.errors import WeightsError
from featurizers.lungs import WHOLE_IMAGE, Lungs
from featurizers.radiograph import Pixels
from featurizers.segmenter.network import SIDE, SegmenterNet, normalised, reduced
from featurizers.segmenter.quality import Quality
from featurizers.segmenter.shape import TRAITS, LungMaps, shape_of

#: The weights that come with Pleura; CARD.md beside them says what they were trained on and how well they do.
SHIPPED = Path(__file__).with_name("lungs.safetensors")
#: The only entry of such a file's header; its value is the Pleura that trained it. (With more, their order, and so the
#: file's bytes, would be chance.)
_KIND = f"lung segmenter of {SIDE} px"
#: Changes whenever the same weights would find other boxes.
_VERSION = 1
#: An image whose 1st to 99th percentile spans fewer grey values shows nothing.
_MIN_CONTRAST = 8


@dataclass(frozen=True, slots=True, eq=False)
class SegmenterFinder:
    """The learned `LungFinder`: a mask of each lung, one box around both, and the IoU it expects with a human's box.

    Attributes:
        weights: the content of a file that `packed` made.
        min_quality: quality is the expected IoU with a human's box, and a box that is expected to overlap by less may
            do harm. CARD.md tells how many of those that are trusted so are wrong all the same.
    """

    weights: bytes = field(repr=False)
    min_quality: float = 0.7
    name: str = "segmenter"

    @classmethod
    def shipped(cls) -> Self:
        """With the weights that come with Pleura."""
        return cls.of_file(SHIPPED)

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """With weights of one's own, as jobs/train_segmenter.py leaves them.

        Raises:
            WeightsError: no such file, or no such weights in it.
        """
        try:
            weights = path.read_bytes()
            with safe_open(str(path), "pt") as file:
                told = file.metadata() or {}
        except OSError as error:
            raise WeightsError(
                f"the segmenter's weights {path} can't be read ({error.strerror}): give the "
                "lungs.safetensors that jobs/train_segmenter.py left"
            ) from None
        except SafetensorError as error:
            raise WeightsError(f"{path} is no safetensors file ({error}): train anew, or copy it again") from None
        if _KIND not in told:
            raise WeightsError(f"{path} holds no segmenter: give a file that jobs/train_segmenter.py left")
        finder = cls(weights)
        _model(weights)
        return finder

    @property
    def description(self) -> str:
        """For fingerprints."""
        return f"lungs by the segmenter, version {_VERSION}, weights {hashlib.sha256(self.weights).hexdigest()[:12]}"

    def find(self, pixels: Pixels) -> Lungs:
        """Both lungs of a frontal radiograph, parts behind the heart and under disease included.

        Args:
            pixels: (rows, columns) uint8 greyscale, bone bright.
        """
        small = reduced(pixels)
        low, high = np.percentile(small[::4, ::4], (1, 99))
        if high - low < _MIN_CONTRAST:
            return Lungs(WHOLE_IMAGE, 0.0)
        network, quality = _model(self.weights)
        maps = lung_maps(network, torch.from_numpy(small.copy())[None, None])[0]
        shape = shape_of(maps)
        if shape is None:
            return Lungs(WHOLE_IMAGE, 0.0)
        return Lungs(shape.box, quality.of(shape.traits), maps.max(axis=0))


def lung_maps(network: SegmenterNet, images: Tensor) -> LungMaps:
    """Images (N, 1, SIDE, SIDE) of any real dtype to maps (N, 2, MAP_SIDE, MAP_SIDE), on one thread.

    One image is too little for more threads, and executors run one task per core. How many threads torch uses is a
    setting of the whole process: call this from one thread at a time.

    Raises:
        MemoryError: torch gets no memory.
    """
    with one_thread(), torch.inference_mode():
        try:
            batch = normalised(images.float()).contiguous(memory_format=torch.channels_last)
            maps: LungMaps = torch.sigmoid(network(batch)).numpy()
        except RuntimeError as error:
            # torch has no error of its own for a CPU without memory left.
            if "allocate memory" in str(error) or "create a primitive" in str(error):
                raise MemoryError(str(error)) from None
            raise
    return maps


def packed(network: SegmenterNet, quality: Quality, version: str) -> bytes:
    """A trained network and its quality as the content of a safetensors file.

    Args:
        network: as trained.
        quality: fitted to it.
        version: of Pleura.
    """
    tensors = {f"network.{name}": each.half() for name, each in network.folded().state_dict().items()}
    tensors |= {f"quality.{name}": torch.from_numpy(each) for name, each in quality.arrays().items()}
    return save({name: each.contiguous() for name, each in tensors.items()}, {_KIND: version})


@lru_cache(maxsize=4)
def _model(weights: bytes) -> tuple[SegmenterNet, Quality]:
    tensors = load(weights)
    # In a forked child more threads would wait for ever for the parent's. The first weights are random, and replaced.
    with one_thread(), torch.random.fork_rng(devices=[]):
        network = SegmenterNet().folded()
        try:
            network.load_state_dict(
                {_after(name): each.float() for name, each in tensors.items() if name.startswith("network.")}
            )
            quality = Quality(
                **{_after(name): each.numpy() for name, each in tensors.items() if name.startswith("quality.")}
            )
            quality.of(np.zeros(len(TRAITS)))
        # Tensors of other names or shapes.
        except (RuntimeError, TypeError, ValueError):
            raise WeightsError(
                "the segmenter's weights fit another version of Pleura: train anew by jobs/train_segmenter.py"
            ) from None
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, quality


def _after(name: str) -> str:
    return name.partition(".")[2]


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch works on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
