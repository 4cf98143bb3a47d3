"""The trials of a sweep: every combination, draw or named setting as a whole config, all mistakes told at once."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import pydantic
from sklearn.model_selection import ParameterSampler

from classifiers.search_space import FORMS, distribution, is_list, range_mistakes
from pipelines.config import listed_mistakes, mistakes_in, yaml_value
from pipelines.errors import ConfigError
from pipelines.finetune_config import FinetuneConfig, Launcher
from pipelines.sweep_config import HalvingConfig, RandomConfig, SweepConfig, SweepFile, read_sweep_file

#: What the sweep itself says of every trial.
_OURS: Final = ("lake", "name")
#: Trials that differ in these are judged on different images or by different figures, and can't be ranked.
_SHARED: Final = ("task", "monitor", "hold_out")
#: Digits of a number that is drawn: more would only make it hard to read.
_DIGITS: Final = 4
_LONGEST_NAME: Final = 80
#: More trials with one mistake are counted, not named.
_NAMED: Final = 3


@dataclass(frozen=True)
class Trial:
    """One setting.

    Attributes:
        name: in the sweep.
        config: of its fine-tuning, whole.
        settings: what distinguishes it: dotted key → value.
    """

    name: str
    config: FinetuneConfig
    settings: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """How long it trains at most."""
        return sum(phase.epochs for phase in self.config.phases())


@dataclass(frozen=True)
class Sweep:
    """What is tried.

    Attributes:
        name: in the lake.
        trials: at least one.
        varying: dotted keys that differ between trials.
        halving: which of them are stopped early; None: none.
    """

    name: str
    trials: tuple[Trial, ...]
    varying: tuple[str, ...]
    halving: HalvingConfig | None

    @property
    def monitor(self) -> str:
        """The figure on val that ranks trials."""
        return str(self.trials[0].config.monitor)


def read_sweep(config: SweepConfig, lake: str) -> Sweep:
    """Read what a sweep tries.

    Args:
        config: of the job.
        lake: absolute, for trials that run elsewhere.

    Raises:
        ConfigError: telling every mistake of every trial at once.
    """
    file = read_sweep_file(config.sweep)
    name = config.name or re.sub(r"[^\w.-]+", "_", Path(config.sweep).stem)
    base = dict(flat(file.base)) | dict(flat(config.base))
    tried = _tried(file)
    _refuse(config.sweep, _misplaced(base, tried))
    configs: dict[str, FinetuneConfig] = {}
    found: dict[str, list[str]] = {}
    for trial, settings in tried:
        try:
            values = _nested(base | dict(settings) | {"lake": lake, "name": f"{name}-{trial}"})
            configs[trial] = FinetuneConfig.model_validate(values)
        except pydantic.ValidationError as error:
            found[trial] = mistakes_in(FinetuneConfig, error)
        except _TwiceError as error:
            found[trial] = [str(error)]
    _refuse(config.sweep, in_trials(found, len(tried)))
    _refuse(config.sweep, [*_nowhere(config, configs), *_twins(configs)])
    varying = _varying(tried, configs)
    trials = tuple(
        Trial(trial, whole, {key: value_of(whole, key) for key in varying}) for trial, whole in configs.items()
    )
    return Sweep(name, trials, varying, file.halving)


def in_trials(found: Mapping[str, Sequence[str]], trials: int) -> list[str]:
    """Mistakes by trial as lines; what is wrong in every one is told once."""
    lines = []
    for mistake in dict.fromkeys(line for mistakes in found.values() for line in mistakes):
        where = [trial for trial, mistakes in found.items() if mistake in mistakes]
        lines.append(f"{'every trial' if len(where) == trials else _listed(where)}: {mistake}")
    return lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return f"trial {', '.join(names[:_NAMED])}{f' and {more} more' if more > 0 else ''}"


def value_of(config: FinetuneConfig, key: str) -> Any:  # noqa: ANN401  whatever the key holds
    """What a whole config has at a dotted key, as JSON has it."""
    whole: Any = config.model_dump(mode="json", by_alias=True)
    return reduce(lambda inner, part: inner[part], key.split("."), whole)


def told(value: object) -> str:
    """A setting's value, for people."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"[{','.join(map(told, value))}]" if isinstance(value, list) else yaml_value(value)


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, or all of it where several end alike."""
    ends = {key: key.rpartition(".")[2] for key in keys}
    return {key: end if list(ends.values()).count(end) == 1 else key for key, end in ends.items()}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted key, however they were nested."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _refuse(file: str, mistakes: Sequence[str]) -> None:
    if mistakes:
        message = listed_mistakes(f"sweep '{file}'", mistakes)
        raise ConfigError(f"{message}\njobs/finetune_backbone.py --help lists every key of a trial.")


def _tried(file: SweepFile) -> list[tuple[str, Mapping[str, Any]]]:
    """(name, settings by dotted key) of every trial."""
    if file.trials is not None:
        return [(name, dict(flat(settings))) for name, settings in file.trials.items()]
    if file.grid is not None:
        return _named([dict(zip(file.grid, each, strict=True)) for each in itertools.product(*file.grid.values())])
    assert file.random is not None
    return _named(_drawn(file.random))


def _drawn(random: RandomConfig) -> list[dict[str, Any]]:
    mistakes = list(_in_space(random))
    if mistakes:
        raise ConfigError(f"{listed_mistakes('random', mistakes)}\nA key of the space takes {FORMS}.")
    space = {key: list(each) if is_list(each) else distribution(each) for key, each in random.space.items()}
    draws = ParameterSampler(space, random.trials, random_state=random.seed)
    # In the order of the file; scikit-learn draws in that of the alphabet.
    return [{key: _readable(draw[key]) for key in space} for draw in draws]


def _in_space(random: RandomConfig) -> Iterator[str]:
    for key, values in random.space.items():
        if isinstance(values, Mapping):
            yield from (f"random.space.{key}: {mistake}" for mistake in range_mistakes(values))
        elif not is_list(values) or not values:
            yield f"random.space.{key}: {values!r} is neither a list of values nor a range"
    if all(is_list(values) for values in random.space.values()):
        possible = math.prod(len(values) for values in random.space.values())
        if 0 < possible < random.trials:
            yield f"random.trials: the space holds {possible} settings, fewer than {random.trials}: use grid instead"


def _readable(value: object) -> object:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _named(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Names that tell the setting, and so stay the same when others are added."""
    short = short_keys(dict.fromkeys(key for each in settings for key in each))
    names = ["-".join(f"{short[key]}_{_short(value)}" for key, value in each.items()) for each in settings]
    plain = [re.sub(r"[^\w.-]+", "_", name.replace("e+", "e")).strip("_") for name in names]
    return [
        (name if len(name) <= _LONGEST_NAME and plain.count(name) == 1 else _hashed(name, each), each)
        for name, each in zip(plain, settings, strict=True)
    ]


def _short(value: object) -> str:
    """A value for a name, which is no place to tell where a file lies."""
    return told(value).rpartition("/")[2]


def _hashed(name: str, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    return f"{name[:_LONGEST_NAME]}-{digest[:6]}"


def _misplaced(base: Mapping[str, Any], tried: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Keys that are not where they may be."""
    tried = list(tried)
    changed = dict.fromkeys(key for _, settings in tried for key in settings)
    lines = [f"{key}: the sweep gives it to its trials; leave it out" for key in (*base, *changed) if key in _OURS]
    lines += [
        f"{key}: it is the same in all trials, or they can't be compared; say it in base"
        for key in changed
        if key.partition(".")[0] in _SHARED
    ]
    names = [name for name, _ in tried]
    lines += [f"trials.{name}: a name is of letters, digits, _, . and -" for name in names if not _is_name(name)]
    return [*lines, *(f"trial {name} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1)]


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[\w.-]+", text) is not None


class _TwiceError(ValueError):
    """A key is given a value, and keys below it as well."""


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        *path, last = str(key).split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise _TwiceError(f"{part}: it has a value, and {key} is a key below it; leave one out")
        if isinstance(inner.get(last), dict):
            raise _TwiceError(f"{key}: it has a value, and keys below it; leave one out")
        inner[last] = value
    return nested


def _nowhere(config: SweepConfig, configs: Mapping[str, FinetuneConfig]) -> list[str]:
    if config.workers is None:
        return []
    mistake = f"launcher=spark trains one trial in many processes, workers={config.workers} many trials: leave one out"
    found = {trial: [mistake] for trial, each in configs.items() if each.launcher is Launcher.SPARK}
    return in_trials(found, len(configs))


def _twins(configs: Mapping[str, FinetuneConfig]) -> list[str]:
    by_content: dict[str, list[str]] = {}
    for trial, config in configs.items():
        by_content.setdefault(config.model_dump_json(exclude={"name"}), []).append(trial)
    return [f"trials {', '.join(same)} have the same settings: leave one" for same in by_content.values() if same[1:]]


def _varying(tried: Iterable[tuple[str, Mapping[str, Any]]], configs: Mapping[str, FinetuneConfig]) -> tuple[str, ...]:
    keys = dict.fromkeys(key for _, settings in tried for key in settings)
    return tuple(key for key in keys if len({json.dumps(value_of(config, key)) for config in configs.values()}) > 1)
