"""Ingest an archive: every image becomes a row of studies (labels, lung crop) or of quarantine (reason)."""

import _root  # noqa: F401

from pipelines.ingest import IngestConfig, ingest
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, IngestConfig, ingest)
