"""What decoding gives, what it may cost, and the refusals that all formats share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from featurizers.errors import DecodeError
from featurizers.reasons import Reason

#: (rows, columns) grey values of 8 bits.
Pixels: TypeAlias = npt.NDArray[np.uint8]

#: DICOM's Photometric Interpretation of indexed colour, told of an indexed PNG or TIFF too.
PALETTE = "PALETTE COLOR"


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a file may cost before it is refused.

    Attributes:
        max_pixels: most rows × columns that a header may declare.
        max_bytes: most bytes of one file, and of a deflated DICOM data set once inflated.
        min_side: fewest pixels of either side; the default takes MedMNIST's smallest images.
    """

    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 2**20
    min_side: int = 28


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One decoded image.

    Attributes:
        pixels: (rows, columns) uint8 greyscale in the sense of MONOCHROME2: dense tissue, such as bone, is bright.
        bits: bits stored per sample in the file (DICOM's Bits Stored): 1, 8, 12, 15, 16, …
        photometric: DICOM's Photometric Interpretation of the file, or its equivalent for other formats: MONOCHROME2
            for grey, MONOCHROME1 for a MINISWHITE TIFF, RGB, CMYK, PALETTE COLOR.
        pixel_spacing: millimetres between the centres of rows, and of columns: DICOM's Pixel Spacing, else Imager
            Pixel Spacing. None where a file has neither; densities of other formats are a scanner's or a printer's.
    """

    pixels: Pixels
    bits: int
    photometric: str
    pixel_spacing: tuple[float, float] | None = None


def check_size(rows: int, columns: int, limits: DecodeLimits) -> None:
    """Refuse an image that the limits do not let through, by the size that its header declares.

    Raises:
        DecodeError: TOO_LARGE, TOO_SMALL.
    """
    if rows * columns > limits.max_pixels:
        raise DecodeError(
            Reason.TOO_LARGE,
            f"the header declares {columns} × {rows} pixels, more than the limit of {limits.max_pixels}; "
            "raise max_pixels if the file is sound",
        )
    if min(rows, columns) < limits.min_side:
        raise DecodeError(
            Reason.TOO_SMALL,
            f"the header declares {columns} × {rows} pixels, fewer than {limits.min_side} on a side; "
            "use the original image, not an icon of it",
        )


def corrupt(what: str) -> DecodeError:
    """The error for bytes that contradict their format."""
    return DecodeError(Reason.CORRUPT_IMAGE, f"{what}; copy the file again from its source")


def unsupported_image(what: str, remedy: str) -> DecodeError:
    """The error for a sound file, DICOM excepted, of a kind that is not read."""
    return DecodeError(Reason.UNSUPPORTED_IMAGE, f"{what}; {remedy}")
