"""Fine-tune a backbone on a lake's crops: stage one, before features are extracted with it.

First the backbone is frozen and the new top learns until it is stable; then all of it, or its last stages, learn at a
small rate. Leaves weights for extract_features (backbone.weights=lake://backbones/NAME), a card, every epoch's figures,
learning curves and a report. A training that broke off goes on when it is started again with the same settings.

examples:
  python jobs/finetune_backbone.py lake=/data/lake task=three_class
  python jobs/finetune_backbone.py lake=/data/lake task=binary backbone.name=resnet50:size=128 \\
      backbone.weights=random unfreeze.learning_rate=1e-3 unfreeze.schedule=one_cycle hold_out.by=series
  spark-submit jobs/finetune_backbone.py lake=/data/lake task=binary launcher=spark processes=4 device=cuda
"""

import _root  # noqa: F401

from pipelines.finetune import finetune
from pipelines.finetune_config import FinetuneConfig
from pipelines.job import run_job

if __name__ == "__main__":
    run_job(__file__, __doc__, FinetuneConfig, finetune)
