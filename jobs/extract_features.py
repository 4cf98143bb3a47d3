"""Extract features: a backbone turns every stored crop that has none yet into a vector."""

import _root  # noqa: F401

from pipelines.extract import ExtractConfig, extract
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, ExtractConfig, extract)
