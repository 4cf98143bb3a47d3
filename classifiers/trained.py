"""A trained head with all that its answers mean: task, extractor, calibration, thresholds, metrics; its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from classifiers.calibration import Calibrator
from classifiers.errors import ClassifierError, HeadError
from classifiers.estimator import Head
from classifiers.evaluation import Evaluation
from classifiers.heads import KINDS, make_head
from classifiers.reports.examples import Example
from classifiers.reports.page import render_report
from classifiers.tasks import Task
from classifiers.thresholds import Thresholds

FORMAT_VERSION: Final = 2

HEAD_FILE: Final = "head.json"
METRICS_FILE: Final = "metrics.json"
REPORT_FILE: Final = "report.html"


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds.

    Attributes:
        rows: those that the task answers, for one class at least.
        patients: how many they are of.
        per_class: class name → rows of the class.
        unknown: class name → rows whose target for it is not known; they count nowhere. 0 where classes exclude
            each other.
        unanswered: rows that the task does not answer at all, which no fit and no metric sees.
    """

    rows: int
    patients: int
    per_class: Mapping[str, int]
    unknown: Mapping[str, int]
    unanswered: int


@dataclass(frozen=True)
class Scores:
    """A head's answers.

    Attributes:
        probabilities: float64 (n, k), calibrated as the head's calibrator says; rows sum to 1 where classes exclude
            each other.
        decisions: bool (n, k), by the head's thresholds.
        uncalibrated: float64 (n, k), the head's own probabilities.
    """

    probabilities: NDArray[np.float64]
    decisions: NDArray[np.bool_]
    uncalibrated: NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class TrainedHead:
    """A fitted head, tied to what it was fitted for.

    Attributes:
        head: the fitted estimator; its labels are the task's class indices.
        task: the question that it answers.
        extractor: fingerprint of the extractor whose features it was fitted on; it takes no others.
        metrics: split name → evaluation of the head; splits with no answered rows are absent.
        baseline: split name → evaluation of the majority head on the same rows.
        class_counts: split name → its rows, train included.
        balanced_counts: class name → rows of the class that the fit saw, after balancing.
        learning_curves: what was watched while fitting, name → a value per epoch, round or iteration.
        provenance: where the features and labels are from, in words, for the report: what → from where.
        calibrator: maps the head's own probabilities to calibrated ones.
        thresholds: turn probabilities into decisions.

    Raises:
        HeadError: when the head is of no known kind, or was fitted on other labels than the task's class indices.
    """

    head: Head
    task: Task
    extractor: str
    metrics: Mapping[str, Evaluation]
    baseline: Mapping[str, Evaluation]
    class_counts: Mapping[str, SplitCounts]
    balanced_counts: Mapping[str, int]
    learning_curves: Mapping[str, tuple[float, ...]]
    provenance: Mapping[str, str]
    calibrator: Calibrator
    thresholds: Thresholds

    def __post_init__(self) -> None:
        """Refuse a head that could not be stored, or whose columns are not the task's classes."""
        check_is_fitted(self.head)
        if type(self.head) not in KINDS.values():
            raise HeadError(f"{type(self.head).__name__} is no head that can be stored: use one of {', '.join(KINDS)}")
        is_alike = self.head.multi_label_ == self.task.multi_label
        if not is_alike or not np.array_equal(self.head.classes_, np.arange(len(self.task.classes))):
            raise HeadError(
                f"the head was fitted on the labels {self.head.classes_.tolist()}, task {self.task.name!r} has the "
                f"class indices 0 to {len(self.task.classes) - 1}: fit it on the task's targets"
            )

    def __repr__(self) -> str:
        split = next((name for name in ("test", "val") if name in self.metrics), None)
        if split is None:
            return f"<{self.head_name} for {self.task.name}: not evaluated>"
        name, figure = self.metrics[split].headline
        return f"<{self.head_name} for {self.task.name}: {name} {figure.value} on {split}>"

    @property
    def head_name(self) -> str:
        """The head's name in `KINDS`."""
        return next(name for name, kind in KINDS.items() if type(self.head) is kind)

    @property
    def feature_dim(self) -> int:
        """Width d of the features that it takes."""
        return int(self.head.n_features_in_)

    @property
    def params(self) -> dict[str, Any]:
        """The head's parameters that can change its answers, as JSON holds them."""
        params = self.head.get_params()
        return {name: _plain(value) for name, value in params.items() if name not in self.head.execution_params}

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all that changes the answers, the weights' hash included."""
        return _sha256(_canonical(self._identity(_hashes(self.head.weights_to_files()))))

    def check_extractor(self, extractor: str) -> None:
        """Make sure that features are of the head's own extractor.

        Args:
            extractor: the fingerprint that the features carry.

        Raises:
            HeadError: when it is another; names both.
        """
        if extractor != self.extractor:
            raise HeadError(
                f"these features come from extractor {extractor}, the head was fitted on those of {self.extractor}: "
                "extract features with the head's own extractor, or fit a head on these"
            )

    def predict_proba(self, features: ArrayLike) -> NDArray[np.float64]:
        """Give the probabilities alone: float64 (n, k), as `score` does."""
        return self.score(features).probabilities

    def score(self, features: ArrayLike) -> Scores:
        """Answer the task for every row.

        Args:
            features: float32 (n, d) of the head's own extractor, which `check_extractor` can tell; n may be 0.

        Raises:
            HeadError: on another width, or values that are not finite.
        """
        empty = np.shape(features) == (0, self.feature_dim)
        own = np.empty((0, len(self.task.classes))) if empty else self.head.predict_proba(features)
        calibrated = self.calibrator(own)
        return Scores(calibrated, self.thresholds.decide(calibrated, own), own)

    def to_files(self, examples: Sequence[Example] = ()) -> dict[str, bytes]:
        """Give the head's files, by name: head.json, its weights, metrics.json, report.html. No clock, no pickle: the
        same head gives the same bytes.

        Args:
            examples: images that the report shows.
        """
        weights = self.head.weights_to_files()
        identity = self._identity(_hashes(weights))
        metrics = _readable(
            {
                "task_description": self.task.description,
                "provenance": dict(self.provenance),
                "metrics": {split: evaluation.as_dict() for split, evaluation in self.metrics.items()},
                "baseline": {split: evaluation.as_dict() for split, evaluation in self.baseline.items()},
                "class_counts": {split: asdict(counts) for split, counts in self.class_counts.items()},
                "balanced_counts": dict(self.balanced_counts),
                "learning_curves": {name: list(curve) for name, curve in self.learning_curves.items()},
            }
        )
        about = {"identity": identity, "fingerprint": _sha256(_canonical(identity)), "metrics_sha256": _sha256(metrics)}
        return {
            HEAD_FILE: _readable(about),
            **weights,
            METRICS_FILE: metrics,
            REPORT_FILE: render_report(self, examples).encode(),
        }

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Read what `to_files` gave; the report is not looked at.

        Raises:
            HeadError: when a file is missing or damaged, does not fit the fingerprint, or is of another version.
        """
        try:
            return cls._read(files)
        except ClassifierError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HeadError(
                f"{HEAD_FILE} or {METRICS_FILE} is damaged ({type(error).__name__}: {error}): "
                "copy the head anew from where it was made"
            ) from error

    def save(self, folder: str | Path) -> None:
        """Write the head's files into a folder of its own.

        Raises:
            HeadError: when the folder already holds something; a stored head is never edited.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise HeadError(f"{folder} already exists and is not empty: name a new folder for this head")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.to_files().items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the head that `save` wrote.

        Raises:
            HeadError: as `from_files` does, or when there is no such folder.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise HeadError(f"there is no folder {folder}: give the folder that `save` or the train job wrote")
        return cls.from_files({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})

    @classmethod
    def _read(cls, files: Mapping[str, bytes]) -> Self:
        about = json.loads(_file(files, HEAD_FILE))
        identity = about["identity"]
        if identity["format_version"] != FORMAT_VERSION:
            raise HeadError(
                f"the head is stored in format version {identity['format_version']}, this code reads {FORMAT_VERSION}: "
                "use the code's version that stored it, or train the head anew"
            )
        head = make_head(identity["head"], **identity["params"])
        metrics = _file(files, METRICS_FILE)
        weights = {name: _file(files, name) for name in identity["weights_sha256"]}
        written = {HEAD_FILE: about["fingerprint"], METRICS_FILE: about["metrics_sha256"], **identity["weights_sha256"]}
        found = {HEAD_FILE: _sha256(_canonical(identity)), METRICS_FILE: _sha256(metrics), **_hashes(weights)}
        for name, sha256 in written.items():
            if found[name] != sha256:
                raise HeadError(
                    f"{name} has SHA-256 {found[name]}, {HEAD_FILE} says {sha256}: the file was damaged or edited; "
                    "copy the head anew from where it was made"
                )
        results = json.loads(metrics)
        task = Task.from_dict(identity["task"] | {"description": results["task_description"]})
        return cls(
            head=head.restore(
                weights,
                n_features=identity["feature_dim"],
                n_classes=len(task.classes),
                multi_label=task.multi_label,
            ),
            task=task,
            extractor=identity["extractor"],
            metrics={split: Evaluation.from_dict(values) for split, values in results["metrics"].items()},
            baseline={split: Evaluation.from_dict(values) for split, values in results["baseline"].items()},
            class_counts={split: SplitCounts(**counts) for split, counts in results["class_counts"].items()},
            balanced_counts=results["balanced_counts"],
            learning_curves={name: tuple(curve) for name, curve in results["learning_curves"].items()},
            provenance=results["provenance"],
            calibrator=Calibrator.from_dict(identity["calibration"]),
            thresholds=Thresholds.from_dict(identity["thresholds"]),
        )

    def _identity(self, weights_sha256: Mapping[str, str]) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "head": self.head_name,
            "params": self.params,
            "weights_sha256": dict(weights_sha256),
            # How a question is worded changes no answer.
            "task": {key: value for key, value in self.task.as_dict().items() if key != "description"},
            "calibration": self.calibrator.as_dict(),
            "thresholds": self.thresholds.as_dict(),
            "extractor": self.extractor,
            "feature_dim": self.feature_dim,
        }


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise HeadError(f"{name} is missing among the head's files: copy the head anew from where it was made")
    return files[name]


def _plain(value: Any) -> Any:  # noqa: ANN401 - a parameter's value may be anything
    """Turn a parameter into what JSON gives back: NumPy's numbers into Python's, sequences into lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _canonical(value: dict[str, Any]) -> bytes:
    """The one JSON text that stands for a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _readable(value: dict[str, Any]) -> bytes:
    """JSON for people. Keys keep their order: the confusion's rows are in the order of the classes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: _sha256(content) for name, content in files.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
