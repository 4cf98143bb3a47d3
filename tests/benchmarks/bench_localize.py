"""What it costs to be told where: images/s of localizing beside those of a plain forward pass, in the same run.

Every figure is a ratio of seconds per image: a forward pass with maps, heat and boxes of the classes, over a forward
pass that gives vectors alone, both of the same batches of drawn radiographs, in turns. Grad-CAM by autograd, with its
backward pass through the backbone, is there for comparison.

    python tests/benchmarks/bench_localize.py [--backbone resnet50] [--batches 6] [--batch-size 16] [--precision fp32]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import _root  # noqa: F401
import numpy as np
import torch

from classifiers.estimator import Head
from classifiers.heads import make_head
from featurizers.backbones import build_untrained, get_backbone, load_weights, takes_grey
from featurizers.embedder import Embedder
from featurizers.heat_boxes import hotspot
from featurizers.phantoms import draw_phantom
from featurizers.saliency import Method, class_maps, heat
from pipelines.localizer import SIDE

LABELS = 14


def fitted(kind: str, width: int, **params: object) -> Head:
    """A head of 14 labels on noise: what it says does not matter, what it costs does."""
    rng = np.random.default_rng(0)
    X = rng.random((300, width), dtype=np.float32)
    return make_head(kind, balance="none", **params).fit(X, (rng.random((300, LABELS)) < 0.4).astype(np.int8))


def localizing(embedder: Embedder, head: Head, method: Method, classes: int) -> Callable[[np.ndarray], None]:
    """As a job does it: view, weigh, enlarge, draw boxes."""

    def once(batch: np.ndarray) -> None:
        features, activations = embedder.view(batch)
        maps = class_maps(activations, head.feature_weights(features)[:, :classes])
        for of_image in zip(maps, heat(maps, method, SIDE), strict=True):
            for cells, picture in zip(*of_image, strict=True):
                hotspot(cells, picture)

    return once


def by_autograd(name: str, weights: object, batch_size: int) -> Callable[[np.ndarray], None]:
    """Grad-CAM as it is written down: forward, and backward through the pooling to the last map, in float32."""
    spec = get_backbone(name)
    network = build_untrained(spec)
    network.load_state_dict(dict(weights.state), strict=False)  # type: ignore[attr-defined]
    eye = takes_grey(network, spec).eval()
    top = torch.nn.Linear(spec.feature_dim, LABELS)

    def once(batch: np.ndarray) -> None:
        activations = eye.feature_map(torch.from_numpy(batch).unsqueeze(1))
        activations.retain_grad()
        top(activations.mean(dim=(2, 3)))[:, 0].sum().backward()
        alpha = activations.grad.mean(dim=(2, 3), keepdim=True)
        torch.relu((alpha * activations).sum(1))

    return once


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="fp32")
    arguments = parser.parse_args()
    weights = load_weights(get_backbone(arguments.backbone), "random")
    embedder = Embedder(arguments.backbone, weights, precision=arguments.precision, batch_size=arguments.batch_size)
    size = embedder.input_size
    batches = [
        np.stack(
            [
                draw_phantom(arguments.batch_size * number + each, size=(size, size)).pixels
                for each in range(arguments.batch_size)
            ]
        )
        for number in range(2)
    ]
    width = embedder.feature_dim
    logistic, mlp = fitted("logistic", width), fitted("mlp", width, max_epochs=2)
    xgboost = fitted("xgboost", width, n_estimators=100)
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "a plain forward pass": embedder.forward,
        "CAM, logistic, 1 class": localizing(embedder, logistic, Method.CAM, 1),
        "CAM, logistic, 14 classes": localizing(embedder, logistic, Method.CAM, LABELS),
        "Grad-CAM, mlp, 1 class": localizing(embedder, mlp, Method.GRAD_CAM, 1),
        "Grad-CAM, mlp, 14 classes": localizing(embedder, mlp, Method.GRAD_CAM, LABELS),
        "SHAP, xgboost of 14 × 100 trees, 14 classes": localizing(embedder, xgboost, Method.SHAP, LABELS),
        "Grad-CAM by autograd, linear, 1 class": by_autograd(arguments.backbone, weights, arguments.batch_size),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(arguments.batches + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way(batches[turn % len(batches)])
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    plain = statistics.median(seconds["a plain forward pass"])
    threads = torch.get_num_threads()
    print(f"{arguments.backbone} {arguments.precision}, batches of {arguments.batch_size}, {threads} threads")
    for name, each in seconds.items():
        middle = statistics.median(each)
        ratios = sorted(own / base for own, base in zip(each, seconds["a plain forward pass"], strict=True))
        print(
            f"  {name.ljust(46)} {arguments.batch_size / middle:7.1f} images/s  {middle / plain:5.2f} times a forward "
            f"pass (turn by turn {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
