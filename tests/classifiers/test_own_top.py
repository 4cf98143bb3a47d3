"""The top that came with a backbone: it answers as torch's layers do, is stored like any head, and never fitted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_heads import DIM, draw
from torch import nn

from classifiers.errors import HeadError
from classifiers.heads import OWN_TOP, make_head
from classifiers.own_top import OwnTopHead
from classifiers.search import search_params
from classifiers.tasks import get_task


def taken(network: nn.Sequential, hidden: tuple[int, ...], *, multi_label: bool) -> OwnTopHead:
    linears = [module for module in network if isinstance(module, nn.Linear)]
    layers = [(each.weight.detach().numpy(), each.bias.detach().numpy()) for each in linears]
    counts = np.full(linears[-1].out_features, 20)
    return OwnTopHead(hidden=hidden).take(layers, counts, multi_label=multi_label)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_it_answers_as_the_network_does_and_comes_back_from_its_files(hidden: tuple[int, ...], multi_label: bool):
    torch.manual_seed(1)
    layers = [nn.Linear(DIM, 5), nn.ReLU(), nn.Linear(5, 3)] if hidden else [nn.Linear(DIM, 3)]
    network = nn.Sequential(*layers).eval()
    head = taken(network, hidden, multi_label=multi_label)
    X = draw("three", 40).features
    with torch.no_grad():
        logits = network(torch.from_numpy(X)).double()
    expected = torch.sigmoid(logits) if multi_label else torch.softmax(logits, dim=1)
    np.testing.assert_allclose(head.predict_proba(X), expected.numpy(), atol=1e-6)
    again = make_head(OWN_TOP, **head.get_params()).restore(
        head.weights_to_files(), n_features=DIM, n_classes=3, multi_label=multi_label
    )
    np.testing.assert_array_equal(again.predict_proba(X), head.predict_proba(X))


def test_it_is_not_fitted():
    rows = draw("three", 40)
    with pytest.raises(HeadError, match="is not fitted: give it its layers"):
        make_head(OWN_TOP).fit(rows.features, rows.targets)
    with pytest.raises(HeadError, match="own_top comes with its backbone and is not fitted: choose of majority, log"):
        search_params(OWN_TOP, get_task("three_class"), rows, {"balance": ["none"]})


def test_layers_that_are_not_as_wide_as_is_said_are_refused():
    wrong = nn.Sequential(nn.Linear(DIM, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(HeadError, match=r"\(5, 32\), \(3, 5\)\] are no top with hidden=\[4\] and 3 classes"):
        taken(wrong, (4,), multi_label=False)
