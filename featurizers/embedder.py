"""Crops to vectors: a backbone on one device, fed in batches of one size by threads that read and decode ahead."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from featurizers.backbones import Weights, get_backbone, load_weights
from featurizers.crops import decode_png
from featurizers.cuda_passes import CudaPasses, free_memory
from featurizers.devices import check_device
from featurizers.errors import FeaturizerError
from featurizers.extractor import UNKNOWN_CROPS, Extractor, Precision, Storage, describe_extractor
from featurizers.frozen_network import FrozenNetwork, View, activation_bytes, compile_network
from featurizers.radiograph import Pixels
from featurizers.read_ahead import map_ahead
from featurizers.stages import Stages

#: Images per forward pass where memory allows it. More do not make a CPU faster (docs/architecture.md); a GPU has to be
#: filled.
BATCH_SIZE, GPU_BATCH_SIZE = 32, 256
#: Memory for the activations of one batch on a CPU; on a GPU it is half of what is free.
MEMORY_MB = 1024
#: Batches that wait for the backbone: enough to hide a slow read, few enough to stay small.
BATCHES_AHEAD = 4

KeyT = TypeVar("KeyT")
ItemT = TypeVar("ItemT")


Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded(Generic[KeyT]):
    """Vectors of some images.

    Attributes:
        keys: of the images that have a vector, in order.
        features: float32 (len(keys), feature_dim).
        damaged: keys of the images that have none because their crops can't be decoded.
        not_finite: keys of the images that have none because theirs holds NaN or infinity.
    """

    keys: list[KeyT]
    features: Float32Array
    damaged: list[KeyT]
    not_finite: list[KeyT]

    @property
    def images(self) -> int:
        """How many went in."""
        return len(self.keys) + len(self.damaged) + len(self.not_finite)


@dataclass(frozen=True)
class Viewed(Generic[KeyT]):
    """What a backbone makes of some images, and where.

    Attributes:
        keys: of the images that have a vector, in order.
        pixels: uint8 (n, s, s), of those, as the backbone saw them.
        features: float32 (n, d): their vectors.
        activations: (n, d, h, w) on the embedder's device, in its precision: the map that the vectors pool; None where
            the backbone has none (pool=own).
        damaged, not_finite: as of `Embedded`.
    """

    keys: list[KeyT]
    pixels: Pixels
    features: Float32Array
    activations: Tensor | None
    damaged: list[KeyT]
    not_finite: list[KeyT]

    @property
    def images(self) -> int:
        """How many went in."""
        return len(self.keys) + len(self.damaged) + len(self.not_finite)


class Embedder:
    """A backbone ready to embed.

    Every batch is padded to one size, so that a vector does not depend on how many others it came with.

    Args:
        backbone: name of the backbone.
        weights: its parameters.
        precision: bf16 or fp32 arithmetic.
        crops: how the crops were made, for the fingerprint.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: of the backbone on the CPU, and of decoding; None leaves torch's setting.
        batch_size: images per forward pass; None: 32 on a CPU, 256 on a GPU, halved until a batch fits the memory.
        memory_mb: memory for one batch's activations; None: 1,024 on a CPU, half of what is free on a GPU.
        compiled: compile the backbone first: seconds to minutes once, then up to three times the speed on a CPU.
        storage: what the numbers of a vector are rounded to; they are float32 either way.

    Attributes:
        extractor: what decides the vectors.
        batch_size: images per forward pass.
        stages: where the time went, since the embedder was made.
        cuda: the passes on a GPU; None on a CPU.

    Raises:
        WeightsError: if the weights do not fit.
        FeaturizerError: if there is no such device, or no C++ compiler to compile for the CPU.
    """

    def __init__(
        self,
        backbone: str,
        weights: Weights,
        *,
        precision: Precision = Precision.BF16,
        crops: str = UNKNOWN_CROPS,
        device: str = "cpu",
        threads: int | None = None,
        batch_size: int | None = None,
        memory_mb: int | None = None,
        compiled: bool = False,
        storage: Storage = Storage.FLOAT32,
    ) -> None:
        self._device = check_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._decoders = threads or torch.get_num_threads()
        self._spec = get_backbone(backbone)
        self.extractor: Extractor = describe_extractor(backbone, weights, precision, crops, storage)
        self.stages = Stages()
        self._storage, self._is_exact = storage, precision is Precision.FP32
        network = FrozenNetwork(self._spec, weights, precision).eval().to(self._device)
        # Compiled when they are first called, so that whoever never views anything does not wait for it.
        self._view: Callable[[Tensor], View] = compile_network(network.view) if compiled else network.view
        self.batch_size = batch_size or fitting_batch_size(network, self._spec.input_size, self._device, memory_mb)
        self._forward: Callable[[Tensor], Tensor] = compile_network(network) if compiled else network
        self.cuda: CudaPasses | None = None
        if self._device.type == "cuda":
            self.cuda = self._on_gpu(fixed=batch_size is not None)

    def _rounding(self) -> contextlib.AbstractContextManager[object]:
        # float32 means float32: by default a GPU's convolutions would round their input to 10 bits (TF32).
        return torch.backends.cudnn.flags(allow_tf32=False) if self._is_exact else contextlib.nullcontext()

    def _on_gpu(self, *, fixed: bool) -> CudaPasses:
        # What is recorded here is what runs later.
        with self._rounding():
            while True:
                try:
                    return CudaPasses(self._forward, self.batch_size, self._spec.input_size, self._device, self.stages)
                except torch.OutOfMemoryError as error:
                    if fixed or self.batch_size == 1:
                        raise FeaturizerError(
                            f"{self.batch_size} images a batch do not fit the free memory of {self._device}. Use a "
                            "smaller batch_size, or see who else uses this GPU."
                        ) from error
                    # The estimate was too low: libraries take room of their own.
                    self.batch_size //= 2

    def warm_up(self, *, views: bool = False) -> Float32Array:
        """Do what only the first batch pays for: compiling, and laying the weights out; gives vectors of black images.

        Args:
            views: for `view`, not for `forward`.

        Returns:
            float32 (batch_size, feature_dim).
        """
        return self.view(self._empty_batch())[0] if views else self.forward(self._empty_batch())

    @property
    def feature_dim(self) -> int:
        """Length of a vector."""
        return self._spec.feature_dim

    @property
    def input_size(self) -> int:
        """Side of the images that the backbone takes, pixels; others are brought to it."""
        return self._spec.input_size

    def embed(self, images: Sequence[Pixels]) -> Float32Array:
        """Vectors of greyscale images.

        Args:
            images: uint8 arrays (height, width), bone bright, cropped to the lungs or whole.

        Returns:
            float32 (len(images), feature_dim).

        Raises:
            FeaturizerError: if an image is not a uint8 (height, width) array.
        """
        parts = [self.forward(batch)[: len(group)] for group, batch in self._batches_of_arrays(images)]
        return np.concatenate(parts) if parts else np.empty((0, self.feature_dim), np.float32)

    def embed_pngs(self, crops: Iterable[tuple[KeyT, bytes]]) -> Iterator[Embedded[KeyT]]:
        """Vectors of stored crops, streamed; see `embed_stream`."""
        yield from self.embed_stream(crops, decode_png)

    def embed_stream(
        self, items: Iterable[tuple[KeyT, ItemT]], decode: Callable[[ItemT], Pixels]
    ) -> Iterator[Embedded[KeyT]]:
        """Vectors of whatever can be made pixels, streamed: one thread reads, and others decode, ahead of the backbone.

        Args:
            items: (key, item) pairs; consumed in another thread.
            decode: an item to uint8 (height, width); called by several threads. What it raises FeaturizerError for has
                no vector.
        """
        for ready, features in self._passes((ready, ready.batch) for ready in self._ready(items, decode)):
            given = features[: len(ready.keys)]
            finite = np.isfinite(given).all(axis=1)
            embedded = Embedded(
                keys=[ready.keys[row] for row in np.flatnonzero(finite)],
                features=given[finite],
                damaged=ready.damaged,
                not_finite=[ready.keys[row] for row in np.flatnonzero(~finite)],
            )
            self.stages.images += embedded.images
            start = time.perf_counter()
            yield embedded
            self.stages.hand_over += time.perf_counter() - start

    def view_stream(
        self, items: Iterable[tuple[KeyT, ItemT]], decode: Callable[[ItemT], Pixels]
    ) -> Iterator[Viewed[KeyT]]:
        """The same with the map behind each vector, for whoever asks where in an image something is."""
        for ready in self._ready(items, decode):
            start = time.perf_counter()
            features, activations = self.view(ready.batch)
            self.stages.compute += time.perf_counter() - start
            finite = np.isfinite(features[: len(ready.keys)]).all(axis=1)
            rows = np.flatnonzero(finite)
            viewed = Viewed(
                keys=[ready.keys[row] for row in rows],
                pixels=ready.batch[rows],
                features=features[rows],
                activations=None if activations is None else activations[rows.tolist()],
                damaged=ready.damaged,
                not_finite=[ready.keys[row] for row in np.flatnonzero(~finite)],
            )
            self.stages.images += viewed.images
            start = time.perf_counter()
            yield viewed
            self.stages.hand_over += time.perf_counter() - start

    def _ready(self, items: Iterable[tuple[KeyT, ItemT]], decode: Callable[[ItemT], Pixels]) -> Iterator[_Ready[KeyT]]:
        """Batches of them, read and decoded ahead."""
        stages = self.stages

        def make(group: Sequence[tuple[KeyT, ItemT]]) -> _Ready[KeyT]:
            return self._batch_of(group, decode)

        groups = _batched(stages.timed(items, "read"), self.batch_size)
        ahead = map_ahead(make, groups, threads=self._decoders, depth=self._decoders + BATCHES_AHEAD)
        for ready in stages.timed(ahead, "wait"):
            # Clocks of several decoding threads are added up in this one.
            stages.decode += ready.seconds
            stages.batches += 1
            yield ready

    def view(self, batch: Pixels) -> tuple[Float32Array, Tensor | None]:
        """One pass: uint8 (batch_size, size, size) to float32 (batch_size, d), and the map (batch_size, d, h, w).

        The map stays on the device, in the backbone's precision; None where there is none (pool=own).
        """
        with torch.no_grad(), self._rounding():
            features, activations = self._view(torch.from_numpy(batch).to(self._device))
        return self._rounded(np.asarray(features.cpu().numpy(), np.float32)), activations

    def forward(self, batch: Pixels) -> Float32Array:
        """One pass of the backbone: uint8 (batch_size, size, size) to float32 (batch_size, feature_dim)."""
        if self.cuda:
            return self._rounded(self.cuda.forward(batch))
        # no_grad, not inference_mode: a tensor of another mode makes a compiled backbone compile again.
        with torch.no_grad():
            return self._rounded(np.asarray(self._forward(torch.from_numpy(batch)).numpy(), np.float32))

    def _rounded(self, features: Float32Array) -> Float32Array:
        if self._storage is Storage.FLOAT32:
            return features
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is told as such
            return features.astype(np.float16).astype(np.float32)

    def _passes(self, batches: Iterator[tuple[_Ready[KeyT], Pixels]]) -> Iterator[tuple[_Ready[KeyT], Float32Array]]:
        if self.cuda:
            for ready, features in self.cuda.run(batches):
                yield ready, self._rounded(features)
            return
        for ready, batch in batches:
            start = time.perf_counter()
            # A batch of damaged crops alone needs no pass.
            features = self.forward(batch) if ready.keys else np.empty((0, self.feature_dim), np.float32)
            self.stages.compute += time.perf_counter() - start
            yield ready, features

    def _batches_of_arrays(self, images: Sequence[Pixels]) -> Iterator[tuple[Sequence[Pixels], Pixels]]:
        for start in range(0, len(images), self.batch_size):
            group = images[start : start + self.batch_size]
            batch = self._empty_batch()
            for row, image in enumerate(group):
                if not isinstance(image, np.ndarray) or image.ndim != 2 or image.dtype != np.uint8 or not image.size:
                    found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                    raise FeaturizerError(
                        f"image {start + row}: {found}; embed takes uint8 arrays (height, width); "
                        "decode_radiograph gives such arrays from a file's bytes."
                    )
                batch[row] = fit(image, self._spec.input_size)
            yield group, batch

    def _batch_of(self, group: Sequence[tuple[KeyT, ItemT]], decode: Callable[[ItemT], Pixels]) -> _Ready[KeyT]:
        start = time.perf_counter()
        keys: list[KeyT] = []
        damaged: list[KeyT] = []
        batch = self._empty_batch()
        for key, crop in group:
            try:
                batch[len(keys)] = fit(decode(crop), self._spec.input_size)
            except FeaturizerError:
                damaged.append(key)
            else:
                keys.append(key)
        return _Ready(keys, batch, damaged, time.perf_counter() - start)

    def _empty_batch(self) -> Pixels:
        return np.zeros((self.batch_size, self._spec.input_size, self._spec.input_size), np.uint8)


class _Ready(NamedTuple, Generic[KeyT]):
    """A batch that waits for the backbone: keys of its first rows, its pixels, what could not be decoded, seconds."""

    keys: list[KeyT]
    batch: Pixels
    damaged: list[KeyT]
    seconds: float


def _batched(items: Iterable[ItemT], size: int) -> Iterator[list[ItemT]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some


def embed(
    images: Sequence[Pixels],
    backbone: str = "resnet50",
    weights: str = "imagenet",
    seed: int = 0,
    device: str = "cpu",
) -> Float32Array:
    """Vectors of greyscale images in one call, for notebooks.

    Args:
        images: uint8 arrays (height, width).
        backbone: name of the backbone.
        weights: imagenet, random, or a file.
        seed: of random weights.
        device: cpu, cuda or cuda:N.

    Returns:
        float32 (len(images), feature_dim).
    """
    loaded = load_weights(get_backbone(backbone), weights, seed)
    return Embedder(backbone, loaded, device=device).embed(images)


def fit(pixels: Pixels, size: int) -> Pixels:
    """`pixels` (height, width) as (size, size): bilinear with antialiasing, or as they are if they have that size."""
    if pixels.shape == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR), np.uint8)


def fitting_batch_size(network: nn.Module, size: int, device: torch.device, memory_mb: int | None) -> int:
    """Images per forward pass: 32 on a CPU, 256 on a GPU, halved until a batch's activations fit the memory.

    Args:
        network: uint8 (n, size, size) to vectors, on the device.
        size: side of its input.
        device: cpu or a GPU.
        memory_mb: for activations; None: 1,024 on a CPU, half of what is free on a GPU.

    Raises:
        FeaturizerError: if not even one image fits.
    """
    on_gpu = device.type == "cuda"
    budget = (free_memory(device) // 2 if on_gpu else MEMORY_MB * 2**20) if memory_mb is None else memory_mb * 2**20
    per_image = activation_bytes(network, size, device)
    if per_image > budget:
        raise FeaturizerError(
            f"one image of {size}x{size} takes about {per_image // 2**20 + 1:,} MB on its way through this backbone, "
            f"and {budget // 2**20:,} MB are allowed. Raise memory_mb, or use a smaller size."
        )
    batch_size = GPU_BATCH_SIZE if on_gpu else BATCH_SIZE
    while batch_size * per_image > budget:
        batch_size //= 2
    return batch_size
