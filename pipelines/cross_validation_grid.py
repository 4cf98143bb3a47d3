"""The grid of a cross-validation: the job's settings, and which heads can follow which way of balancing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from classifiers.balance import Balance
from classifiers.calibration import Calibration
from classifiers.heads import check_fitted, head_names, make_head
from classifiers.tasks import Task
from classifiers.thresholds import ThresholdRule
from classifiers.training import RESAMPLES
from pipelines.compare import Names, each_once
from pipelines.config import LakeConfig, as_list

#: Stands beside every result without being asked for.
_BASELINE: Final = "majority"


class CrossValidationConfig(LakeConfig):
    """Settings of jobs/cross_validate_heads.py."""

    tasks: Names = Field(
        min_length=1, description="the questions: tasks of conf/tasks/, by name, or paths of YAML files, in a list"
    )
    heads: Names = Field(
        ("logistic", "mlp", "xgboost"), min_length=1, description=f"kinds of head: {', '.join(head_names())}"
    )
    balances: Annotated[tuple[Balance, ...], BeforeValidator(as_list), AfterValidator(each_once)] = Field(
        (Balance.CLASS_WEIGHT,), min_length=1, description=f"ways of balancing classes: {', '.join(Balance)}"
    )
    params: dict[str, dict[str, Any]] = Field(
        {}, description="parameters of the heads, as params.HEAD.NAME=VALUE; balance is not among them"
    )
    calibration: Calibration = Field(
        Calibration.NONE,
        description="how probabilities are calibrated, on a tenth of each fold's training patients, whom the head is "
        "then not fitted on",
    )
    threshold: Literal[ThresholdRule.BEST_F1, ThresholdRule.YOUDEN] | None = Field(
        None, description="how thresholds are chosen, on the same tenth; null: argmax, and 0.5 for labels"
    )
    folds: int = Field(5, ge=2, description="of the cross-validation; a patient's images are in one")
    seed: int = Field(0, ge=0, lt=2**32, description="of the folds")
    name: str = Field(
        "cross_validation", pattern=r"^\w[\w.-]*$", description="where the comparison is kept: comparisons/NAME"
    )
    extractor: str | None = Field(
        None, description="fingerprint (or its start) of the features; null: the only ones in the lake"
    )
    resamples: int = Field(RESAMPLES, ge=0, description="of patients, behind every interval")

    @model_validator(mode="after")
    def _params_belong(self) -> Self:
        if stray := sorted(set(self.params) - set(self.heads)):
            raise ValueError(f"params.{stray[0]} belongs to no head of heads=[{','.join(self.heads)}]")
        if any("balance" in each for each in self.params.values()):
            raise ValueError("params.HEAD.balance is what balances=[…] tells: leave it out there")
        return self


@dataclass(frozen=True)
class Setting:
    """One cell of the grid."""

    task: Task
    head: str
    balance: Balance
    params: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.head}, {self.balance}"

    @property
    def skipped(self) -> str | None:
        """Why it can't be fitted at all; None where it can."""
        if self.balance not in make_head(self.head).balances:
            return f"{self.label}: this head has no such balance"
        if self.balance is Balance.SMOTE and self.task.multi_label:
            return f"{self.label}: task {self.task.name} has labels that do not exclude each other"
        return None


def read_grid(task: Task, config: CrossValidationConfig) -> list[Setting]:
    """Every head with every way of balancing, for one task, those that can't be fitted among them.

    Raises:
        HeadError: if a head or a parameter is unknown.
    """
    # A misspelt head or parameter is told before anything is read.
    for head in config.heads:
        check_fitted(head)
        make_head(head, **config.params.get(head, {}))
    return [
        Setting(task, head, balance, config.params.get(head, {}))
        for head in config.heads
        if head != _BASELINE
        for balance in config.balances
    ]
