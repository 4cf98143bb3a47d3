"""What can go wrong between a file's bytes and its vector. Every message names the cause and the remedy."""

from __future__ import annotations

from enum import StrEnum


class FeaturizerError(ValueError):
    """Root of this layer's errors: a caller can mend the input or the setting that the message names."""


class DecodeReason(StrEnum):
    """Why a file's bytes gave no radiograph: the closed list that ingest writes to the quarantine table."""

    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    CORRUPT_IMAGE = "corrupt_image"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    NO_PIXEL_DATA = "no_pixel_data"
    UNSUPPORTED_DICOM = "unsupported_dicom"


class DecodeError(FeaturizerError):
    """A file that gives no radiograph.

    Attributes:
        reason: the code for the quarantine table.
        detail: what a person needs to mend the file; never holds an identifier.
    """

    def __init__(self, reason: DecodeReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[DecodeError], tuple[DecodeReason, str]]:
        return DecodeError, (self.reason, self.detail)


class WeightsError(FeaturizerError):
    """Weights that can't be had, or do not fit the backbone."""
