"""Small labelled features with a signal, and quick heads of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from small_heads import DIM, EXTRACTOR, QUICK

from classifiers.heads import make_head
from classifiers.tasks import get_task
from classifiers.trained import TrainedHead
from classifiers.training import SplitFeatures, train_head


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(params=QUICK)
def head_name(request) -> str:
    return request.param


@pytest.fixture
def head(head_name):
    return make_head(head_name, **QUICK[head_name])


@pytest.fixture(scope="session")
def draw() -> Callable[..., SplitFeatures]:
    """Rows of `classes` classes around centres of their own; the first class is three times as large."""
    centres = np.random.default_rng(7).normal(size=(3, DIM))

    def draw(n: int, classes: int = 3, seed: int = 0) -> SplitFeatures:
        rng = np.random.default_rng(seed)
        shares = np.array([3, 1, 1][:classes])
        y = rng.choice(classes, size=n, p=shares / shares.sum())
        X = centres[y] + rng.normal(scale=1.5, size=(n, DIM)) + 5
        return SplitFeatures(X.astype(np.float32), y.astype(np.int64))

    return draw


@pytest.fixture(scope="session")
def make_trained(draw) -> Callable[..., TrainedHead]:
    def make_trained(head_name: str, task: str = "three_class", **params: Any) -> TrainedHead:
        k = len(get_task(task).classes)
        splits = {"val": draw(80, k, seed=1), "test": draw(80, k, seed=2)}
        merged = QUICK[head_name] | params
        return train_head(task, head_name, draw(300, k), extractor=EXTRACTOR, params=merged, **splits)

    return make_trained


@pytest.fixture
def trained(make_trained, head_name) -> TrainedHead:
    return make_trained(head_name)
