"""Bytes of one NumPy array in the NPY format to a radiograph: how images inside MedMNIST's files reach the decoder."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from featurizers.greyscale import stretch, to_luma
from featurizers.radiograph import DecodeLimits, Pixels, Radiograph, check_size, corrupt, unsupported_image

NPY_MAGIC = b"\x93NUMPY"


def npy_to_radiograph(data: bytes, limits: DecodeLimits) -> Radiograph:
    """Decode a NPY file: (rows, columns) of uint8 or uint16 grey, or (rows, columns, 3) of uint8 RGB.

    The format is NEP 1's. A header that names Python objects is refused before anything is unpickled.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL, UNSUPPORTED_IMAGE, CORRUPT_IMAGE; NumPy's own exception where the header is
            none.
    """
    stream = BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):  # later versions are for headers that no image has
        raise unsupported_image("the NPY format's version is not 1.0", "save the array with numpy.save")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    colour = len(shape) == 3 and shape[2] == 3 and dtype == np.uint8
    if not colour and not (len(shape) == 2 and dtype.newbyteorder("=") in (np.uint8, np.uint16)):
        raise unsupported_image(
            "the NPY array is neither 2-D of uint8 or uint16 nor (rows, columns, 3) of uint8",
            "save one image per array in one of these layouts",
        )
    check_size(shape[0], shape[1], limits)
    if len(data) - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise corrupt("the NPY file has more or fewer bytes than its header declares")
    array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if fortran_order else "C")
    return Radiograph(_to_grey(array), 8 * dtype.itemsize, "RGB" if colour else "MONOCHROME2")


def _to_grey(array: npt.NDArray[np.unsignedinteger]) -> Pixels:
    if array.ndim == 3:
        return np.array(to_luma(Image.fromarray(np.ascontiguousarray(array))))
    if array.dtype.itemsize == 2:
        return stretch(np.ascontiguousarray(array, dtype=np.uint16))
    return np.array(array, dtype=np.uint8, order="C")
