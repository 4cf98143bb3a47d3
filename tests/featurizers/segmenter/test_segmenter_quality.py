"""Quality: it ranks boxes by their overlap, is fitted on views whose truth is known, and says from where to trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from featurizers.segmenter.calibration import Trials, trusted_from, try_views
from featurizers.segmenter.network import SegmenterNet
from featurizers.segmenter.quality import Quality
from featurizers.segmenter.shape import TRAITS
from featurizers.segmenter.training import Example

#: An IoU below it is a wrong box.
WRONG = 0.7


def made_up(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Traits of unlike scales, and overlaps that fall with two of them, bent."""
    rng = np.random.default_rng(seed)
    traits = rng.random((count, len(TRAITS))) * np.geomspace(0.1, 10, len(TRAITS))
    scaled = traits / np.geomspace(0.1, 10, len(TRAITS))
    overlaps = 1 - 0.5 * scaled[:, 0] ** 2 - 0.4 * scaled[:, 1] * scaled[:, 2]
    return traits, overlaps.clip(0, 1)


def of_first_trait() -> Quality:
    """A quality that grows with the first trait alone: 1 / (1 + exp(-8 tanh t))."""
    inward = np.zeros((1, len(TRAITS)))
    inward[0, 0] = 1
    nothing, one = np.zeros(len(TRAITS)), np.ones(len(TRAITS))
    return Quality(nothing, one, inward, np.zeros(1), np.array([8.0]), np.zeros(1))


def trials(told: Sequence[float], overlaps: Sequence[float]) -> Trials:
    """Trials to which `of_first_trait` gives these qualities."""
    at = np.asarray(told)
    traits = np.zeros((len(at), len(TRAITS)))
    traits[:, 0] = np.arctanh(np.log(at / (1 - at)) / 8)
    return Trials(traits, np.asarray(overlaps))


@pytest.fixture(scope="module")
def fitted() -> Quality:
    return Quality.fit(*made_up(0), seed=0)


def test_a_fit_ranks_and_predicts_unseen_boxes(fitted: Quality) -> None:
    traits, overlaps = made_up(1)
    told = np.array([fitted.of(each) for each in traits])
    assert spearmanr(told, overlaps).statistic > 0.97
    assert np.abs(told - overlaps).mean() < 0.03
    assert ((told >= 0) & (told <= 1)).all()


def test_a_fit_is_repeatable_and_survives_its_arrays(fitted: Quality) -> None:
    again, traits = Quality.fit(*made_up(0), seed=0), made_up(2)[0][0]
    assert again.of(traits) == fitted.of(traits) == Quality(**fitted.arrays()).of(traits)


def test_a_trait_that_never_changed_breaks_nothing() -> None:
    traits, overlaps = made_up(0, 40)
    traits[:, 4] = 0.25
    assert 0 <= Quality.fit(traits, overlaps, seed=0).of(traits[0]) <= 1


@pytest.mark.parametrize(
    ("told", "overlaps", "expected"),
    [
        ([0.2, 0.5, 0.9], [0.8, 0.9, 0.9], 0.0),
        ([0.3, 0.305, 0.9], [0.9, 0.1, 0.9], 0.31),
        ([0.2, 0.6, 0.995], [0.9, 0.9, 0.1], 1.0),
        ([0.9] * 198 + [0.1] * 2, [0.9] * 198 + [0.0] * 2, 0.0),
        ([0.9] * 196 + [0.1] * 4, [0.9] * 196 + [0.0] * 4, 0.11),
        ([0.4] * 3, [WRONG - 0.01] * 3, 0.41),
        ([0.4] * 3, [WRONG] * 3, 0.0),
    ],
    ids=["all-right", "a-wrong-one-low", "a-wrong-one-at-the-top", "one-in-a-hundred", "two", "all-wrong", "limit"],
)
def test_boxes_are_trusted_from_where_one_in_a_hundred_is_wrong(
    told: list[float], overlaps: list[float], expected: float
) -> None:
    assert trusted_from(trials(told, overlaps), of_first_trait()) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0, 1)), min_size=1, max_size=40))
def test_the_trusted_ones_are_right_and_no_lower_hundredth_would_do(views: list[tuple[float, float]]) -> None:
    given_, overlaps = (np.array(each) for each in zip(*views, strict=True))
    some = trials(given_, overlaps)
    lowest = trusted_from(some, of_first_trait())
    told = np.array([of_first_trait().of(each) for each in some.traits])
    failing = [np.mean(overlaps[told >= each] < WRONG) if (told >= each).any() else 0 for each in np.arange(101) / 100]
    assert failing[round(lowest * 100)] <= 0.01
    assert all(share > 0.01 for share in failing[: round(lowest * 100)])


def test_views_are_tried_with_their_truth(network: SegmenterNet, examples: Sequence[Example]) -> None:
    tried, again = (try_views(network, examples[:2], seed=3) for _ in range(2))
    assert tried.traits.shape == (len(tried.overlaps), len(TRAITS))
    assert 20 <= len(tried.overlaps) <= 26
    assert ((tried.overlaps >= 0) & (tried.overlaps <= 1)).all()
    # The first two are the radiographs as they are, which the network knows.
    assert tried.overlaps[:2].min() > 0.6
    np.testing.assert_array_equal(tried.traits, again.traits)
    assert not np.array_equal(tried.overlaps, try_views(network, examples[:2], seed=4).overlaps)


def test_where_there_is_no_lung_every_box_is_wrong(network: SegmenterNet, examples: Sequence[Example]) -> None:
    nobody = [replace(each, lungs=np.zeros_like(each.lungs)) for each in examples[:1]]
    tried = try_views(network, nobody, seed=0)
    assert len(tried.overlaps) > 0
    assert (tried.overlaps == 0).all()
