"""Settings of jobs/finetune_backbone.py."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from classifiers.balance import Balance
from featurizers.backbones import BACKBONES
from featurizers.devices import computes_in_bf16
from featurizers.errors import FeaturizerError
from featurizers.extractor import Precision
from featurizers.finetuning.losses import LossBalance, LossKind, LossSettings
from featurizers.finetuning.network import ALL, TOP, BatchNorm, TopSettings
from featurizers.finetuning.optimisation import OptimiserName, OptimiserSettings, ScheduleName
from featurizers.finetuning.trainer import Phase, TrainerSettings
from featurizers.finetuning.validation import METRICS
from pipelines.acquisition import HoldOutConfig
from pipelines.augment_config import AugmentConfig
from pipelines.config import Config, LakeConfig
from pipelines.crop_order import lanes_for

#: A new top on features that are worth something has settled by then.
_FREEZE_EPOCHS: Final = 3


class Reader(StrEnum):
    """What reads crops out of Parquet."""

    PARQUET = "parquet"
    PETASTORM = "petastorm"


class Launcher(StrEnum):
    """What starts the processes that train."""

    LOCAL = "local"
    SPARK = "spark"


class Sampling(StrEnum):
    """How often an epoch shows a training image; as `Balance`, whose rules these are."""

    NONE = Balance.NONE.value
    OVER_SAMPLE = Balance.OVER_SAMPLE.value
    UP_SAMPLE = Balance.UP_SAMPLE.value
    UNDER_SAMPLE = Balance.UNDER_SAMPLE.value


class StartConfig(Config):
    """The network to start from."""

    name: str | None = Field(
        None,
        description=f"its architecture: {', '.join(BACKBONES)} or timm:NAME, with options such as resnet50:size=128; "
        "null: what the weights state, else resnet50",
    )
    weights: str = Field(
        "imagenet", description="imagenet, random (from scratch), a file, or lake://backbones/NAME, fine-tuned before"
    )


class TopConfig(Config):
    """What stands on the pooled features."""

    dense: int | None = Field(None, ge=1, description="width of a dense ReLU layer before the answers; null: none")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before each layer of the top")

    def settings(self) -> TopSettings:
        """As the trainer takes them."""
        return TopSettings(self.dense, self.dropout)


class PhaseConfig(Config):
    """How one phase trains."""

    patience: int | None = Field(None, ge=1, description="ends after so many epochs without a better figure")
    optimiser: OptimiserName = Field(OptimiserName.ADAM, description="how weights are moved")
    learning_rate: float = Field(1e-3, gt=0, description="at its highest")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty (adam, sgd) or decoupled decay (adamw)")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    schedule: ScheduleName = Field(ScheduleName.CONSTANT, description="how the learning rate changes")
    warm_up: int = Field(0, ge=0, description="updates in which the learning rate rises from near 0")
    step_epochs: int = Field(10, ge=1, description="of schedule=step: epochs between two steps; of plateau: patience")
    gamma: float = Field(0.1, gt=0, lt=1, description="of step and plateau: what the learning rate is multiplied by")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient; null: any")

    def optimiser_settings(self) -> OptimiserSettings:
        """As the trainer takes them."""
        return OptimiserSettings(
            name=self.optimiser,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            schedule=self.schedule,
            warm_up_steps=self.warm_up,
            step_epochs=self.step_epochs,
            gamma=self.gamma,
            clip=self.clip,
        )


class FreezeConfig(PhaseConfig):
    """The first phase: the backbone is frozen, and the new top learns until it is stable."""

    epochs: int | None = Field(
        None,
        ge=0,
        description="at most so many; 0: the top is trained along with the backbone at once; null: 3, or 0 from random "
        "weights, of which no top can learn much",
    )
    patience: int | None = Field(1, ge=1, description="ends after so many epochs without a better figure")


class UnfreezeConfig(PhaseConfig):
    """The second phase: the backbone, or its last stages, learn as well."""

    epochs: int = Field(10, ge=0, description="at most so many; 0: the backbone stays as it came (transfer)")
    patience: int | None = Field(None, ge=1, description="ends after so many epochs without a better figure")
    learning_rate: float = Field(1e-4, gt=0, description="at its highest")
    train: str = Field(
        ALL, description=f"{ALL}, or the backbone's stage from which on it is trained, such as layer4 of resnet50"
    )
    batch_norm: BatchNorm = Field(
        BatchNorm.TRAIN, description="batch norms of what is trained: by the batch, or as they came"
    )


class LossConfig(Config):
    """What is minimised."""

    kind: LossKind = Field(LossKind.CROSS_ENTROPY, description="cross_entropy (binary, of each label, if multi-label)")
    balance: LossBalance = Field(LossBalance.NONE, description="what rare classes weigh")
    gamma: float = Field(2.0, ge=0, description="of kind=focal: how much what is known already is played down")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of certainty that targets give up")

    def settings(self) -> LossSettings:
        """As the trainer takes them."""
        return LossSettings(self.kind, self.balance, self.gamma, self.label_smoothing)


class FinetuneConfig(LakeConfig):
    """Settings of jobs/finetune_backbone.py."""

    task: str = Field(..., description="what it learns to answer: binary, three_class, … or a task file")
    name: str | None = Field(
        None, pattern=r"^\w[\w.-]*$", description="of the backbone in the lake; null: the task's and the base's names"
    )
    backbone: StartConfig = StartConfig()
    top: TopConfig = TopConfig()
    freeze: FreezeConfig = FreezeConfig()
    unfreeze: UnfreezeConfig = UnfreezeConfig()
    loss: LossConfig = LossConfig()
    sampling: Sampling = Field(Sampling.NONE, description="how often an epoch shows images of rare classes")
    augment: AugmentConfig = AugmentConfig()
    hold_out: HoldOutConfig = HoldOutConfig()
    batch_size: int = Field(32, ge=8, description="images per update, over all processes; a multiple of 8")
    updates_per_epoch: int | None = Field(None, ge=1, description="null: until every chosen image was shown once")
    monitor: Literal[METRICS] = Field("auc", description="the figure on val that chooses the best epoch")  # type: ignore[valid-type]
    average: float | None = Field(
        None, gt=0, lt=1, description="judge and leave a running average of the weights that moves by 1 less this"
    )
    precision: Precision | None = Field(
        None, description="arithmetic of the passes; weights are float32; null: bf16 where the device has it, else fp32"
    )
    device: str = Field("cpu", description="cpu or cuda")
    compile: bool = Field(False, description="compile the network: minutes once, then faster on a GPU")
    reader: Reader = Field(Reader.PARQUET, description="what reads the crops; petastorm is an extra, see README")
    cache_mb: int = Field(
        1024, ge=0, description="memory of each process for decoded crops: if all fit, they are decoded once"
    )
    launcher: Launcher = Field(Launcher.LOCAL, description="local: this process; spark: TorchDistributor")
    processes: int = Field(1, ge=1, description="of launcher=spark: how many train together")
    master: str | None = Field(None, description="Spark master, for launcher=spark; as of the other jobs")
    checkpoint_minutes: float = Field(10.0, gt=0, description="besides every epoch's end, so that little is repeated")
    seed: int = Field(0, ge=0, description="of weights, order and augmentation")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.phases():
            raise ValueError("freeze.epochs and unfreeze.epochs are both 0, so that nothing is trained")
        if self.launcher is Launcher.LOCAL and self.processes > 1:
            raise ValueError(f"processes={self.processes} needs launcher=spark; launcher=local is one process")
        if self.batch_size % lanes_for(self.processes):
            raise ValueError(
                f"batch_size={self.batch_size} can't be shared out evenly: with processes={self.processes} give a "
                f"multiple of {lanes_for(self.processes)}"
            )
        try:
            self.loss.settings(), self.augment.settings(), self.trainer_settings()
        except FeaturizerError as error:
            raise ValueError(str(error)) from error
        return self

    def phases(self) -> list[Phase]:
        """What is trained, in order."""
        freeze_epochs = self.freeze.epochs
        if freeze_epochs is None:
            freeze_epochs = 0 if self.backbone.weights == "random" else _FREEZE_EPOCHS
        first = Phase("freeze", TOP, freeze_epochs, self.freeze.optimiser_settings(), self.freeze.patience)
        second = Phase(
            "unfreeze",
            self.unfreeze.train,
            self.unfreeze.epochs,
            self.unfreeze.optimiser_settings(),
            self.unfreeze.patience,
            self.unfreeze.batch_norm,
        )
        return [phase for phase in (first, second) if phase.epochs]

    def arithmetic(self) -> Precision:
        """What the passes are computed in, on this machine."""
        return self.precision or (Precision.BF16 if computes_in_bf16(self.device) else Precision.FP32)

    def trainer_settings(self) -> TrainerSettings:
        """How to train, whatever the phase."""
        return TrainerSettings(
            monitor=self.monitor,
            augmentation=self.augment.settings(),
            precision=self.arithmetic(),
            average=self.average,
            device=self.device,
            compiled=self.compile,
            seed=self.seed,
        )
