"""Job configs: a YAML file merged with `key.sub=value` overrides, checked by a pydantic model, told by `--help`."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipelines.errors import ConfigError

HELP_WIDTH = 100


class Config(pydantic.BaseModel):
    """Base of every job's config: unknown keys are refused, values never change after validation.

    A key that is a word of Python's is a field of another name with the key as its alias.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class LakeConfig(Config):
    """What every job on a lake takes."""

    lake: str = pydantic.Field(description="the lake: a folder or any URI that Hadoop and fsspec both read")


class SparkConfig(LakeConfig):
    """What every job on a lake that runs on Spark takes."""

    master: str | None = pydantic.Field(
        None, description="Spark master; null: what spark-submit was told, or local[*] without it"
    )


ConfigT = TypeVar("ConfigT", bound=Config)


class HelpRequested(Exception):  # noqa: N818  a request, not an error
    """`--help` stood on the command line; the text is the message."""


def read_config(model: type[ConfigT], arguments: Sequence[str], *, purpose: str, default_file: Path) -> ConfigT:
    """The validated config of one job.

    Args:
        model: the job's config model.
        arguments: the command line behind the script's name: `--config FILE`, `key.sub=value` …, `--help`.
        purpose: what the job does, for `--help`.
        default_file: read when no `--config` is given, if it is there.

    Raises:
        HelpRequested: with the help text.
        ConfigError: listing every mistake at once, each with its dotted path.
    """
    config_file: Path | None = None
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-h", "--help"):
            raise HelpRequested(help_text(model, purpose, default_file))
        if argument == "--config" or argument.startswith("--config="):
            value = argument.partition("=")[2] if "=" in argument else next(rest, "")
            if not value:
                raise ConfigError("--config needs a file: --config conf/some_job.yaml")
            config_file = Path(value)
        elif "=" in argument and not argument.startswith("-"):
            overrides.append(argument)
        else:
            raise ConfigError(
                f"can't read the argument '{argument}'. Settings are written key=value (see --help), "
                "a config file --config FILE."
            )
    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"there is no config file '{config_file}'. Check the path behind --config.")
    if config_file is None and default_file.is_file():
        config_file = default_file
    text_keys = {key for key, type_name, _ in _keys(model) if type_name in ("str", "str|null")}
    return model_from(model, merge(config_file, overrides, text_keys))


def merge(config_file: Path | None, overrides: Sequence[str], text_keys: Set[str] = frozenset()) -> dict[str, Any]:
    """The YAML file's keys with the overrides on top, as plain dicts.

    Args:
        config_file: YAML, or None.
        overrides: `key.sub=value` each; values are read as YAML.
        text_keys: keys whose override is text as it stands: in YAML, the path 2024_01 is the number 202401.

    Raises:
        ConfigError: if either can't be parsed.
    """
    try:
        base = OmegaConf.load(config_file) if config_file else OmegaConf.create()
        if not isinstance(base, DictConfig):
            raise ConfigError(f"'{config_file}' holds no settings: it must be a YAML mapping of key: value.")
        typed = [override for override in overrides if override.partition("=")[0] not in text_keys]
        merged_config = OmegaConf.merge(base, OmegaConf.from_dotlist(typed))
        for key, _, text in (override.partition("=") for override in overrides):
            if key in text_keys:
                OmegaConf.update(merged_config, key, None if text == "null" else text)
        merged = OmegaConf.to_container(merged_config, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        where = f"'{config_file}' or the command line" if config_file else "the command line"
        raise ConfigError(f"the config can't be read: {error}. Check {where}.") from error
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


def model_from(model: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Validate `values`.

    Raises:
        ConfigError: listing every mistake at once.
    """
    try:
        return model.model_validate(dict(values))
    except pydantic.ValidationError as error:
        message = listed_mistakes("the config", mistakes_in(model, error))
        raise ConfigError(f"{message}\n--help lists every key.") from error


def mistakes_in(model: type[Config], error: pydantic.ValidationError) -> list[str]:
    """Each mistake that validation found, with its dotted path and what to do."""
    known = [key for key, _, _ in _keys(model)]
    return [_explain(problem, known) for problem in error.errors()]


def listed_mistakes(where: str, lines: Sequence[str]) -> str:
    """The message that tells mistakes, one a line."""
    count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    listing = "\n".join(f"  {line}" for line in lines)
    return f"{count} in {where}:\n{listing}"


def _explain(problem: ErrorDetails, known: Sequence[str]) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, known, n=1)
        return f"{path}: no such key" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] == "missing":
        return f"{path}: missing; give it as {path}=…"
    if not path:
        return str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: {str(problem['msg']).removeprefix('Value error, ')} (got {problem['input']!r})"


def help_text(model: type[Config], purpose: str, default_file: Path) -> str:
    """Every key with its type, default and one line."""
    lines = [purpose.strip(), "", f"usage: spark-submit jobs/{default_file.stem}.py [--config FILE] key=value …"]
    lines += [f"       (or python jobs/{default_file.stem}.py …; defaults: conf/{default_file.name})", "", "keys:"]
    for key, type_name, field in _keys(model):
        default = (
            "required" if field.is_required() else f"default {yaml_value(field.get_default(call_default_factory=True))}"
        )
        lines.append(f"  {key}  <{type_name}, {default}>")
        lines.append(f"      {field.description}")
    return "\n".join(lines)


def as_list(value: object) -> object:
    """One text as a list of one, for keys that take one or several: a validator to run before pydantic's."""
    return (value,) if isinstance(value, str) else value


def yaml_value(value: object) -> str:
    """`value` as it would be typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        # Without blanks, which a shell would take apart.
        return f"[{','.join(yaml_value(each) for each in value)}]"
    return str(value.value if isinstance(value, Enum) else value)


def _keys(model: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, str, FieldInfo]]:
    """(dotted key, type as text, field) of every leaf."""
    for field_name, field in model.model_fields.items():
        name, annotation = field.alias or field_name, field.annotation
        if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
            yield from _keys(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _type_name(annotation), field


def _type_name(annotation: object) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return "|".join(str(value) for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return "|".join(_type_name(part) for part in typing.get_args(annotation))
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    if origin is tuple:
        return f"[{_type_name(typing.get_args(annotation)[0])},…]"
    plain = "mapping" if origin is dict else str(annotation)
    return getattr(annotation, "__name__", plain) if origin is None else plain
