"""Ingest an archive: every image becomes a row of studies (labels, lung crop) or of quarantine (reason).

Only images that the lake does not know yet are read, so the same command serves every night.

A manifest has the columns path and patient_id, optionally study_id, view (PA, AP, LATERAL), sex (M, F, O), age (years)
and split (train, val, test); every other column is a finding: 1, 0, -1 uncertain, blank not mentioned.

examples:
  spark-submit jobs/ingest_studies.py source=kermany archive=/data/kermany lake=/data/lake
  spark-submit jobs/ingest_studies.py source=manifest archive=/data/pacs lake=/data/lake pseudonym_key_file=pleura.key
"""

import _root  # noqa: F401

from pipelines.ingest import IngestConfig, ingest
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, IngestConfig, ingest)
