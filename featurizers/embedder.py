"""Crops to vectors: a backbone on one device, fed in batches of one size by a thread that decodes ahead."""

from __future__ import annotations

import queue
import shutil
import sysconfig
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from featurizers.backbones import Backbone, BackboneSpec, Weights, build_untrained, get_backbone, load_weights
from featurizers.crops import decode_png
from featurizers.errors import FeaturizerError
from featurizers.extractor import UNKNOWN_CROPS, Extractor, Precision, describe_extractor
from featurizers.grey_input import GreyNorm, freeze_grey
from featurizers.radiograph import Pixels

BATCH_SIZE = 32
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
        failed: keys of the images that have none: damaged crops, or vectors with NaN or infinity.
    """

    keys: list[KeyT]
    features: Float32Array
    failed: list[KeyT]


class Embedder:
    """A backbone ready to embed.

    Every batch is padded to one size, so that a vector does not depend on how many others it came with.

    Args:
        backbone: name of the backbone.
        weights: its parameters.
        precision: bf16 or fp32 arithmetic.
        crops: how the crops were made, for the fingerprint.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: of the backbone on the CPU; None leaves torch's setting.
        batch_size: images per forward pass.
        compiled: compile the backbone first: seconds to minutes once, then up to three times the speed on a CPU.

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
        batch_size: int = BATCH_SIZE,
        compiled: bool = False,
    ) -> None:
        self._device = check_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self._spec = get_backbone(backbone)
        self.extractor: Extractor = describe_extractor(backbone, weights, precision, crops)
        self.batch_size = batch_size
        network = _Network(self._spec, weights, precision).eval().to(self._device)
        self._forward: Callable[[Tensor], Tensor] = network
        if compiled:
            self._forward = _compile(network)

    def warm_up(self) -> None:
        """Do what only the first batch pays for: compiling, and laying the weights out."""
        self.forward(self._empty_batch())

    @property
    def feature_dim(self) -> int:
        """Length of a vector."""
        return self._spec.feature_dim

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
        """Vectors of stored crops, streamed: a thread reads and decodes ahead of the backbone.

        Args:
            crops: (key, PNG) pairs; consumed in another thread.
        """
        yield from self._embed_stream(crops, decode_png)

    def embed_crops(self, crops: Iterable[tuple[KeyT, Pixels]]) -> Iterator[Embedded[KeyT]]:
        """Vectors of crops that are pixels already, streamed: a thread reads ahead of the backbone.

        Args:
            crops: (key, uint8 (height, width)) pairs; consumed in another thread.
        """
        yield from self._embed_stream(crops, lambda pixels: pixels)

    def _embed_stream(
        self, crops: Iterable[tuple[KeyT, ItemT]], decode: Callable[[ItemT], Pixels]
    ) -> Iterator[Embedded[KeyT]]:
        for keys, batch, damaged in read_ahead(self._batches_of(crops, decode), BATCHES_AHEAD):
            features = self.forward(batch)[: len(keys)]
            finite = np.isfinite(features).all(axis=1)
            yield Embedded(
                keys=[keys[row] for row in np.flatnonzero(finite)],
                features=features[finite],
                failed=damaged + [keys[row] for row in np.flatnonzero(~finite)],
            )

    def forward(self, batch: Pixels) -> Float32Array:
        """One pass of the backbone: uint8 (batch_size, size, size) to float32 (batch_size, feature_dim)."""
        # no_grad, not inference_mode: a tensor of another mode makes a compiled backbone compile again.
        with torch.no_grad():
            pixels = torch.from_numpy(batch).to(self._device)
            return np.asarray(self._forward(pixels).cpu().numpy(), np.float32)

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

    def _batches_of(
        self, crops: Iterable[tuple[KeyT, ItemT]], decode: Callable[[ItemT], Pixels]
    ) -> Iterator[tuple[list[KeyT], Pixels, list[KeyT]]]:
        keys: list[KeyT] = []
        failed: list[KeyT] = []
        batch = self._empty_batch()
        for key, crop in crops:
            try:
                batch[len(keys)] = fit(decode(crop), self._spec.input_size)
            except FeaturizerError:
                failed.append(key)
                continue
            keys.append(key)
            if len(keys) == self.batch_size:
                yield keys, batch, failed
                keys, failed, batch = [], [], self._empty_batch()
        if keys or failed:
            yield keys, batch, failed

    def _empty_batch(self) -> Pixels:
        return np.zeros((self.batch_size, self._spec.input_size, self._spec.input_size), np.uint8)


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


def read_ahead(items: Iterable[ItemT], depth: int) -> Generator[ItemT, None, None]:
    """`items`, produced by a thread that stays at most `depth` ahead; its error is raised here.

    The thread ends with the iterator: also when the consumer stops early.
    """
    ready: queue.SimpleQueue[tuple[ItemT] | BaseException | None] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stop = threading.Event()

    def produce() -> None:
        iterator = iter(items)
        try:
            while not stop.is_set():
                if free.acquire(timeout=0.1):
                    ready.put((next(iterator),))
        except StopIteration:
            ready.put(None)
        except BaseException as error:  # whatever it is, the consumer must hear of it
            ready.put(error)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
            free.release()
    finally:
        stop.set()
        thread.join()


class _Network(nn.Module):
    """Normalisation and backbone: uint8 (n, s, s) to float32 (n, feature_dim)."""

    def __init__(self, spec: BackboneSpec, weights: Weights, precision: Precision) -> None:
        super().__init__()
        self._dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
        backbone = build_untrained(spec)
        backbone.load_state_dict(dict(weights.state), strict=False)
        convolution = backbone.eval().first_convolution() if spec.channels > 1 else None
        # Batch norms are folded into the convolutions while all is float32: folded later, by the compiler, they would
        # be rounded to bf16 first, and compiled features would stray ten times as far from float32's. Three channels
        # are folded into one for the same reason in float32, and behind the batch norm that its convolution takes in.
        folded = _fused(backbone)
        if convolution is not None:
            freeze_grey(folded, convolution, spec)
        self.norm = GreyNorm(spec, folded=convolution is not None)
        self.backbone = _channels_last(folded.to(self._dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        normalised = self.norm(pixels.unsqueeze(1))
        features: Tensor = self.backbone(normalised.to(dtype=self._dtype, memory_format=torch.channels_last))
        return features.to(torch.float32)


def _channels_last(network: nn.Module) -> nn.Module:
    """`network` with its images and kernels laid out channels last; nn.Module.to() fails on a transformer's tables."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return network


def _fused(backbone: Backbone) -> nn.Module:
    """`backbone` with its batch norms in its convolutions; as it is where torch.fx can't see how it computes."""
    try:
        fused: nn.Module = fuse(backbone)
    except Exception:  # a forward() may break the tracing in any way, and computes the same untraced
        return backbone
    return fused


def check_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        FeaturizerError: if this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FeaturizerError(f"'{name}' is no device. Use cpu, cuda or cuda:N.") from error
    if name != "cpu" and device.type != "cuda":
        raise FeaturizerError(f"device={name} is not supported. Use cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FeaturizerError(
            f"device={name} was asked for, and torch sees {torch.cuda.device_count()} GPU(s) here. "
            "Use device=cpu, or check the driver, CUDA_VISIBLE_DEVICES and that this torch is a CUDA build."
        )
    return device


def can_compile() -> bool:
    """Whether this machine has what compiling a backbone needs: a C++ compiler and Python's headers."""
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return has_headers and any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _compile(network: nn.Module) -> Callable[[Tensor], Tensor]:
    if not can_compile():
        raise FeaturizerError(
            "compiling the backbone needs a C++ compiler and Python's headers, and this machine lacks them. "
            "Install them (apt-get install g++ python3-dev), or run without: compile=never."
        )
    # Freezing makes constants of the parameters, so that inductor lays the weights out once.
    return torch.compile(network, dynamic=False, options={"freezing": True})
