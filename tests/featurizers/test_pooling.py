"""Global pooling: log-sum-exp as the paper writes it, between the average and the maximum."""

from __future__ import annotations

import math

import pytest
import torch

from featurizers.pooling import GlobalPool, PoolKind

MAPS = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(2))


def test_average_and_maximum_are_over_all_places() -> None:
    torch.testing.assert_close(GlobalPool(PoolKind.AVG)(MAPS), MAPS.mean(dim=(2, 3)))
    assert torch.equal(GlobalPool(PoolKind.MAX)(MAPS), MAPS.amax(dim=(2, 3)))


def test_log_sum_exp_is_the_formula_of_wang_et_al() -> None:
    found = GlobalPool(PoolKind.LSE)(MAPS.double())
    for image in range(3):
        for channel in range(5):
            places = MAPS[image, channel].flatten().tolist()
            expected = math.log(sum(math.exp(10 * value) for value in places) / len(places)) / 10
            assert found[image, channel].item() == pytest.approx(expected, rel=1e-5)


def test_log_sum_exp_of_large_maps_does_not_overflow_and_keeps_its_type() -> None:
    flat = torch.full((1, 2, 3, 3), 500.0, dtype=torch.bfloat16)
    pooled = GlobalPool(PoolKind.LSE)(flat)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, flat[:, :, 0, 0])


def test_log_sum_exp_of_faint_maps_is_their_average() -> None:
    """An untrained network's activations may be that small."""
    faint = MAPS.abs() * 1e-8
    torch.testing.assert_close(GlobalPool(PoolKind.LSE)(faint), faint.mean(dim=(2, 3)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [PoolKind.AVG, PoolKind.MAX, PoolKind.LSE])
def test_the_pooling_trains(kind: PoolKind) -> None:
    maps = MAPS.clone().requires_grad_()
    GlobalPool(kind)(maps).sum().backward()
    assert maps.grad is not None
    # A place more moves the pooled value by one in all, whichever places share it.
    torch.testing.assert_close(maps.grad.sum(dim=(2, 3)), torch.ones(3, 5))
