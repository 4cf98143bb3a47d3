"""Phantoms: the same seed, the same picture; truth that fits the pixels; a look that real radiographs share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featurizers.errors import FeaturizerError
from featurizers.phantoms import Finding, Habitus, Phantom, contact_sheet, draw_phantom

REAL = Path(__file__).parents[2].parent / "shared" / "data"
SIZE = (300, 330)
DISEASES = [finding for finding in Finding if finding is not Finding.NORMAL]
#: Findings that fill lung with something denser than air.
OPAQUE = [
    Finding.VIRAL,
    Finding.BACTERIAL,
    Finding.EFFUSION,
    Finding.INFILTRATION,
    Finding.CONSOLIDATION,
    Finding.PNEUMONIA,
    Finding.EDEMA,
    Finding.FIBROSIS,
]


def draw(seed: int, *findings: str, habitus: Habitus = Habitus.ADULT, patient: int | None = None) -> Phantom:
    return draw_phantom(seed, findings, SIZE, habitus=habitus, patient=patient)


def lung_contrast(pixels: np.ndarray, lungs: np.ndarray) -> float:
    """How much brighter the picture's middle column of body is than the lungs on both sides, in grey levels."""
    width = pixels.shape[1]
    columns = np.flatnonzero(lungs.any(axis=0))
    rows = np.flatnonzero(lungs.any(axis=1))
    centre = (columns[0] + columns[-1]) // 2
    strip = slice(centre - max(width // 60, 1), centre + max(width // 60, 1))
    middle = pixels[rows[len(rows) // 4] : rows[-1], strip]
    return float(np.median(middle)) - float(np.median(pixels[lungs]))


@given(seed=st.integers(0, 2**64), findings=st.lists(st.sampled_from(DISEASES), max_size=3, unique=True))
@settings(max_examples=20, deadline=None)
def test_any_seed_gives_a_whole_phantom(seed: int, findings: list[Finding]) -> None:
    phantom = draw_phantom(seed, findings, (160, 190))
    assert phantom.pixels.shape == phantom.lung_mask.shape == (160, 190)
    assert phantom.pixels.dtype == np.uint8
    assert phantom.lung_mask.dtype == np.bool_
    assert phantom.findings == tuple(findings)
    assert {box.finding for box in phantom.boxes} <= set(findings)
    for box in phantom.boxes:
        assert 0 <= box.left < box.right <= 1
        assert 0 <= box.top < box.bottom <= 1
    assert 0.1 < phantom.lung_mask.mean() < 0.6
    assert np.ptp(phantom.pixels) > 100


@pytest.mark.parametrize("finding", Finding)
def test_the_same_seed_draws_the_same_pixels(finding: Finding) -> None:
    first, second, other = draw(7, finding), draw(7, finding), draw(8, finding)
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.lung_mask, second.lung_mask)
    assert first.boxes == second.boxes
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("habitus", Habitus)
def test_lungs_are_darker_than_what_is_between_them(habitus: Habitus) -> None:
    contrasts = [lung_contrast(p.pixels, p.lung_mask) for p in (draw(s, habitus=habitus) for s in range(12))]
    assert min(contrasts) > 25


def test_lung_mask_has_two_halves_on_either_side_of_the_spine() -> None:
    for seed in range(8):
        mask = draw(seed).lung_mask
        columns = mask.any(axis=0)
        left, right = np.flatnonzero(columns)[[0, -1]]
        gap = np.flatnonzero(~columns[left:right]) + left
        assert len(gap) > 0
        halves = mask[:, : gap[0]].sum(), mask[:, gap[-1] :].sum()
        assert 0.6 < halves[0] / halves[1] < 1.7


@pytest.mark.parametrize("finding", DISEASES)
def test_every_disease_has_a_box_and_changes_the_picture_there(finding: Finding) -> None:
    boxed = [draw(seed, finding) for seed in range(4)]
    assert all(phantom.boxes for phantom in boxed)
    for phantom in boxed:
        assert {box.finding for box in phantom.boxes} == {finding}


@pytest.mark.parametrize("finding", OPAQUE)
def test_opacities_make_lungs_brighter_than_the_same_healthy_ones(finding: Finding) -> None:
    """Lungs are compared with the spine between them, so that exposure cancels."""
    seeds = range(8)
    healthy = np.array([lung_contrast(p.pixels, p.lung_mask) for p in (draw(s) for s in seeds)])
    ill = np.array([lung_contrast(p.pixels, p.lung_mask) for p in (draw(s, finding) for s in seeds)])
    assert np.mean(ill < healthy) >= 0.75


@pytest.mark.parametrize("finding", [Finding.CONSOLIDATION, Finding.MASS, Finding.EFFUSION])
def test_the_same_seed_with_a_finding_differs_where_its_boxes_are(finding: Finding) -> None:
    for seed in range(4):
        well, ill = draw(seed), draw(seed, finding)
        assert np.array_equal(well.lung_mask, ill.lung_mask)
        height, width = SIZE
        inside = np.zeros(SIZE, dtype=bool)
        for box in ill.boxes:
            rows = slice(int(box.top * height), int(box.bottom * height))
            inside[rows, int(box.left * width) : int(box.right * width)] = True
        change = np.abs(ill.pixels.astype(int) - well.pixels.astype(int))
        assert change[inside & ill.lung_mask].mean() > 2 * change[~inside].mean()


def test_a_mass_is_brighter_than_the_same_place_in_the_other_lung() -> None:
    differences = []
    for seed in range(12):
        phantom = draw(seed, Finding.MASS)
        (box,) = phantom.boxes
        height, width = phantom.pixels.shape
        rows = slice(int(box.top * height), int(box.bottom * height))
        inside = phantom.pixels[rows, int(box.left * width) : int(box.right * width)]
        columns = np.flatnonzero(phantom.lung_mask.any(axis=0))
        centre = (columns[0] + columns[-1]) / 2
        mirrored = slice(int(2 * centre - box.right * width), int(2 * centre - box.left * width))
        differences.append(float(inside.mean()) - float(phantom.pixels[rows, mirrored].mean()))
    assert np.mean(np.array(differences) > 0) >= 0.75


def test_cardiomegaly_widens_the_heart_and_its_box_measures_it() -> None:
    """The cardiothoracic ratio, heart's width over the chest's, is above one half in an enlarged heart."""
    ratios = []
    for seed in range(12):
        phantom = draw(seed, Finding.CARDIOMEGALY)
        (box,) = phantom.boxes
        columns = np.flatnonzero(phantom.lung_mask.any(axis=0))
        ratios.append((box.right - box.left) * phantom.pixels.shape[1] / (columns[-1] - columns[0]))
    assert np.mean(ratios) > 0.5
    assert max(ratios) < 0.85


def test_pneumothorax_is_on_one_side_only() -> None:
    for seed in range(8):
        phantom = draw(seed, Finding.PNEUMOTHORAX)
        (box,) = phantom.boxes
        columns = np.flatnonzero(phantom.lung_mask.any(axis=0)) / phantom.pixels.shape[1]
        centre = (columns[0] + columns[-1]) / 2
        assert box.right < centre + 0.02 or box.left > centre - 0.02


def test_one_patient_keeps_the_body_from_picture_to_picture() -> None:
    def shape(seed: int, patient: int) -> float:
        rows, columns = np.nonzero(draw(seed, patient=patient).lung_mask)
        return float(np.ptp(rows) / np.ptp(columns))

    same = np.std([shape(seed, 5) for seed in range(6)])
    different = np.std([shape(seed, seed) for seed in range(6)])
    assert same < different / 2


def test_sizes_vary_when_none_is_asked_for() -> None:
    shapes = {draw_phantom(seed).pixels.shape for seed in range(10)}
    assert len(shapes) == 10
    assert all(400 <= max(shape) <= 1400 for shape in shapes)


def test_children_and_adults_go_with_their_findings() -> None:
    assert draw_phantom(0, ["viral"], SIZE).habitus is Habitus.CHILD
    assert draw_phantom(0, ["Mass"], SIZE).habitus is Habitus.ADULT
    assert {draw_phantom(seed, (), SIZE).habitus for seed in range(12)} == set(Habitus)


@pytest.mark.parametrize(
    ("findings", "message"),
    [
        (["pneumonia"], "can't show 'pneumonia'.*Pneumonia"),
        (["Effusion", "gout"], "can't show 'gout'.*Effusion"),
        (["normal", "Mass"], "can't be normal and show another"),
    ],
)
def test_findings_that_are_not_drawn_are_refused(findings: list[str], message: str) -> None:
    with pytest.raises(FeaturizerError, match=message):
        draw_phantom(0, findings, SIZE)


@pytest.mark.parametrize("size", [(31, 400), (400, 0), (-5, 400)])
def test_sizes_without_room_for_a_chest_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(FeaturizerError, match="ask for 32 or more"):
        draw_phantom(0, (), size)


@pytest.mark.parametrize("size", [(32, 32), (64, 400), (400, 64)])
def test_odd_sizes_still_show_both_lungs(size: tuple[int, int]) -> None:
    phantom = draw_phantom(1, ["Effusion"], size)
    assert phantom.pixels.shape == size
    assert phantom.lung_mask.any()


def test_contact_sheet_has_a_cell_for_every_finding_and_seed() -> None:
    sheet = contact_sheet(seeds=(0,), cell=64)
    assert sheet.mode == "L"
    assert sheet.width == 2 * 64
    # Every row of cells holds something brighter than the ground.
    cells = np.asarray(sheet)
    rows = (len(Finding) + 1) // 2
    tall = sheet.height // rows
    assert all(cells[row * tall : (row + 1) * tall, :64].max() > 150 for row in range(rows))


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="real radiographs are not here")
def test_phantom_greys_lie_where_those_of_real_radiographs_lie() -> None:
    """Contrast between lungs and mediastinum, over human lung masks and over drawn ones."""
    real = []
    for mask_path in sorted((REAL / "lung_masks" / "masks").glob("*.png"))[:900:15]:
        image_path = next((REAL / "lung_masks" / "images").glob(f"{mask_path.stem}.*"))
        mask = np.asarray(Image.open(mask_path).convert("L")) > 200
        real.append(lung_contrast(np.asarray(Image.open(image_path).convert("L")), mask))
    kinds = ["normal", "viral", "bacterial", "bacterial"]
    drawn = [draw(seed, kinds[seed % 4], habitus=Habitus.CHILD) for seed in range(60)]
    ours = [lung_contrast(p.pixels, p.lung_mask) for p in drawn]
    low, high = np.percentile(real, [10, 90])
    assert low < np.median(ours) < high
    assert np.mean(np.array(real) > 0) > 0.9
