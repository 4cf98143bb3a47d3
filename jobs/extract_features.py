"""Extract features: a backbone turns every stored crop that has none yet into a vector.

Killed, it goes on where it was; run twice, it does nothing twice. With copies.task, train images get augmented copies
as well, until that task's classes are equal there: training on them needs no other balance.

examples:
  spark-submit jobs/extract_features.py lake=/data/lake backbone.weights=imagenet
  spark-submit jobs/extract_features.py lake=/data/lake backbone.weights=/models/resnet50.safetensors precision=fp32
  spark-submit jobs/extract_features.py lake=/data/lake backbone.weights=lake://backbones/NAME copies.task=three_class
"""

import _root  # noqa: F401

from pipelines.extract import ExtractConfig, extract
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, ExtractConfig, extract)
