"""Maps: what they add up to, that they are where the evidence is, and what becomes of maps that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurizers.backbones import get_backbone, load_weights
from featurizers.embedder import Embedder
from featurizers.errors import FeaturizerError
from featurizers.extractor import Precision
from featurizers.phantoms import draw_phantom
from featurizers.saliency import Method, class_maps, heat, occlusion_maps

SIZE = 64


def embedder(name: str, **settings: object) -> Embedder:
    return Embedder(name, load_weights(get_backbone(name), "random"), batch_size=2, threads=1, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [draw_phantom(seed, size=(SIZE, SIZE)).pixels for seed in range(3)]


def viewed(eye: Embedder, images: list[np.ndarray]) -> list:
    return list(eye.view_stream(enumerate(images), lambda image: image))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18:size=64",
        "densenet121:size=64,transition=32",
        "mobilenet_v3_small:size=64",
        "vgg16:size=64",
        "simple_cnn:size=64",
        "timm:resnet18:size=64,pool=avg",
    ],
)
def test_the_mean_of_a_map_is_what_the_features_count_together(name: str, images: list[np.ndarray]) -> None:
    """Of averaged maps a linear head's CAM is exact: its mean is the head's score without a constant."""
    eye = embedder(name, precision=Precision.FP32)
    weights = np.random.default_rng(0).normal(size=(1, 3, eye.feature_dim)).astype(np.float32)
    for each in viewed(eye, images):
        assert each.activations is not None
        maps = class_maps(each.activations, weights)
        assert maps.shape == (len(each.keys), 3, *each.activations.shape[2:])
        expected = each.features @ weights[0].T
        np.testing.assert_allclose(maps.mean(axis=(2, 3)), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_view_has_the_vectors_of_an_embedding(images: list[np.ndarray]) -> None:
    eye = embedder("resnet18:size=64")
    batches = viewed(eye, images)
    assert [key for each in batches for key in each.keys] == [0, 1, 2]
    np.testing.assert_array_equal(np.concatenate([each.features for each in batches]), eye.embed(images))
    for each in batches:
        np.testing.assert_array_equal(each.pixels, np.stack([images[key] for key in each.keys]))


def test_grad_cam_is_what_autograd_gives(images: list[np.ndarray]) -> None:
    """Selvaraju et al.'s formula by the book: gradients of the score over each channel's map, through the pooling."""
    eye = embedder("resnet18:size=64", precision=Precision.FP32)
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(512, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    (each, _) = viewed(eye, images)
    activations = each.activations.clone().requires_grad_()
    scores = head(activations.mean(dim=(2, 3)))
    slopes = []
    for row in range(2):
        (gradient,) = torch.autograd.grad(scores[:, row].sum(), activations, retain_graph=True)
        # The mean of a map hands its gradient back in equal parts; alpha is their sum over the places here.
        slopes.append(gradient.sum(dim=(2, 3)))
    by_the_book = torch.stack([(alpha[:, :, None, None] * each.activations).sum(1) for alpha in slopes], 1)
    features = torch.from_numpy(each.features).requires_grad_()
    weights = torch.stack([torch.autograd.grad(head(features)[:, row].sum(), features)[0] for row in range(2)], 1)
    np.testing.assert_allclose(
        class_maps(each.activations, weights.numpy()), by_the_book.detach(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("pool", ["max", "lse"])
def test_other_poolings_hand_back_as_much(pool: str, images: list[np.ndarray]) -> None:
    """What a pooling's gradient sums up to over the places is 1, whichever it is: no backward pass is needed."""
    backbone = get_backbone(f"simple_cnn:pool={pool},size=64").build()
    activations = torch.rand(2, 128, 8, 8, requires_grad=True)
    backbone.pool(activations).sum().backward()
    assert activations.grad is not None
    np.testing.assert_allclose(activations.grad.sum(dim=(2, 3)), 1, rtol=1e-4)


def test_weights_of_each_image_are_its_own() -> None:
    activations = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).reshape(2, 3, 2, 2)
    weights = np.zeros((2, 1, 3), np.float32)
    weights[0, 0, 0], weights[1, 0, 2] = 1, 2
    maps = class_maps(activations, weights)
    np.testing.assert_array_equal(maps[0, 0], activations[0, 0])
    np.testing.assert_array_equal(maps[1, 0], 2 * activations[1, 2])


def test_a_backbone_without_a_map_is_told(images: list[np.ndarray]) -> None:
    eye = embedder("timm:vit_tiny_patch16_224:size=64")
    (each, *_) = viewed(eye, images)
    assert each.activations is None
    with pytest.raises(FeaturizerError, match=r"pool=own.*method=occlusion"):
        class_maps(each.activations, np.zeros((1, 1, eye.feature_dim), np.float32))


def test_damaged_images_are_told_and_cost_no_other_its_map(images: list[np.ndarray]) -> None:
    def decode(image: np.ndarray | None) -> np.ndarray:
        if image is None:
            raise FeaturizerError("damaged")
        return image

    eye = embedder("resnet18:size=64")
    batches = list(eye.view_stream(enumerate([images[0], None, images[2]]), decode))
    assert [key for each in batches for key in each.keys] == [0, 2]
    assert [key for each in batches for key in each.damaged] == [1]
    assert all(len(each.activations) == len(each.keys) == len(each.pixels) for each in batches)


def test_occlusion_finds_the_place_that_the_score_hangs_on() -> None:
    """A score that is the brightness of one cell falls when that cell is hidden, and where else is indifferent."""
    images = np.full((2, 70, 70), 10, np.uint8)
    images[0, 20:30, 50:60] = 250
    images[1, 40:50, 0:10] = 250

    def score(copies: np.ndarray) -> np.ndarray:
        first = copies[:, 20:30, 50:60].mean(axis=(1, 2), dtype=float)
        second = copies[:, 40:50, 0:10].mean(axis=(1, 2), dtype=float)
        return np.stack([first, second], axis=1)

    maps = occlusion_maps(images, score)
    assert maps.shape == (2, 2, 7, 7)
    assert np.unravel_index(maps[0, 0].argmax(), (7, 7)) == (2, 5)
    assert np.unravel_index(maps[1, 1].argmax(), (7, 7)) == (4, 0)
    assert maps[0, 0, 6, 0] == 0
    # What is not there can't be hidden: grey in its place makes the score rise.
    assert maps[0, 1].min() < 0


@pytest.mark.parametrize("side", [64, 61])
def test_occlusion_hides_nothing_for_long(side: int) -> None:
    """The images that were handed over stay as they were, and every pixel is hidden in some copy."""
    images = np.random.default_rng(0).integers(0, 256, (3, side, side), dtype=np.uint8)
    before, hidden = images.copy(), np.zeros((side, side), bool)

    def score(copies: np.ndarray) -> np.ndarray:
        nonlocal hidden
        hidden |= (copies != copies[:1]).any(axis=0)
        return np.zeros((len(copies), 1))

    assert (occlusion_maps(images, score) == 0).all()
    np.testing.assert_array_equal(images, before)
    assert hidden.all()


@given(
    hnp.arrays(np.float32, (2, 2, 3, 4), elements=st.floats(-100, 100, width=32)),
    st.sampled_from(Method),
)
def test_heat_is_between_0_and_1_and_reaches_both_or_says_nothing(maps: np.ndarray, method: Method) -> None:
    pictures = heat(maps, method, 24)
    assert pictures.shape == (2, 2, 24, 24)
    assert pictures.min() >= 0
    for picture in pictures.reshape(4, -1):
        assert picture.max() == pytest.approx(1) or (picture == 0).all()
        if method is Method.CAM:
            assert picture.min() == 0


def test_what_speaks_against_a_class_is_cold_but_in_cam() -> None:
    against = -np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4) - 1
    assert (heat(against, Method.GRAD_CAM, 8) == 0).all()
    assert heat(against, Method.CAM, 8)[0, 0, 0, 0] == 1
    flat = np.full((1, 1, 4, 4), 3.0, np.float32)
    assert (heat(flat, Method.CAM, 8) == 0).all()
    # For the class everywhere alike: hot everywhere, and so nowhere in particular.
    assert (heat(flat, Method.GRAD_CAM, 8) == 1).all()


def test_heat_is_where_the_map_is() -> None:
    maps = np.zeros((1, 1, 7, 7), np.float32)
    maps[0, 0, 1, 5] = 2
    picture = heat(maps, Method.GRAD_CAM, 70)[0, 0]
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert abs(row - 14.5) <= 1
    assert abs(column - 54.5) <= 1
