"""Grey images for networks that were made for three channels, without computing three channels.

Channel c of a grey image g is (g - m_c) / s_c, and a convolution of the three is, with one m and one s for all,

    Σ_c W_c * (g - m_c) / s_c  =  (Σ_c W_c s / s_c) * (g - m) / s  +  (Σ_c W_c (m - m_c) / s_c) * 1

a convolution of one channel, and one of ones that depends on no image. Padding adds zeros behind the normalisation, so
that the ones end at the image's border too: that term is a map, not a number. It is small, because m and s are the
channels' own averages, and it is nothing at all where the channels' statistics are equal.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featurizers.backbone_spec import Backbone, BackboneSpec, Norm

#: Less than one grey level of contrast is noise: it is not amplified to deviation 1.
LEAST_DEVIATION = 1 / 255


class GreyNorm(nn.Module):
    """Grey images to the input of a network: uint8 0..255 or floats 0..1 (n, 1, s, s) to float32 (n, channels, s, s).

    Args:
        spec: of the network.
        folded: whether the network's first convolution takes one channel, as GreyConv2d does; else the grey values are
            repeated, each channel with its own mean and deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: BackboneSpec, folded: bool) -> None:
        super().__init__()
        self.per_image = spec.norm is Norm.IMAGE
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        if folded:
            mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, s, s) to (n, channels, s, s)."""
        grey = x.to(torch.float32)
        if x.dtype == torch.uint8:
            grey = grey / 255
        if self.per_image:
            spread, mean = torch.std_mean(grey, dim=(1, 2, 3), correction=0, keepdim=True)
            grey = (grey - mean) / spread.clamp(min=LEAST_DEVIATION)
        return (grey - self.mean) / self.std


class GreyConv2d(nn.Conv2d):
    """A convolution of three channels that takes one as well: grey, normalised as `GreyNorm(folded=True)` does.

    Weight and bias are the very parameters of `convolution`: what trains one trains the other.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, convolution: nn.Conv2d, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(
            convolution.in_channels,
            convolution.out_channels,
            convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride,  # type: ignore[arg-type]
            convolution.padding,  # type: ignore[arg-type]
            convolution.dilation,  # type: ignore[arg-type]
            bias=convolution.bias is not None,
            device="meta",
        )
        self.weight, self.bias = convolution.weight, convolution.bias
        means, deviations = torch.tensor(mean, device=self.weight.device), torch.tensor(std, device=self.weight.device)
        shift = (means.mean() - means) / deviations
        self._shifted = bool(shift.any())
        self.register_buffer("scale", (deviations.mean() / deviations).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """(n, 1 or 3, h, w) to (n, out, h', w')."""
        if input.shape[1] != 1:
            output: Tensor = super().forward(input)
            return output
        output = self._conv_forward(input, self._grey_weight(), self.bias)
        # In place, which spares a map of the whole batch: no gradient needs what a convolution gave.
        return output.add_(self._shift_map(input)) if self._shifted else output

    def frozen(self, size: int) -> nn.Module:
        """The same for grey images of one size, with nothing left to compute that no image changes."""
        with torch.no_grad():
            convolution = nn.Conv2d(
                1,
                self.out_channels,
                self.kernel_size,  # type: ignore[arg-type]
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                self.dilation,  # type: ignore[arg-type]
                bias=self.bias is not None,
            )
            convolution.weight.copy_(self._grey_weight())
            if convolution.bias is not None and self.bias is not None:
                convolution.bias.copy_(self.bias)
            if not self._shifted:
                return convolution
            return nn.Sequential(convolution, _Added(self._shift_map(torch.empty(1, 1, size, size))))

    def _grey_weight(self) -> Tensor:
        return (self.weight * self.scale).sum(1, keepdim=True)

    def _shift_map(self, images: Tensor) -> Tensor:
        ones = images.new_ones(1, 1, *images.shape[2:])
        shifted: Tensor = self._conv_forward(ones, (self.weight * self.shift).sum(1, keepdim=True), None)
        return shifted


class GreyInput(nn.Module):
    """A backbone that takes grey images (n, 1, s, s), uint8 0..255 or floats 0..1.

    Attributes:
        backbone: the wrapped network; its state dict is what it was.
    """

    def __init__(self, backbone: Backbone, spec: BackboneSpec, folded: bool) -> None:
        super().__init__()
        self.norm = GreyNorm(spec, folded)
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, s, s) to (n, feature_dim)."""
        features: Tensor = self.backbone(self.norm(x))
        return features

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, 1, s, s) to the last map (n, c, h, w)."""
        return self.backbone.feature_map(self.norm(x))


def takes_grey(network: Backbone, spec: BackboneSpec) -> GreyInput:
    """`network` for grey images: the same output as repeating them to its channels and normalising those.

    The first convolution is folded from three channels to one whenever it is called, so that its parameters stay what
    is trained and saved. A network whose input is read by anything else than one plain convolution computes all
    its channels.

    Args:
        network: of `spec`; its first convolution is replaced in place by one that takes one channel as well.
        spec: of the network.
    """
    name = network.first_convolution() if spec.channels > 1 else None
    if name is None:
        return GreyInput(network, spec, folded=False)
    network.set_submodule(name, GreyConv2d(_convolution(network, name), spec.mean, spec.std))
    return GreyInput(network, spec, folded=True)


def freeze_grey(network: nn.Module, name: str, spec: BackboneSpec) -> None:
    """Make the convolution `name` of `network` take grey images of the spec's size, and only those, in place."""
    grey = GreyConv2d(_convolution(network, name), spec.mean, spec.std)
    network.set_submodule(name, grey.frozen(spec.input_size))


def _convolution(network: nn.Module, name: str) -> nn.Conv2d:
    module = network.get_submodule(name)
    if not isinstance(module, nn.Conv2d):
        raise TypeError(f"{name} is a {type(module).__name__}, and a convolution was meant.")
    return module


class _Added(nn.Module):
    """Adds one map (1, c, h, w) to every image's, in place."""

    map: Tensor

    def __init__(self, added: Tensor) -> None:
        super().__init__()
        self.register_buffer("map", added)

    def forward(self, x: Tensor) -> Tensor:
        return x.add_(self.map)
