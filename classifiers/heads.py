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
from classifiers.own_top import OwnTopHead

#: Heads that are fitted on features.
HEADS: Final[Mapping[str, type[Head]]] = MappingProxyType(
    {"majority": MajorityHead, "logistic": LogisticHead, "mlp": MLPHead, "xgboost": XGBoostHead}
)
#: The head that comes with a fine-tuned backbone.
OWN_TOP: Final = "own_top"
#: Heads that are stored.
KINDS: Final[Mapping[str, type[Head]]] = MappingProxyType({**HEADS, OWN_TOP: OwnTopHead})

#: Heads with settings of a published study: name → kind of head, and its parameters.
PRESETS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = MappingProxyType(
    {
        # Vazquez's network on Kermany's images: sigmoid units, 20 % dropout, SGD at 1e-3, 60 epochs. The width of its
        # hidden layer and its batches are not told where we can read it: the width is this project's default, and 32
        # rows a batch is Keras's.
        "vazquez_mlp": (
            "mlp",
            MappingProxyType(
                {
                    "activation": "sigmoid",
                    "dropout": 0.2,
                    "optimizer": "sgd",
                    "learning_rate": 1e-3,
                    "weight_decay": 0.0,
                    "batch_size": 32,
                    "max_epochs": 60,
                    "patience": 60,
                }
            ),
        )
    }
)


def head_names() -> tuple[str, ...]:
    """Every name of a head that is fitted."""
    return (*HEADS, *PRESETS)


def check_fitted(name: str) -> None:
    """Refuse a head that is never fitted, where heads are to be fitted again and again.

    Raises:
        HeadError: naming those that are.
    """
    if name == OWN_TOP:
        raise HeadError(f"{OWN_TOP} comes with its backbone and is not fitted: choose of {', '.join(head_names())}")


def make_head(name: str, **params: Any) -> Head:  # noqa: ANN401 - every head has parameters of its own
    """Make an unfitted head.

    Args:
        name: one of `KINDS`, or of `PRESETS`, whose settings `params` then change.
        params: its constructor's parameters; what is left out keeps its default.

    Raises:
        HeadError: when there is no such head, or it has no such parameter; names those that there are. Values are
            checked by `fit`, as everywhere in scikit-learn.
    """
    if name not in (names := (*head_names(), OWN_TOP)):
        raise HeadError(f"unknown head {name!r}: choose one of {', '.join(names)}")
    kind, settings = PRESETS.get(name, (name, {}))
    known = KINDS[kind]().get_params()
    if unknown := sorted(set(params) - set(known)):
        raise HeadError(f"head {name!r} has no parameter {', '.join(unknown)}: it takes {', '.join(sorted(known))}")
    return KINDS[kind](**{**settings, **params})
