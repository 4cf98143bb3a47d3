"""Models of timm: any of them behaves as a backbone does, and without timm one clear error says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch

from featurizers.backbones import (
    Backbone,
    build_untrained,
    get_backbone,
    load_weights,
    save_weights,
    takes_grey,
)
from featurizers.embedder import Embedder
from featurizers.errors import WeightsError
from featurizers.extractor import Precision
from featurizers.phantoms import draw_phantom

#: Networks that fold and fuse, that fold and can't be traced, that standardise their weights, that pad by themselves,
#: and one that looks at its input twice.
MODELS = {
    "test_resnet": True,
    "test_vit": True,
    "test_convnext": True,
    "test_nfnet": False,
    "tf_efficientnet_lite0:size=64": False,
    "crossvit_tiny_240": False,
}


@pytest.mark.parametrize(("model", "folds"), MODELS.items())
def test_grey_images_give_what_timm_gives_for_three_channels(model: str, folds: bool) -> None:
    spec = get_backbone(f"timm:{model}")
    network = build_untrained(spec, seed=1).eval()
    own = network.get_submodule("network")
    grey = torch.rand(2, 1, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with torch.no_grad():
        expected = own((grey - mean) / std)
        wrapped = takes_grey(network, spec)
        found = wrapped(grey)
    assert found.shape == (2, spec.feature_dim)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    # One channel's work wherever that is the same.
    assert (wrapped.norm(grey).shape[1] == 1) is folds
    assert sum(value.numel() for value in network.parameters()) == spec.parameters


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_nfnet"])
def test_the_embedder_takes_them(model: str) -> None:
    spec = get_backbone(f"timm:{model}")
    weights = load_weights(spec, "random", seed=1)
    image = draw_phantom(3, size=(200, 220)).pixels
    found = Embedder(spec.name, weights, precision=Precision.FP32, batch_size=2).embed([image])
    network = build_untrained(spec, seed=1)
    resized = Embedder(spec.name, weights, batch_size=1)._batches_of_arrays([image])
    pixels = torch.from_numpy(next(iter(resized))[1])[:1, None]
    with torch.no_grad():
        expected = takes_grey(network, spec).eval()(pixels)
    assert (torch.from_numpy(found) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_what_timm_says_of_a_model_is_its_spec() -> None:
    spec = get_backbone("timm:test_vit")
    config = timm.get_pretrained_cfg("test_vit")
    assert (spec.mean, spec.std, spec.input_size) == (config.mean, config.std, config.input_size[1])
    assert "apache-2.0" in spec.licence
    assert spec.stages == ("network.patch_embed", "network.blocks.0", *spec.stages[2:])
    assert get_backbone("timm:test_vit:size=160,pool=own").name == "timm:test_vit"


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "swin_tiny_patch4_window7_224"])
def test_maps_are_pooled_and_widened_as_any_others(model: str) -> None:
    spec = get_backbone(f"timm:{model}:transition=12,pool=max")
    network = build_untrained(spec).eval()
    with torch.no_grad():
        images = torch.rand(1, 3, spec.input_size, spec.input_size)
        last = network.feature_map(images)
        assert torch.equal(network(images), last.amax(dim=(2, 3)))
    assert last.shape[1] == spec.feature_dim == 12
    assert last.shape[2] == last.shape[3] > 1


def test_timms_own_files_fit_and_ours_come_back(tmp_path: Path) -> None:
    spec = get_backbone("timm:test_resnet:transition=8")
    model = timm.create_model("test_resnet", pretrained=False)
    torch.save(
        {"state_dict": {f"model.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "m.pt"
    )
    loaded = load_weights(spec, str(tmp_path / "m.pt"), seed=4)
    assert "transition layer untrained" in loaded.source
    assert torch.equal(loaded.state["network.layer1.0.conv1.weight"], model.state_dict()["layer1.0.conv1.weight"])
    save_weights(tmp_path / "b.safetensors", spec, loaded.state)
    again = load_weights(spec, str(tmp_path / "b.safetensors"))
    assert again.sha256 == loaded.sha256
    assert "untrained" not in again.source


def test_timms_own_weights_are_those_asked_for_as_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    create = timm.create_model

    def offered(model: str, *, pretrained: bool, **settings: object) -> torch.nn.Module:
        asked.append(pretrained)
        network: torch.nn.Module = create(model, pretrained=False, **settings)
        return network

    spec = get_backbone("timm:test_resnet")
    monkeypatch.setattr(timm, "create_model", offered)
    assert "timm:test_resnet" in load_weights(spec, "imagenet").source
    assert True in asked


def test_weights_that_timm_can_not_fetch_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = get_backbone("timm:test_resnet")

    def fail(*_: object, **__: object) -> Backbone:
        raise RuntimeError("no network")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"(?s)timm:test_resnet can't be downloaded.*backbone\.weights=FILE"):
        spec.own_weights and load_weights(spec, "imagenet")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:test_resnett", r"no model 'test_resnett'\. Did you mean test_resnet"),
        ("timm:", r"no model ''"),
        ("timm:test_vit:size=100", r"can't take 100 × 100 pixels"),
        ("timm:test_vit:filters=3", r"no option 'filters'"),
        ("timm:crossvit_tiny_240:pool=avg", r"no single last map"),
    ],
)
def test_a_wrong_name_is_told(name: str, told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        get_backbone(name)


def test_without_timm_its_models_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"need timm.*pip install 'pleura\[timm\]'"):
        get_backbone("timm:test_efficientnet")
    assert get_backbone("resnet18:size=48").input_size == 48
