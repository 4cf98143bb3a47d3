"""The registry: every backbone is what its spec says, and every name is understood or told what is wrong with it."""

from __future__ import annotations

import pickle
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from featurizers.backbones import BACKBONES, Backbone, BackboneSpec, Norm, build_untrained, get_backbone
from featurizers.errors import WeightsError

#: Sides that leave a map and cost little.
SIZES = {"alexnet": 64}
SHARED = [f"{base}:size={SIZES.get(base, 32)}" for base in BACKBONES]
#: Parameters of torchvision's networks with a classifier of 1000 classes, as torchvision documents them, and how many
#: of them are behind the last map.
DOCUMENTED = {
    "resnet50": (25_557_032, 2_049_000),
    "resnet18": (11_689_512, 513_000),
    "resnet101": (44_549_160, 2_049_000),
    "resnet152": (60_192_808, 2_049_000),
    "densenet121": (7_978_856, 1_025_000),
    "vgg16": (138_357_544, 123_642_856),
    "alexnet": (61_100_840, 58_631_144),
    "googlenet": (6_624_904, 1_025_000),
    "mobilenet_v2": (3_504_872, 1_281_000),
    "mobilenet_v3_small": (2_542_856, 1_615_848),
    "mobilenet_v3_large": (5_483_032, 2_511_080),
}


@lru_cache(maxsize=1)
def network_of(name: str) -> Backbone:
    """Kept for the tests of one name, which stand side by side."""
    return build_untrained(get_backbone(name), seed=1).eval()


def images_of(spec: BackboneSpec) -> Tensor:
    return torch.rand(2, spec.channels, spec.input_size, spec.input_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SHARED, scope="module")
class TestEveryBackbone:
    def test_gives_vectors_and_maps_of_its_stated_shape(self, name: str) -> None:
        spec, network = get_backbone(name), network_of(name)
        with torch.no_grad():
            features = network(images_of(spec))
            features_map = network.feature_map(images_of(spec))
        assert features.shape == (2, spec.feature_dim)
        assert features_map.shape[:2] == (2, spec.feature_dim)
        torch.testing.assert_close(features, features_map.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)

    def test_the_last_map_is_the_output_of_the_feature_layer(self, name: str) -> None:
        spec, network = get_backbone(name), network_of(name)
        seen: list[Tensor] = []
        handle = network.get_submodule(spec.feature_layer).register_forward_hook(
            lambda _module, _inputs, output: seen.append(output)
        )
        with torch.no_grad():
            network(images_of(spec))
            handle.remove()
            assert torch.equal(seen[0], network.feature_map(images_of(spec)))

    def test_has_as_many_parameters_as_stated(self, name: str) -> None:
        assert sum(value.numel() for value in network_of(name).parameters()) == get_backbone(name).parameters

    def test_its_stages_are_modules_in_order_and_begin_at_the_input(self, name: str) -> None:
        spec, network = get_backbone(name), network_of(name)
        places = [[module for module, _ in network.named_modules()].index(stage) for stage in spec.stages]
        assert places == sorted(places)
        assert len(set(places)) == len(places) > 1
        first_convolution = network.first_convolution()
        assert first_convolution is not None
        assert first_convolution.startswith(spec.stages[0])
        for stage in spec.stages:
            assert any(True for _ in network.get_submodule(stage).parameters())

    def test_travels_between_processes(self, name: str) -> None:
        spec = get_backbone(name)
        assert pickle.loads(pickle.dumps(spec)) is not None
        assert get_backbone(name) is spec


def test_torchvisions_parameters_without_the_classifier_are_counted() -> None:
    assert set(DOCUMENTED) == set(BACKBONES) - {"simple_cnn"}
    for name, (whole, behind) in DOCUMENTED.items():
        assert BACKBONES[name].parameters == whole - behind


def test_all_are_free_to_use_and_say_so() -> None:
    for spec in BACKBONES.values():
        assert spec.licence.startswith(("BSD-3-Clause", "Apache-2.0"))


def test_resnet50_is_what_it_was() -> None:
    spec = get_backbone("resnet50")
    assert (spec.feature_dim, spec.input_size, spec.feature_layer) == (2048, 224, "layer4")
    assert spec.stages == ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert next(iter(BACKBONES)) == "resnet50"


def test_googlenet_sees_what_its_weights_were_trained_on() -> None:
    """torchvision turns ImageNet's statistics into mean and deviation 0.5 inside the network (transform_input)."""
    spec = get_backbone("googlenet")
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("pool", ["avg", "max", "lse"])
@pytest.mark.parametrize("base", ["mobilenet_v3_small", "simple_cnn"])
def test_a_transition_layer_makes_all_maps_alike(base: str, pool: str) -> None:
    spec = get_backbone(f"{base}:size=64,transition=24,pool={pool}")
    network = build_untrained(spec).eval()
    with torch.no_grad():
        features, last = network(images_of(spec)), network.feature_map(images_of(spec))
    assert features.shape == (2, 24) == (2, spec.feature_dim)
    assert last.shape[1] == 24
    assert (last >= 0).all()
    lowest, highest = last.mean(dim=(2, 3)) - 1e-6, last.amax(dim=(2, 3)) + 1e-6
    assert ((lowest <= features) & (features <= highest)).all()
    assert spec.feature_layer == spec.stages[-1] == "transition"
    assert sum(value.numel() for value in network.parameters()) == spec.parameters
    assert set(build_untrained(get_backbone(base)).state_dict()) < set(network.state_dict())


def test_each_image_by_itself_has_mean_nought_and_deviation_one() -> None:
    spec = get_backbone("resnet18:norm=image")
    assert spec.norm is Norm.IMAGE
    assert (spec.mean, spec.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("resnet50:size=224", "resnet50"),
        ("resnet50:pool=avg,norm=fixed,transition=0,size=0128", "resnet50:size=128"),
        ("densenet121:transition=1024, pool=lse", "densenet121:pool=lse,transition=1024"),
        ("simple_cnn:size=28,filters=32-64-128,dense=128,dropout=0.20-0.2-0.2", "simple_cnn:size=28"),
        ("simple_cnn:dropout=0.2-0.20-0.0", "simple_cnn:dropout=0.2-0.2-0"),
    ],
)
def test_one_architecture_has_one_name(name: str, canonical: str) -> None:
    assert get_backbone(name).name == canonical
    assert get_backbone(canonical).name == canonical


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet51", r"no backbone 'resnet51'\. Did you mean resnet50\?.*resnet50, resnet18.*simple_cnn.*timm:NAME"),
        ("xyz", r"no backbone 'xyz'\. Known: resnet50"),
        ("", r"no backbone ''"),
        ("resnet50:sise=128", r"resnet50 has no option 'sise'\. Did you mean size\?.*size, norm, pool, transition"),
        ("resnet50:filters=32", r"no option 'filters'"),
        ("resnet50:size", r"'size' is no option.*resnet50:size=128"),
        ("resnet50:", r"'' is no option"),
        ("resnet50:size=128,size=64", r"'size' stands there twice"),
        ("resnet50:size=big", r"size=big can't be; size is side of the input in pixels, a whole number from 16"),
        ("resnet50:size=-5", r"size=-5 can't be"),
        ("alexnet:size=32", r"a whole number from 63 to 4096"),
        ("resnet50:pool=mean", r"pool is global pooling: avg, max, lse"),
        ("resnet50:norm=none", r"fixed, image"),
        ("simple_cnn:filters=32-", r"filters=32- can't be; filters is .*up to 8 whole numbers"),
        ("simple_cnn:dropout=1", r"dropout is .*0 to 0\.9999"),
        ("simple_cnn:dropout=0.1-0.2", r"3 blocks and 2 rates"),
        ("simple_cnn:size=28,filters=4-4-4-4-4", r"5 blocks halves the image, and 28 pixels.*size=32"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_ones(name: str, told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        get_backbone(name)
