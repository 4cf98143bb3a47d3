"""Figures of places: overlaps as defined, counts as Wang et al. make them, intervals over patients."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from featurizers.crops import CropBox
from pipelines.localization_reports.figures import THRESHOLDS, Case, Finder, figures_of, lies_in, overlaps

WHOLE = CropBox(0, 0, 1, 1)


def boxes(*corners: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(corners, float).reshape(-1, 4)


def case(patient: str, finding: str, truth: np.ndarray, found: np.ndarray, peak: tuple[float, float] | None) -> Case:
    return Case("i", patient, finding, 0.5, truth, peak, found, CropBox(0.2, 0.2, 0.8, 1.0))


def test_overlaps_are_those_on_paper() -> None:
    iou, iobb = overlaps(boxes((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)), boxes((0.25, 0.25, 0.75, 0.75), (0, 0, 0.5, 0.5)))
    np.testing.assert_allclose(iou, [[1 / 7, 1], [1 / 7, 0]])
    np.testing.assert_allclose(iobb, [[0.25, 1], [0.25, 0]])


_EDGES = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda e: (min(e[0], e[2]), min(e[1], e[3]), max(e[0], e[2]) + 0.01, max(e[1], e[3]) + 0.01)
)


@given(st.lists(_EDGES, min_size=1, max_size=4), st.lists(_EDGES, min_size=1, max_size=4))
def test_overlaps_are_shares_and_iou_is_the_lower(found: list, truth: list) -> None:
    iou, iobb = overlaps(boxes(*found), boxes(*truth))
    assert iou.shape == iobb.shape == (len(found), len(truth))
    assert ((iou >= 0) & (iobb <= 1 + 1e-9) & (iou <= iobb + 1e-12)).all()
    np.testing.assert_allclose(iou, overlaps(boxes(*truth), boxes(*found))[0].T)
    np.testing.assert_allclose(np.diag(overlaps(boxes(*found), boxes(*found))[0]), 1)


def test_no_box_overlaps_nothing() -> None:
    assert overlaps(boxes(), boxes((0, 0, 1, 1)))[0].shape == (0, 1)
    assert not lies_in(None, boxes((0, 0, 1, 1)))
    assert lies_in((1.0, 0.0), boxes((0, 0, 1, 1)))


def test_figures_are_counted_by_hand() -> None:
    """Two images: of one, one true box of two is found (IoBB 1, IoU 0.25), beside a false one; of the other none."""
    cases = [
        case(
            "a",
            "Mass",
            boxes((0, 0, 0.4, 0.4), (0.6, 0.6, 1, 1)),
            boxes((0, 0, 0.2, 0.2), (0.4, 0, 0.6, 0.6)),
            (0.1, 0.1),
        ),
        case("b", "Mass", boxes((0.4, 0.4, 0.6, 0.6)), boxes(), None),
    ]
    figures = figures_of(cases, ("Nodule", "Mass"), resamples=100, seed=0)
    assert list(figures.by_class) == ["Mass"]
    mass = figures.by_class["Mass"]
    assert (mass.images, mass.boxes, mass.patients) == (2, 3, 2)
    head = mass.by_finder[Finder.HEAD]
    assert [figure.value for figure in head.iobb_accuracy] == pytest.approx([1 / 3] * 5)
    assert [figure.value for figure in head.iou_accuracy] == pytest.approx([1 / 3, 0, 0, 0, 0])
    assert [figure.value for figure in head.iobb_false] == pytest.approx([0.5] * 5)
    assert [figure.value for figure in head.iou_false] == pytest.approx([0.5, 1, 1, 1, 1])
    assert head.pointing.value == 0.5
    # The middle: IoBB 0.04 / 0.25 with the second image's box, and the corners of the first image's two boxes.
    centre = mass.by_finder[Finder.CENTRE]
    assert [figure.value for figure in centre.iobb_accuracy] == pytest.approx([1 / 3, 0, 0, 0, 0])
    assert centre.pointing.value == 0.5
    # The lungs: 0.08 / 0.48 with the second box of the first image, 0.04 / 0.48 with the others.
    lungs = mass.by_finder[Finder.LUNGS]
    assert lungs.pointing.value == 0.5
    assert [figure.value for figure in lungs.iobb_false] == pytest.approx([0.5, 1, 1, 1, 1])
    json.dumps(mass.as_dict(), allow_nan=False)


def test_the_mean_counts_every_class_the_same() -> None:
    hit, miss = boxes((0, 0, 1, 1)), boxes((0.9, 0.9, 1, 1))
    cases = [case(str(n), "Mass", hit, hit, (0.5, 0.5)) for n in range(9)]
    cases += [case(str(n), "Nodule", miss, miss, (0.5, 0.5)) for n in range(2)]
    figures = figures_of(cases, ("Mass", "Nodule"), resamples=200, seed=1)
    assert figures.mean[Finder.HEAD].pointing.value == 0.5
    assert figures.mean[Finder.HEAD].iou_accuracy[0].value == 1


def test_what_all_have_or_nobody_has_an_exact_interval() -> None:
    """No resample of nine hits has a miss; Clopper and Pearson tell how little nine patients say."""
    hit = boxes((0, 0, 1, 1))
    cases = [case(str(n), "Mass", hit, hit, (0.5, 0.5)) for n in range(9)]
    pointing = figures_of(cases, ("Mass",), resamples=100, seed=0).by_class["Mass"].by_finder[Finder.HEAD].pointing
    assert (pointing.value, pointing.high) == (1, 1)
    assert pointing.low == pytest.approx(beta.ppf(0.025, 9, 1))


def test_images_of_one_patient_are_not_many_patients() -> None:
    """Intervals are over patients: ten copies of an image tell no more than the image."""
    rng = np.random.default_rng(0)

    def drawn(patient: str) -> Case:
        x, y = rng.uniform(0, 0.7, 2)
        return case(patient, "Mass", boxes((x, y, x + 0.3, y + 0.3)), boxes((0.3, 0.3, 0.6, 0.6)), (0.45, 0.45))

    once = [drawn(str(number)) for number in range(20)]
    intervals = [
        figures_of(cases, ("Mass",), resamples=400, seed=0).by_class["Mass"].by_finder[Finder.HEAD].iobb_accuracy[0]
        for cases in (once, [each for each in once for _ in range(10)])
    ]
    assert intervals[0].low == pytest.approx(intervals[1].low)
    assert intervals[0].high == pytest.approx(intervals[1].high)
    assert len(THRESHOLDS) == 5


def test_without_resamples_there_are_no_intervals() -> None:
    hit = boxes((0, 0, 1, 1))
    cases = [case(str(n), "Mass", hit, hit, (0.5, 0.5)) for n in range(3)]
    pointing = figures_of(cases, ("Mass",), resamples=0, seed=0).by_class["Mass"].by_finder[Finder.HEAD].pointing
    assert (pointing.value, pointing.low, pointing.high) == (1, None, None)
