"""The errors of the lake and of the jobs. Every message names the cause and the remedy."""

from __future__ import annotations

from classifiers.errors import ClassifierError
from featurizers.errors import FeaturizerError


class PleuraError(Exception):
    """Root of the errors that a job prints as one message, without a traceback."""


class ConfigError(PleuraError):
    """A config with unknown keys, wrong values or missing ones: every mistake at once, by dotted path."""


class LakeError(PleuraError):
    """A lake, table or run that is not there, or that does not hold what is asked of it."""


class SourceError(PleuraError):
    """An archive whose layout or label file can't be read as its source says; found before any work starts."""


#: What a job answers with one message and exit code 2. The two libraries below stand alone, so each has its own root.
USER_ERRORS = (PleuraError, FeaturizerError, ClassifierError)
