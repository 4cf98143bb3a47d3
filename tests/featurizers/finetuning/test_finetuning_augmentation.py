"""Augmentation: every image another view, within the settings, and the same by the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from featurizers.errors import TrainingError
from featurizers.finetuning.augmentation import Augmentation, Augmenter, augmented_copy

SIDE = 64
ALL = Augmentation(shift=0.1, rotate=10, zoom=(0.8, 1.2), flip=0.5, brightness=0.2, contrast=0.2, gamma=0.3, erase=0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 8, rows: int = SIDE, columns: int = SIDE) -> Tensor:
    return torch.rand(count, 1, rows, columns, generator=generator(99))


def bars(count: int, rows: int = SIDE, columns: int = SIDE) -> Tensor:
    """A bright, soft bar across the middle of each image, four times as long as wide, with a blunt right end."""
    x, y = torch.arange(columns) + 0.5 - columns / 2, torch.arange(rows) + 0.5 - rows / 2
    length = torch.where(x < 0, 10.0, 6.0)
    image = torch.exp(-((x / length) ** 2)[None, :] / 2 - ((y / 2.5) ** 2)[:, None] / 2)
    return image.expand(count, 1, rows, columns).clone()


def moments(images: Tensor) -> dict[str, Tensor]:
    """Per image, in pixels: where the bright part lies, how long it is, how it is turned, where its long end points."""
    rows, columns = images.shape[-2:]
    grey = images[:, 0].double()
    grey = grey / grey.sum((1, 2), keepdim=True)
    x, y = (torch.arange(columns) + 0.5)[None, None, :], (torch.arange(rows) + 0.5)[None, :, None]
    at_x, at_y = (grey * x).sum((1, 2)), (grey * y).sum((1, 2))
    dx, dy = x - at_x[:, None, None], y - at_y[:, None, None]
    xx, yy, xy = (grey * dx * dx).sum((1, 2)), (grey * dy * dy).sum((1, 2)), (grey * dx * dy).sum((1, 2))
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    along = dx * angle.cos()[:, None, None] + dy * angle.sin()[:, None, None]
    length = (grey * along**2).sum((1, 2)).sqrt()
    return {
        "x": at_x - columns / 2,
        "y": at_y - rows / 2,
        "angle": angle.rad2deg(),
        "length": length,
        "skew": (grey * along**3).sum((1, 2)) / length**3,
    }


def views(images: Tensor, seed: int = 0, **settings: object) -> Tensor:
    found: Tensor = Augmenter(Augmentation(**settings))(images, generator(seed))  # type: ignore[arg-type]
    return found


def fills(values: Tensor, low: float, high: float, slack: float) -> bool:
    """Whether values lie in a range and spread over all of it."""
    span = high - low
    inside = bool(((values >= low - slack) & (values <= high + slack)).all())
    return inside and float(values.min()) < low + 0.1 * span + slack and float(values.max()) > high - 0.1 * span - slack


@given(st.integers(0, 2**63), st.sampled_from([{"rotate": 20.0}, {"gamma": 0.5}, {"erase": 0.5}, None]))
def test_a_seed_decides_the_views_and_global_numbers_do_not(seed: int, settings: dict[str, float] | None) -> None:
    images = noise(3, 16, 16)
    augmenter = Augmenter(Augmentation(**settings) if settings else ALL)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augmenter(images, generator(seed))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(augmenter(images, generator(seed)), first)
    assert first.shape == images.shape
    assert first.dtype == torch.float32
    assert bool(((first >= 0) & (first <= 1 + 1e-6)).all())


def test_every_image_has_a_view_of_its_own_and_calls_go_on() -> None:
    images, augmenter, drawn = noise(1).repeat(16, 1, 1, 1), Augmenter(ALL), generator()
    seen = torch.cat([augmenter(images, drawn), augmenter(images, drawn)])
    assert len(torch.unique(seen.flatten(1), dim=0)) == 32


def test_images_are_left_as_they_are() -> None:
    images = noise()
    before = images.clone()
    views(images, brightness=0.5, contrast=0.5, gamma=0.5, erase=1.0)
    assert torch.equal(images, before)


def test_settings_that_change_nothing_give_the_images_themselves() -> None:
    images = noise()
    assert Augmenter(Augmentation())(images, generator()) is images


def test_shift_is_a_fraction_of_the_side_either_way() -> None:
    found = moments(views(bars(200), shift=0.1))
    for axis in "xy":
        centre = moments(bars(1))[axis]
        assert fills(found[axis] - centre, -0.1 * SIDE, 0.1 * SIDE, slack=0.2)
    assert abs(float(torch.corrcoef(torch.stack([found["x"], found["y"]]))[0, 1])) < 0.3


def test_rotate_is_in_degrees_either_way() -> None:
    found = moments(views(bars(200), rotate=30))
    assert fills(found["angle"], -30, 30, slack=0.5)
    assert found["length"].numpy() == pytest.approx(float(moments(bars(1))["length"]), rel=0.02)


def test_rotation_keeps_shapes_where_the_image_is_no_square() -> None:
    images = bars(100, rows=96, columns=64)
    found = moments(views(images, rotate=45))
    assert fills(found["angle"], -45, 45, slack=1)
    assert found["length"].numpy() == pytest.approx(float(moments(images)["length"][0]), rel=0.05)


def test_zoom_above_one_enlarges() -> None:
    found = moments(views(bars(200), zoom=(0.8, 1.3)))
    assert fills(found["length"] / moments(bars(1))["length"], 0.8, 1.3, slack=0.03)


def test_flip_changes_sides_with_its_probability() -> None:
    images = noise()
    torch.testing.assert_close(views(images, flip=1.0), images.flip(-1), atol=1e-4, rtol=0)
    skew = moments(views(bars(400), flip=0.25))["skew"]
    mirrored = skew.sign() != moments(bars(1))["skew"].sign()
    assert 0.18 < float(mirrored.double().mean()) < 0.32


def test_beyond_the_border_an_image_goes_on_as_it_ends() -> None:
    images = torch.full((20, 1, SIDE, SIDE), 0.6)
    torch.testing.assert_close(views(images, shift=0.4, rotate=90, zoom=(0.3, 1.0)), images)


def test_brightness_and_contrast_are_factors() -> None:
    images = noise(300, 8, 8) * 0.2 + 0.3
    ratio = views(images, brightness=0.2) / images
    assert fills(ratio[:, 0, 0, 0], 0.8, 1.2, slack=1e-4)
    torch.testing.assert_close(ratio, ratio[..., :1, :1].expand_as(ratio))
    contrast = views(images, contrast=0.3)
    torch.testing.assert_close(contrast.mean((1, 2, 3)), images.mean((1, 2, 3)))
    assert fills((contrast.std((1, 2, 3)) / images.std((1, 2, 3))), 0.7, 1.3, slack=1e-4)


def test_gamma_is_a_power_that_lightens_as_often_as_it_darkens() -> None:
    images = torch.full((400, 1, 4, 4), 0.5)
    power = views(images, gamma=0.5)[:, 0, 0, 0].log() / math.log(0.5)
    assert fills(power.log(), -math.log(1.5), math.log(1.5), slack=1e-4)
    assert 0.4 < float((power > 1).double().mean()) < 0.6


def test_exposure_stays_within_black_and_white() -> None:
    found = views(noise(50), brightness=1.0, contrast=1.0, gamma=1.0)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_erase_fills_a_rectangle_with_the_mean() -> None:
    images = noise(300)
    found = views(images, erase=0.5)
    changed = (found != images)[:, 0]
    share = changed.double().mean((1, 2))
    erased = share > 0
    assert 0.4 < float(erased.double().mean()) < 0.6
    assert float(share[erased].min()) > 0.01
    assert float(share.max()) < 0.36
    for image, view, where in zip(images[erased], found[erased], changed[erased], strict=True):
        rows, columns = where.any(1), where.any(0)
        assert torch.equal(where, rows[:, None] & columns[None, :])
        # One stretch of rows, one of columns.
        assert int(rows.diff().sum()) <= 2
        assert int(columns.diff().sum()) <= 2
        torch.testing.assert_close(view[0][where], image.mean().expand(int(where.sum())))
    blocks = changed[erased].reshape(-1, 4, SIDE // 4, 4, SIDE // 4)
    assert bool(blocks.any((0, 2, 4)).all()), "some part of the image is never erased"


def test_one_setting_does_not_change_what_another_draws() -> None:
    images = bars(20) / 2
    moved = views(images, shift=0.1)
    dimmed = views(images, shift=0.1, brightness=0.1)
    assert moments(dimmed)["x"].numpy() == pytest.approx(moments(moved)["x"].numpy(), abs=1e-3)


def test_processes_that_share_a_batch_see_the_views_of_one() -> None:
    images, augmenter = noise(9), Augmenter(ALL)
    whole = augmenter(images, generator(5))
    for places in (np.array([0, 2, 4, 6, 8]), np.array([7, 5, 3, 1])):
        part = augmenter(images[torch.from_numpy(places)], generator(5), places, 9)
        assert torch.equal(part, whole[torch.from_numpy(places)])


@pytest.mark.gpu
def test_views_on_a_device_are_those_of_the_cpu() -> None:
    images, augmenter = noise(), Augmenter(ALL)
    found = augmenter(images.cuda(), generator(5))
    assert found.is_cuda
    # An edge of what is erased may fall on the other side of a pixel's centre.
    off = (found.cpu() - augmenter(images, generator(5))).abs() > 1e-3
    assert float(off.float().mean()) < 0.01


def test_it_composes_with_transforms_v2() -> None:
    images, labels = noise(), torch.arange(8)
    expected = Augmenter(ALL)(images, generator(3))
    composed = v2.Compose([Augmenter(ALL, generator(3)), v2.Normalize([0.5], [0.25])])
    torch.testing.assert_close(composed(images), (expected - 0.5) / 0.25)
    found, same = Augmenter(ALL, generator(3))((images, labels))
    assert torch.equal(found, expected)
    assert same is labels


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"give it, or its call, a torch\.Generator"):
        Augmenter(ALL)(noise())


def test_copies_are_images_like_their_original() -> None:
    pixels = (noise(1)[0, 0] * 255).round().to(torch.uint8).numpy()
    before = pixels.copy()
    first, again, other = (augmented_copy(pixels, ALL, seed) for seed in (1, 1, 2))
    assert first.dtype == np.uint8
    assert first.shape == pixels.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(augmented_copy(pixels, Augmentation(), 1), pixels)
    assert np.array_equal(augmented_copy(pixels, Augmentation(flip=1.0), 1), pixels[:, ::-1])
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shift", 1.0),
        ("shift", float("nan")),
        ("rotate", -1.0),
        ("zoom", (1.2, 0.8)),
        ("zoom", (0.0, 1.0)),
        ("flip", 1.1),
        ("brightness", -0.1),
        ("contrast", 1.5),
        ("gamma", -1.0),
        ("erase", 2.0),
    ],
)
def test_values_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(TrainingError, match=f"{field}=.* is out of range: give "):
        Augmentation(**{field: value})  # type: ignore[arg-type]
