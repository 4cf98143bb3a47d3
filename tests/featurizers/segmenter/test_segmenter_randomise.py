"""Random views: repeatable, in range, and always with the truth that belongs to the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featurizers.segmenter.randomise import Batch, Randomiser

SIDE = 96
COUNT = 48


def ellipse(x: float, y: float, width: float, height: float) -> torch.Tensor:
    """(SIDE, SIDE), 0 to 1 across a soft edge; all in fractions of the side."""
    at = (torch.arange(SIDE) + 0.5) / SIDE
    radius = (((at[None, :] - x) / width) ** 2 + ((at[:, None] - y) / height) ** 2).sqrt()
    return ((1 - radius) * 12 + 0.5).clamp(0, 1)


def chests(count: int = COUNT) -> Batch:
    """Chests whose lung on the image's left is much the larger one, and which nobody could tell on the right."""
    lungs = torch.stack([ellipse(0.3, 0.5, 0.14, 0.3), ellipse(0.7, 0.5, 0.08, 0.15)])
    image = 0.75 - 0.6 * lungs.sum(dim=0)
    counted = (lungs[1] < 0.01).float()
    return Batch(
        image[None, None].repeat(count, 1, 1, 1),
        lungs[None].repeat(count, 1, 1, 1),
        counted[None, None].repeat(count, 1, 1, 1),
    )


@pytest.fixture(scope="module")
def views() -> Batch:
    return Randomiser(3).view(chests())


def area(lung: torch.Tensor) -> float:
    return float((lung > 0.5).sum())


def whole(lungs: torch.Tensor) -> bool:
    """Whether both lungs show, and neither is cut."""
    border = torch.cat([lungs[:, 0], lungs[:, -1], lungs[..., 0], lungs[..., -1]], dim=1)
    return min(area(lung) for lung in lungs) > 20 and border.max() < 0.1


def test_the_same_seed_gives_the_same_views(views: Batch) -> None:
    again, other = Randomiser(3).view(chests()), Randomiser(4).view(chests())
    for name in ("images", "lungs", "counted"):
        assert torch.equal(getattr(again, name), getattr(views, name))
        assert not torch.equal(getattr(other, name), getattr(views, name))


def test_views_go_on_and_leave_global_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    randomiser, batch = Randomiser(0), chests(4)
    assert not torch.equal(randomiser.view(batch).images, randomiser.view(batch).images)
    assert torch.equal(torch.rand(3), expected)


def test_the_batch_given_is_not_changed() -> None:
    batch, copy = chests(16), chests(16)
    Randomiser(0).view(batch)
    assert all(torch.equal(getattr(batch, name), getattr(copy, name)) for name in ("images", "lungs", "counted"))


def test_shapes_types_and_ranges_stay(views: Batch) -> None:
    plain = chests()
    for name in ("images", "lungs", "counted"):
        view = getattr(views, name)
        assert view.shape == getattr(plain, name).shape
        assert view.dtype == torch.float32
        assert torch.isfinite(view).all()
    assert views.lungs.min() >= 0
    assert views.lungs.max() <= 1
    assert set(views.counted.unique().tolist()) == {0.0, 1.0}
    # Grain, tubes and fog reach a little beyond the film's range.
    assert views.images.min() > -1
    assert views.images.max() < 3


def test_every_view_is_another_one(views: Batch) -> None:
    assert len(torch.unique(views.lungs.flatten(1), dim=0)) > 0.9 * COUNT
    assert len(torch.unique(views.images.flatten(1), dim=0)) == COUNT


def test_the_truth_moves_with_the_image(views: Batch) -> None:
    shown = [
        (image.flatten(), lungs.sum(dim=0).flatten())
        for image, lungs in zip(views.images, views.lungs, strict=True)
        if whole(lungs)
    ]
    others = [lungs for _, lungs in [*shown[1:], shown[0]]]
    fits = [abs(np.corrcoef(image, lungs)[0, 1]) for image, lungs in shown]
    misfits = [abs(np.corrcoef(image, lungs)[0, 1]) for (image, _), lungs in zip(shown, others, strict=True)]
    assert len(shown) > COUNT / 4
    assert np.median(fits) > 0.75
    assert np.median(fits) > np.median(misfits) + 0.2


def test_a_mirrored_view_swaps_the_lungs(views: Batch) -> None:
    columns = torch.arange(SIDE)
    shown = [lungs for lungs in views.lungs if whole(lungs)]
    for left, right in shown:
        left_at, right_at = ((lung.sum(dim=0) * columns).sum() / lung.sum() for lung in (left, right))
        assert left_at < right_at
    mirrored = np.mean([area(left) < area(right) for left, right in shown])
    assert 0.2 < mirrored < 0.8


def test_what_nobody_could_tell_moves_with_its_lung(views: Batch) -> None:
    for lungs, counted in zip(views.lungs, views.counted[:, 0], strict=True):
        if whole(lungs):
            small, large = sorted(lungs, key=area)
            assert counted[small > 0.9].mean() < 0.05
            assert counted[large > 0.9].mean() > 0.95


def test_a_few_views_show_no_lung_and_say_so() -> None:
    empty = [float(view.amax()) == 0 for seed in range(6) for view in Randomiser(seed).view(chests()).lungs]
    assert 0 < np.mean(empty) < 0.1


def test_a_radiograph_without_lungs_is_drawn_all_the_same() -> None:
    plain = chests(16)
    view = Randomiser(1).view(Batch(plain.images, torch.zeros_like(plain.lungs), torch.ones_like(plain.counted)))
    assert torch.isfinite(view.images).all()
    assert (view.lungs == 0).all()
    assert (view.counted == 1).all()


@pytest.mark.parametrize("seed", range(12))
def test_a_batch_of_one_of_which_most_steps_choose_nobody(seed: int) -> None:
    view = Randomiser(seed).view(chests(1))
    assert view.images.shape == (1, 1, SIDE, SIDE)
    assert torch.isfinite(view.images).all()
