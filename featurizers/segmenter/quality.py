"""How far to trust a box: the IoU with a human's that its shape's traits let one expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from featurizers.errors import FeaturizerError
from featurizers.segmenter.shape import TRAITS

Floats = npt.NDArray[np.float64]

#: Hidden units: the traits bend and meet, and a handful of units follow that.
_HIDDEN = 12
_STEPS = 2000
_FEWEST = 20
_LEARNING_RATE = 0.02
_WEIGHT_DECAY = 1e-3


@dataclass(frozen=True, eq=False)
class Quality:
    """A small network of one hidden layer, from traits to the expected IoU.

    Attributes:
        mean, scale: (traits,) of the traits it was fitted on.
        inward, inward_bias: (hidden, traits) and (hidden,).
        outward, outward_bias: (hidden,) and (1,).
    """

    mean: Floats
    scale: Floats
    inward: Floats
    inward_bias: Floats
    outward: Floats
    outward_bias: Floats

    def of(self, traits: Floats) -> float:
        """The expected IoU, 0 to 1, of one box by its traits (as TRAITS orders them)."""
        units = np.tanh(self.inward @ ((traits - self.mean) / self.scale) + self.inward_bias)
        return float(1 / (1 + np.exp(-(self.outward @ units + self.outward_bias[0]))))

    def arrays(self) -> dict[str, Floats]:
        """All of it, by name."""
        return dict(vars(self))

    @classmethod
    def fit(cls, traits: Floats, overlaps: Floats, seed: int) -> Self:
        """Fit by least squares.

        Args:
            traits: (N, traits).
            overlaps: (N,) IoU of each box with the true one; 0 where there is no chest.
            seed: of the first weights.

        Raises:
            FeaturizerError: N is too small to tell anything.
        """
        if len(traits) < _FEWEST:
            raise FeaturizerError(
                f"the network finds lungs on {len(traits)} views, too few to tell its quality by: train for more steps"
            )
        mean, scale = traits.mean(axis=0), traits.std(axis=0) + 1e-6
        torch.manual_seed(seed)
        hidden, out = nn.Linear(len(TRAITS), _HIDDEN), nn.Linear(_HIDDEN, 1)
        inputs, targets = torch.from_numpy((traits - mean) / scale).float(), torch.from_numpy(overlaps).float()
        parameters = [*hidden.parameters(), *out.parameters()]
        optimiser = torch.optim.AdamW(parameters, _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
        for _ in range(_STEPS):
            loss = (torch.sigmoid(out(torch.tanh(hidden(inputs)))[:, 0]) - targets).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        told = (hidden.weight, hidden.bias, out.weight[0], out.bias)
        return cls(mean, scale, *(each.detach().double().numpy() for each in told))
