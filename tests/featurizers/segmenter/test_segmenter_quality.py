"""Quality: it ranks boxes by their overlap with the true ones, and is fitted on views whose truth is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr

from featurizers.errors import FeaturizerError
from featurizers.segmenter.calibration import Kind, Trials, fit_quality, judge_quality, try_views
from featurizers.segmenter.network import SegmenterNet
from featurizers.segmenter.quality import Quality
from featurizers.segmenter.shape import TRAITS
from featurizers.segmenter.training import Example


def made_up(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Traits of unlike scales, and overlaps that fall with two of them, bent."""
    rng = np.random.default_rng(seed)
    traits = rng.random((count, len(TRAITS))) * np.geomspace(0.1, 10, len(TRAITS))
    scaled = traits / np.geomspace(0.1, 10, len(TRAITS))
    overlaps = 1 - 0.5 * scaled[:, 0] ** 2 - 0.4 * scaled[:, 1] * scaled[:, 2]
    return traits, overlaps.clip(0, 1)


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


def test_views_are_tried_with_their_truth(network: SegmenterNet, examples: Sequence[Example]) -> None:
    tried, again = (try_views(network, examples[:2], seed=3) for _ in range(2))
    assert tried.traits.shape == (len(tried.overlaps), len(TRAITS))
    assert Counter(tried.kinds) == {str(kind): 2 * {Kind.VIEW: 12, Kind.PART: 2}.get(kind, 1) for kind in Kind}
    assert (tried.overlaps[tried.kinds == Kind.NO_CHEST] == 0).all()
    assert (tried.overlaps[~tried.found] == 0).all()
    assert ((tried.overlaps >= 0) & (tried.overlaps <= 1)).all()
    # The first two are the radiographs as they are, which the network knows.
    assert tried.overlaps[:2].min() > 0.6
    np.testing.assert_array_equal(tried.traits, again.traits)
    assert not np.array_equal(tried.overlaps, try_views(network, examples[:2], seed=4).overlaps)


def test_trust_is_counted_by_kind_of_view() -> None:
    kinds = np.array([str(Kind.PLAIN)] * 4 + [str(Kind.NO_CHEST)] * 2)
    traits = np.zeros((6, len(TRAITS)))
    traits[:, 0] = (0.95, 0.9, 0.8, 0.2, 0.9, np.nan)  # the quality of each, if the first trait tells it
    overlaps = np.array([0.9, 0.6, 0.7, 0.3, 0.0, 0.0])
    trust = judge_quality(Trials(kinds, traits, overlaps), SimpleNamespace(of=lambda traits: traits[0]), 0.75)
    told = {each.kind: (each.views, each.trusted, each.wrong) for each in trust}
    assert told[Kind.PLAIN] == (4, 3, 1)
    assert told[Kind.NO_CHEST] == (2, 1, 1)
    assert told[Kind.TURNED] == (0, 0, 0)


def test_a_network_that_finds_nothing_has_no_quality() -> None:
    nothing = Trials(np.array([str(Kind.PLAIN)] * 30), np.full((30, len(TRAITS)), np.nan), np.zeros(30))
    with pytest.raises(FeaturizerError, match="train for more steps"):
        fit_quality(nothing, seed=0)


def test_where_there_is_no_lung_every_box_is_wrong(network: SegmenterNet, examples: Sequence[Example]) -> None:
    nobody = [replace(each, lungs=np.zeros_like(each.lungs)) for each in examples[:1]]
    tried = try_views(network, nobody, seed=0)
    assert len(tried.overlaps) > 0
    assert (tried.overlaps == 0).all()
