"""How settings of a training refuse values out of range."""

from __future__ import annotations

from featurizers.errors import TrainingError


def check(field: str, value: object, is_right: bool, allowed: str) -> None:
    """Refuse a value.

    Args:
        field: the setting's name.
        value: what it is.
        is_right: whether it may be that; a comparison with NaN is false, so that NaN is refused.
        allowed: what it may be, behind "give".

    Raises:
        TrainingError: it may not.
    """
    if not is_right:
        raise TrainingError(f"{field}={value} is out of range: give {allowed}")
