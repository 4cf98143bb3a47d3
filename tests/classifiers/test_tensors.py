"""Arrays come back from their bytes as they went, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from classifiers.errors import HeadError
from classifiers.tensors import TENSORS_FILE, read_tensors, write_tensors

ARRAYS = {"coef": np.arange(6, dtype=np.float32).reshape(2, 3), "prior": np.array([0.1, np.pi])}


def test_a_round_trip_keeps_every_bit_and_gives_arrays_to_write_to():
    files = write_tensors(ARRAYS)
    assert list(files) == [TENSORS_FILE] == ["weights.safetensors"]
    again = read_tensors(files | {"other": b""}, ARRAYS)
    assert again.keys() == ARRAYS.keys()
    for name, array in again.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
        assert array.flags.writeable
    assert write_tensors(dict(reversed(ARRAYS.items()))) == files


def test_how_an_array_lies_in_memory_does_not_matter():
    turned = np.asfortranarray(ARRAYS["coef"])
    every_other = np.repeat(ARRAYS["coef"], 2, axis=0)[::2]
    for array in (turned, every_other):
        assert write_tensors({"coef": array}) == write_tensors({"coef": ARRAYS["coef"]})


@pytest.mark.parametrize(
    "like",
    [
        {"coef": ARRAYS["coef"]},
        ARRAYS | {"more": np.zeros(1)},
        ARRAYS | {"coef": np.zeros((3, 2), np.float32)},
        ARRAYS | {"coef": np.zeros((2, 3))},
    ],
    ids=["one too many", "one missing", "another shape", "another type"],
)
def test_other_arrays_are_refused(like):
    with pytest.raises(HeadError, match=r"the weights hold .*'coef'.* belong to different heads; copy both"):
        read_tensors(write_tensors(ARRAYS), like)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"nonsense" + b])
def test_damaged_bytes_are_refused(damage):
    with pytest.raises(HeadError, match=r"the weights are no safetensors .*copy the head anew"):
        read_tensors({TENSORS_FILE: damage(write_tensors(ARRAYS)[TENSORS_FILE])}, ARRAYS)
