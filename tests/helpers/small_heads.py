"""Small labelled features with a signal, and settings that make every kind of head quick enough for a test."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from classifiers.heads import make_head
from classifiers.rows import SplitRows
from classifiers.tasks import UNANSWERED, Rule, Task, get_task

DIM = 32
EXTRACTOR = "e" * 64
QUICK: dict[str, dict[str, Any]] = {
    "majority": {},
    "logistic": {},
    "mlp": {"hidden": (16,), "learning_rate": 1e-2, "batch_size": 32, "max_epochs": 20},
    "xgboost": {"n_estimators": 15, "n_jobs": 1, "colsample_bytree": 0.5},
}
LEARNERS = tuple(name for name in QUICK if name != "majority")

LABELS = Task("labels", tuple(Rule(name, any=(name,)) for name in ("effusion", "edema", "mass")), multi_label=True)
#: One task of every shape.
TASKS = {"two": get_task("binary"), "three": get_task("three_class"), "labels": LABELS}

_CENTRES = np.random.default_rng(7).normal(size=(3, DIM))


def quick(name: str, **params: Any):
    return make_head(name, **(QUICK[name] | params))


def draw(shape: str, n: int, seed: int = 0, *, unknown: float = 0.1, signal: float = 1.0) -> SplitRows:
    """Rows around centres of their classes, two of every patient.

    Of exclusive classes the first is three times as large as each other one. Of labels, which add up, the first shows
    on four rows of ten and the last on fifteen of a hundred; a share `unknown` of their entries is not known.
    """
    rng = np.random.default_rng(seed)
    if shape == "labels":
        truth = rng.random((n, 3)) < [0.4, 0.25, 0.15]
        y = np.where(rng.random((n, 3)) < unknown, UNANSWERED, truth).astype(np.int8)
        asked = (y != UNANSWERED).any(axis=1)
        y[~asked] = truth[~asked]
    else:
        shares = np.array([3, 1, 1][: len(TASKS[shape].classes)])
        y = rng.choice(len(shares), size=n, p=shares / shares.sum())
        truth = y[:, None] == np.arange(3)
    X = signal * truth @ _CENTRES + rng.normal(scale=1.5, size=(n, DIM)) + 5
    return SplitRows(X.astype(np.float32), y, patients=np.arange(n) // 2)


def aucs(rows: SplitRows, probabilities: np.ndarray) -> np.ndarray:
    """The AUC of every class, over the rows where it is known."""
    y = rows.targets
    if y.ndim == 1:
        y = (y[:, None] == np.arange(probabilities.shape[1])).astype(np.int8)
    known = y != UNANSWERED
    columns = zip(y.T, probabilities.T, known.T, strict=True)
    return np.array([roc_auc_score(truth[there], p[there]) for truth, p, there in columns])
