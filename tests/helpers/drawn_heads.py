"""Trained heads of every shape that a report must cope with, drawn instead of trained."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from small_heads import EXTRACTOR

from classifiers.calibration import Calibration, Calibrator
from classifiers.estimator import Head
from classifiers.evaluation import Evaluation
from classifiers.heads import make_head
from classifiers.metrics import evaluate
from classifiers.tasks import Rule, Task
from classifiers.thresholds import ThresholdRule, Thresholds
from classifiers.trained import SplitCounts, TrainedHead

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
RESAMPLES = 50


THREE = Task.exclusive("three_class", ("normal", "viral", "bacterial"))
TWO = Task.exclusive("binary", ("normal", "pneumonia"))
FOURTEEN = Task("chestxray14", tuple(Rule(name, any=(name,)) for name in LABELS), multi_label=True)


def draw_answers(task: Task, n: int, seed: int = 0, signal: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Targets and probabilities; of labels the first is frequent, the last never occurs, a tenth is not known."""
    rng = np.random.default_rng(seed)
    k = len(task.classes)
    if task.multi_label:
        y = (rng.random((n, k)) < np.linspace(0.3, 0.02, k)).astype(np.int8)
        y[:, -1] = 0
        logits = rng.normal(size=(n, k)) + signal * y - 1
        y[rng.random((n, k)) < 0.1] = -1
        y[0] = 0
        return y, 1 / (1 + np.exp(-logits))
    y = rng.choice(k, size=n, p=np.arange(k, 0, -1) / np.arange(k, 0, -1).sum())
    scores = np.exp(rng.normal(size=(n, k)) + signal * np.eye(k)[y])
    return y, scores / scores.sum(axis=1, keepdims=True)


def decide(task: Task, probabilities: np.ndarray) -> np.ndarray:
    if task.multi_label:
        return probabilities >= 0.5
    return np.arange(len(task.classes)) == probabilities.argmax(axis=1)[:, None]


@cache
def evaluated(task: Task, n: int, seed: int = 0, *, signal: float = 1.5, calibrated: bool = False) -> Evaluation:
    y, p = draw_answers(task, n, seed, signal)
    rng = np.random.default_rng(seed)
    attributes = {
        "sex": rng.choice(np.array(["F", "M", ""]), n, p=[0.45, 0.45, 0.1]),
        "age band": rng.choice(np.array(["0–17", "18–39", "40–64", "65 and above"]), n),
    }
    before = (p**2 / (p**2 + (1 - p) ** 2)) if calibrated else None
    return evaluate(
        task, y, p, decide(task, p), patients=np.arange(n) // 2, attributes=attributes, uncalibrated=before,
        resamples=RESAMPLES,
    )  # fmt: skip


@cache
def baseline_of(task: Task, n: int, seed: int = 0) -> Evaluation:
    y, p = draw_answers(task, n, seed)
    p = np.broadcast_to(np.linspace(0.4, 0.1, p.shape[1]), p.shape)
    return evaluate(task, y, p, decide(task, p), patients=np.arange(n) // 2, resamples=RESAMPLES)


@cache
def fitted(task: Task, head: str) -> Head:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 4)).astype(np.float32)
    k = len(task.classes)
    y = (rng.random((90, k)) < 0.5).astype(np.int8) if task.multi_label else np.arange(90) % k
    return make_head(head, balance="class_weight").fit(X, y)


def draw_head(
    task: Task,
    *,
    n: int = 200,
    splits: tuple[str, ...] = ("val", "test"),
    calibrated: bool = False,
    head: str = "logistic",
    **changed: Any,
) -> TrainedHead:
    """A trained head of which only the estimator is fitted; all that a report tells is drawn."""
    classes, k = task.classes, len(task.classes)
    per_class = {name: 10 * (k - at) for at, name in enumerate(classes)}
    counts = SplitCounts(n, n // 2, per_class, dict.fromkeys(classes, 7 if task.multi_label else 0), 3)
    levels = tuple(np.linspace(0.5, 0.2, k).tolist()) if task.multi_label else None
    rule, chosen_on = (ThresholdRule.BEST_F1, "val") if levels else (ThresholdRule.ARGMAX, None)
    ones, zeros = ((1.0,) * k, (0.0,) * k) if calibrated else (None, None)
    method = Calibration.TEMPERATURE if calibrated else Calibration.NONE
    return TrainedHead(
        **{
            "head": fitted(task, head),
            "task": task,
            "extractor": EXTRACTOR,
            "metrics": {name: evaluated(task, n, at, calibrated=calibrated) for at, name in enumerate(splits)},
            "baseline": {name: baseline_of(task, n, at) for at, name in enumerate(splits)},
            "class_counts": dict.fromkeys(("train", *splits), counts),
            "balanced_counts": dict.fromkeys(classes, 50),
            "learning_curves": {
                "train loss": tuple(1 / (1 + t / 4) for t in range(20)),
                "val loss": tuple(1 / (1 + t / 4) + 0.001 * t * t for t in range(20)),
            },
            "provenance": {"data set": "phantoms", "made": "by a test"},
            "thresholds": Thresholds(
                rule, None, levels, task.multi_label, chosen_on, (classes[-1],) if levels else (), classes
            ),
            "calibrator": Calibrator(method, task.multi_label, classes, ones, zeros, None, ()),
        }
        | changed
    )
