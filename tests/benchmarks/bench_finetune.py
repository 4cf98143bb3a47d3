"""Whether the whole training waits for its crops: images/s fed from the lake against one batch that is at hand.

Run from the repository's root:  python tests/benchmarks/bench_finetune.py --lake LAKE --task TASK [--device cuda]
    [--backbone NAME] [--updates N] [--turns N] key=value … (of jobs/finetune_backbone.py)

The same trainer, with the same augmentation, takes turns between crops streamed from Parquet and decoded anew, crops
that were decoded once into memory, and one batch that is always at hand; the medians of each turn's ratios are told.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import _root  # noqa: F401

from classifiers.tasks import get_task
from featurizers.backbones import get_backbone, load_weights
from featurizers.finetuning.losses import TaskLoss
from featurizers.finetuning.network import FineTunedNetwork
from featurizers.finetuning.trainer import Batch, Data, Trainer, Update
from pipelines.config import merge, model_from
from pipelines.crop_data import CropData
from pipelines.finetune_config import FinetuneConfig
from pipelines.lake import Lake
from pipelines.splits import Split
from pipelines.training_rows import TrainingRows, find_training_rows

WARM_UP = 5


class AtHand:
    """One batch, again and again."""

    def __init__(self, data: CropData) -> None:
        self.batch_size = data.batch_size
        self._updates = data.updates(0)
        self._batch = next(iter(data.training(0, 0)))

    def updates(self, epoch: int) -> int:
        """See Data."""
        return self._updates

    def training(self, epoch: int, skip: int) -> Iterator[Batch]:
        """See Data."""
        return (self._batch for _ in range(self._updates - skip))

    def validation(self) -> Iterator[Batch]:
        """See Data."""
        return iter([self._batch])


def images_per_second(config: FinetuneConfig, rows: TrainingRows, data: Data) -> float:
    """Of the updates behind the first few."""
    spec = get_backbone(config.backbone.name or "resnet50")
    network = FineTunedNetwork(
        spec, load_weights(spec, "random", 0), len(rows.task.classes), config.top.settings(), config.seed
    )
    loss = TaskLoss(config.loss.settings(), rows.split(Split.TRAIN).targets, rows.task.classes)
    trainer = Trainer(network, config.phases(), loss, data, config.trainer_settings())
    images, start = 0, 0.0
    for number, event in enumerate(trainer.run()):
        if number + 1 == WARM_UP:
            start = perf_counter()
        elif number >= WARM_UP and isinstance(event, Update):
            images += event.images
            if number + 1 == data.updates(0):
                break
    return images / (perf_counter() - start)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet50:size=128")
    parser.add_argument("--updates", type=int, default=25)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    texts = [f"lake={given.lake}", f"task={given.task}", f"device={given.device}", f"backbone.name={given.backbone}"]
    texts += ["backbone.weights=random", f"updates_per_epoch={given.updates}", "unfreeze.epochs=1", *given.settings]
    keys = {"lake", "task", "backbone.name", "backbone.weights"}
    streamed, held = (
        model_from(FinetuneConfig, merge(None, [*texts, f"cache_mb={megabytes}"], keys)) for megabytes in (0, 10**6)
    )
    lake = Lake.open(given.lake)
    rows = find_training_rows(lake, get_task(given.task), streamed.hold_out.settings())
    spec = get_backbone(given.backbone)
    with CropData(lake, rows, spec, streamed) as from_lake, CropData(lake, rows, spec, held) as from_memory:
        at_hand = AtHand(from_memory)
        feeds: dict[str, Data] = {"streamed": from_lake, "decoded once": from_memory}
        ratios: dict[str, list[float]] = {name: [] for name in feeds}
        for _ in range(given.turns):
            ceiling = images_per_second(held, rows, at_hand)
            print(f"one batch at hand   {ceiling:8.1f} images/s")
            for name, feed in feeds.items():
                speed = images_per_second(streamed, rows, feed)
                ratios[name].append(speed / ceiling)
                print(f"{name:<18}  {speed:8.1f} images/s  {speed / ceiling:.2f}")
    for name, each in ratios.items():
        print(f"{name}: {median(each):.2f} of training on one batch at hand (median of {given.turns})")


if __name__ == "__main__":
    main()
