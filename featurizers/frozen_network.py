"""A backbone made ready to embed and nothing else: folded, laid out for its device, and compiled if asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from featurizers.backbone_spec import Backbone, BackboneSpec, build_untrained
from featurizers.devices import can_compile
from featurizers.errors import FeaturizerError
from featurizers.extractor import Precision
from featurizers.grey_input import GreyNorm, freeze_grey
from featurizers.pooling import GlobalPool, PoolKind
from featurizers.weights import Weights

ResultT = TypeVar("ResultT")


class View(NamedTuple):
    """What a network makes of images, and where.

    Attributes:
        features: (n, d) float32.
        activations: (n, d, h, w) of the last feature map, in the network's own precision: what `features` pools. None
            where the network pools in a way of its own (pool=own), so that no map is known to stand for the vector.
    """

    features: Tensor
    activations: Tensor | None


class FrozenNetwork(nn.Module):
    """Normalisation and backbone: uint8 (n, s, s) to float32 (n, feature_dim)."""

    def __init__(self, spec: BackboneSpec, weights: Weights, precision: Precision) -> None:
        super().__init__()
        self._dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
        backbone = build_untrained(spec)
        backbone.load_state_dict(dict(weights.state), strict=False)
        convolution = backbone.eval().first_convolution() if spec.channels > 1 else None
        # A network that pools in a way of its own is one piece; what it pools can't be had.
        self.pool = None if spec.pool is PoolKind.OWN else GlobalPool(spec.pool)
        # Batch norms are folded into the convolutions while all is float32: folded later, by the compiler, they would
        # be rounded to bf16 first, and compiled features would stray ten times as far from float32's. Three channels
        # are folded into one for the same reason in float32, and behind the batch norm that its convolution takes in.
        folded = _fused(backbone if self.pool is None else _Maps(backbone))
        if convolution is not None:
            freeze_grey(folded, convolution if self.pool is None else f"backbone.{convolution}", spec)
        self.norm = GreyNorm(spec, folded=convolution is not None)
        self.backbone = _channels_last(folded.to(self._dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (n, s, s) to float32 (n, feature_dim)."""
        return self.view(pixels).features

    def view(self, pixels: Tensor) -> View:
        """uint8 (n, s, s) to the same vectors, and the map that they pool."""
        given = self._run(pixels)
        if self.pool is None:
            return View(given.to(torch.float32), None)
        return View(self.pool(given).to(torch.float32), given)

    def _run(self, pixels: Tensor) -> Tensor:
        normalised = self.norm(pixels.unsqueeze(1))
        given: Tensor = self.backbone(normalised.to(dtype=self._dtype, memory_format=torch.channels_last))
        return given


def compile_network(network: Callable[[Tensor], ResultT]) -> Callable[[Tensor], ResultT]:
    """`network`, or a way of calling it, compiled for batches of one size.

    The work is done at the first batch, and kept on this machine's disk.

    Raises:
        FeaturizerError: if this machine lacks what compiling needs.
    """
    if not can_compile():
        raise FeaturizerError(
            "compiling the backbone needs a C++ compiler and Python's headers, and this machine lacks them. "
            "Install them (apt-get install g++ python3-dev), or run without: compile=never."
        )
    # Freezing makes constants of the parameters, so that inductor lays the weights out once.
    return torch.compile(network, dynamic=False, options={"freezing": True})


def activation_bytes(network: nn.Module, size: int, device: torch.device) -> int:
    """Memory that one image of `size` pixels a side takes on its way through a network, bytes: an estimate.

    Twice the most that any one layer reads and writes: what a residual connection holds meanwhile is no more than that.
    """
    most = 0

    def look(_: nn.Module, taken: tuple[object, ...], given: object) -> None:
        nonlocal most
        tensors = [each for each in (*taken, given) if isinstance(each, Tensor)]
        most = max(most, sum(each.numel() * each.element_size() for each in tensors))

    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    hooks = [leaf.register_forward_hook(look) for leaf in leaves]
    try:
        with torch.no_grad():
            network(torch.zeros((1, size, size), dtype=torch.uint8, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * most


class _Maps(nn.Module):
    """A backbone up to its last feature map."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone.feature_map(x)


def _channels_last(network: nn.Module) -> nn.Module:
    """`network` with its images and kernels laid out channels last; nn.Module.to() fails on a transformer's tables."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return network


def _fused(backbone: nn.Module) -> nn.Module:
    """`backbone` with its batch norms in its convolutions; as it is where torch.fx can't see how it computes."""
    try:
        fused: nn.Module = fuse(backbone)
    except Exception:  # a forward() may break the tracing in any way, and computes the same untraced
        return backbone
    return fused
