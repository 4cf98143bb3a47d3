"""Whether cropping to the lungs helps: the same backbone and head on whole images and on crops, on Kermany's patients.

Two ways, all but the crop alike: `features`, the pipeline as it is (ingest, extract_features with a ResNet-50, logistic
head), and `network`, a ResNet-18 trained from random weights. Two hold-outs: `random`, patients that ingest's hash
chose, and `framing`, the patients whose films have the most black around them among films of their class: a shift of
acquisition that hardly changes the classes' shares.

Run from the repository's root, with little else on the machine (and with --weights imagenet where they can be had):
  python tests/benchmarks/bench_cropping.py [--crops segmenter] [--seeds 0 1] [--folder FOLDER]

The segmenter learned its outlines (no labels) from 653 radiographs of this set, so its crops of held-out patients may
be a little better than they would be elsewhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import _root  # noqa: F401
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from classifiers.heads import make_head
from classifiers.tasks import UNANSWERED, get_task
from featurizers.crops import decode_png
from featurizers.embedder import fit
from featurizers.radiograph import Pixels
from pipelines.acquisition import black_share, ranks_within
from pipelines.extract import ExtractConfig, extract
from pipelines.extract_config import BackboneConfig
from pipelines.ingest import CropConfig, IngestConfig, ingest
from pipelines.lake import Lake
from pipelines.splits import Split
from pipelines.stored_features import as_matrix
from pipelines.tables import Table

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WHOLE = "whole image"
CROPS: Mapping[str, CropConfig] = {
    WHOLE: CropConfig(finder="none"),
    "segmenter": CropConfig(finder="segmenter"),
    "masked": CropConfig(finder="segmenter", mask_out=True),
    "projection": CropConfig(finder="projection"),
}
WAYS = ("features", "network")
BINARY, THREE_CLASS = "binary", "three_class"
#: More held-out patients than ingest's default: intervals are as wide as patients are few.
HELD_OUT = 0.3
#: Augmentation: most change of scale, and most shift as a fraction of the side.
ZOOM, SHIFT = 0.15, 0.08
VERDICTS = ("helps", "costs", "can't be told")
BATCH, LEARNING_RATE, WEIGHT_DECAY = 32, 2e-3, 0.02

Rows = NDArray[np.bool_]
Targets = NDArray[np.int64]
#: (seeds, rows, classes), by task.
Probabilities = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Cohort:
    """The radiographs that every arm shows, in the order of their ids.

    Attributes:
        image_ids: (n,).
        patients: (n,) 0, 1, 2 …
        targets: (n,) by task.
        held_out: (n,) rows to judge on, by hold-out; all others are trained on.
    """

    image_ids: NDArray[np.str_]
    patients: NDArray[np.int64]
    targets: Mapping[str, Targets]
    held_out: Mapping[str, Rows]


@dataclass(frozen=True)
class Recipe:
    """How the network is trained: radiographs of `side` pixels, `epochs` times."""

    side: int
    epochs: int


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % bootstrap interval over patients."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, resampled: NDArray[np.float64]) -> Interval:
        """Of a figure of the patients as they are, followed by that of every resample."""
        return cls(float(resampled[0]), *map(float, np.percentile(resampled[1:], (2.5, 97.5))))


@dataclass(frozen=True)
class Comparison:
    """A crop against the whole image, by one metric.

    Attributes:
        whole, crop: means over seeds.
        difference: crop - whole, both on the same resamples.
        by_seed: the difference for each seed.
    """

    whole: Interval
    crop: Interval
    difference: Interval
    by_seed: NDArray[np.float64]

    @property
    def verdict(self) -> str:
        """What the interval tells, if no seed contradicts it: patients are resampled, trainings are not."""
        helps, costs, open_question = VERDICTS
        if self.difference.low > 0 and (self.by_seed > 0).all():
            return helps
        return costs if self.difference.high < 0 and (self.by_seed < 0).all() else open_question


def copy_few(archive: Path, folder: Path) -> Path:
    """Every sixteenth radiograph, in the archive's layout."""
    for file in sorted(archive.glob("chest_xray/train/*/*"))[::16]:
        target = folder / file.relative_to(archive)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


def take_in(archive: Path, folder: Path, crop: str, weights: str, ways: Sequence[str]) -> Lake:
    """A lake of its own for each crop, through Pleura's jobs; they do only what is missing."""
    location = str(folder / crop.replace(" ", "_"))
    print(
        ingest(
            IngestConfig(lake=location, source="kermany", archive=str(archive), val_fraction=HELD_OUT, crop=CROPS[crop])
        )
    )
    if "features" in ways:
        print(extract(ExtractConfig(lake=location, backbone=BackboneConfig(weights=weights))))
    return Lake.open(location)


def read_crops(lake: Lake, image_ids: NDArray[np.str_]) -> list[Pixels]:
    """The crops of these images."""
    rows = lake.studies.to_arrow(["image_id", "crop"])
    crops = dict(zip(rows["image_id"].to_pylist(), rows["crop"].to_pylist(), strict=True))
    return [decode_png(crops[image_id]) for image_id in image_ids]


def read_features(table: Table, image_ids: NDArray[np.str_]) -> NDArray[np.float32]:
    """(n, 2048) of these images."""
    rows = table.to_arrow(["image_id", "features"])
    where = pc.index_in(pa.array(image_ids.tolist()), value_set=rows["image_id"].combine_chunks())
    return as_matrix(rows["features"])[where.to_numpy(zero_copy_only=False)]


def read_cohort(lake: Lake) -> Cohort:
    """What a lake of whole images tells of them."""
    rows = lake.studies.to_arrow(["image_id", "patient_key", "findings", "split"]).sort_by("image_id")
    findings = [dict(pairs) for pairs in rows["findings"].to_pylist()]
    targets = {task: get_task(task).targets(findings) for task in (BINARY, THREE_CLASS)}
    answered = (targets[BINARY] != UNANSWERED) & (targets[THREE_CLASS] != UNANSWERED)
    image_ids = rows["image_id"].to_numpy()[answered].astype(np.str_)
    patients = np.unique(rows["patient_key"].to_numpy()[answered].astype(np.str_), return_inverse=True)[1]
    targets = {task: each[answered] for task, each in targets.items()}
    black = np.array([black_share(crop) for crop in read_crops(lake, image_ids)])
    return Cohort(
        image_ids,
        patients,
        targets,
        {
            "random": rows["split"].to_numpy()[answered] == str(Split.VAL),
            "framing": most_black(black, patients, targets[THREE_CLASS]),
        },
    )


def most_black(black: NDArray[np.float64], patients: NDArray[np.int64], targets: Targets) -> Rows:
    """The rows of the patients with the most black on their films, each film ranked among those of its class."""
    of_patient = np.bincount(patients, ranks_within(black, targets)) / np.bincount(patients)
    return (of_patient > np.quantile(of_patient, 1 - HELD_OUT))[patients]


def judge_heads(lake: Lake, cohort: Cohort) -> dict[str, Probabilities]:
    """The logistic heads' probabilities for the rows held out, by hold-out."""
    extractor = lake.choose_extractor(None)
    features = read_features(lake.features(extractor), cohort.image_ids)
    probabilities: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in cohort.held_out}
    for (name, held_out), (task, targets) in product(cohort.held_out.items(), cohort.targets.items()):
        head = make_head("logistic").fit(features[~held_out], targets[~held_out])
        probabilities[name][task] = head.predict_proba(features[held_out])[None]
    return probabilities


def judge_frames(lake: Lake, cohort: Cohort, number: int) -> Iterator[str]:
    """How well the crop's box tells the classes, without a pixel, a line each; intervals of `number` resamples.

    Where the lungs lie in an image, and how large, comes of the child's size and of how the film was taken more than
    of disease. A whole image keeps it, a crop takes it away: a crop that costs may have lost nothing else.
    """
    rows = lake.studies.to_arrow(["image_id", "lung_box"])
    boxes = dict(zip(rows["image_id"].to_pylist(), rows["lung_box"].to_pylist(), strict=True))
    frames = np.array([list(boxes[image_id].values()) for image_id in cohort.image_ids], np.float32)
    for (name, held_out), (task, targets) in product(cohort.held_out.items(), cohort.targets.items()):
        probabilities = make_head("xgboost").fit(frames[~held_out], targets[~held_out]).predict_proba(frames[held_out])
        weights = resample(cohort.patients[held_out], number)
        area = Interval.of(metrics(weights, targets[held_out], probabilities)["auc"])
        yield f"{name} {task}: AUC {area.value:.3f} ({area.low:.3f} to {area.high:.3f}) from the crop's box alone"


def judge_networks(
    lakes: Mapping[str, Lake], cohort: Cohort, recipe: Recipe, seeds: Sequence[int], folder: Path
) -> dict[str, dict[str, Probabilities]]:
    """The trained networks' probabilities for the rows held out, by crop and hold-out; what is not normal is pneumonia.

    Args:
        lakes: by crop.
        cohort: their radiographs.
        recipe: how to train.
        seeds: of weights, order and augmentation.
        folder: where each network's probabilities are kept, and taken from when they are there.
    """
    folder.mkdir(exist_ok=True)
    targets = cohort.targets[THREE_CLASS]
    images = {
        crop: np.stack([fit(each, recipe.side) for each in read_crops(lake, cohort.image_ids)])
        for crop, lake in lakes.items()
    }
    # Seed by seed, so that an interrupted benchmark leaves whole comparisons.
    files = {
        (seed, name, crop): folder / f"{crop} {name} {recipe.side}px {recipe.epochs} epochs seed {seed}.npy"
        for seed, name, crop in product(seeds, cohort.held_out, lakes)
    }
    # One thread each: two networks side by side take no longer than two threads on one after the other, and do not
    # wait for one another where the machine has something else to do.
    with ProcessPoolExecutor(None, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        trainings = [
            pool.submit(judge_network, images[crop], targets, cohort.held_out[name], recipe.epochs, seed, file)
            for (seed, name, crop), file in files.items()
            if not file.exists()
        ]
        for done, training in enumerate(as_completed(trainings), 1):
            print(f"trained {done} of {len(trainings)} networks: {training.result()}", file=sys.stderr)
    probabilities: dict[str, dict[str, Probabilities]] = {crop: {} for crop in lakes}
    for crop, name in product(lakes, cohort.held_out):
        three_class = np.stack([np.load(files[seed, name, crop]) for seed in seeds])
        normal = three_class[:, :, 0]
        probabilities[crop][name] = {BINARY: np.stack([normal, 1 - normal], axis=2), THREE_CLASS: three_class}
    return probabilities


def judge_network(
    images: NDArray[np.uint8], targets: Targets, held_out: Rows, epochs: int, seed: int, file: Path
) -> str:
    """Train a network and keep its probabilities (rows held out, classes); tells which and how long it took."""
    start = time.monotonic()
    network = train_network(images[~held_out], targets[~held_out], epochs, seed)
    np.save(file, predict(network, images[held_out]))
    return f"{file.stem}, {time.monotonic() - start:.0f} s"


def train_network(images: NDArray[np.uint8], targets: Targets, epochs: int, seed: int) -> nn.Module:
    """A greyscale ResNet-18, every class adding the same to the loss."""
    torch.manual_seed(seed)
    counts = torch.from_numpy(np.bincount(targets)).float()
    network = resnet18(num_classes=len(counts))
    network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            batch = augmented(torch.from_numpy(images[rows.numpy()])[:, None].float())
            with torch.autocast("cpu", torch.bfloat16):
                scores = network(normalised(batch))
            loss = functional.cross_entropy(scores.float(), torch.from_numpy(targets)[rows], counts.sum() / counts)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def predict(network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(n, classes)."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        scores = [
            network(normalised(batch[:, None].float())).float() for batch in torch.from_numpy(images).split(4 * BATCH)
        ]
    return torch.cat(scores).double().softmax(1).numpy()


def augmented(batch: Tensor) -> Tensor:
    """Flipped left to right or not, scaled and shifted, each image its own way."""
    theta = torch.zeros(len(batch), 2, 3)
    scale = 1 + ZOOM * (2 * torch.rand(len(batch)) - 1)
    theta[:, 0, 0] = scale * (2 * torch.randint(2, (len(batch),)) - 1)
    theta[:, 1, 1] = scale
    # affine_grid's coordinates run from -1 to 1.
    theta[:, :, 2] = 2 * SHIFT * (2 * torch.rand(len(batch), 2) - 1)
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, align_corners=False)


def normalised(batch: Tensor) -> Tensor:
    """About -2 to 2."""
    return ((batch - 127.5) / 63.75).contiguous(memory_format=torch.channels_last)


def resample(patients: NDArray[np.int64], number: int) -> NDArray[np.float64]:
    """How often each row counts, (1 + number, n): once, then as often as its patient was drawn (with replacement)."""
    indices = np.unique(patients, return_inverse=True)[1]
    several = indices.max() + 1
    drawn = np.random.default_rng(0).multinomial(several, np.full(several, 1 / several), size=number)
    return np.vstack([np.ones((1, len(patients))), drawn[:, indices]])


def auc(weights: NDArray[np.float64], positive: Rows, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The area under the ROC curve for each row of weights: P(positive above negative), ties half."""
    order = np.argsort(scores, kind="stable")
    first = np.unique(scores[order], return_index=True)[1]
    up, down = weights[:, order] * positive[order], weights[:, order] * ~positive[order]
    up, down = np.add.reduceat(up, first, axis=1), np.add.reduceat(down, first, axis=1)
    return (up * (down.cumsum(axis=1) - down / 2)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1))


def metrics(
    weights: NDArray[np.float64], targets: Targets, probabilities: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The figures of `classifiers.metrics.Evaluation` for each row of weights, by name."""
    classes = range(probabilities.shape[1])
    decided = probabilities.argmax(axis=1)
    areas = [auc(weights, targets == each, probabilities[:, each]) for each in classes]
    recalls = [(weights @ ((targets == each) & (decided == each))) / (weights @ (targets == each)) for each in classes]
    return {"auc": np.mean(areas, axis=0), "balanced_accuracy": np.mean(recalls, axis=0)}


def compare(
    targets: Targets, weights: NDArray[np.float64], whole: NDArray[np.float64], crop: NDArray[np.float64]
) -> dict[str, Comparison]:
    """A crop's probabilities (seeds, n, classes) against the whole image's, by metric."""
    figures = [[metrics(weights, targets, of_seed) for of_seed in arm] for arm in (whole, crop)]
    comparisons = {}
    for name in figures[0][0]:
        without, cropped = (np.stack([of_seed[name] for of_seed in arm]) for arm in figures)
        difference = cropped - without
        comparisons[name] = Comparison(
            Interval.of(without.mean(axis=0)),
            Interval.of(cropped.mean(axis=0)),
            Interval.of(difference.mean(axis=0)),
            difference[:, 0],
        )
    return comparisons


def line(name: str, found: Comparison) -> str:
    whole, crop = (f"{each.value:.4f} ({each.low:.4f} to {each.high:.4f})" for each in (found.whole, found.crop))
    apart = f"{found.difference.value:+.4f} ({found.difference.low:+.4f} to {found.difference.high:+.4f})"
    by_seed = " ".join(f"{each:+.4f}" for each in found.by_seed)
    return f"{name:<56}{whole:<29}{crop:<29}{apart:<33}{found.verdict:<15}{by_seed}"


def sentence(crop: str, found: Mapping[str, Comparison]) -> str:
    """What one can say of a crop, by the AUC."""
    told = []
    for verdict in VERDICTS:
        names = [f"{name} {each.difference.value:+.4f}" for name, each in found.items() if each.verdict == verdict]
        if names:
            told.append(f"{verdict} in {len(names)} of {len(found)} comparisons ({', '.join(names)})")
    return f"Cropping by {crop}, judged by the AUC: {'; '.join(told)}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with kermany/ (default: %(default)s)")
    parser.add_argument("--crops", nargs="+", choices=list(CROPS)[1:], default=["segmenter"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--weights", default="random", help="of the ResNet-50: random, imagenet, or a file")
    parser.add_argument("--side", type=int, default=112, help="pixels that the ResNet-18 sees (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of the ResNet-18 (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the ResNet-18 (default: %(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep all there, and go on from it when called again")
    parser.add_argument("--quick", action="store_true", help="a trial of the program: few radiographs, one epoch")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="pleura-bench-"))
    try:
        run(arguments, folder)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder)


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Make the lakes, then every comparison; each is printed as soon as it is known."""
    archive, recipe = arguments.data / "kermany", Recipe(arguments.side, arguments.epochs)
    if arguments.quick:
        archive, recipe = copy_few(archive, folder / "few"), Recipe(64, 1)
    lakes = {
        crop: take_in(archive, folder, crop, arguments.weights, arguments.ways) for crop in (WHOLE, *arguments.crops)
    }
    cohort = read_cohort(lakes[WHOLE])
    for held_out, rows in cohort.held_out.items():
        patients, judged = (np.unique(cohort.patients[each]).size for each in (~rows, rows))
        shares = np.bincount(cohort.targets[THREE_CLASS][rows])
        print(
            f"{held_out}: {(~rows).sum()} images of {patients} patients to train on, {rows.sum()} of {judged} to judge"
        )
        print(f"  {', '.join(f'{n} {name}' for n, name in zip(shares, get_task(THREE_CLASS).classes, strict=True))}")
    for crop in arguments.crops:
        for told in judge_frames(lakes[crop], cohort, arguments.resamples):
            print(f"{crop} {told}")
    print(f"\n{'':<56}{'whole image':<29}{'crop':<29}{'crop - whole':<33}{'cropping':<15}by seed")
    by_auc: dict[str, dict[str, Comparison]] = {crop: {} for crop in arguments.crops}
    for way in arguments.ways:
        if way == "features":
            probabilities = {crop: judge_heads(lake, cohort) for crop, lake in lakes.items()}
        else:
            probabilities = judge_networks(lakes, cohort, recipe, arguments.seeds, folder / "networks")
        for crop in arguments.crops:
            for held_out, rows in cohort.held_out.items():
                weights = resample(cohort.patients[rows], arguments.resamples)
                for task, targets in cohort.targets.items():
                    whole, cropped = (probabilities[each][held_out][task] for each in (WHOLE, crop))
                    found = compare(targets[rows], weights, whole, cropped)
                    for metric, comparison in found.items():
                        print(line(f"{crop} {way} {held_out} {task} {metric}", comparison), flush=True)
                    by_auc[crop][f"{way} {held_out} {task}"] = found["auc"]
    for crop, comparisons in by_auc.items():
        print(sentence(crop, comparisons))


if __name__ == "__main__":
    main()
