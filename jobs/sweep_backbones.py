"""Fine-tune a backbone in many settings, and tell which are best: one table, one page, one backbone of each trial.

A sweep is a YAML file. `base` has keys of jobs/finetune_backbone.py for all trials; and one of these says what varies:

  grid:                                    # all combinations
    unfreeze.learning_rate: [1e-4, 1e-3]
    unfreeze.weight_decay: [0, 1e-4]
  random:                                  # drawn; [values], {uniform: …}, {log_uniform: …} or {integers: [low, high]}
    trials: 20
    space: {unfreeze.learning_rate: {log_uniform: [1e-6, 1e-2]}}
  trials:                                  # named one by one
    small: {backbone.name: "simple_cnn:size=28,filters=8-16", batch_size: 64}
    large: {backbone.name: "simple_cnn:size=28,filters=32-64"}

With `halving: {first: 3, factor: 3}` all trials train for 3 epochs, the best third of them to epoch 9, and so on; the
others are stopped. A trial that fails is told in the table, and the others go on. A sweep that broke off goes on when
it is started again. Leaves sweeps/NAME in the lake, and each trial's backbone as lake://backbones/NAME-TRIAL.

examples:
  python jobs/sweep_backbones.py lake=/data/lake sweep=conf/sweeps/heffernan_learning_rates.yaml
  python jobs/sweep_backbones.py lake=/data/lake sweep=conf/sweeps/au_eleven.yaml base.device=cuda name=au_gpu
  python jobs/sweep_backbones.py lake=/data/lake sweep=my_sweep.yaml base.task=binary workers=local
"""

import _root  # noqa: F401

from pipelines.job import run_job
from pipelines.sweep import sweep_backbones
from pipelines.sweep_config import SweepConfig

if __name__ == "__main__":
    run_job(__file__, __doc__, SweepConfig, sweep_backbones)
