"""The heads there are, by the names that configs and folders use."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from classifiers.boosting import XGBoostHead
from classifiers.errors import HeadError
from classifiers.estimator import Head
from classifiers.linear import LogisticHead, MajorityHead
from classifiers.mlp import MLPHead

HEADS: Final[Mapping[str, type[Head]]] = MappingProxyType(
    {"majority": MajorityHead, "logistic": LogisticHead, "mlp": MLPHead, "xgboost": XGBoostHead}
)


def make_head(name: str, **params: Any) -> Head:  # noqa: ANN401 - every head has parameters of its own
    """Make an unfitted head.

    Args:
        name: one of `HEADS`.
        params: its constructor's parameters; what is left out keeps its default.

    Raises:
        HeadError: when there is no such head, or it has no such parameter; names those that there are. Values are
            checked by `fit`, as everywhere in scikit-learn.
    """
    if name not in HEADS:
        raise HeadError(f"unknown head {name!r}: choose one of {', '.join(HEADS)}")
    known = HEADS[name]().get_params()
    if unknown := sorted(set(params) - set(known)):
        raise HeadError(f"head {name!r} has no parameter {', '.join(unknown)}: it takes {', '.join(sorted(known))}")
    return HEADS[name](**params)
