"""Why an input gave no study, or a study no vector: the closed lists of codes that quarantines hold."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class _Code(StrEnum):
    """A code, and what it means in a few words."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        """A member: its value is the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Reason(_Code):
    """One code for each thing that a person would mend in its own way.

    Attributes:
        meaning: the code in a few words.
    """

    # The file.
    MISSING_FILE = "missing_file", "the labels name it, and the archive lacks it"
    UNREADABLE_FILE = "unreadable_file", "the storage refused it, or failed several times"
    EMPTY_FILE = "empty_file", "a file of no bytes"
    DUPLICATE = "duplicate", "the same image as another input, which is kept; the detail tells of conflicting labels"
    NO_LABEL = "no_label", "no row of the labels tells whose it is"

    # What it holds.
    NOT_AN_IMAGE = "not_an_image", "of no format that is read"
    NOT_DICOM = "not_dicom", "lies among DICOM files and is none, so that nothing tells whose it is"
    NO_PIXEL_DATA = "no_pixel_data", "DICOM without an image: a report, a plan, a directory"
    CORRUPT_IMAGE = "corrupt_image", "truncated, damaged or badly written"
    UNSUPPORTED_DICOM = "unsupported_dicom", "sound DICOM of a kind that is not read, such as several frames"
    UNSUPPORTED_IMAGE = "unsupported_image", "sound JPEG, PNG or TIFF of a kind that is not read, such as several pages"

    # What it shows.
    NOT_CHEST = "not_chest", "another modality or body part, or none told; policy.not_chest=ingest takes it"
    NOT_FRONTAL = "not_frontal", "a lateral or oblique view; policy.not_frontal=ingest takes it"
    BURNED_IN_ANNOTATION = (
        "burned_in_annotation",
        "text in the pixels, by its header; policy.burned_in_annotation=ingest takes it",
    )

    # What it would cost.
    TOO_SMALL = "too_small", "fewer pixels on a side than limits.min_side"
    TOO_LARGE = "too_large", "more than limits.max_bytes or limits.max_pixels"
    TOO_SLOW = "too_slow", "took longer than limits.max_seconds"
    TOO_MUCH_MEMORY = "too_much_memory", "asked for more memory than limits.max_memory_mb"

    # Faults.
    DECODER_CRASHED = "decoder_crashed", "a decoder ended its process on it: damaged bytes, or a library's fault"
    PROCESSING_FAILED = "processing_failed", "a fault of Pleura: please report it"


class NoVector(_Code):
    """Why a study's crop, or a copy of it, has no vector: the codes of an extractor's own quarantine.

    Attributes:
        meaning: the code in a few words.
    """

    DAMAGED_CROP = "damaged_crop", "the stored crop is no readable PNG: its study needs restoring"
    NOT_FINITE = "not_finite", "the backbone's vector holds NaN or infinity; precision=fp32 may give a finite one"
