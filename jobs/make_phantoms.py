"""Draw an archive of phantom radiographs, with known findings, in a data set's own layout.

examples:
  python jobs/make_phantoms.py out=/data/phantoms studies=400
  python jobs/make_phantoms.py out=/data/phantoms_dicom studies=100 layout=dicom seed=7
  python jobs/make_phantoms.py out=/data/phantoms_mnist studies=500 layout=medmnist long_side=64
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.phantoms import PhantomsConfig, make_phantoms

if __name__ == "__main__":
    run_job(__file__, __doc__, PhantomsConfig, make_phantoms)
