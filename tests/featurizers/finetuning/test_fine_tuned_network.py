"""The fine-tuned network: what is frozen stays as it is, batch norms included, and what is left is the backbone's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from featurizers.backbones import get_backbone, load_weights
from featurizers.errors import TrainingError
from featurizers.finetuning.network import ALL, TOP, BatchNorm, FineTunedNetwork, TopSettings

RESNET = get_backbone("resnet18:size=32")


def network(top: TopSettings | None = None, name: str = "resnet18:size=32") -> FineTunedNetwork:
    spec = get_backbone(name)
    return FineTunedNetwork(spec, load_weights(spec, "random", 1), 3, top or TopSettings(), seed=2)


def changed_by_a_step(tuned: FineTunedNetwork) -> set[str]:
    """The backbone's parameters and statistics that one update changes."""
    before = {name: value.clone() for name, value in tuned.backbone_state().items()}
    optimiser = torch.optim.SGD(tuned.trained_parameters(), 0.1)
    tuned.train()
    tuned(torch.rand(4, 1, 32, 32)).square().sum().backward()
    optimiser.step()
    return {name for name, value in tuned.backbone_state().items() if not torch.equal(value, before[name])}


def test_frozen_is_frozen_statistics_included() -> None:
    tuned = network().unfreeze(TOP)
    assert changed_by_a_step(tuned) == set()
    assert sum(each.numel() for each in tuned.trained_parameters()) == 3 * 512 + 3


def test_from_a_stage_on_all_behind_it_learns() -> None:
    changed = changed_by_a_step(network().unfreeze("layer4"))
    assert changed
    assert all(name.startswith("layer4.") for name in changed)
    assert any("running_mean" in name for name in changed)


def test_all_learns() -> None:
    changed = changed_by_a_step(network().unfreeze(ALL))
    assert {"conv1.weight", "bn1.running_var", "layer4.1.conv2.weight"} <= changed


def test_batch_norms_can_keep_their_statistics_while_their_scale_learns() -> None:
    changed = changed_by_a_step(network().unfreeze(ALL, BatchNorm.FROZEN))
    assert {"conv1.weight", "bn1.weight"} <= changed
    assert not any("running" in name for name in changed)


def test_dropout_of_the_backbone_works_where_it_learns_and_rests_where_it_is_frozen() -> None:
    name = "simple_cnn:dropout=0.5,filters=4-4,size=32"
    images = torch.rand(2, 1, 32, 32)

    def differs(tuned: FineTunedNetwork) -> bool:
        tuned.train()
        return not torch.equal(tuned(images), tuned(images))

    assert not differs(network(name=name).unfreeze(TOP))
    assert differs(network(name=name).unfreeze(ALL))


def test_a_stage_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(TrainingError, match=r"no stage 'layer9'.*top, all.*layer4"):
        network().unfreeze("layer9")


@pytest.mark.parametrize("stage", RESNET.stages)
def test_every_stage_can_be_trained_from(stage: str) -> None:
    tuned = network().unfreeze(stage)
    trained = {name for name, each in tuned.eye.backbone.named_parameters() if each.requires_grad}
    assert min(trained) if trained else False
    assert all(
        name.startswith(RESNET.stages[RESNET.stages.index(stage) :]) or name.startswith("bn1.") for name in trained
    )


def test_a_dense_top() -> None:
    tuned = network(TopSettings(dense=7, dropout=0.2))
    assert [type(layer) for layer in tuned.top] == [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert tuned.top[1].weight.shape == (7, 512)


@pytest.mark.parametrize(("wrong", "told"), [({"dense": 0}, "top.dense=0"), ({"dropout": 1.0}, "top.dropout=1.0")])
def test_a_senseless_top_is_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        TopSettings(**wrong)  # type: ignore[arg-type]


def test_what_is_left_is_what_an_extraction_takes() -> None:
    tuned = network().eval()
    images = torch.rand(2, 1, 32, 32)
    spec = get_backbone("resnet18:size=32")
    again = spec.build()
    again.load_state_dict(dict(tuned.backbone_state()))
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (spec.mean, spec.std))
    features: Tensor = again.eval()((images - mean) / std)
    torch.testing.assert_close(tuned.top(features), tuned(images), atol=1e-4, rtol=1e-4)
