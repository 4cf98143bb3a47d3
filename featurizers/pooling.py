"""From the last feature map to a vector: global pooling, and the transition layer before it."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Sharpness of log-sum-exp pooling: r of Wang et al. 2017, who found 10 best; 0 is the average, infinity the maximum.
LSE_SHARPNESS = 10.0


class PoolKind(StrEnum):
    """How a feature map becomes a vector."""

    AVG = "avg"
    MAX = "max"
    LSE = "lse"
    #: The network's own way, such as a class token's.
    OWN = "own"


class GlobalPool(nn.Module):
    """A map (n, c, h, w) to vectors (n, c): its average, maximum, or what lies between.

    Log-sum-exp pooling after Wang et al. 2017 (ChestX-ray8, doi:10.1109/CVPR.2017.369, section 4.1):
    x_p = x* + 1/r · log(1/S · Σ exp(r · (x_ij - x*))) over the S places of the map, x* its maximum, with r = 10.
    """

    def __init__(self, kind: PoolKind) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, c)."""
        if self.kind is PoolKind.MAX:
            return functional.adaptive_max_pool2d(x, 1).flatten(1)
        if self.kind is PoolKind.LSE:
            # In float32, and from the maximum on, as the paper writes it: no exponent overflows or is rounded to bf16.
            sharp = LSE_SHARPNESS * x.to(torch.float32).flatten(2)
            top = sharp.amax(dim=2, keepdim=True)
            # exp - 1 and log(1 + x): small activations would drown in the rounding of exponents near 1.
            pooled = top.squeeze(2) + (sharp - top).expm1().mean(dim=2).log1p()
            return (pooled / LSE_SHARPNESS).to(x.dtype)
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)

    def extra_repr(self) -> str:
        """The kind, for the printed network."""
        return str(self.kind)


def transition_layer(channels: int, width: int) -> nn.Sequential:
    """A layer that gives every backbone's map (n, channels, h, w) the same number of channels (n, width, h, w).

    Wang et al. 2017 put such a layer before the global pooling, "to transform the activations from previous layers
    into a uniform dimension", and leave its kernel and what follows it open. Here it is the least that does it: a
    1×1 convolution, which keeps every place of the map where it is, batch normalisation, and ReLU, as the
    networks' own last layers have.
    """
    convolution = nn.Conv2d(channels, width, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def transition_parameters(channels: int, width: int) -> int:
    """How many parameters `transition_layer` has."""
    return channels * width + 2 * width
