"""Splits: decided by the patient alone, in the asked proportions."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from pipelines.splits import Split, SplitFractions

KEYS = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(KEYS, st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_patient_is_in_one_split_whoever_asks(key: str, val: float, test: float) -> None:
    fractions = SplitFractions(val, test)
    assert fractions.split_of(key) is SplitFractions(val, test).split_of(key)
    assert fractions.split_of(key) in Split


@given(KEYS)
def test_a_larger_test_part_keeps_the_patients_it_had(key: str) -> None:
    if SplitFractions(0.1, 0.1).split_of(key) is Split.TEST:
        assert SplitFractions(0.1, 0.3).split_of(key) is Split.TEST


def test_the_parts_have_the_sizes_that_were_asked_for() -> None:
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20_000)]
    splits = [SplitFractions(0.2, 0.1).split_of(key) for key in keys]
    # Four standard deviations of a binomial count.
    assert abs(splits.count(Split.VAL) / len(keys) - 0.2) < 4 * (0.2 * 0.8 / len(keys)) ** 0.5
    assert abs(splits.count(Split.TEST) / len(keys) - 0.1) < 4 * (0.1 * 0.9 / len(keys)) ** 0.5
