"""Training the segmenter: it learns, hides what nobody could tell, and goes on where it was interrupted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
import torch

from featurizers.segmenter.network import MAP_SIDE, SIDE, SegmenterNet
from featurizers.segmenter.randomise import Batch
from featurizers.segmenter.training import (
    Example,
    Recipe,
    Trainer,
    collate,
    example,
    mean_dice,
    segmentation_loss,
)

SHORT = Recipe(steps=6, batch=3, seed=5)


def mask_of(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(100, 200) bool; boxes as top, bottom, left, right."""
    mask = np.zeros((100, 200), dtype=np.bool_)
    for top, bottom, left, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = (20, 80, 20, 80), (30, 70, 120, 180)


def prepared(mask: np.ndarray, counted: np.ndarray | None = None) -> Example | None:
    everywhere = np.ones_like(mask) if counted is None else counted
    return example(np.where(mask, 40, 200).astype(np.uint8), mask, everywhere)


def always(answer: float) -> SegmenterNet:
    """A network that says lung everywhere, or nowhere."""
    network = SegmenterNet().eval()
    with torch.no_grad():
        network.out.weight.zero_()
        network.out.bias.fill_(answer)
    return network


@pytest.mark.parametrize("boxes", [(LEFT, RIGHT), (RIGHT, LEFT)])
def test_each_lung_has_its_own_map_the_left_one_first(boxes: Sequence[tuple[int, int, int, int]]) -> None:
    one = prepared(mask_of(*boxes))
    assert one is not None
    assert one.lungs.shape == (2, SIDE, SIDE)
    assert one.image.shape == one.counted.shape == (SIDE, SIDE)
    assert one.image.dtype == one.lungs.dtype == np.uint8
    assert one.lungs[0, SIDE // 2, SIDE // 4] == one.lungs[1, SIDE // 2, 3 * SIDE // 4] == 255
    assert one.lungs[0, :, SIDE // 2 :].max() == one.lungs[1, :, : SIDE // 2].max() == 0
    assert one.lungs[0].mean() / 255 == pytest.approx(60 * 60 / 20_000, abs=0.01)
    assert one.image[SIDE // 2, SIDE // 4] == 40
    assert one.counted.all()


@pytest.mark.parametrize(
    "boxes",
    [((20, 80, 20, 101), (20, 80, 100, 180)), (LEFT,), (LEFT, (50, 55, 120, 125)), ()],
    ids=["touching", "one", "one-and-a-speck", "none"],
)
def test_lungs_that_can_not_be_told_apart_are_left_out(boxes: Sequence[tuple[int, int, int, int]]) -> None:
    assert prepared(mask_of(*boxes)) is None


def test_a_speck_beside_two_lungs_is_left_away() -> None:
    one = prepared(mask_of(LEFT, RIGHT, (2, 8, 95, 100)))
    assert one is not None
    assert one.lungs[:, : SIDE // 8].max() == 0


def test_where_the_annotator_could_not_tell_is_kept() -> None:
    one = prepared(mask_of(LEFT, RIGHT), ~mask_of((0, 100, 100, 200)))
    assert one is not None
    assert one.counted[:, : SIDE // 2 - 1].all()
    assert not one.counted[:, SIDE // 2 + 1 :].any()


def test_loss_falls_and_lungs_are_found(trained: tuple[SegmenterNet, list[float]], examples: Sequence[Example]) -> None:
    network, losses = trained
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert mean_dice(network, examples) > 0.6
    assert not network.training


def test_phantoms_are_mixed_in_by_their_share(examples: Sequence[Example]) -> None:
    losses = {
        share: list(islice(Trainer(examples[:3], examples[3:], Recipe(steps=3, batch=4, phantoms=share)).run(), 2))
        for share in (0.0, 0.5)
    }
    alone = list(islice(Trainer(examples[:3], [], Recipe(steps=3, batch=4, phantoms=0.5)).run(), 2))
    assert losses[0.0] == alone != losses[0.5]


def test_a_training_taken_up_again_goes_on_as_if_never_interrupted(examples: Sequence[Example]) -> None:
    through = Trainer(examples, examples[:2], SHORT)
    expected = list(through.run())
    broken = Trainer(examples, examples[:2], SHORT)
    begun = list(islice(broken.run(), 2))
    kept = io.BytesIO()
    torch.save(broken.state(), kept)
    kept.seek(0)
    taken_up = Trainer(examples, examples[:2], SHORT)
    taken_up.restore(torch.load(kept, weights_only=True))
    assert taken_up.step == 2
    assert [*begun, *taken_up.run()] == expected
    assert taken_up.step == SHORT.steps
    for name, tensor in through.shadow.state_dict().items():
        assert torch.equal(taken_up.shadow.state_dict()[name], tensor), name


def test_another_seed_is_another_training(examples: Sequence[Example]) -> None:
    first, same, other = (next(Trainer(examples, [], Recipe(steps=3, batch=2, seed=seed)).run()) for seed in (0, 0, 1))
    assert first == same != other


def batch_of_two() -> Batch:
    one, other = prepared(mask_of(LEFT, RIGHT)), prepared(mask_of((10, 90, 10, 90), (10, 90, 110, 190)))
    assert one is not None
    assert other is not None
    return collate([one, other])


def test_what_the_annotator_could_not_tell_costs_nothing() -> None:
    logits = torch.randn(2, 2, MAP_SIDE, MAP_SIDE, generator=torch.Generator().manual_seed(0))
    batch = batch_of_two()
    batch.counted[:, :, 40:120, 100:160] = 0
    hidden, shown = batch.lungs.clone(), batch.lungs.clone()
    hidden[:, :, 40:120, 100:160] = 1 - hidden[:, :, 40:120, 100:160]
    shown[:, :, 0:20, 0:20] = 1
    loss = segmentation_loss(logits, batch)
    assert segmentation_loss(logits, Batch(batch.images, hidden, batch.counted)) == loss
    assert segmentation_loss(logits, Batch(batch.images, shown, batch.counted)) != loss
    logits[:, :, 20:60, 50:80] = 30
    assert segmentation_loss(logits, batch) == pytest.approx(float(loss))


def test_the_truth_costs_least() -> None:
    batch = batch_of_two()
    truth = torch.nn.functional.avg_pool2d(batch.lungs, SIDE // MAP_SIDE) * 40 - 20
    assert segmentation_loss(truth, batch) < 0.1
    assert segmentation_loss(truth.flip(1), batch) > 1
    assert segmentation_loss(-truth, batch) > 1


def test_views_without_lungs_or_all_of_them_ignored_have_a_loss() -> None:
    batch = batch_of_two()
    logits = torch.zeros(2, 2, MAP_SIDE, MAP_SIDE)
    empty = segmentation_loss(logits, Batch(batch.images, torch.zeros_like(batch.lungs), batch.counted))
    assert float(empty) == pytest.approx(np.log(2))
    assert segmentation_loss(logits, Batch(batch.images, batch.lungs, torch.zeros_like(batch.counted))) == 0


def test_mean_dice_is_the_mean_over_examples_of_both_lungs() -> None:
    pair = prepared(mask_of(LEFT, RIGHT)), prepared(mask_of((0, 100, 0, 90), (0, 100, 110, 200)))
    examples = [one for one in pair if one is not None]
    shares = [float((one.lungs.max(axis=0) >= 128).mean()) for one in examples]
    expected = np.mean([2 * share / (1 + share) for share in shares])
    assert mean_dice(always(20), examples) == pytest.approx(expected)
    assert mean_dice(always(-20), examples) == 0


def test_mean_dice_leaves_out_what_the_annotator_could_not_tell() -> None:
    one = prepared(mask_of((0, 100, 0, 90), (0, 100, 110, 200)), mask_of((0, 100, 0, 80), (0, 100, 120, 200)))
    assert one is not None
    assert mean_dice(always(20), [one]) == 1


def test_mean_dice_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        mean_dice(always(20), [])
