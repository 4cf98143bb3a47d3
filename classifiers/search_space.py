"""The space of a search: which values of which parameters of a head are tried, checked before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from scipy import stats
from sklearn.base import clone
from sklearn.utils._param_validation import InvalidParameterError

from classifiers.balance import Balance
from classifiers.errors import HeadError
from classifiers.estimator import Head

#: How a range is drawn from; both ends belong to it. Whole numbers are listed, so that none is drawn twice.
DISTRIBUTIONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "uniform": lambda low, high: stats.uniform(low, high - low),
    "log_uniform": stats.loguniform,
    "integers": lambda low, high: list(range(low, high + 1)),
}
#: How a parameter's values are spelt, for messages.
FORMS: Final = "a list of values, {uniform: [low, high]}, {log_uniform: [low, high]} or {integers: [low, high]}"


def read_space(head: Head, space: Mapping[str, Any], *, multi_label: bool) -> dict[str, Any]:
    """Turn a space into what scikit-learn draws settings from.

    Args:
        head: unfitted, with the parameters that are not searched.
        space: parameter → its values, in one of the forms that the message of a mistake tells.
        multi_label: whether the task's classes are questions of their own.

    Returns:
        Parameter → list of values, or a frozen distribution of scipy.

    Raises:
        HeadError: telling every mistake at once.
    """
    if not space:
        raise HeadError(f"the search space is empty: name parameters of the head, each with {FORMS}")
    known = head.get_params()
    mistakes = [
        f"{name}: {head.__class__.__name__} has no such parameter; it takes {', '.join(sorted(known))}"
        for name in sorted(set(space) - set(known))
    ]
    read = {}
    for name, values in space.items():
        if name in known:
            wrong = list(_mistakes(head, name, values, multi_label))
            mistakes += [f"{name}: {each}" for each in wrong]
            if not wrong:
                read[name] = list(values) if is_list(values) else distribution(values)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        listing = "\n".join(f"  {mistake}" for mistake in mistakes)
        raise HeadError(f"{count} in the search space:\n{listing}\nA parameter takes {FORMS}.")
    return read


def is_list(values: object) -> bool:
    """Whether values are listed one by one."""
    return isinstance(values, list | tuple)


def distribution(values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - scipy has no types
    """What a range that has no mistakes is drawn from."""
    ((kind, ends),) = values.items()
    return DISTRIBUTIONS[kind](*ends)


def _mistakes(head: Head, name: str, values: object, multi_label: bool) -> Iterator[str]:
    if is_list(values):
        assert isinstance(values, list | tuple)
        if not values:
            yield "holds no value"
        tried = list(values)
    elif isinstance(values, Mapping):
        wrong = list(range_mistakes(values))
        yield from wrong
        tried = [] if wrong else list(next(iter(values.values())))
    else:
        yield f"{values!r} is neither a list nor a range"
        return
    for value in tried:
        yield from _refusals(head, name, value, multi_label)


def range_mistakes(values: Mapping[Any, Any]) -> Iterator[str]:
    """What is wrong with a range, whatever it is a range of."""
    kinds = list(values)
    if len(kinds) != 1 or kinds[0] not in DISTRIBUTIONS:
        yield f"a range has one key, of {', '.join(DISTRIBUTIONS)} (got {', '.join(map(str, kinds)) or 'none'})"
        return
    ends = values[kinds[0]]
    wanted = int if kinds[0] == "integers" else int | float
    are_numbers = is_list(ends) and all(isinstance(end, wanted) and not isinstance(end, bool) for end in ends)
    if not are_numbers or len(ends) != 2 or not ends[0] < ends[1]:
        what = "whole numbers" if kinds[0] == "integers" else "numbers"
        yield f"{kinds[0]} takes two {what}, the lower one first (got {ends!r})"
    elif kinds[0] == "log_uniform" and ends[0] <= 0:
        yield f"log_uniform starts above 0 (got {ends[0]!r}): 0 has no logarithm"


def _refusals(head: Head, name: str, value: object, multi_label: bool) -> Iterator[str]:
    """What the head itself would say of a value once it is fitted."""
    try:
        clone(head).set_params(**{name: value})._validate_params()
    except InvalidParameterError as error:
        yield str(error)
        return
    if name == "balance":
        if Balance(str(value)) not in head.balances:
            yield f"{value} is not for {head.__class__.__name__}; it follows {', '.join(sorted(head.balances))}"
        elif multi_label and value == Balance.SMOTE:
            yield "smote is for classes that exclude each other; for labels choose up_sample"
