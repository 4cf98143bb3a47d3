"""Draw an archive of phantom radiographs, with known findings, in a data set's own layout."""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.phantoms import PhantomsConfig, make_phantoms

if __name__ == "__main__":
    run_job(__file__, __doc__, PhantomsConfig, make_phantoms)
