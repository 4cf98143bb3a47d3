"""Quick heads of every kind, on tasks of every shape."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from small_heads import EXTRACTOR, QUICK, TASKS, draw, quick

from classifiers.trained import TrainedHead
from classifiers.training import train_head


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(params=QUICK)
def head_name(request) -> str:
    return request.param


@pytest.fixture(params=TASKS)
def shape(request) -> str:
    return request.param


@pytest.fixture
def head(head_name):
    return quick(head_name)


@pytest.fixture(scope="session")
def make_trained() -> Callable[..., TrainedHead]:
    """Train on drawn rows; whoever changes a head that this gave changes it for every test."""

    @cache
    def make_trained(head_name: str, shape: str = "three", **params: Any) -> TrainedHead:
        splits = {"val": draw(shape, 80, seed=1), "test": draw(shape, 80, seed=2)}
        return train_head(
            TASKS[shape],
            head_name,
            draw(shape, 300),
            extractor=EXTRACTOR,
            params=QUICK[head_name] | params,
            resamples=20,
            **splits,
        )

    return make_trained


@pytest.fixture
def trained(make_trained, head_name, shape) -> TrainedHead:
    return make_trained(head_name, shape)
