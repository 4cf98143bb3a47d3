"""Which part of the data a patient belongs to. Splits belong to patients: all images of one go the same way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

HASH_DIGITS = 13  # 52 bits: exact in a float


class Split(StrEnum):
    """The three parts."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True)
class SplitFractions:
    """How many of the patients go to val and to test; the rest is train."""

    val: float
    test: float

    def split_of(self, patient_key: str) -> Split:
        """The split that a patient's key decides: uniform, stable, and independent of all other patients.

        Args:
            patient_key: hexadecimal digits of a uniform hash, at least 13.
        """
        position = int(patient_key[:HASH_DIGITS], 16) / 16**HASH_DIGITS
        if position < self.test:
            return Split.TEST
        return Split.VAL if position < self.test + self.val else Split.TRAIN
