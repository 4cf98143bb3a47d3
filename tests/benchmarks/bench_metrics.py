"""How fast an evaluation with intervals is: `evaluate` against a loop that copies rows and asks scikit-learn.

Rows, patients and label frequencies are those of ChestX-ray14's official test set; scores are drawn with signal. The
loop computes fewer figures (per label precision, recall, F1, AUC and average precision, and the micro AUC) and is timed
on a few resamples.

Run from the repository's root, with little else on the machine:
  python tests/benchmarks/bench_metrics.py
"""

from __future__ import annotations

import argparse
import resource
import sys
from time import perf_counter

import _root  # noqa: F401
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

from classifiers.delong import delong
from classifiers.metrics import evaluate, paired_difference
from classifiers.resampling import Patients
from classifiers.tasks import Rule, Task

#: Positives in the official test set (Wang et al., CVPR 2017), of 25,596 images of 2,797 patients.
POSITIVES = {
    "atelectasis": 3279, "cardiomegaly": 1069, "effusion": 4658, "infiltration": 6112, "mass": 1748, "nodule": 1623,
    "pneumonia": 555, "pneumothorax": 2665, "consolidation": 1815, "edema": 925, "emphysema": 1093, "fibrosis": 435,
    "pleural_thickening": 1143, "hernia": 86,
}  # fmt: skip
IMAGES, PATIENTS = 25_596, 2_797


def seconds(call: object) -> float:
    """The faster of two calls."""
    times = []
    for _ in range(2):
        start = perf_counter()
        call()  # type: ignore[operator]
        times.append(perf_counter() - start)
    return min(times)


def naive(y: NDArray[np.int8], p: NDArray[np.float64], decided: NDArray[np.bool_], owners: Patients, few: int) -> None:
    """A few resamples of patients, their rows copied, and each figure asked for."""
    rows_of = np.split(np.argsort(owners.rows, kind="stable"), np.cumsum(np.bincount(owners.rows))[:-1])
    generator = np.random.default_rng(0)
    for _ in range(few):
        rows = np.concatenate([rows_of[each] for each in generator.integers(owners.count, size=owners.count)])
        truth, scores = y[rows], p[rows]
        precision_recall_fscore_support(truth, decided[rows], average=None, zero_division=np.nan)
        for label in range(truth.shape[1]):
            roc_auc_score(truth[:, label], scores[:, label])
            average_precision_score(truth[:, label], scores[:, label])
        roc_auc_score(truth.ravel(), scores.ravel())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--few", type=int, default=5, help="resamples that the loop is timed on (default: %(default)s)")
    arguments = parser.parse_args()

    generator = np.random.default_rng(0)
    y = (generator.random((IMAGES, len(POSITIVES))) < np.array(list(POSITIVES.values())) / IMAGES).astype(np.int8)
    p, other = (1 / (1 + np.exp(2 - y - generator.normal(size=y.shape))) for _ in range(2))
    decided, patients = p > 0.25, generator.integers(PATIENTS, size=IMAGES)
    groups = {name: generator.choice(list(values), IMAGES) for name, values in
              {"sex": "FM", "view": "AP", "age band": "012345"}.items()}  # fmt: skip
    task = Task("labels", tuple(Rule(name, any=(name,)) for name in POSITIVES), multi_label=True)
    told = {"patients": patients, "resamples": arguments.resamples}

    loop = seconds(lambda: naive(y, p, decided, Patients(patients, IMAGES), arguments.few)) / arguments.few
    whole = seconds(lambda: evaluate(task, y, p, decided, **told))
    grouped = seconds(lambda: evaluate(task, y, p, decided, attributes=groups, **told))
    images = seconds(lambda: evaluate(task, y, p, decided, resamples=arguments.resamples))
    paired = seconds(lambda: paired_difference(task, y, (p, decided), (other, other > 0.25), **told))
    tested = seconds(lambda: [delong(y[:, each] == 1, p[:, each], other[:, each], patients) for each in range(14)])
    print(f"{IMAGES} rows, {PATIENTS} patients, {len(POSITIVES)} labels, {arguments.resamples} resamples")
    print(f"scikit-learn in a loop      {loop * arguments.resamples:8.1f} s ({loop:.2f} s a resample)")
    print(f"evaluate                    {whole:8.1f} s, {loop * arguments.resamples / whole:.0f} times as fast")
    print(f"  with 10 subgroups         {grouped:8.1f} s")
    print(f"  every image a patient     {images:8.1f} s")
    print(f"paired difference of heads  {paired:8.1f} s")
    print(f"DeLong's test, every label  {tested:8.2f} s")
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"peak memory                 {peak:8.0f} MB")


if __name__ == "__main__":
    main()
