"""A fine-tuning on its way: its start, its last checkpoint and what came of it, kept until it is committed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from featurizers.backbones import BackboneSpec, save_weights
from pipelines.errors import LakeError
from pipelines.folders import Folder

#: In a backbone's folder: courses of trainings, by their identity.
COURSES: Final = "_courses"
_PLAN, _START, _CHECKPOINT, _OUTCOME, _BACKBONE, _TOP = (
    "plan.json",
    "start.safetensors",
    "checkpoint.pt",
    "outcome.pt",
    "backbone.safetensors",
    "top.safetensors",
)


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        history: its epochs, as dicts of `EpochResult`.
        rows: of each split, int64 (n,), the rows of `CropRows` that were judged.
        logits: of each split, float32 (n, k), of the best epoch.
        seconds: of training, over all starts.
        device: what it ran on, in words.
        parameters, trained_parameters: of the network, and of what the last phase trained.
        damaged: crops that could not be decoded.
    """

    history: list[dict[str, Any]]
    rows: Mapping[str, NDArray[np.int64]]
    logits: Mapping[str, NDArray[np.float32]]
    seconds: float
    device: str
    parameters: int
    trained_parameters: int
    damaged: int


@dataclass(frozen=True)
class Course:
    """The folder of one training; every file appears whole or not at all."""

    folder: Folder

    @classmethod
    def of(cls, backbone: Folder, identity: str) -> Course:
        """The course of the training with this identity.

        Args:
            backbone: the folder of the backbone's runs.
            identity: changes with whatever could change the weights.
        """
        return cls(backbone / COURSES / identity[:16])

    def start(self, state: Mapping[str, Tensor], plan: str) -> None:
        """Keep the weights to start from, and what identifies the rows that were planned."""
        if _START not in self.folder.names():
            self.folder.write_json(_PLAN, {"plan": plan})
            self.folder.write(_START, safetensors.torch.save(dict(state)))

    def check_plan(self, plan: str) -> None:
        """See that a process has planned what the job did.

        Raises:
            LakeError: if the lake has changed in between.
        """
        if self.folder.read_json(_PLAN)["plan"] != plan:
            raise LakeError(
                "the lake's studies have changed since this training was planned. Start it again when no ingest runs."
            )

    def started_from(self) -> Mapping[str, Tensor]:
        """The weights to start from."""
        return safetensors.torch.load(self.folder.read(_START))

    def checkpoint(self) -> Mapping[str, Any] | None:
        """The last checkpoint; None where there is none yet."""
        return self._load(_CHECKPOINT)

    def keep(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        self._save(_CHECKPOINT, state)

    def keep_weights(self, spec: BackboneSpec, state: Mapping[str, Tensor]) -> str:
        """Keep a backbone of a training that can't go on; returns the file's URI."""
        self.folder.write(_BACKBONE, backbone_bytes(spec, state, {}))
        return f"{self.folder.uri}/{_BACKBONE}"

    def end(self, outcome: Outcome, backbone: Mapping[str, Tensor], top: Mapping[str, Tensor]) -> None:
        """Keep what came of it."""
        self.folder.write(_BACKBONE, safetensors.torch.save(dict(backbone)))
        self.folder.write(_TOP, safetensors.torch.save(dict(top)))
        told = vars(outcome) | {
            "rows": {split: torch.from_numpy(rows) for split, rows in outcome.rows.items()},
            "logits": {split: torch.from_numpy(logits) for split, logits in outcome.logits.items()},
        }
        self._save(_OUTCOME, told)

    def outcome(self) -> Outcome | None:
        """What came of it; None while it is on its way."""
        told = self._load(_OUTCOME)
        if told is None:
            return None
        numpy = {name: {split: each.numpy() for split, each in told[name].items()} for name in ("rows", "logits")}
        return Outcome(**{**told, **numpy})

    def weights(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The best epoch's backbone and top, once there is an outcome."""
        backbone, top = (safetensors.torch.load(self.folder.read(name)) for name in (_BACKBONE, _TOP))
        return backbone, top

    def remove(self) -> None:
        """It has served."""
        self.folder.remove()

    def _save(self, name: str, content: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        self.folder.write(name, buffer.getvalue())

    def _load(self, name: str) -> dict[str, Any] | None:
        if name not in self.folder.names():
            return None
        content = torch.load(io.BytesIO(self.folder.read(name)), map_location="cpu", weights_only=True)
        assert isinstance(content, dict)
        return content


def backbone_bytes(spec: BackboneSpec, state: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """The content of a file of weights that states its backbone, for folders anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _BACKBONE
        save_weights(file, spec, state, about)
        return file.read_bytes()
