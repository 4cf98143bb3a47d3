"""Decoding of damaged files: a radiograph within the limits or a DecodeError.

Mutations are drawn from fixed seeds. What would end the process or hang it does so here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import PLANTED, TWELVE, by_gdcm, dicom, pydicom_file, sound
from mutations import BY_GDCM, SEEDS, mutated

from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.radiograph import DecodeLimits

LIMITS = DecodeLimits(max_pixels=1_000_000, max_bytes=2**22)
MUTATIONS_PER_SEED = 300
MUTATIONS_BY_GDCM = 120


def check(name: str, seeds: dict[str, bytes], mutations: int, seed: int = 0) -> None:
    """Decode `mutations` damaged copies of a seed; whatever else comes of one than it may is raised."""
    assert sound(decode_radiograph(seeds[name], LIMITS), LIMITS)
    rng = np.random.default_rng([seed, *name.encode()])
    for _ in range(mutations):
        data = mutated(name, seeds, rng)
        try:
            assert sound(decode_radiograph(data, LIMITS), LIMITS)
        except DecodeError as error:
            assert error.detail
            assert PLANTED not in str(error)


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_give_a_radiograph_or_a_decode_error(name: str) -> None:
    check(name, SEEDS, MUTATIONS_PER_SEED)


@pytest.mark.parametrize("name", BY_GDCM)
def test_damaged_files_for_gdcm_give_a_radiograph_or_a_decode_error(name: str, tmp_path: Path) -> None:
    seed = by_gdcm(dicom(TWELVE, BitsStored=12), BY_GDCM[name], tmp_path)
    check(name, SEEDS | {name: seed}, MUTATIONS_BY_GDCM)


def test_damaged_extended_jpeg_gives_a_radiograph_or_a_decode_error() -> None:
    seed = pydicom_file("JPGExtended.dcm")
    check("dicom-extended", SEEDS | {"dicom-extended": seed}, MUTATIONS_BY_GDCM)


def test_there_are_at_least_two_thousand_mutations() -> None:
    assert len(SEEDS) * MUTATIONS_PER_SEED + (len(BY_GDCM) + 1) * MUTATIONS_BY_GDCM >= 2_000
