"""The top that a backbone was fine-tuned with, as a head on the features of that backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray

from classifiers.estimator import Head
from classifiers.own_top import OwnTopHead
from classifiers.tasks import Task
from featurizers.finetuning.network import top_layers
from pipelines.errors import LakeError
from pipelines.finetuned import TOP_FILE, BackboneCard
from pipelines.lake import Lake
from pipelines.stored_backbones import BACKBONE_CARD, LAKE_PREFIX, backbone_run


@dataclass(frozen=True)
class OwnTop:
    """A fine-tuned backbone's top.

    Attributes:
        source: of the backbone's weights.
        card: of its fine-tuning.
        layers: weight (out, in) and bias (out,) of each, from the features on.
    """

    source: str
    card: BackboneCard
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]

    @classmethod
    def of_extractor(cls, lake: Lake, extractor: str, task: Task) -> OwnTop:
        """Of the backbone behind an extractor's features.

        Raises:
            LakeError: if that backbone is none of this lake's, was used otherwise than it was fine-tuned, or learned
                to answer something else.
        """
        told = lake.extractor_card(extractor)
        source = str(told.get("weights", "unknown"))
        if not source.startswith(LAKE_PREFIX):
            raise LakeError(
                f"head=own_top is the top of a backbone that was fine-tuned in this lake, and these features are of "
                f"weights '{source}'. Fine-tune one with jobs/finetune_backbone.py, extract its features with "
                f"backbone.weights={LAKE_PREFIX}NAME, or choose another head."
            )
        run = backbone_run(lake, source)
        assert run is not None, "the source begins as those of a lake do"
        card = BackboneCard.from_dict(run.read_json(BACKBONE_CARD))
        if told["backbone"] != card.backbone:
            raise LakeError(
                f"these features are of '{source}' used as {told['backbone']}, and it was fine-tuned as "
                f"{card.backbone}: its top knows no features of another size, normalisation or pooling. Extract them "
                "without backbone.name, or choose another head."
            )
        if (card.task, card.classes, card.multi_label) != (task.name, task.classes, task.multi_label):
            raise LakeError(
                f"'{source}' was fine-tuned for task {card.task} ({', '.join(card.classes)}), and task {task.name} "
                f"asks for {', '.join(task.classes)}. Ask for task={card.task}, or choose another head: one that is "
                "fitted can answer anything on these features."
            )
        if TOP_FILE not in run.names():
            raise LakeError(f"'{run.uri}' holds no {TOP_FILE}, which every run of a backbone does. Restore it.")
        layers = top_layers(safetensors.torch.load(run.read(TOP_FILE)))
        return cls(source, card, [(weight.numpy(), bias.numpy()) for weight, bias in layers])

    @property
    def params(self) -> Mapping[str, Any]:
        """The head's parameters."""
        return {"hidden": [len(bias) for _, bias in self.layers[:-1]]}

    def put_on(self, head: Head) -> None:
        """Make a head with these parameters a fitted one."""
        assert isinstance(head, OwnTopHead), "the job asked for this head"
        counts = np.array(list(self.card.class_counts["train"].values()), np.int64)
        head.take(self.layers, counts, multi_label=self.card.multi_label)

    def describe(self) -> str:
        """Where it is from, for reports."""
        balance, sampling = self.card.config["loss"]["balance"], self.card.config["sampling"]
        return f"not fitted: the top of {self.source}, as it was fine-tuned (balance {balance}, sampling {sampling})"
