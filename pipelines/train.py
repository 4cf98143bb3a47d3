"""Features to heads: joins vectors and findings on image_id, trains, and keeps the head as a committed run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from classifiers.heads import HEADS, make_head
from classifiers.metrics import Evaluation
from classifiers.tasks import TASKS, Task, get_task
from classifiers.trained import TrainedHead
from classifiers.training import SplitFeatures, train_head
from pipelines import __version__
from pipelines.config import LakeConfig
from pipelines.errors import LakeError
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.progress import clock
from pipelines.splits import Split


class TrainConfig(LakeConfig):
    """Settings of jobs/train_head.py."""

    task: str = Field(description=f"the question: {', '.join(TASKS)}")
    head: str = Field(description=f"the kind of head: {', '.join(HEADS)}")
    params: dict[str, Any] = Field({}, description="the head's own parameters, as params.NAME=VALUE; see classifiers/")
    name: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="where the head is kept: heads/TASK/NAME; null: the kind of head"
    )
    extractor: str | None = Field(
        None, description="fingerprint (or its start) of the features to train on; null: the only ones in the lake"
    )


@dataclass(frozen=True)
class LabelledFeatures:
    """Vectors with what is known about their images, row by row.

    Attributes:
        features: float32 (n, d).
        findings: n maps of finding to 1, 0, -1.
        splits: n names of splits.
        without_features: studies that have no vector yet.
        images: how many images and patients of which data set, in words.
    """

    features: npt.NDArray[np.float32]
    findings: list[Mapping[str, int]]
    splits: npt.NDArray[np.str_]
    without_features: int
    images: str

    def split(self, name: Split, targets: npt.NDArray[np.int64]) -> SplitFeatures | None:
        """The rows of one split; None when it has none."""
        rows = np.flatnonzero(self.splits == str(name))
        return SplitFeatures(self.features[rows], targets[rows]) if rows.size else None


def train(config: TrainConfig) -> JobRecord:
    """Run the job.

    Raises:
        LakeError: if there are no features to train on, or no train split.
        TaskError, HeadError: if the task or head is unknown, or the data can't answer the task.
    """
    task = get_task(config.task)
    make_head(config.head, **config.params)  # a misspelt parameter is told before anything is read
    lake = Lake.open(config.lake)
    extractor = lake.choose_extractor(config.extractor)
    record = JobRecord("train_head", config)
    with record.time("read"):
        labelled = read_labelled(lake, extractor)
    _check_findings(task, labelled)
    targets = task.targets(labelled.findings)
    splits = {name: labelled.split(name, targets) for name in Split}
    train_rows = splits[Split.TRAIN]
    if train_rows is None:
        raise LakeError(
            "no study of the train split has features. Ingest with a train split, then extract its features."
        )
    with record.time("train"):
        trained = train_head(
            task,
            config.head,
            train_rows,
            extractor=extractor,
            val=splits[Split.VAL],
            test=splits[Split.TEST],
            params=config.params,
            provenance={
                "Images": labelled.images,
                "Features": _describe_features(lake, extractor),
                "Trained": f"{record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}",
            },
        )
    record.count("features", len(labelled.features))
    record.count("studies without features", labelled.without_features)
    for split, counts in trained.class_counts.items():
        record.count(f"{split}: unanswered", counts.unanswered)
        for name, number in counts.per_class.items():
            record.count(f"{split}: {name}", number)
    record.extra["head"] = trained.fingerprint
    record.extra["extractor"] = extractor
    run = save_head(lake, config.name or config.head, trained, record)
    record.summary = _summary(record, trained, run)
    return record


def _check_findings(task: Task, labelled: LabelledFeatures) -> None:
    there = {name for findings in labelled.findings for name in findings}
    if missing := [name for name in task.classes if name not in there]:
        raise LakeError(
            f"task '{task.name}' needs findings that this lake does not have: {', '.join(missing)}. It has: "
            f"{', '.join(sorted(there)) or 'none'}. Check how the label file spells them."
        )


def _describe_features(lake: Lake, extractor: str) -> str:
    card = lake.features(extractor).folder.read_json(EXTRACTOR_CARD)
    return f"{card['backbone']} {card['precision']}, weights {card['weights']}"


def read_labelled(lake: Lake, extractor: str) -> LabelledFeatures:
    """All vectors of one extractor with their findings and splits, joined on image_id.

    Raises:
        LakeError: if features belong to no study.
    """
    studies = lake.studies.to_arrow(["image_id", "findings", "split", "dataset", "patient_key"])
    vectors = lake.features(extractor).to_arrow(["image_id", "features"])
    rows = pc.index_in(vectors["image_id"], value_set=studies["image_id"].combine_chunks())
    if rows.null_count:
        raise LakeError(
            f"{rows.null_count:,} features belong to no study in '{lake.folder.uri}'. Were runs of studies removed? "
            "Remove the features of this extractor too and extract them again."
        )
    matched = studies.take(rows)
    return LabelledFeatures(
        features=as_matrix(vectors["features"]),
        findings=[dict(pairs) for pairs in matched["findings"].to_pylist()],
        splits=matched["split"].to_numpy(zero_copy_only=False).astype(np.str_),
        without_features=studies.num_rows - pc.count_distinct(rows).as_py(),
        images="; ".join(
            f"{row['dataset']}, {row['image_id_count']:,} images of {row['patient_key_count_distinct']:,} patients"
            for row in matched.group_by("dataset")
            .aggregate([("image_id", "count"), ("patient_key", "count_distinct")])
            .to_pylist()
        ),
    )


def as_matrix(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """A column of lists of one length as float32 (n, d)."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(len(chunk), -1) for chunk in chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def save_head(lake: Lake, name: str, trained: TrainedHead, record: JobRecord) -> Folder:
    """Keep a head as a new run of heads/TASK/NAME; earlier runs stay."""
    run = lake.head_runs(trained.task.name, name).new_run()
    for file, content in trained.to_files().items():
        run.write(file, content)
    run.write_json("run.json", record.as_dict())
    run.commit()
    return run


def load_head(lake: Lake, reference: str) -> TrainedHead:
    """The newest run of the head `task/name`, or the run `task/name/run=…`.

    Raises:
        LakeError: if there is none; tells the heads that are there.
        HeadError: if its files are damaged.
    """
    task, _, rest = reference.partition("/")
    name, _, wanted = rest.partition("/")
    runs = lake.head_runs(task, name).runs() if name else []
    matching = [run for run in runs if wanted in ("", run.name)]
    if not matching:
        there = ", ".join(lake.heads()) or "none; train one with jobs/train_head.py"
        raise LakeError(f"there is no head '{reference}' in '{lake.folder.uri}'. Heads there: {there}.")
    run = matching[-1]
    return TrainedHead.from_files({file: run.read(file) for file in run.names() if not file.startswith((".", "_"))})


def _summary(record: JobRecord, trained: TrainedHead, run: Folder) -> str:
    rows: dict[str, object] = {
        "rows": ", ".join(f"{split} {sum(c.per_class.values()):,}" for split, c in trained.class_counts.items()),
        "unanswered": sum(counts.unanswered for counts in trained.class_counts.values()),
        "time": f"read {clock(record.timings['read'])}, train {clock(record.timings['train'])}",
    }
    if record.counts["studies without features"]:
        rows["not trained on"] = f"{record.counts['studies without features']:,} studies that have no features yet"
    lines = [summary_text(f"Trained {trained.head_name} for {trained.task.name}", rows)]
    if not trained.metrics:
        lines.append("no val or test rows: nothing is known about how good this head is")
    elif "test" not in trained.metrics:
        lines.append("there is no test split: these metrics stand on validation, where mlp and xgboost also stop early")
    for split, evaluation in trained.metrics.items():
        lines.append(_metrics_text(split, evaluation, trained.baseline[split]))
    lines += [
        "",
        "probabilities are not calibrated; research use only",
        f"head    {run.uri}",
        f"report  {run.uri}/report.html",
    ]
    return "\n".join(lines)


def _metrics_text(split: str, evaluation: Evaluation, baseline: Evaluation) -> str:
    width = max(len(name) for name in evaluation.per_class)
    lines = [
        "",
        f"{split}: accuracy {_shown(evaluation.accuracy)} (majority {_shown(baseline.accuracy)}), "
        f"AUC {_shown(evaluation.auc)}, macro F1 {_shown(evaluation.macro_f1)}, n {evaluation.n:,}",
        f"  {''.ljust(width)}  precision  recall      F1     AUC  support   decided as "
        + " / ".join(evaluation.per_class),
    ]
    for (name, each), decided in zip(evaluation.per_class.items(), evaluation.confusion, strict=True):
        lines.append(
            f"  {name.ljust(width)}  {_shown(each.precision):>9}  {_shown(each.recall):>6}  {_shown(each.f1):>6}"
            f"  {_shown(each.auc):>6}  {each.support:>7,}   " + " / ".join(f"{number:,}" for number in decided)
        )
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
