"""The grammar of a backbone's name, `BASE[:key=value,…]`: a whole architecture and its preprocessing in one string."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from featurizers.errors import WeightsError

#: Bases that start with it carry the name of one of that library's models behind it: `timm:resnet50`.
TIMM = "timm:"


@dataclass(frozen=True)
class BackboneName:
    """A name taken apart.

    Attributes:
        base: the architecture: `resnet50`, `simple_cnn`, `timm:vit_tiny_patch16_224`.
        options: key to value, as written.
    """

    base: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        told = ",".join(f"{key}={self.options[key]}" for key in sorted(self.options))
        return f"{self.base}:{told}" if told else self.base


@dataclass(frozen=True)
class Option:
    """One option of a name.

    Attributes:
        default: the value where the name is silent, canonical.
        canonical: writes a value the one way in which it is compared; raises ValueError where it is none.
        told: what the value may be, for people.
    """

    default: str
    canonical: Callable[[str], str]
    told: str


def parse_name(text: str) -> BackboneName:
    """`text` taken apart; whether base and options exist is not looked at.

    Raises:
        WeightsError: where it is not written as a name is.
    """
    prefix = TIMM if text.startswith(TIMM) else ""
    base, colon, told = text.removeprefix(prefix).partition(":")
    options: dict[str, str] = {}
    for part in told.split(",") if colon else []:
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals and value):
            raise WeightsError(
                f"backbone '{text}': '{part}' is no option. A name is BASE or BASE:key=value,key=value, "
                "such as resnet50:size=128."
            )
        if key in options:
            raise WeightsError(f"backbone '{text}': '{key}' stands there twice. Leave one.")
        options[key] = value
    return BackboneName(prefix + base, MappingProxyType(options))


def settle_options(name: BackboneName, known: Mapping[str, Option]) -> dict[str, str]:
    """The value of every known option, canonical: the name's own, else the default.

    Raises:
        WeightsError: listing the options there are, or what this one may be.
    """
    values = {key: option.default for key, option in known.items()}
    for key, value in name.options.items():
        if key not in known:
            raise WeightsError(f"{name.base} has no option '{key}'.{guess(key, known)} It has: {', '.join(known)}.")
        try:
            values[key] = known[key].canonical(value)
        except ValueError as error:
            raise WeightsError(f"backbone '{name}': {key}={value} can't be; {key} is {known[key].told}.") from error
    return values


def canonical_name(base: str, values: Mapping[str, str], known: Mapping[str, Option]) -> str:
    """The one name of a base with these canonical values: sorted, and silent about defaults."""
    return str(BackboneName(base, {key: value for key, value in values.items() if value != known[key].default}))


def guess(word: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """` Did you mean …?`, or nothing where none of `known` is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def whole_number(default: int, low: int, high: int, meaning: str) -> Option:
    """An option that is a whole number from `low` to `high`."""
    return Option(
        str(default), lambda text: str(_whole(text, low, high)), f"{meaning}, a whole number from {low} to {high}"
    )


def whole_numbers(default: str, low: int, high: int, most: int, meaning: str) -> Option:
    """An option that is a list of up to `most` whole numbers from `low` to `high`, joined by hyphens."""

    def canonical(text: str) -> str:
        return "-".join(str(_whole(part, low, high)) for part in _parts(text, most))

    return Option(default, canonical, f"{meaning}: up to {most} whole numbers from {low} to {high}, such as {default}")


def probabilities(default: str, most: int, meaning: str) -> Option:
    """An option that is a probability below one, or a list of up to `most` of them, joined by hyphens."""

    def canonical(text: str) -> str:
        values = [_probability(part) for part in _parts(text, most)]
        return values[0] if len(set(values)) == 1 else "-".join(values)

    return Option(default, canonical, f"{meaning}: one number from 0 to 0.9999, or one each, such as 0.2-0.2-0")


def choice(default: str, words: Sequence[str], meaning: str) -> Option:
    """An option that is one of `words`."""

    def canonical(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return Option(default, canonical, f"{meaning}: {', '.join(words)}")


def _parts(text: str, most: int) -> list[str]:
    parts = text.split("-")
    if len(parts) > most:
        raise ValueError(text)
    return parts


def _whole(text: str, low: int, high: int) -> int:
    # isdecimal: int() would also take signs, blanks and underscores.
    if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
        raise ValueError(text)
    return int(text)


def _probability(text: str) -> str:
    whole, _, decimals = text.partition(".")
    if not (whole == "0" and len(decimals) <= 4 and (decimals or "0").isdecimal() and text.isascii()):
        raise ValueError(text)
    return f"0.{decimals}".rstrip("0").rstrip(".")
