"""Weights: the same by the same seed, hashed by value, found in anyone's file, refused where they do not fit."""

from __future__ import annotations

import re
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from featurizers.backbones import (
    Weights,
    build_untrained,
    get_backbone,
    load_weights,
    save_weights,
    stated_backbone,
)
from featurizers.errors import WeightsError

RESNET50 = get_backbone("resnet50")
SMALL = get_backbone("simple_cnn:filters=4-8,dense=6,size=28")
WIDENED = get_backbone("resnet18:transition=16,size=64")


class RunsCode:
    """A pickled one makes a folder when it is unpickled; stands for anything a stranger's file may do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(RESNET50, "random", seed=3)


@pytest.fixture(scope="module")
def classifying_state(weights: Weights) -> Mapping[str, Tensor]:
    """The same weights as torchvision itself saves them: with a classifier and counters of batches."""
    network: nn.Module = torchvision.models.resnet50(weights=None)
    network.load_state_dict(dict(weights.state), strict=False)
    state: Mapping[str, Tensor] = network.state_dict()
    assert "fc.weight" in state
    assert "bn1.num_batches_tracked" in state
    return state


def same(first: Weights, second: Weights) -> bool:
    return first.state.keys() == second.state.keys() and all(
        torch.equal(first.state[name], second.state[name]) for name in first.state
    )


def test_random_weights_are_the_same_by_the_same_seed_and_others_by_another(weights: Weights) -> None:
    again = load_weights(RESNET50, "random", seed=3)
    other = load_weights(RESNET50, "random", seed=4)
    assert same(weights, again)
    assert again.sha256 == weights.sha256
    assert not same(weights, other)
    assert other.sha256 != weights.sha256
    assert "seed 3" in weights.source
    assert "untrained" in weights.source


def test_random_weights_leave_the_callers_random_numbers_as_they_were() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    load_weights(RESNET50, "random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_carry_no_classifier(weights: Weights) -> None:
    assert not [name for name in weights.state if name.startswith("fc.")]
    network = RESNET50.build()
    told = network.load_state_dict(dict(weights.state), strict=False)
    assert not told.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in told.missing_keys)


def as_safetensors(state: Mapping[str, Tensor], folder: Path) -> Path:
    safetensors.torch.save_file(dict(state), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def as_pth(state: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save(dict(state), folder / "weights.pth")
    return folder / "weights.pth"


def as_checkpoint(state: Mapping[str, Tensor], folder: Path) -> Path:
    torch.save({"epoch": 7, "state_dict": dict(state)}, folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def as_channels_last(state: Mapping[str, Tensor], folder: Path) -> Path:
    """Other strides, the same values: what a network trained in channels_last saves."""
    turned = {
        name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value for name, value in state.items()
    }
    return as_pth(turned, folder)


@pytest.mark.parametrize(
    ("save", "with_classifier"),
    [
        (as_safetensors, False),
        (as_safetensors, True),
        (as_pth, False),
        (as_checkpoint, False),
        (as_checkpoint, True),
        (as_channels_last, True),
    ],
)
def test_weights_are_hashed_by_value_whatever_file_they_come_in(
    save: Callable[[Mapping[str, Tensor], Path], Path],
    with_classifier: bool,
    weights: Weights,
    classifying_state: Mapping[str, Tensor],
    tmp_path: Path,
) -> None:
    file = save(classifying_state if with_classifier else weights.state, tmp_path)
    loaded = load_weights(RESNET50, str(file))
    assert loaded.sha256 == weights.sha256
    assert same(loaded, weights)
    assert file.name in loaded.source


def test_one_changed_value_changes_the_hash(weights: Weights) -> None:
    changed = weights.state["layer3.0.conv2.weight"].clone()
    changed[5, 4, 1, 1] += 1e-6
    assert Weights("", {**weights.state, "layer3.0.conv2.weight": changed}).sha256 != weights.sha256


def test_the_order_of_names_and_the_layout_in_memory_do_not_change_the_hash(weights: Weights) -> None:
    turned = {
        name: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in reversed(list(weights.state.items()))
    }
    assert Weights("", turned).sha256 == weights.sha256


def test_swapping_two_tensors_of_one_shape_changes_the_hash(weights: Weights) -> None:
    first, second = "layer3.1.conv2.weight", "layer3.2.conv2.weight"
    swapped = {**weights.state, first: weights.state[second], second: weights.state[first]}
    assert Weights("", swapped).sha256 != weights.sha256


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_a_file_that_is_no_weights_is_refused(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(b"no weights at all " * 50)
    with pytest.raises(WeightsError, match=r"(?s)can't be read as weights.*safetensors.*state_dict"):
        load_weights(RESNET50, str(file))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    for name in ("empty.safetensors", "empty.pth"):
        (tmp_path / name).touch()
        with pytest.raises(WeightsError, match="can't be read as weights"):
            load_weights(RESNET50, str(tmp_path / name))


@pytest.mark.parametrize("source", ["nowhere.pth", "Imagenet", "imagenet21k", "."])
def test_a_missing_file_is_told_with_what_may_stand_there(source: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=rf"(?s)no weights file '{source}'.*imagenet, random, or"):
        load_weights(RESNET50, source)


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": RunsCode(tmp_path / "made")}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="files that hold code are refused"):
        load_weights(RESNET50, str(tmp_path / "code.pth"))
    assert not (tmp_path / "made").exists()


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"(?s)can't be read.*model\.state_dict\(\)"):
        load_weights(RESNET50, str(tmp_path / "model.pth"))


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(2)], torch.zeros(2), {"epoch": 7}, {"state_dict": {"conv1.weight": 1.0}}],
    ids=["list", "tensor", "no tensors", "numbers"],
)
def test_a_file_without_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"holds no state dict.*model\.state_dict\(\)"):
        load_weights(RESNET50, str(tmp_path / "other.pth"))


def test_a_dict_whose_keys_are_no_names_is_refused(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2)}, tmp_path / "numbered.pth")
    with pytest.raises(WeightsError):
        load_weights(RESNET50, str(tmp_path / "numbered.pth"))


def test_weights_of_another_architecture_are_told(tmp_path: Path) -> None:
    file = as_pth(torchvision.models.resnet18(weights=None).state_dict(), tmp_path)
    with pytest.raises(WeightsError) as told:
        load_weights(RESNET50, str(file))
    message = str(told.value)
    assert "do not fit resnet50" in message
    assert "missing" in message
    assert "layer1.0.conv3.weight" in message
    assert "of another shape" in message
    # A few names are enough to see what the file is; hundreds are not readable.
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.pop("layer4.2.bn3.running_var"), "1 missing: layer4.2.bn3.running_var"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), "1 of another shape: conv1.weight"),
        (lambda state: state.update({"layer5.bias": torch.zeros(3)}), "1 unknown: layer5.bias"),
    ],
    ids=["missing", "shape", "unknown"],
)
def test_the_parameter_that_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], object], told: str, weights: Weights, tmp_path: Path
) -> None:
    state = dict(weights.state)
    change(state)
    with pytest.raises(WeightsError, match=told):
        load_weights(RESNET50, str(as_safetensors(state, tmp_path)))


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no network"), TimeoutError(), RuntimeError("invalid hash value")],
    ids=["offline", "timeout", "bad hash"],
)
def test_imagenet_weights_that_cannot_be_had_are_told_with_the_way_out(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(WeightsError) as told:
        load_weights(RESNET50, "imagenet")
    message = str(told.value)
    assert "https://download.pytorch.org/models/resnet50" in message
    assert "backbone.weights=" in message
    assert type(error).__name__ in message


def test_imagenet_weights_are_torchvisions_checked_and_free_of_code(
    classifying_state: Mapping[str, Tensor], weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def download(url: str, **settings: object) -> Mapping[str, Tensor]:
        asked.update(settings, url=url)
        return classifying_state

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    loaded = load_weights(RESNET50, "imagenet")
    assert loaded.sha256 == weights.sha256
    assert "IMAGENET1K_V1" in loaded.source
    assert asked["url"] == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True


@pytest.fixture(scope="module")
def small() -> Weights:
    return load_weights(SMALL, "random", seed=5)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "backbone.", "net.", "encoder.", "_orig_mod.", "_orig_mod.module.", "model.backbone."],
)
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", None])
def test_what_wraps_a_network_is_taken_off_its_names(
    prefix: str, key: str | None, small: Weights, tmp_path: Path
) -> None:
    state = {f"{prefix}{name}": value for name, value in small.state.items()}
    # A framework keeps other parameters beside the network's.
    state["criterion.weight"] = torch.ones(2)
    content = {"epoch": 3, key: state, "optimizer_states": [torch.zeros(1)]} if key else state
    torch.save(content, tmp_path / "wrapped.ckpt")
    assert load_weights(SMALL, str(tmp_path / "wrapped.ckpt")).sha256 == small.sha256


def test_names_that_no_wrapper_has_are_not_taken_off(small: Weights, tmp_path: Path) -> None:
    file = as_pth({f"teacher.{name}": value for name, value in small.state.items()}, tmp_path)
    with pytest.raises(WeightsError, match=r"6 missing: block1\.0.*6 unknown: teacher\.block1"):
        load_weights(SMALL, str(file))


def test_what_stands_beside_an_unwrapped_network_is_unknown(small: Weights, tmp_path: Path) -> None:
    file = as_pth({**small.state, "criterion.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(WeightsError, match=r"1 unknown: criterion\.weight"):
        load_weights(SMALL, str(file))


def test_densenets_old_names_are_understood(tmp_path: Path) -> None:
    """torchvision's own file has them: `norm.1` for `norm1`."""
    spec = get_backbone("densenet121")
    network = torchvision.models.densenet121(weights=None)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in network.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    loaded = load_weights(spec, str(as_pth(old, tmp_path)))
    assert torch.equal(
        loaded.state["features.denseblock2.denselayer3.conv2.weight"],
        network.state_dict()["features.denseblock2.denselayer3.conv2.weight"],
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("googlenet", {"aux_logits": True, "init_weights": False}),
        ("mobilenet_v3_small", {}),
    ],
)
def test_torchvisions_own_files_fit(name: str, settings: dict[str, bool], tmp_path: Path) -> None:
    """With all that they hold behind the last map and beside the way to it."""
    network = torchvision.models.get_model(name, weights=None, **settings)
    loaded = load_weights(get_backbone(name), str(as_pth(network.state_dict(), tmp_path)))
    assert loaded.source == "file weights.pth"


def test_simple_cnn_has_no_imagenet_weights() -> None:
    with pytest.raises(WeightsError, match=r"no ImageNet weights of simple_cnn.*backbone\.weights=random.*file"):
        load_weights(SMALL, "imagenet")


def test_saved_weights_come_back_and_state_their_backbone(small: Weights, tmp_path: Path) -> None:
    file = tmp_path / "backbone.safetensors"
    save_weights(file, SMALL, small.state, {"task": "binary"})
    loaded = load_weights(SMALL, str(file))
    assert same(loaded, small)
    assert loaded.sha256 == small.sha256
    assert loaded.backbone == SMALL.name == stated_backbone(file)
    with safetensors.safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"task": "binary", "backbone": SMALL.name}
    assert [found.name for found in tmp_path.iterdir()] == [file.name]


def test_a_whole_state_dict_is_saved_without_what_no_feature_needs(tmp_path: Path) -> None:
    network = build_untrained(WIDENED, seed=2)
    save_weights(tmp_path / "w.safetensors", WIDENED, network.state_dict())
    loaded = load_weights(WIDENED, str(tmp_path / "w.safetensors"))
    assert "untrained" not in loaded.source
    assert torch.equal(loaded.state["transition.0.weight"], network.state_dict()["transition.0.weight"])
    assert loaded.sha256 == load_weights(WIDENED, "random", seed=2).sha256


def test_a_state_that_does_not_fit_is_not_saved(small: Weights, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit resnet18"):
        save_weights(tmp_path / "w.safetensors", WIDENED, small.state)
    plain = build_untrained(get_backbone("resnet18")).state_dict()
    with pytest.raises(WeightsError, match="no transition layer"):
        save_weights(tmp_path / "w.safetensors", WIDENED, plain)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "asked",
    [
        "simple_cnn",
        "simple_cnn:filters=4-8,dense=7,size=28",
        "simple_cnn:filters=4-8,dense=6,size=28,transition=6",
        "resnet18",
    ],
)
def test_weights_of_another_backbone_by_their_own_word_are_refused(asked: str, small: Weights, tmp_path: Path) -> None:
    save_weights(tmp_path / "b.safetensors", SMALL, small.state)
    with pytest.raises(WeightsError) as told:
        load_weights(get_backbone(asked), str(tmp_path / "b.safetensors"))
    assert f"are of the backbone {SMALL.name}, and {get_backbone(asked).name} was asked for" in str(told.value)
    assert f"backbone.name={SMALL.name}" in str(told.value)


@pytest.mark.parametrize("other", ["size=56", "norm=image,size=28", "dropout=0,size=28", "pool=max,size=28"])
def test_what_changes_no_parameter_may_be_another_and_is_told(other: str, small: Weights, tmp_path: Path) -> None:
    save_weights(tmp_path / "b.safetensors", SMALL, small.state)
    asked = get_backbone(f"simple_cnn:filters=4-8,dense=6,{other}")
    loaded = load_weights(asked, str(tmp_path / "b.safetensors"))
    assert same(loaded, small)
    assert loaded.source == f"file b.safetensors, trained as {SMALL.name}"
    assert loaded.backbone == SMALL.name
    assert "trained as" not in load_weights(SMALL, str(tmp_path / "b.safetensors")).source


def test_a_file_that_states_what_is_no_name_is_refused_as_another(small: Weights, tmp_path: Path) -> None:
    file = tmp_path / "b.safetensors"
    safetensors.torch.save_file(dict(small.state), file, {"backbone": "net:v2"})
    with pytest.raises(WeightsError, match="are of the backbone net:v2"):
        load_weights(SMALL, str(file))


def test_files_of_others_state_no_backbone(small: Weights, tmp_path: Path) -> None:
    assert stated_backbone(as_safetensors(small.state, tmp_path)) is None
    assert stated_backbone(as_pth(small.state, tmp_path)) is None
    assert stated_backbone(tmp_path / "nowhere.safetensors") is None
    assert load_weights(SMALL, str(as_pth(small.state, tmp_path))).backbone is None


def test_a_transition_layer_that_no_file_holds_is_drawn_and_told(tmp_path: Path) -> None:
    file = as_pth(torchvision.models.resnet18(weights=None).state_dict(), tmp_path)
    first, again, other = (load_weights(WIDENED, str(file), seed) for seed in (1, 1, 2))
    assert first.source == "file weights.pth; transition layer untrained (seed 1)"
    assert "transition.0.weight" in first.state
    assert first.sha256 == again.sha256 != other.sha256
    plain = load_weights(get_backbone("resnet18"), str(file))
    assert all(torch.equal(first.state[name], value) for name, value in plain.state.items())


def test_half_a_transition_layer_is_told(tmp_path: Path) -> None:
    state = dict(load_weights(WIDENED, "random").state)
    del state["transition.1.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: transition\.1\.bias"):
        load_weights(WIDENED, str(as_safetensors(state, tmp_path)))
