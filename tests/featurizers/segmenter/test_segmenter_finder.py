"""The segmenter as a finder: its file, its journey to other processes, and images that show nothing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.extra import numpy as hnp
from safetensors.torch import load, save

from featurizers.errors import WeightsError
from featurizers.lung_metrics import box_iou
from featurizers.lungs import WHOLE_IMAGE, Lungs, box_of_mask
from featurizers.phantoms import Phantom, draw_phantom
from featurizers.segmenter.finder import SegmenterFinder, lung_maps, packed
from featurizers.segmenter.network import MAP_SIDE, SIDE, SegmenterNet
from featurizers.segmenter.quality import Quality
from pipelines.isolation import Isolated

#: What the header of its file says.
KIND = {f"lung segmenter of {SIDE} px": "0"}


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return draw_phantom(2, size=(128, 144))


def same(some: Lungs, other: Lungs) -> bool:
    assert some.map is not None
    assert other.map is not None
    return (some.box, some.quality) == (other.box, other.quality) and np.array_equal(some.map, other.map)


def altered(weights: Path, **tensors: torch.Tensor | None) -> bytes:
    """The file with tensors replaced (`__` for a dot), or taken out by None."""
    content = load(weights.read_bytes())
    for name, tensor in tensors.items():
        if tensor is None:
            del content[name.replace("__", ".")]
        else:
            content[name.replace("__", ".")] = tensor
    return save(content, KIND)


def test_lungs_are_found_with_a_map_a_box_and_a_quality(finder: SegmenterFinder, chest: Phantom) -> None:
    lungs = finder.find(chest.pixels)
    assert lungs.map is not None
    assert lungs.map.shape == (MAP_SIDE, MAP_SIDE)
    assert lungs.map.dtype == np.float32
    assert 0 <= lungs.map.min() < lungs.map.max() <= 1
    assert 0 < lungs.quality < 1
    assert box_iou(lungs.box, box_of_mask(chest.lung_mask)) > 0.6


def test_its_file_says_all_of_it(finder: SegmenterFinder, weights: Path, network: SegmenterNet) -> None:
    assert finder.name == "segmenter"
    assert 0 < finder.min_quality < 1
    assert finder.weights == weights.read_bytes()
    assert len(finder.weights) <= 2 * 2**20
    names = {name.partition(".")[0] for name in load(finder.weights)}
    assert names == {"network", "quality"}
    assert sum(each.numel() for name, each in load(finder.weights).items() if name.startswith("network")) == (
        sum(each.numel() for each in network.folded().state_dict().values())
    )


def test_packing_loses_next_to_nothing(
    finder: SegmenterFinder, network: SegmenterNet, quality: Quality, chest: Phantom
) -> None:
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 255
    unpacked = SegmenterNet().folded()
    stored = load(finder.weights)
    unpacked.load_state_dict(
        {name.partition(".")[2]: each.float() for name, each in stored.items() if name.startswith("network.")}
    )
    np.testing.assert_allclose(lung_maps(unpacked, images), lung_maps(network.folded(), images), atol=0.02)
    for name, array in quality.arrays().items():
        np.testing.assert_array_equal(stored[f"quality.{name}"].numpy(), array)


def test_an_image_counts_for_itself_in_a_batch(network: SegmenterNet) -> None:
    folded = network.folded()
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    alone = np.concatenate([lung_maps(folded, images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(lung_maps(folded, images), alone, atol=1e-4)


def test_other_weights_have_another_description(finder: SegmenterFinder, weights: Path) -> None:
    bias = load(weights.read_bytes())["network.out.bias"]
    other = SegmenterFinder(altered(weights, network__out__bias=bias + 1))
    assert SegmenterFinder.of_file(weights).description == finder.description != other.description
    assert "segmenter" in finder.description


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"can't be read \(No such file.*jobs/train_segmenter\.py"),
        (b"", "no safetensors file.*copy it again"),
        (b"\x80\x04just some text, longer than any header", "no safetensors file.*copy it again"),
        (save({"a": torch.zeros(3)}), r"holds no segmenter.*jobs/train_segmenter\.py"),
        (save({"a": torch.zeros(3)}, {"kind": "heart segmenter"}), r"holds no segmenter"),
        (save({"a": torch.zeros(3)}, KIND), r"another version.*jobs/train_segmenter\.py"),
    ],
    ids=["missing", "empty", "text", "other-safetensors", "other-kind", "no-network"],
)
def test_a_file_that_is_no_segmenter_is_told(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "my.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        SegmenterFinder.of_file(file)


def test_a_folder_is_no_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="can't be read"):
        SegmenterFinder.of_file(tmp_path)


@pytest.mark.parametrize("kept", [4, 1000, -1])
def test_a_file_that_was_cut_is_told(kept: int, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="no safetensors file"):
        SegmenterFinder.of_file(tmp_path / "cut")


@pytest.mark.parametrize(
    "tensors",
    [
        {"network__stem__conv__weight": torch.zeros(8, 16, 3, 3)},
        {"network__stem__conv__bias": None},
        {"network__extra": torch.zeros(1)},
        {"quality__mean": None},
        {"quality__extra": torch.zeros(1)},
        {"quality__inward": torch.zeros(12, 3, dtype=torch.float64)},
    ],
    ids=["other-width", "layer-missing", "layer-more", "no-mean", "quality-more", "other-traits"],
)
def test_weights_of_another_architecture_are_told(
    tensors: dict[str, torch.Tensor | None], weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(altered(weights, **tensors))
    with pytest.raises(WeightsError, match="another version of Pleura: train anew"):
        SegmenterFinder.of_file(tmp_path / "other")


def test_it_travels_pickled(finder: SegmenterFinder, chest: Phantom) -> None:
    sent = pickle.dumps(finder)
    assert len(sent) < 2 * 2**20
    assert same(pickle.loads(sent).find(chest.pixels), finder.find(chest.pixels))
    assert "\\x" not in repr(finder)


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Torch has worked with threads in this process, which a forked child has not."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    numbers = torch.rand(600, 600)
    (numbers @ numbers).exp().sum()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("busy_threads")
@pytest.mark.parametrize("loaded", ["in the parent", "in the child"])
def test_a_forked_child_finds_the_same(
    loaded: str, finder: SegmenterFinder, network: SegmenterNet, quality: Quality, chest: Phantom
) -> None:
    here = finder.find(chest.pixels)
    if loaded == "in the child":
        # The same network under other bytes, which nobody has opened yet.
        finder = SegmenterFinder(packed(network, quality, "of a child"))

    def find(items: Sequence[int]) -> Iterator[Lungs]:
        for _ in items:
            yield finder.find(chest.pixels)

    with Isolated(find, 20, None) as isolated:
        results = list(isolated.map([0, 1]))
    assert all(isinstance(there, Lungs) and same(there, here) for there in results)


def test_threads_and_random_numbers_of_the_caller_stay(network: SegmenterNet, quality: Quality, chest: Phantom) -> None:
    unopened = SegmenterFinder(packed(network, quality, "of a caller"))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    try:
        unopened.find(chest.pixels)
        assert torch.get_num_threads() == 3
        assert torch.equal(torch.rand(2), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 40), 7, dtype=np.uint8),
        np.full((1, 1), 3, dtype=np.uint8),
        np.random.default_rng(0).integers(100, 105, (224, 300), dtype=np.uint8),
    ],
    ids=["constant", "one-pixel", "faint"],
)
def test_an_image_without_contrast_is_kept_whole(pixels: np.ndarray, finder: SegmenterFinder) -> None:
    lungs = finder.find(pixels)
    assert (lungs.box, lungs.quality, lungs.map) == (WHOLE_IMAGE, 0, None)


def test_an_image_without_lungs_is_kept_whole(weights: Path, chest: Phantom) -> None:
    bias = load(weights.read_bytes())["network.out.bias"]
    blind = SegmenterFinder(altered(weights, network__out__bias=bias - 1000))
    lungs = blind.find(chest.pixels)
    assert (lungs.box, lungs.quality, lungs.map) == (WHOLE_IMAGE, 0, None)


def test_a_read_only_view_of_an_image_will_do(finder: SegmenterFinder, chest: Phantom) -> None:
    large = np.zeros((chest.pixels.shape[0] + 6, chest.pixels.shape[1] + 8), dtype=np.uint8)
    large[3:-3, 4:-4] = chest.pixels
    large.flags.writeable = False
    assert same(finder.find(large[3:-3, 4:-4]), finder.find(chest.pixels))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=60)))
def test_any_image_gives_a_box_and_a_quality(finder: SegmenterFinder, pixels: np.ndarray) -> None:
    lungs, again = finder.find(pixels), finder.find(pixels)  # LungBox itself refuses what lies outside the image
    assert 0 <= lungs.quality <= 1
    assert (again.box, again.quality) == (lungs.box, lungs.quality)
