"""What can go wrong between a file's bytes and its vector. Every message names the cause and the remedy."""

from __future__ import annotations

from featurizers.reasons import Reason


class FeaturizerError(ValueError):
    """Root of this layer's errors: a caller can mend the input or the setting that the message names."""


class DecodeError(FeaturizerError):
    """A file that gives no radiograph.

    Attributes:
        reason: the code for the quarantine table.
        detail: what a person needs to mend the file; never holds an identifier.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Reason, str]]:
        return DecodeError, (self.reason, self.detail)


class WeightsError(FeaturizerError):
    """Weights that can't be had, or do not fit the backbone."""


class TrainingError(FeaturizerError):
    """A training that can't start, or can't go on."""
