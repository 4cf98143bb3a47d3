"""One adapter per data set: where its files lie and what its label files say."""

from pipelines.sources.base import Contents, FindingBox, Rejection, Source, StudyRecord
from pipelines.sources.kermany import KermanySource
from pipelines.sources.manifest import ManifestSource

__all__ = ["Contents", "FindingBox", "KermanySource", "ManifestSource", "Rejection", "Source", "StudyRecord"]
