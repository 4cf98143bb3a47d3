"""Settings of jobs/sweep_backbones.py, and what a sweep's file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from pipelines.config import Config, LakeConfig, merge, model_from
from pipelines.errors import ConfigError

#: Trials run as tasks of Spark.
SPARK: Final = "spark"
#: Trials run on Dask workers of this machine.
LOCAL: Final = "local"
#: Where the sweeps lie that come with Pleura.
SWEEPS: Final = Path(__file__).resolve().parents[1] / "conf" / "sweeps"


class SweepConfig(LakeConfig):
    """Settings of jobs/sweep_backbones.py."""

    sweep: str = Field(description="file that says what is tried, such as conf/sweeps/heffernan_learning_rates.yaml")
    base: dict[str, Any] = Field(
        {}, description="keys of jobs/finetune_backbone.py for all trials, above the file's own base, as base.KEY=VALUE"
    )
    name: str | None = Field(
        None,
        pattern=r"^\w[\w.-]*$",
        description="where it is kept: sweeps/NAME, and its backbones as NAME-TRIAL; null: the file's name",
    )
    workers: str | None = Field(
        None,
        description="where trials run: null: here, one after another; local: Dask workers on this machine, one a core; "
        "the address of a Dask scheduler, such as tcp://host:8786; spark: Spark's executors, a trial a task",
    )
    master: str | None = Field(
        None, description="workers=spark: Spark master; null: what spark-submit was told, or local[*] without it"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.master is not None and self.workers != SPARK:
            raise ValueError(f"master={self.master} is for workers=spark, and workers={self.workers} was asked")
        return self


class RandomConfig(Config):
    """Settings that are drawn."""

    space: dict[str, Any] = Field(
        min_length=1, description="key → [values], {uniform: [low, high]}, {log_uniform: …} or {integers: …}"
    )
    trials: int = Field(ge=2, description="how many are drawn")
    seed: int = Field(0, ge=0, lt=2**32, description="of the draw")


class HalvingConfig(Config):
    """Successive halving: all trials train for few epochs, the best of them for more, and so on."""

    first: int = Field(ge=1, description="epochs after which the first trials are stopped")
    factor: int = Field(3, ge=2, description="1 in so many goes on, to so many times the epochs")


class SweepFile(Config):
    """A sweep's file."""

    base: dict[str, Any] = Field({}, description="keys of jobs/finetune_backbone.py for all trials")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] | None = Field(
        None, min_length=1, description="key → values; all combinations are tried"
    )
    random: RandomConfig | None = Field(None, description="settings that are drawn")
    trials: dict[str, dict[str, Any]] | None = Field(None, min_length=1, description="name → keys and values")
    halving: HalvingConfig | None = Field(None, description="stops the worse trials early; null: none")

    @model_validator(mode="after")
    def _says_once_what_is_tried(self) -> Self:
        given = [name for name in ("grid", "random", "trials") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"say what is tried by one of grid, random and trials (got {', '.join(given) or 'none'})")
        return self


def read_sweep_file(location: str) -> SweepFile:
    """Read a sweep's file.

    Raises:
        ConfigError: if it is not there, or holds mistakes, all told at once.
    """
    file = Path(location)
    if not file.is_file():
        known = ", ".join(f"conf/sweeps/{each.name}" for each in sorted(SWEEPS.glob("*.yaml")))
        raise ConfigError(f"there is no sweep '{location}'. Check sweep=…; with Pleura come {known}.")
    try:
        return model_from(SweepFile, merge(file, []))
    except ConfigError as error:
        raise ConfigError(f"sweep '{location}': {error}") from error
