"""Fitted arrays as bytes: safetensors, with the shapes checked on the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from classifiers.errors import HeadError

#: The file of a head whose weights are arrays.
TENSORS_FILE: Final = "weights.safetensors"


def write_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Write arrays as the file `TENSORS_FILE`; the same arrays give the same bytes."""
    return {TENSORS_FILE: bytes(save_safetensors({name: np.ascontiguousarray(each) for name, each in tensors.items()}))}


def read_tensors(files: Mapping[str, bytes], like: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Read what `write_tensors` wrote.

    Args:
        files: by name.
        like: names, shapes and dtypes that the file must hold, no more and no fewer.

    Raises:
        HeadError: when it can't be read, or holds something else.
    """
    try:
        tensors = load_safetensors(files[TENSORS_FILE])
    except SafetensorError as error:
        raise HeadError(
            f"the weights are no safetensors ({error}): copy the head anew from where it was made"
        ) from error
    found, wanted = ({n: (t.shape, str(t.dtype)) for n, t in sorted(ts.items())} for ts in (tensors, like))
    if found != wanted:
        raise HeadError(
            f"the weights hold {found} where the head's parameters ask for {wanted}: head.json and weights belong to "
            "different heads; copy both from where the head was made"
        )
    # Copies of our own: what the reader gives is a view of the bytes, read-only and aligned by chance.
    return {name: tensor.copy() for name, tensor in tensors.items()}
