"""What can go wrong between vectors and decisions. Every message names the cause and the remedy."""

from __future__ import annotations


class ClassifierError(ValueError):
    """Root of this layer's errors: a caller can mend the data or the setting that the message names."""


class TaskError(ClassifierError):
    """A task that is unknown, or that the findings at hand can't answer."""


class HeadError(ClassifierError):
    """A head that is unknown, can't be fitted on this data, can't be read, or does not fit these features."""


class EvaluationError(ClassifierError):
    """Targets and probabilities that can't be compared."""
