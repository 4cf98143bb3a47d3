"""Mean and scale over blocks of rows are those of all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.standardise import ROWS, Standardisation, as_tensor


@given(
    n=st.integers(2, 60),
    d=st.integers(1, 5),
    offset=st.sampled_from([0, 3, -1e3, 1e5]),
    spread=st.sampled_from([1e-3, 1, 1e4]),
    drawn=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_mean_and_scale_are_those_of_the_rows_drawn(n, d, offset, spread, drawn, seed):
    rng = np.random.default_rng(seed)
    X = (offset + rng.normal(scale=spread, size=(n, d))).astype(np.float32)
    repeats = rng.integers(1, 4, n) if drawn else None
    copies = np.repeat(X, repeats, axis=0) if drawn else X
    found = Standardisation.of(X, repeats)
    wanted = copies.astype(np.float64)
    # A float32 holds seven digits of the offset, so that of a spread a millionth of it none is left.
    rounding = 1e-6 * np.abs(wanted).max()
    np.testing.assert_allclose(found.mean, wanted.mean(axis=0), rtol=1e-5, atol=rounding + 1e-4 * spread)
    deviation = wanted.std(axis=0)
    is_told = deviation > 10 * rounding
    np.testing.assert_allclose(found.scale[is_told], deviation[is_told], rtol=1e-2)
    assert (found.scale > 0).all()


@pytest.mark.parametrize("n", [1, ROWS, ROWS + 1, 2 * ROWS + 7])
def test_blocks_hold_every_row_once(n):
    X = np.random.default_rng(0).normal(5, 2, size=(n, 3)).astype(np.float32)
    standardise = Standardisation.of(X)
    blocks = [block.numpy().copy() for block in standardise.blocks(X)]
    np.testing.assert_allclose(np.concatenate(blocks), (X - standardise.mean) / standardise.scale, rtol=1e-6)
    if n > 1:
        np.testing.assert_allclose(np.concatenate(blocks).std(axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize("value", [0, 1, 0.1, -1e-20, 1e4 + 0.1, 1e30])
def test_a_constant_becomes_zero(value):
    X = np.full((ROWS + 100, 2), value, np.float32)
    X[:, 1] = np.arange(len(X))
    standardise = Standardisation.of(X)
    assert standardise.scale[0] == 1
    for block in standardise.blocks(X):
        np.testing.assert_allclose(block[:, 0], 0, atol=1e-6 * abs(value))


def test_rows_that_may_not_be_written_are_read_and_stay_as_they_are(tmp_path, recwarn):
    X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    X.tofile(tmp_path / "features")
    mapped = np.memmap(tmp_path / "features", np.float32, "r", shape=X.shape)
    for ours, theirs in zip(Standardisation.of(mapped), Standardisation.of(X), strict=True):
        assert np.array_equal(ours, theirs)
    list(Standardisation.of(mapped).blocks(mapped))
    assert np.array_equal(as_tensor(mapped).numpy(), X)
    assert np.array_equal(mapped, X)
    assert not recwarn.list
