"""Backbones and their weights: the same by the same seed, hashed by value, refused where they do not fit."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from featurizers.backbones import BACKBONES, BackboneSpec, Weights, get_backbone, load_weights
from featurizers.errors import WeightsError

RESNET50 = get_backbone("resnet50")


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


@pytest.mark.parametrize("spec", BACKBONES.values(), ids=list(BACKBONES))
def test_a_backbone_gives_vectors_of_its_stated_length(spec: BackboneSpec) -> None:
    with torch.no_grad():
        features = spec.build().eval()(torch.zeros(1, 3, spec.input_size, spec.input_size))
    assert features.shape == (1, spec.feature_dim)


def test_resnet50_has_2048_features() -> None:
    assert RESNET50.feature_dim == 2048
    assert RESNET50.input_size == 224


def test_an_unknown_backbone_is_told_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"no backbone 'resnet51'.*resnet50"):
        get_backbone("resnet51")


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
