"""Crops to vectors: one vector per image whatever its company, damaged crops told, and a reader that stays ahead."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from featurizers.backbones import Weights, get_backbone, load_weights
from featurizers.crops import decode_png, encode_png
from featurizers.devices import can_compile
from featurizers.embedder import BATCH_SIZE, Embedded, Embedder, embed, fit
from featurizers.errors import FeaturizerError
from featurizers.extractor import Precision, Storage
from featurizers.phantoms import draw_phantom
from featurizers.stages import Stages

SIZE = 224
BATCH = 2
DAMAGED = b"damaged"

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(get_backbone("resnet50"), "random", seed=1)


@pytest.fixture(scope="module")
def embedder(weights: Weights) -> Embedder:
    return Embedder("resnet50", weights, batch_size=BATCH)


@pytest.fixture(scope="module")
def images() -> list[UInt8Array]:
    """Five phantoms of the backbone's size: two batches and a half."""
    return [draw_phantom(seed, size=(SIZE, SIZE)).pixels for seed in range(5)]


@pytest.fixture(scope="module")
def vectors(embedder: Embedder, images: list[UInt8Array]) -> Float32Array:
    return embedder.embed(images)


@pytest.fixture(scope="module")
def fp32_vectors(weights: Weights, images: list[UInt8Array]) -> Float32Array:
    return Embedder("resnet50", weights, precision=Precision.FP32, batch_size=BATCH).embed(images)


def assert_close(found: Float32Array, expected: Float32Array) -> None:
    """The stated tolerance of law 3 for the same image at another place: 1e-3 of the largest activation.

    Two phantoms differ by 0.05 of it and more; on the CPUs tried so far the vectors are equal bit by bit.
    """
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * float(np.abs(expected).max()))


def assert_same_direction(found: Float32Array, expected: Float32Array) -> None:
    """Cosine of at least 0.999 with its own reference, and far nearer to it than to any other image's.

    Untrained vectors of different phantoms have cosines of up to 0.9997, so that 0.999 alone would say little.
    """
    cosines = unit(found) @ unit(expected).T
    own = np.diag(cosines)
    assert own.min() >= 0.999
    others = np.where(np.eye(len(own), dtype=bool), -1, cosines).max(axis=1)
    assert (1 - own < (1 - others) / 4).all()


def unit(rows: Float32Array) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


@pytest.mark.parametrize("number", [0, 1, BATCH + 1])
def test_every_image_has_one_float32_vector(number: int, embedder: Embedder, images: list[UInt8Array]) -> None:
    found = embedder.embed(images[:number])
    assert found.shape == (number, 2048)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert embedder.feature_dim == 2048


def test_different_images_have_different_vectors(vectors: Float32Array) -> None:
    for row, vector in enumerate(vectors):
        distances = np.abs(vectors - vector).max(axis=1) / np.abs(vector).max()
        assert (np.delete(distances, row) > 0.01).all()


def test_the_same_image_at_the_same_place_has_the_same_bits_whatever_its_neighbours(
    embedder: Embedder, images: list[UInt8Array]
) -> None:
    extremes = [np.zeros((SIZE, SIZE), np.uint8), np.full((SIZE, SIZE), 255, np.uint8)]
    found = embedder.embed([extremes[0], images[0], extremes[1], images[0], images[0]])
    np.testing.assert_array_equal(found[1], found[3])
    # Alone: what pads the batch is no neighbour either.
    np.testing.assert_array_equal(found[4], embedder.embed([images[0], images[3]])[0])


def test_a_vector_does_not_depend_on_place_or_order(
    embedder: Embedder, images: list[UInt8Array], vectors: Float32Array
) -> None:
    order = [4, 2, 1, 0, 3]
    assert_close(embedder.embed([images[index] for index in order]), vectors[order])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_vector_does_not_depend_on_the_batch_size(
    batch_size: int, weights: Weights, images: list[UInt8Array], vectors: Float32Array
) -> None:
    assert_close(Embedder("resnet50", weights, batch_size=batch_size).embed(images[:2]), vectors[:2])


def test_embedding_twice_gives_the_same_bits(
    embedder: Embedder, images: list[UInt8Array], vectors: Float32Array
) -> None:
    embedder.warm_up()
    np.testing.assert_array_equal(embedder.embed(images[:2]), vectors[:2])


def test_bf16_and_fp32_agree(vectors: Float32Array, fp32_vectors: Float32Array) -> None:
    assert_same_direction(vectors, fp32_vectors)
    assert not np.array_equal(vectors, fp32_vectors)


def test_fp32_gives_what_the_plain_network_gives(
    weights: Weights, images: list[UInt8Array], fp32_vectors: Float32Array
) -> None:
    """Preprocessing written down once more: grey to three channels, 0..1, ImageNet's mean and standard deviation."""
    network = get_backbone("resnet50").build().eval()
    network.load_state_dict(dict(weights.state), strict=False)
    channels = np.repeat(images[2][np.newaxis, :, :, np.newaxis] / 255, 3, axis=3)
    normalised = (channels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    with torch.no_grad():
        expected = network(torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    np.testing.assert_allclose(fp32_vectors[2:3], expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "name",
    ["simple_cnn:size=28", "resnet18:norm=image,size=64", "mobilenet_v3_small:pool=lse,size=64,transition=24"],
)
def test_every_backbone_embeds_what_its_plain_network_gives(name: str, images: list[UInt8Array]) -> None:
    """Fused, folded and frozen or not: repeat to the channels, normalise, and run the network as it was built."""
    spec = get_backbone(name)
    drawn = load_weights(spec, "random", seed=3)
    exact = Embedder(name, drawn, precision=Precision.FP32, batch_size=BATCH)
    found = exact.embed(images[:3])
    network = spec.build().eval()
    network.load_state_dict(dict(drawn.state), strict=False)
    grey = np.stack([fit(image, spec.input_size) for image in images[:3]])[:, np.newaxis] / 255
    if "norm=image" in name:
        grey = (grey - grey.mean(axis=(2, 3), keepdims=True)) / grey.std(axis=(2, 3), keepdims=True)
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (spec.mean, spec.std))
    normalised = (np.repeat(grey, spec.channels, axis=1) - mean) / std
    with torch.no_grad():
        expected = network(torch.from_numpy(normalised.astype(np.float32))).numpy()
    assert found.shape == (3, exact.feature_dim) == (3, spec.feature_dim)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
    halved = Embedder(name, drawn, batch_size=BATCH).embed(images[:3])
    np.testing.assert_allclose(halved, expected, rtol=0, atol=0.03 * float(np.abs(expected).max()))
    assert exact.extractor.backbone == spec.name


@pytest.mark.skipif(not can_compile(), reason="no C++ compiler on this machine")
def test_a_compiled_backbone_gives_the_same_vectors(
    weights: Weights, images: list[UInt8Array], vectors: Float32Array, fp32_vectors: Float32Array
) -> None:
    compiled = Embedder("resnet50", weights, batch_size=BATCH, compiled=True)
    compiled.warm_up()
    found = compiled.embed(images)
    assert_same_direction(found, fp32_vectors)
    assert_same_direction(found, vectors)
    # Compiled or not, the features belong to one table.
    assert compiled.extractor == Embedder("resnet50", weights).extractor


def test_compiling_without_a_compiler_is_told(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not can_compile()
    with pytest.raises(FeaturizerError, match=r"C\+\+ compiler.*compile=never"):
        Embedder("resnet50", weights, compiled=True)


def test_images_of_another_size_are_resized(embedder: Embedder, images: list[UInt8Array]) -> None:
    odd = draw_phantom(9, size=(300, 411)).pixels
    resized = np.asarray(Image.fromarray(odd).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(embedder.embed([odd, images[0]]), embedder.embed([resized, images[0]]))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50), st.integers(0, 255))
def test_fitting_keeps_a_flat_image_flat(height: int, width: int, size: int, level: int) -> None:
    fitted = fit(np.full((height, width), level, np.uint8), size)
    assert fitted.shape == (size, size)
    assert (fitted == level).all()


def test_an_image_that_fits_is_not_touched(images: list[UInt8Array]) -> None:
    assert fit(images[0], SIZE) is images[0]


def test_shrinking_averages_and_does_not_pick_pixels() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    shrunk = fit(stripes, 16)
    assert np.abs(shrunk[:, 2:-2].astype(int) - 127).max() <= 8


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (np.zeros((30, 30), np.float32), "float32"),
        (np.zeros((30, 30), np.uint16), "uint16"),
        (np.zeros((30, 30, 3), np.uint8), r"\(30, 30, 3\)"),
        (np.zeros(30, np.uint8), r"\(30,\)"),
    ],
    ids=["float", "uint16", "colour", "flat"],
)
def test_an_image_of_another_kind_is_told_by_its_index(
    wrong: UInt8Array, told: str, embedder: Embedder, images: list[UInt8Array]
) -> None:
    with pytest.raises(FeaturizerError, match=rf"image 3: .*{told}.*uint8 arrays \(height, width\)"):
        embedder.embed([*images[:3], wrong])


def test_an_image_that_is_no_array_is_told_by_its_index(embedder: Embedder) -> None:
    pillow_image: UInt8Array = Image.new("L", (30, 30))  # type: ignore[assignment]
    with pytest.raises(FeaturizerError, match=r"image 0: .*uint8 arrays \(height, width\)"):
        embedder.embed([pillow_image])


def test_the_notebook_call_gives_the_embedders_vectors(images: list[UInt8Array], vectors: Float32Array) -> None:
    assert_close(embed(images[:1], weights="random", seed=1), vectors[:1])
    assert embed([], weights="random").shape == (0, 2048)


def test_crops_that_were_never_stored_give_the_same_vectors(
    embedder: Embedder, images: list[UInt8Array], vectors: Float32Array
) -> None:
    batches = list(embedder.embed_stream(enumerate(images), np.asarray))
    assert [key for batch in batches for key in batch.keys] == list(range(5))
    assert [key for batch in batches for key in batch.damaged] == []
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), vectors)


def test_stored_crops_give_the_vectors_of_their_pixels(
    embedder: Embedder, images: list[UInt8Array], vectors: Float32Array
) -> None:
    pngs = [encode_png(image) for image in images]
    crops = [(f"id-{index}", png) for index, png in enumerate(pngs)]
    crops.insert(1, ("bad-0", DAMAGED))
    crops.insert(4, ("bad-1", pngs[0][: len(pngs[0]) // 2]))
    batches = list(embedder.embed_pngs(iter(crops)))
    assert [key for batch in batches for key in batch.keys] == [f"id-{index}" for index in range(5)]
    assert [key for batch in batches for key in batch.damaged] == ["bad-0", "bad-1"]
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), vectors)
    # Stored crops are lossless.
    np.testing.assert_array_equal(decode_png(pngs[4]), images[4])


def coloured_png() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("crop", [b"", DAMAGED, coloured_png()], ids=["empty", "no PNG", "colour"])
def test_only_damaged_crops_are_told_and_have_no_vector(crop: bytes, embedder: Embedder) -> None:
    (batch,) = embedder.embed_pngs([("bad", crop)])
    assert batch.keys == []
    assert (batch.damaged, batch.not_finite) == (["bad"], [])
    assert batch.features.shape == (0, 2048)


def test_no_crops_give_nothing(embedder: Embedder) -> None:
    assert list(embedder.embed_pngs([])) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(whole=st.lists(st.booleans(), max_size=5 * BATCH))
def test_every_crop_is_in_keys_or_in_failed_with_its_own_vector(
    whole: list[bool], embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The backbone's place is taken by the mean: the order of rows is what counts here.
    monkeypatch.setattr(embedder, "forward", lambda batch: batch.mean(axis=(1, 2), dtype=np.float32)[:, np.newaxis])
    crops = [
        (key, encode_png(np.full((SIZE, SIZE), key, np.uint8)) if good else DAMAGED) for key, good in enumerate(whole)
    ]
    batches: list[Embedded[int]] = list(embedder.embed_pngs(crops))
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [key for key, good in enumerate(whole) if good]
    assert [key for batch in batches for key in batch.damaged] == [key for key, good in enumerate(whole) if not good]
    assert [float(row[0]) for batch in batches for row in batch.features] == keys


def test_vectors_with_nan_are_failures(weights: Weights, images: list[UInt8Array]) -> None:
    bias = weights.state["layer4.2.bn3.bias"].clone()
    bias[7] = torch.nan
    broken = Embedder("resnet50", Weights("", {**weights.state, "layer4.2.bn3.bias": bias}), batch_size=BATCH)
    (batch,) = broken.embed_pngs([("a", encode_png(images[0])), ("b", encode_png(images[1]))])
    assert batch.keys == []
    assert (batch.damaged, batch.not_finite) == ([], ["a", "b"])
    assert batch.features.shape == (0, 2048)


def test_one_vector_with_infinity_costs_only_its_own_image(
    embedder: Embedder, images: list[UInt8Array], vectors: Float32Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(batch: UInt8Array) -> Float32Array:
        rows = vectors[: len(batch)].copy()
        rows[1, 100] = np.inf
        return rows

    monkeypatch.setattr(embedder, "forward", overflow)
    batch, last = embedder.embed_pngs([("0", encode_png(images[0])), ("1", encode_png(images[1])), ("a", DAMAGED)])
    assert batch.keys == ["0"]
    assert (batch.damaged, batch.not_finite) == ([], ["1"])
    assert (last.keys, last.damaged) == ([], ["a"])
    np.testing.assert_array_equal(batch.features, vectors[[0]])


def test_the_batch_is_halved_until_it_fits_the_memory(weights: Weights) -> None:
    sizes = [Embedder("resnet50", weights, memory_mb=memory).batch_size for memory in (None, 100, 40)]
    assert sizes[0] == BATCH_SIZE
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    with pytest.raises(FeaturizerError, match=r"one image of 224x224 takes about .* MB .*Raise memory_mb"):
        Embedder("resnet50", weights, memory_mb=1)


def test_float16_rounds_what_float32_gives_and_what_is_too_large_for_it_has_no_vector(
    embedder: Embedder, images: list[UInt8Array], vectors: Float32Array, weights: Weights
) -> None:
    rounded = Embedder("resnet50", weights, batch_size=BATCH, storage=Storage.FLOAT16)
    np.testing.assert_array_equal(rounded.embed(images[:2]), vectors[:2].astype(np.float16).astype(np.float32))
    assert rounded.extractor.fingerprint != embedder.extractor.fingerprint
    bias = weights.state["layer4.2.bn3.bias"].clone()
    bias[7] = 1e5
    large = Weights("", {**weights.state, "layer4.2.bn3.bias": bias})
    for storage, failed in ((Storage.FLOAT32, []), (Storage.FLOAT16, ["a"])):
        (batch,) = Embedder("resnet50", large, batch_size=BATCH, storage=storage).embed_pngs(
            [("a", encode_png(images[0]))]
        )
        assert batch.not_finite == failed


def test_the_stages_tell_what_was_done(weights: Weights, images: list[UInt8Array]) -> None:
    embedder = Embedder("resnet50", weights, batch_size=BATCH)
    before = Stages.copy_of(embedder.stages)
    assert before == Stages()
    list(embedder.embed_pngs([("bad", DAMAGED), *((str(n), encode_png(image)) for n, image in enumerate(images))]))
    spent = embedder.stages.since(before)
    assert (spent.images, spent.batches) == (6, 3)
    assert min(spent.read, spent.decode, spent.wait, spent.compute) > 0
    assert spent.copy == 0
    assert spent.gpu_utilisation is None
    assert spent + spent == Stages(**{name: 2 * value for name, value in vars(spent).items()})


def test_an_error_of_the_source_of_crops_reaches_the_caller(embedder: Embedder) -> None:
    def crops() -> Iterator[tuple[str, bytes]]:
        yield "a", DAMAGED
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(embedder.embed_pngs(crops()))


def test_the_device_is_checked_before_the_backbone_is_built(weights: Weights) -> None:
    with pytest.raises(FeaturizerError, match="cuda:99"):
        Embedder("resnet50", weights, device="cuda:99")


@pytest.mark.gpu
def test_a_gpu_gives_the_vectors_of_the_cpu(
    weights: Weights, images: list[UInt8Array], fp32_vectors: Float32Array
) -> None:
    for precision in Precision:
        found = Embedder("resnet50", weights, precision=precision, device="cuda", batch_size=BATCH).embed(images)
        assert_same_direction(found, fp32_vectors)


@pytest.mark.gpu
def test_many_batches_on_a_gpu_keep_their_order_and_their_own_vectors(weights: Weights) -> None:
    pngs = [(number, encode_png(draw_phantom(number, size=(SIZE, SIZE)).pixels)) for number in range(9 * BATCH + 1)]
    embedder = Embedder("resnet50", weights, device="cuda", batch_size=BATCH)
    expected = Embedder("resnet50", weights, batch_size=BATCH).embed([decode_png(png) for _, png in pngs])
    # One that is given up midway disturbs no later one.
    stream = embedder.embed_pngs(pngs)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    batches = list(embedder.embed_pngs(pngs))
    assert [key for batch in batches for key in batch.keys] == list(range(len(pngs)))
    assert_same_direction(np.concatenate([batch.features for batch in batches]), expected)
    assert min(embedder.stages.copy, embedder.stages.compute) > 0


@pytest.mark.gpu
def test_a_compiled_backbone_on_a_gpu_gives_the_same_vectors(
    weights: Weights, images: list[UInt8Array], fp32_vectors: Float32Array
) -> None:
    found = Embedder("resnet50", weights, device="cuda", batch_size=BATCH, compiled=True).embed(images)
    assert_same_direction(found, fp32_vectors)


@pytest.mark.gpu
def test_float32_on_a_gpu_is_float32(weights: Weights, images: list[UInt8Array], fp32_vectors: Float32Array) -> None:
    """TF32, which has 10 bits, would be a hundred times further away."""
    found = Embedder("resnet50", weights, precision=Precision.FP32, device="cuda", batch_size=BATCH).embed(images)
    np.testing.assert_allclose(found, fp32_vectors, rtol=0, atol=1e-4 * float(np.abs(fp32_vectors).max()))


def test_the_threads_asked_for_are_used(weights: Weights) -> None:
    Embedder("resnet50", weights, threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
