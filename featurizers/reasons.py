"""Why an input gave no study: the closed list of codes that ingest writes to the quarantine table."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """One code for each thing that a person would mend in its own way."""

    # The file.
    MISSING_FILE = "missing_file"
    """The label file names it, and it is not in the archive."""
    UNREADABLE_FILE = "unreadable_file"
    """The storage refuses it, or failed several times."""
    EMPTY_FILE = "empty_file"
    """It has no bytes."""
    DUPLICATE = "duplicate"
    """Another input is the same image, and is kept; the detail tells where the two have conflicting labels."""
    NO_LABEL = "no_label"
    """It is in the archive, and no row of the label files tells whose it is."""

    # What the file holds.
    NOT_AN_IMAGE = "not_an_image"
    """Its bytes are of no format that is read."""
    NOT_DICOM = "not_dicom"
    """It lies among DICOM files and is none, so that nothing tells whose it is."""
    NO_PIXEL_DATA = "no_pixel_data"
    """A DICOM object without an image: a report, a plan, a directory."""
    CORRUPT_IMAGE = "corrupt_image"
    """Its bytes contradict their format: truncated, damaged, badly written."""
    UNSUPPORTED_DICOM = "unsupported_dicom"
    """Sound DICOM of a kind that is not read: several frames, an unknown transfer syntax."""
    UNSUPPORTED_IMAGE = "unsupported_image"
    """A sound JPEG, PNG or TIFF of a kind that is not read: several pages, 12-bit JPEG, floating point."""

    # What the image shows.
    NOT_CHEST = "not_chest"
    """Its DICOM header tells another modality or body part; policy.not_chest=ingest takes it."""
    NOT_FRONTAL = "not_frontal"
    """Its label or DICOM header tells a lateral view; policy.not_frontal=ingest takes it."""
    BURNED_IN_ANNOTATION = "burned_in_annotation"
    """Its DICOM header tells of text in the pixels, which may name somebody; policy.burned_in_annotation=ingest."""

    # What it would cost.
    TOO_SMALL = "too_small"
    """Fewer pixels on a side than limits.min_side."""
    TOO_LARGE = "too_large"
    """More bytes or pixels than the limits let through."""
    TOO_SLOW = "too_slow"
    """It took longer than limits.max_seconds."""
    TOO_MUCH_MEMORY = "too_much_memory"
    """It asked for more memory than limits.max_memory_mb."""

    # Faults.
    DECODER_CRASHED = "decoder_crashed"
    """A decoder ended its process on it; the bytes are damaged, or a library has a fault."""
    PROCESSING_FAILED = "processing_failed"
    """A fault of ours: please report it."""
