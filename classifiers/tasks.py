"""Tasks: the questions put to the findings. A finding is a fact of a label file; tasks turn findings into targets."""

from __future__ import annotations

import difflib
import functools
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import yaml
from numpy.typing import NDArray

from classifiers.errors import TaskError

POSITIVE: Final = 1
NEGATIVE: Final = 0
UNCERTAIN: Final = -1

UNANSWERED: Final = -1
"""A target that is not known: no class index and no 0 or 1, so it can't be mistaken for one."""

_ROOT: Final = Path(__file__).parents[1]
#: On Spark's executors our packages come as a zip, with the tasks in it.
TASK_FOLDER: Final = (zipfile.Path(_ROOT) if _ROOT.is_file() else _ROOT) / "conf" / "tasks"
"""Where the tasks lie that come with the project, one YAML file each."""


class Uncertain(StrEnum):
    """What an uncertain finding counts as (Irvin et al., CheXpert, AAAI 2019: U-Ones, U-Zeros, U-Ignore)."""

    ONES = "ones"
    ZEROS = "zeros"
    IGNORE = "ignore"


# Kleene's strong three-valued logic, ordered so that OR is the maximum, AND the minimum, and NOT 2 - x.
_FALSE, _UNKNOWN, _TRUE = 0, 1, 2

_NOT_MENTIONED: Final = object()

# What a label file may say of a finding → its place in a row of `_TRUTH`.
_STATED: Final[Mapping[object, int]] = MappingProxyType({NEGATIVE: 0, POSITIVE: 1, UNCERTAIN: 2, _NOT_MENTIONED: 3})

# Policy → truth of a finding that is negative, positive, uncertain, not mentioned.
_TRUTH: Final[Mapping[Uncertain, NDArray[np.int8]]] = MappingProxyType(
    {
        policy: np.array([_FALSE, _TRUE, uncertain, _FALSE], np.int8)
        for policy, uncertain in ((Uncertain.ONES, _TRUE), (Uncertain.ZEROS, _FALSE), (Uncertain.IGNORE, _UNKNOWN))
    }
)

# Truth → target of one label.
_TARGET: Final = np.array([NEGATIVE, UNANSWERED, POSITIVE], np.int8)

_PARTS: Final = ("any", "all", "none")


@dataclass(frozen=True)
class Rule:
    """One class, told by findings; all parts that are given must hold.

    Attributes:
        name: the class's name.
        any: findings of which one must be positive at least.
        all: findings that must all be positive.
        none: findings of which none may be positive.
        uncertain: what an uncertain finding counts as. With `ignore`, a class is unknown where it hangs on that
            finding, and known where the others decide: any of positive and uncertain is positive.
    """

    name: str
    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    uncertain: Uncertain = Uncertain.IGNORE

    @property
    def findings(self) -> tuple[str, ...]:
        """All that the rule looks at, each once."""
        return tuple(dict.fromkeys((*self.any, *self.all, *self.none)))

    def truth(self, stated: NDArray[np.uint8], places: Mapping[str, int]) -> NDArray[np.int8]:
        """Tell for every image whether the class holds.

        Args:
            stated: uint8 (findings, n), what is stated of each finding, as in `_STATED`.
            places: finding → its row in `stated`.

        Returns:
            int8 (n,) of `_FALSE`, `_UNKNOWN`, `_TRUE`.
        """

        def reduced(findings: tuple[str, ...], by: np.ufunc) -> NDArray[np.int8]:
            return np.asarray(by.reduce([_TRUTH[self.uncertain][stated[places[name]]] for name in findings]))

        parts = []
        if self.any:
            parts.append(reduced(self.any, np.maximum))
        if self.all:
            parts.append(reduced(self.all, np.minimum))
        if self.none:
            parts.append(2 - reduced(self.none, np.maximum))
        return np.asarray(np.minimum.reduce(parts))

    def unmet(self, there: Collection[str]) -> tuple[str, ...]:
        """Name the findings whose absence keeps the class from ever being positive; none where it can be."""
        missing = [name for name in self.all if name not in there]
        if not any(name in there for name in self.any):
            missing += self.any
        if not (self.any or self.all or any(name in there for name in self.none)):
            missing += self.none
        return tuple(dict.fromkeys(missing))


@dataclass(frozen=True)
class Task:
    """A question: which one of its classes does an image show, or which of them, where it is multi-label?

    Attributes:
        name: the task's name, as in config keys and folder names.
        rules: one per class; a class's index is its place here.
        multi_label: whether classes are questions of their own (True) or exclude each other (False).
        description: what is asked, and where the grouping is from.

    Raises:
        TaskError: telling every mistake: too few classes, one named twice, a class without findings, …
    """

    name: str
    rules: tuple[Rule, ...]
    multi_label: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no question."""
        if mistakes := list(_mistakes(self.rules, self.multi_label)):
            raise _refusal(f"task {self.name!r}", mistakes)

    @classmethod
    def exclusive(cls, name: str, classes: Sequence[str]) -> Self:
        """Make a single-label task whose classes are the findings of the same names."""
        return cls(name, tuple(Rule(each, any=(each,)) for each in classes))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote, JSON in between or not.

        Raises:
            TaskError, KeyError, TypeError, ValueError: on anything else.
        """
        rules = tuple(
            Rule(**{**rule, **{part: tuple(rule[part]) for part in _PARTS}, "uncertain": Uncertain(rule["uncertain"])})
            for rule in values["rules"]
        )
        return cls(**{**values, "rules": rules})

    def as_dict(self) -> dict[str, Any]:
        """Make it ready for JSON."""
        plain: dict[str, Any] = asdict(self)
        return plain | {"rules": [{key: _plain(value) for key, value in rule.items()} for rule in plain["rules"]]}

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in index order."""
        return tuple(rule.name for rule in self.rules)

    @property
    def findings(self) -> tuple[str, ...]:
        """All findings that the rules look at, each once."""
        return tuple(dict.fromkeys(name for rule in self.rules for name in rule.findings))

    def targets(self, findings: Sequence[Mapping[str, int]]) -> NDArray[np.int64] | NDArray[np.int8]:
        """Answer the task for every image.

        A finding that is not mentioned counts as negative; but an image that mentions none of the task's findings is
        not answered at all. A single-label task is answered when exactly one of its classes is positive and none
        unknown: an image known to show pneumonia of no known kind has no target in `three_class`.

        Args:
            findings: per image, finding name → 1 positive, 0 negative, -1 uncertain; absent = not mentioned. Names
                that the task does not look at are passed over.

        Returns:
            Single-label: int64 (n,), the class's index, or `UNANSWERED` (-1). Multi-label: int8 (n, k) of 1, 0 and
            `UNANSWERED`.

        Raises:
            TaskError: when a finding of this task holds any other value.
        """
        stated = self._stated(findings)
        places = {name: place for place, name in enumerate(self.findings)}
        truth = np.stack([rule.truth(stated, places) for rule in self.rules], axis=1)
        truth[(stated == _STATED[_NOT_MENTIONED]).all(axis=0)] = _UNKNOWN
        if self.multi_label:
            return _TARGET[truth]
        positive = truth == _TRUE
        answered = (positive.sum(axis=1) == 1) & ~(truth == _UNKNOWN).any(axis=1)
        return np.where(answered, positive.argmax(axis=1), UNANSWERED).astype(np.int64)

    def check_findings(self, there: Collection[str]) -> None:
        """Refuse findings by which a class can never be positive.

        Args:
            there: names of all findings that the images at hand mention.

        Raises:
            TaskError: telling the classes, what they miss, and what there is.
        """
        spelt = {name.casefold(): name for name in there}
        lines = []
        for rule in self.rules:
            for name in rule.unmet(there):
                # Only what is nearly the same: another disease's name is no misspelling.
                near = difflib.get_close_matches(name.casefold(), spelt, n=1, cutoff=0.85)
                hint = f"; is it spelt {spelt[near[0]]!r} here?" if near else ""
                lines.append(f"class {rule.name!r}: no image mentions {name!r}{hint}")
        if lines:
            listing = "\n".join(f"  {line}" for line in lines)
            raise TaskError(
                f"task {self.name!r} can't be answered, some of its classes could never be positive:\n{listing}\n"
                f"Findings that there are: {', '.join(sorted(there)) or 'none'}. Check how the label file spells them, "
                "or write a task of your own in a YAML file and give its path."
            )

    def _stated(self, findings: Sequence[Mapping[str, int]]) -> NDArray[np.uint8]:
        names = self.findings
        values = [image.get(name, _NOT_MENTIONED) for name in names for image in findings]
        try:
            places = np.fromiter(map(_STATED.__getitem__, values), np.uint8, len(values))
        except (KeyError, TypeError):
            strange = sorted({repr(value) for value in values if not _is_stated(value)})
            raise TaskError(
                f"findings hold {', '.join(strange)} for a finding of task {self.name!r}: "
                "write 1 for positive, 0 for negative, -1 for uncertain, and leave out what is not mentioned"
            ) from None
        return places.reshape(len(names), len(findings))


def task_names() -> tuple[str, ...]:
    """List the tasks that come with the project."""
    files = TASK_FOLDER.iterdir() if TASK_FOLDER.is_dir() else ()
    return tuple(sorted(file.stem for file in files if file.suffix == ".yaml"))


def get_task(name_or_path: str) -> Task:
    """Look a task up.

    Args:
        name_or_path: the name of one that comes with the project, or the path of a YAML file: its task is called as
            the file is, without the ending.

    Raises:
        TaskError: when there is no such task, naming those that there are; or telling every mistake in its file.
    """
    if Path(name_or_path).suffix in (".yaml", ".yml"):
        return _read_task(Path(name_or_path))
    if name_or_path not in (names := task_names()):
        raise TaskError(
            f"unknown task {name_or_path!r}: choose one of {', '.join(names) or f'none (see {TASK_FOLDER})'}, "
            "or give the path of a .yaml file"
        )
    return _own_task(name_or_path)


@functools.cache
def _own_task(name: str) -> Task:
    return _read_task(TASK_FOLDER / f"{name}.yaml")


def _is_stated(value: object) -> bool:
    try:
        return value in _STATED
    except TypeError:  # what can't be a dict's key
        return False


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value)


def _mistakes(rules: Sequence[Rule], multi_label: bool) -> Iterator[str]:
    """Tell what is wrong with a task, each by its dotted path in a task's file."""
    fewest = 1 if multi_label else 2
    if len(rules) < fewest:
        kind = "multi-label" if multi_label else "single-label"
        yield f"classes: {len(rules)} of them; a {kind} task needs {fewest} at least"
    for name, times in Counter(rule.name for rule in rules).items():
        if times > 1:
            yield f"classes.{name}: stands {times} times; give every class a name of its own"
        if not name.strip():
            yield f"classes.{name}: give the class a name"
    for rule in rules:
        yield from (f"classes.{rule.name}{mistake}" for mistake in _rule_mistakes(rule))


def _rule_mistakes(rule: Rule) -> Iterator[str]:
    for part in _PARTS:
        names = getattr(rule, part)
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name.strip() for name in names):
            yield f".{part}: must be findings' names in a tuple, none of them blank (got {names!r})"
            return
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            yield f".{part}: names {', '.join(twice)} more than once"
    if rule.uncertain not in tuple(Uncertain):
        yield f".uncertain: must be one of {', '.join(Uncertain)} (got {rule.uncertain!r})"
    if not rule.findings:
        yield ": has no findings; give some as any, all or none"
    if clash := set(rule.none) & set(rule.all):
        yield f": wants {', '.join(sorted(clash))} both positive (all) and not (none), so it could never hold"
    elif rule.any and set(rule.any) <= set(rule.none):
        yield ": wants one of any positive, and none lists them all, so it could never hold"


def _refusal(where: str, mistakes: Sequence[str]) -> TaskError:
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    listing = "\n".join(f"  {mistake}" for mistake in mistakes)
    return TaskError(f"{count} in {where}:\n{listing}\nFiles in {TASK_FOLDER} show how a task is written.")


def _read_task(path: Path | zipfile.Path) -> Task:
    try:
        node = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"the task file {path} can't be read ({error}): check its path, and that it is text") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise TaskError(f"the task file {path} is no YAML: {error}. See {TASK_FOLDER} for how to write one.") from error
    reader = _TaskReader()
    rules, multi_label, description = reader.task(node)
    if not re.fullmatch(r"\w[\w.-]*", path.stem):
        reader.mistakes.append(
            f"the file's name is the task's, and names a folder: call it by letters, digits, _, . or - ({path.stem!r})"
        )
    if mistakes := [*reader.mistakes, *_mistakes(rules, multi_label)]:
        raise _refusal(str(path), mistakes)
    return Task(path.stem, rules, multi_label, description)


class _TaskReader:
    """Reads a task file's tree, noting every mistake by its dotted path and going on with what can be read.

    The tree, and not what a YAML loader makes of it, because a loader takes the last of two equal keys, and reads the
    names No, 1 and 2024-01-01 as something else than text, without a word.
    """

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def task(self, node: yaml.Node | None) -> tuple[tuple[Rule, ...], bool, str]:
        """Read the whole file."""
        keys = self.mapping(node, "", ("description", "multi_label", "uncertain", "classes"))
        description = self.text(keys["description"], "description") if "description" in keys else ""
        multi_label = self.flag(keys["multi_label"], "multi_label") if "multi_label" in keys else False
        uncertain = self.policy(keys, "", Uncertain.IGNORE)
        classes = self.mapping(keys.get("classes"), "classes")
        return tuple(self.rule(*each, uncertain) for each in classes.items()), multi_label, description

    def rule(self, name: str, node: yaml.Node, uncertain: Uncertain) -> Rule:
        """Read one class; without any, all or none it is the finding of the same name."""
        path = f"classes.{name}"
        keys = {} if _is_null(node) else self.mapping(node, path, (*_PARTS, "uncertain"))
        parts = {part: self.names(keys[part], f"{path}.{part}") for part in _PARTS if part in keys}
        if not any(parts.values()):
            parts = {"any": (name,)}
        return Rule(name, **parts, uncertain=self.policy(keys, f"{path}.", uncertain))

    def policy(self, keys: Mapping[str, yaml.Node], prefix: str, default: Uncertain) -> Uncertain:
        """Read the policy among `keys`."""
        if "uncertain" not in keys:
            return default
        text = self.text(keys["uncertain"], f"{prefix}uncertain")
        if text in tuple(Uncertain):
            return Uncertain(text)
        self.mistakes.append(f"{prefix}uncertain: must be one of {', '.join(Uncertain)} (got {text!r})")
        return default

    def flag(self, node: yaml.Node, path: str) -> bool:
        """Read true or false."""
        if node.tag == "tag:yaml.org,2002:bool":
            return bool(yaml.constructor.SafeConstructor().construct_object(node))
        self.mistakes.append(f"{path}: must be true or false")
        return False

    def text(self, node: yaml.Node, path: str) -> str:
        """Read text; what YAML takes for something else is noted."""
        if not isinstance(node, yaml.ScalarNode) or _is_null(node):
            self.mistakes.append(f"{path}: must be text")
            return ""
        if node.tag != "tag:yaml.org,2002:str":
            kind = node.tag.rpartition(":")[2]
            self.mistakes.append(f"{path}: YAML reads {node.value} as {kind}; write it in quotes to make it text")
        return str(node.value)

    def names(self, node: yaml.Node, path: str) -> tuple[str, ...]:
        """Read a list of findings."""
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            self.mistakes.append(f"{path}: must be a list of findings, one at least, as in [Edema, Consolidation]")
            return ()
        return tuple(self.text(each, f"{path}.{place}") for place, each in enumerate(node.value))

    def mapping(self, node: yaml.Node | None, path: str, known: Iterable[str] | None = None) -> dict[str, yaml.Node]:
        """Read keys and their nodes: of `known` ones only, if given."""
        read: dict[str, yaml.Node] = {}
        if node is None and path:
            return read
        if not isinstance(node, yaml.MappingNode):
            self.mistakes.append(f"{path or 'the file'}: must hold key: value lines")
            return read
        for key_node, value in node.value:
            key = self.text(key_node, f"a key of {path}" if path else "a key")
            where = f"{path}.{key}" if path else key
            if known is not None and key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                self.mistakes.append(f"{where}: no such key; {hint}")
            elif key in read:
                self.mistakes.append(f"{where}: stands twice; the second is in line {key_node.start_mark.line + 1}")
            else:
                read[key] = value
        return read


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")
