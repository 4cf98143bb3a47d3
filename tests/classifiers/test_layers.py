"""Layers answer as torch's do, and their gradients are autograd's."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from classifiers.layers import ACTIVATIONS, gradients_of, logits_of

MODULES = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def test_every_activation_is_tested():
    assert set(MODULES) == set(ACTIVATIONS)


@pytest.mark.parametrize("activation", MODULES)
@given(widths=st.lists(st.integers(1, 6), min_size=2, max_size=5), n=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_answers_and_gradients_are_torchs(activation, widths, n, seed):
    torch.manual_seed(seed)
    linears = [nn.Linear(features, out) for features, out in pairwise(widths)]
    network = nn.Sequential(linears[0], *(each for layer in linears[1:] for each in (MODULES[activation](), layer)))
    layers = [(each.weight.detach(), each.bias.detach()) for each in linears]
    X = torch.randn(n, widths[0], requires_grad=True)
    logits = network(X)
    wanted = torch.stack([torch.autograd.grad(each.sum(), X, retain_graph=True)[0] for each in logits.T], dim=1)
    rows = X.detach()
    torch.testing.assert_close(logits_of(rows, layers, ACTIVATIONS[activation]), logits.detach())
    found = gradients_of(rows, layers, ACTIVATIONS[activation])
    assert found.shape == (n if len(layers) > 1 else 1, widths[-1], widths[0])
    torch.testing.assert_close(found.expand_as(wanted), wanted)
