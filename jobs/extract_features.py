"""Extract features: a backbone turns every stored crop that has none yet into a vector.

Killed, it goes on where it was; run twice, it does nothing twice.

examples:
  spark-submit jobs/extract_features.py lake=/data/lake backbone.weights=imagenet
  spark-submit jobs/extract_features.py lake=/data/lake backbone.weights=/models/resnet50.safetensors precision=fp32
"""

import _root  # noqa: F401

from pipelines.extract import ExtractConfig, extract
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, ExtractConfig, extract)
