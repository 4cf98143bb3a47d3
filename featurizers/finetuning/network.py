"""The network that is fine-tuned: a backbone, and on its pooled features a small top that answers the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import torch
from torch import Tensor, nn

from featurizers.backbones import BackboneSpec, Weights, build_untrained, takes_grey
from featurizers.errors import TrainingError

#: What is trained: nothing but the top.
TOP: Final = "top"
#: What is trained: everything.
ALL: Final = "all"


class BatchNorm(StrEnum):
    """What batch norms do in a part of the backbone that is trained.

    Attributes:
        TRAIN: they normalise by each batch, and their running statistics follow; for large batches, and from scratch.
        FROZEN: they keep the statistics that they came with; their scale and shift are trained all the same. For small
            batches, and few images.
    """

    TRAIN = "train"
    FROZEN = "frozen"


@dataclass(frozen=True)
class TopSettings:
    """What stands on the pooled features.

    Attributes:
        dense: width of a dense ReLU layer before the answers; None: there is none, and class activation maps are exact.
        dropout: share of features that are dropped before each of its layers.
    """

    dense: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.dense is not None and self.dense < 1:
            raise TrainingError(f"top.dense={self.dense} is no width: give 1 or more, or null for none")
        if not 0 <= self.dropout < 1:
            raise TrainingError(f"top.dropout={self.dropout} is no share: give 0 or more, and less than 1")


class FineTunedNetwork(nn.Module):
    """Backbone and top: grey crops to logits.

    What is frozen does not only keep its parameters: its batch norms normalise by their running statistics and leave
    them alone, so that it computes what it will compute in an extraction.

    Args:
        spec: of the backbone.
        weights: of the backbone.
        classes: how many answers there are.
        top: what stands on the features.
        seed: of the top's first parameters.
    """

    def __init__(self, spec: BackboneSpec, weights: Weights, classes: int, top: TopSettings, seed: int) -> None:
        super().__init__()
        self.spec = spec
        backbone = build_untrained(spec)
        backbone.load_state_dict(dict(weights.state), strict=False)
        self.eye = takes_grey(backbone, spec)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.top = _top(spec.feature_dim, classes, top)
        self._in_training: list[str] = []
        self._batch_norm = BatchNorm.TRAIN
        self.unfreeze(ALL)

    def forward(self, pixels: Tensor) -> Tensor:
        """Grey crops, float (n, 1, s, s) in 0..1, to logits (n, classes)."""
        logits: Tensor = self.top(self.eye(pixels))
        return logits

    def unfreeze(self, what: str, batch_norm: BatchNorm = BatchNorm.TRAIN) -> Self:
        """Choose what is trained; the rest is frozen.

        Args:
            what: `top`, `all`, or one of the backbone's stages: that one and all behind it.
            batch_norm: what batch norms do where the backbone is trained.

        Raises:
            TrainingError: if the backbone has no such stage.
        """
        stages = self.spec.stages
        if what not in (TOP, ALL, *stages):
            raise TrainingError(
                f"{self.spec.name} has no stage '{what}' to train from. Say {TOP}, {ALL}, or one of "
                f"{', '.join(stages)}."
            )
        names = [name for name, _ in self._backbone.named_parameters()]
        if what == TOP:
            trained: set[str] = set()
        elif what == ALL:
            trained = set(names)
        else:
            # Parameters are registered from the input on, so that all behind a stage's first one follow it.
            first = next(place for place, name in enumerate(names) if name.startswith(f"{what}."))
            trained = set(names[first:])
        for name, parameter in self._backbone.named_parameters():
            parameter.requires_grad_(name in trained)
        self._in_training = list(self._behind(trained))
        self._batch_norm = batch_norm
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained, evaluation mode for what is frozen."""
        super().train(mode)
        self.eye.eval()
        if mode:
            for name in self._in_training:
                module = self._backbone.get_submodule(name)
                # Not module.train(), which would wake its children as well.
                module.training = not (self._batch_norm is BatchNorm.FROZEN and isinstance(module, _NORMS))
        return self

    def backbone_state(self) -> Mapping[str, Tensor]:
        """The backbone's parameters under its own names, on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self._backbone.state_dict().items()}

    def top_state(self) -> Mapping[str, Tensor]:
        """The top's parameters, on the CPU."""
        return {name: value.detach().cpu().contiguous() for name, value in self.top.state_dict().items()}

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Those that are not frozen."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def _behind(self, trained: set[str]) -> Iterator[str]:
        """The modules from the first one on that has a trained parameter; those without any, such as dropout, too."""
        reached = False
        for name, module in self._backbone.named_modules():
            own = [f"{name}.{parameter}".lstrip(".") for parameter, _ in module.named_parameters(recurse=False)]
            reached = reached or any(parameter in trained for parameter in own)
            if reached:
                yield name

    @property
    def _backbone(self) -> nn.Module:
        return self.eye.get_submodule("backbone")


def top_layers(state: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The layers of a `top_state`, from the features on: weight (out, in) and bias (out,); a ReLU lies between two."""
    places = sorted(int(name.split(".")[0]) for name in state if name.endswith(".weight"))
    return [(state[f"{place}.weight"], state[f"{place}.bias"]) for place in places]


_NORMS: Final = nn.modules.batchnorm._BatchNorm


def _top(features: int, classes: int, settings: TopSettings) -> nn.Sequential:
    def dropped() -> list[nn.Module]:
        return [nn.Dropout(settings.dropout)] if settings.dropout else []

    if settings.dense is None:
        return nn.Sequential(*dropped(), nn.Linear(features, classes))
    return nn.Sequential(
        *dropped(),
        nn.Linear(features, settings.dense),
        nn.ReLU(inplace=True),
        *dropped(),
        nn.Linear(settings.dense, classes),
    )
