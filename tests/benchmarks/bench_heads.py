"""How long heads take on a whole ChestX-ray14 of drawn features, against what the libraries take for the same.

Run from the repository's root:  python tests/benchmarks/bench_heads.py [--images 112120] [--parts whole,mlp,xgboost]

- whole: `jobs/train_head.py` as a process (read, fit, calibrate, evaluate with 1,000 resamples, report), for logistic
  and mlp: seconds, and the most memory that it had.
- mlp: the fit alone against scikit-learn's MLPClassifier of the same widths and epochs, which stops by itself no
  earlier, and the macro AUC of both on test.
- xgboost: the fit alone against XGBoost called directly on the same rows with the same settings, in both ways that it
  has for labels (all at once; one after the other on shared bins); rows are fewer, for one run takes minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import _root  # noqa: F401
import numpy as np
import xgboost
from feature_lake import EXTRACTOR, draw_feature_lake
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from classifiers.heads import make_head
from classifiers.rows import SplitRows
from classifiers.tasks import get_task
from pipelines.labelled import read_labelled
from pipelines.lake import EXTRACTOR_CARD, Lake

TASK = "chestxray14"
ROOT = Path(__file__).resolve().parents[2]
#: What the mlp part trains, in both libraries; the learning rate is scikit-learn's.
WIDTH, EPOCHS = 128, 5
SETTINGS = {"learning_rate": 1e-3, "batch_size": 512}
ROUNDS = 20


def whole(location: Path) -> None:
    """The job as its user starts it."""
    for head in ("logistic", "mlp"):
        command = [sys.executable, "jobs/train_head.py", f"lake={location}", f"task={TASK}", f"head={head}"]
        start = perf_counter()
        job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert job.stdout is not None
        told = job.stdout.read()
        _, status, used = os.wait4(job.pid, 0)
        assert status == 0, told
        times = next(line for line in told.splitlines() if line.startswith("time"))
        print(
            f"whole train_head, {head}: {perf_counter() - start:.1f} s, peak {used.ru_maxrss / 2**20:.2f} GiB ({times})"
        )


def mlp(train: SplitRows, test: SplitRows, pairs: int) -> None:
    """Ours and scikit-learn's, in turn."""
    classes = train.targets.shape[1]
    theirs = MLPClassifier((WIDTH,), max_iter=EPOCHS, n_iter_no_change=EPOCHS, tol=0.0, random_state=0)
    ours = make_head("mlp", **SETTINGS, hidden=(WIDTH,), max_epochs=EPOCHS, balance="none")
    scaler = StandardScaler(copy=False)
    X, X_test = scaler.fit_transform(train.features.copy()), scaler.transform(test.features.copy())
    ratios, aucs = [], {}
    # The first step of a process imports a second's worth of torch.
    make_head("mlp", max_epochs=1).fit(np.eye(8, dtype=np.float32), np.arange(8) % 2)
    for _ in range(pairs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            slow = timed(lambda: theirs.fit(X, train.targets))
        fast = timed(lambda: ours.fit(train.features, train.targets))
        ratios.append(slow / fast)
        aucs = {
            "ours": roc_auc_score(test.targets, ours.predict_proba(test.features)),
            "scikit-learn's": roc_auc_score(test.targets, theirs.predict_proba(X_test)),
        }
        print(f"  {EPOCHS} epochs, {len(train):,} rows: ours {fast:.1f} s, scaling included; theirs {slow:.1f} s")
    told = ", ".join(f"{name} {value:.4f}" for name, value in aucs.items())
    print(f"mlp ({WIDTH} wide, {classes} labels): {median(ratios):.1f} times scikit-learn's speed; macro AUC {told}")


def boosting(train: SplitRows, pairs: int) -> None:
    """Ours and XGBoost's own two ways, in turn."""
    params = {"max_depth": 4, "learning_rate": 0.1, "subsample": 0.8, "colsample_bytree": 0.1, "seed": 0}
    ours = make_head("xgboost", n_estimators=ROUNDS, balance="none")
    direct = {"objective": "binary:logistic", "tree_method": "hist", **params}

    def at_once() -> object:
        matrix = xgboost.QuantileDMatrix(train.features, train.targets)
        return xgboost.train(direct, matrix, ROUNDS)

    def in_turn() -> object:
        matrix = xgboost.QuantileDMatrix(train.features)
        for label in train.targets.T:
            matrix.set_label(label)
            xgboost.train(direct, matrix, ROUNDS)
        return matrix

    ratios = []
    for _ in range(pairs):
        best = min(timed(at_once), timed(in_turn))
        mine = timed(lambda: ours.fit(train.features, train.targets))
        ratios.append(best / mine)
        print(f"  {ROUNDS} rounds, {len(train):,} rows: ours {mine:.1f} s, XGBoost's best {best:.1f} s")
    print(f"xgboost ({train.targets.shape[1]} labels): {median(ratios):.2f} of XGBoost's own best speed")


def timed(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=112_120)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--parts", default="whole,mlp,xgboost")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--xgboost-rows", type=int, default=20_000)
    parser.add_argument("--lake", type=Path, help="kept, and taken if it is there")
    options = parser.parse_args()
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory() as folder:
        location = options.lake or Path(folder) / "lake"
        if location.exists():
            lake = Lake.open(str(location))
        else:
            lake = draw_feature_lake(location, options.images, options.dim)
            card = {"backbone": "drawn", "precision": "fp32", "weights": "none"}
            lake.features(EXTRACTOR).folder.write_json(EXTRACTOR_CARD, card)
        if "whole" in parts:
            whole(location)
        if "mlp" not in parts and "xgboost" not in parts:
            return
        with read_labelled(lake, EXTRACTOR, get_task(TASK)) as labelled:
            assert labelled.test is not None
            if "mlp" in parts:
                mlp(labelled.train, labelled.test, options.pairs)
            if "xgboost" in parts:
                boosting(labelled.train.take(np.arange(options.xgboost_rows)), options.pairs)


if __name__ == "__main__":
    main()
