"""The segmenter's network: a small U-Net that reads a radiograph in 4 × 4 pixel blocks and tells each lung apart.

After Ronneberger et al. 2015 (U-Net, doi:10.1007/978-3-319-24574-4_28), with residual blocks (He et al. 2016,
doi:10.1109/CVPR.2016.90), sums in place of concatenations, and the first layers replaced by a rearrangement of blocks
into channels (Shi et al. 2016, doi:10.1109/CVPR.2016.207): full-resolution layers would take most of the time and show
little that a lung's outline needs.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featurizers.radiograph import Pixels

#: Rows and columns that the network looks at, whatever the image's size and aspect.
SIDE = 160
#: Rows and columns of its maps.
MAP_SIDE = SIDE // 2
#: Pixels of a block's side, and cells of its side in the maps.
_BLOCK, _CELLS = 4, 2
#: Channels at each depth, every one at half the resolution of the one before, and residual blocks there.
_WIDTHS = (16, 32, 64, 128)
_BLOCKS = (1, 1, 1, 2)


class SegmenterNet(nn.Module):
    """Radiograph to two maps: the lung on the image's left side, and the one on its right."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(_BLOCK**2, _WIDTHS[0])
        self.encoder = nn.ModuleList(
            nn.Sequential(*(_Residual(width) for _ in range(blocks)))
            for width, blocks in zip(_WIDTHS, _BLOCKS, strict=True)
        )
        steps = list(pairwise(_WIDTHS))
        self.down = nn.ModuleList(_Conv(wide, deep, stride=2) for wide, deep in steps)
        self.up = nn.ModuleList(_Conv(deep, wide, kernel=1) for wide, deep in steps)
        # The outline is decided at the finest depth.
        self.decoder = nn.ModuleList(
            _Conv(wide, wide) if depth else _Residual(wide) for depth, (wide, _) in enumerate(steps)
        )
        self.out = nn.Conv2d(_WIDTHS[0], 2 * _CELLS**2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, SIDE, SIDE) float, as `normalised` gives them, to logits (N, 2, MAP_SIDE, MAP_SIDE)."""
        features = self.stem(functional.pixel_unshuffle(images, _BLOCK))
        skipped = []
        for depth, blocks in enumerate(self.encoder):
            features = blocks(features)
            if depth < len(self.down):
                skipped.append(features)
                features = self.down[depth](features)
        for depth in reversed(range(len(skipped))):
            enlarged = functional.interpolate(self.up[depth](features), scale_factor=2.0)
            features = self.decoder[depth](enlarged + skipped[depth])
        return functional.pixel_shuffle(self.out(features), _CELLS)

    def folded(self) -> SegmenterNet:
        """A copy for inference, its batch normalisations folded into the convolutions before them."""
        copy = SegmenterNet()
        copy.load_state_dict(self.state_dict())
        copy.eval()
        for module in copy.modules():
            if isinstance(module, _Conv) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
        return copy


def reduced(pixels: Pixels) -> Pixels:
    """Greyscale (rows, columns) in the size that the network looks at, (SIDE, SIDE), whatever the aspect."""
    image = Image.fromarray(pixels)
    # Means over whole blocks first: quick, and what is left to resize is small.
    factors = max(image.width // SIDE, 1), max(image.height // SIDE, 1)
    # The last block of a row may reach beyond the image, which ends within it.
    shown = (0, 0, image.width / factors[0], image.height / factors[1])
    if factors != (1, 1):
        image = image.reduce(factors)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=shown))


def normalised(images: Tensor) -> Tensor:
    """Grey values (N, 1, SIDE, SIDE; any scale) stretched so that their 1st and 99th percentiles become -1 and 1."""
    # Every fourth row and column are enough to know percentiles by, and a sixteenth of the sorting.
    sample = images[:, :, ::4, ::4].flatten(1).sort(dim=1).values
    last = sample.shape[1] - 1
    low, high = (sample[:, round(part * last), None, None, None] for part in (0.01, 0.99))
    return ((images - low) / (high - low).clamp_min(1e-6)).clamp(-0.1, 1.1) * 2 - 1


class _Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inward: int, outward: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inward, outward, kernel, stride, kernel // 2, bias=False)
        self.norm: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(outward)
        self.relu = relu

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(self.conv(features))
        return functional.relu(features) if self.relu else features


class _Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _Conv(width, width)
        self.second = _Conv(width, width, relu=False)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(features + self.second(self.first(features)))
