"""How well ways of finding the lungs do on radiographs with human masks: judges them side by side, writes a report."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from featurizers.atlas import AtlasFinder
from featurizers.crops import CropSettings
from featurizers.finders import FinderName, open_finder
from featurizers.lungs import LungFinder
from featurizers.mask_pairs import PAIRS_TABLE, MaskPair, list_pairs, split_patients
from pipelines import __version__
from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.exploration.html import percent
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.lung_reports.figures import Figures, Verdict
from pipelines.lung_reports.judging import evaluate_finder
from pipelines.lung_reports.page import Subject, render_page
from pipelines.progress import Progress, clock

PAGE, TABLE, FIGURES = "report.html", "images.csv", "figures.json"


class LungEvaluationConfig(Config):
    """Settings of jobs/evaluate_lungs.py."""

    pairs: str = Field(
        ..., min_length=1, description="folder with radiographs in images/ and their lung masks in masks/"
    )
    out: str = Field(..., min_length=1, description="folder of the report, new or empty")
    finders: tuple[FinderName, ...] = Field(
        ("segmenter", "atlas", "projection"),
        min_length=1,
        description="ways of finding lungs; the report shows the first one's worst images",
    )
    split: Literal["held_out", "all"] = Field(
        "held_out", description="held_out: the patients whom training leaves out; all: everybody"
    )
    atlas: str | None = Field(
        None, description="folder of pairs for the atlas finder; null: some of the pairs of training's patients"
    )
    atlas_pairs: int = Field(40, gt=0, description="pairs for the atlas finder where `atlas` is null")
    weights: str | None = Field(None, description="the segmenter's weights, a safetensors file; null: Pleura's own")
    margin: float = Field(
        CropSettings().margin, ge=0, description="added to a box on each side, as a fraction of its own side"
    )
    min_quality: float | None = Field(
        None, ge=0, description="quality below which the whole image is kept; null: each finder's own"
    )
    seed: int = Field(0, ge=0, description="of the atlas, the intervals, and the images shown at random")

    @field_validator("finders")
    @classmethod
    def _each_once(cls, finders: tuple[FinderName, ...]) -> tuple[FinderName, ...]:
        if len(set(finders)) < len(finders):
            raise ValueError("name each finder once")
        return finders


@dataclass(frozen=True)
class Trial:
    """What is judged, and how.

    Attributes:
        name: of the pairs, as readers know them.
        pairs: all of a folder's; a pair's number is its place here.
        judged: those of them that are judged; none may have taught a finder anything.
        chosen: which those are, and why, in sentences for the report.
        finders: judged side by side; the report shows the first one's worst images.
        margin: added to a box on each side, as a fraction of its own side.
        min_quality: below it the whole image is kept; None: each finder's own.
        seed: of the intervals, and of the images shown at random.
    """

    name: str
    pairs: Sequence[MaskPair]
    judged: Sequence[MaskPair]
    chosen: str
    finders: Sequence[LungFinder]
    margin: float
    min_quality: float | None
    seed: int


def evaluate_lungs(config: LungEvaluationConfig) -> JobRecord:
    """Run the job.

    Raises:
        ConfigError: `out` holds something already, no pair is left to judge, or none can be the atlas.
        FeaturizerError: the pairs, the atlas or the weights can't be read.
    """
    record = JobRecord("evaluate_lungs", config)
    out = Folder.at(config.out)
    if out.names():
        raise ConfigError(f"out='{out.uri}' is not empty. Name a new folder.")
    trial = open_trial(config)
    verdicts = judge(trial, record)
    write_report(trial, verdicts, out, record)
    out.write_json("run.json", record.as_dict())
    record.summary = _summary(trial, verdicts, out, record)
    return record


def open_trial(config: LungEvaluationConfig) -> Trial:
    """Choose the images and open the finders.

    Raises:
        ConfigError: no pair is left to judge, or none can be the atlas.
        FeaturizerError: the pairs, the atlas or the weights can't be read.
    """
    if config.atlas and "atlas" not in config.finders:
        raise ConfigError("atlas=FOLDER belongs to finders=[atlas,…]: name that finder, or leave atlas out.")
    if config.weights and "segmenter" not in config.finders:
        raise ConfigError("weights=FILE belongs to finders=[segmenter,…]: name that finder, or leave weights out.")
    pairs = list_pairs(Path(config.pairs))
    judged, chosen = _judged(config, pairs)
    if not (Path(config.pairs) / PAIRS_TABLE).is_file():
        chosen += (
            f" Nobody told whose the images are (there is no {PAIRS_TABLE}): each counts as a patient of its own. If "
            "some are not, intervals are too narrow, and what was judged may not be new to a finder."
        )
    atlas: Sequence[MaskPair] = ()
    if "atlas" in config.finders:
        atlas = list_pairs(Path(config.atlas)) if config.atlas else _drawn(config, pairs)
        source = "from a folder of its own" if config.atlas else "drawn at random from the patients of training"
        apart = apart_from(atlas, judged)
        chosen += f" The atlas is {len(atlas):,} pairs {source}."
        if len(apart) < len(judged):
            chosen += f" {len(judged) - len(apart):,} pairs whose image or patient is in the atlas are not judged."
        judged = apart
    if not judged:
        raise ConfigError(
            f"no pair is left to judge of {len(pairs):,}. Set split=all if no finder has learned from these images, "
            "give pairs of more patients, or an atlas of other ones."
        )
    return Trial(
        name=Folder.at(config.pairs).name,
        pairs=pairs,
        judged=judged,
        chosen=chosen,
        finders=[_open(name, config, atlas) for name in config.finders],
        margin=config.margin,
        min_quality=config.min_quality,
        seed=config.seed,
    )


def judge(trial: Trial, record: JobRecord) -> list[Verdict]:
    """Judge every finder on every image, and tell the progress.

    Raises:
        FeaturizerError: a pair can't be read.
    """
    record.count("images", len(trial.judged))
    record.count("patients", len({pair.patient for pair in trial.judged}))
    return [_judge(finder, trial, record) for finder in trial.finders]


def _judge(finder: LungFinder, trial: Trial, record: JobRecord) -> Verdict:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1

    with record.time(finder.name), Progress(finder.name, len(trial.judged), lambda: done):
        rows = evaluate_finder(finder, trial.judged, trial.margin, trial.min_quality, count)
    min_quality = finder.min_quality if trial.min_quality is None else trial.min_quality
    return Verdict.of(finder, min_quality, rows, trial.seed)


def write_report(trial: Trial, verdicts: Sequence[Verdict], out: Folder, record: JobRecord) -> None:
    """Write the page, the figures of all images together (JSON), and those of each (CSV).

    Neither file names nor patients' ids are told: in private archives both may identify somebody. An image goes by its
    place in the folder, so that who has the folder finds it; a patient by the place of his first image.

    Raises:
        FeaturizerError: a pair can't be read any more.
    """
    numbers = {pair: number for number, pair in enumerate(trial.pairs, 1)}
    subject = Subject(
        name=trial.name,
        chosen=trial.chosen,
        numbers=numbers,
        margin=trial.margin,
        made=f"Made {record.started:%Y-%m-%d %H:%M} UTC with Pleura {__version__}.",
        seed=trial.seed,
    )
    with record.time("report"):
        out.write(PAGE, render_page(subject, verdicts).encode())
    out.write(TABLE, _table(trial, verdicts).encode())
    figures = {verdict.finder.name: verdict.as_dict() for verdict in verdicts}
    out.write_json(FIGURES, {"pairs": trial.name, "margin": trial.margin, "finders": figures})


def _table(trial: Trial, verdicts: Sequence[Verdict]) -> str:
    numbers = {pair: number for number, pair in enumerate(trial.pairs, 1)}
    patients: dict[str, int] = {}
    for pair in trial.pairs:
        patients.setdefault(pair.patient, numbers[pair])
    rows: list[dict[str, Any]] = [
        {
            "image": numbers[row.pair],
            "patient": patients[row.pair.patient],
            "label": row.pair.label,
            "finder": verdict.finder.name,
            "dice": row.dice,
            "mask_iou": row.mask_iou,
            "box_iou": row.box_iou,
            "lost": row.lost,
            "lost_untrusted": row.lost_untrusted,
            "quality": row.quality,
            "is_whole": row.is_whole,
            "milliseconds": row.milliseconds,
        }
        for verdict in verdicts
        for row in verdict.rows
    ]
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _judged(config: LungEvaluationConfig, pairs: Sequence[MaskPair]) -> tuple[Sequence[MaskPair], str]:
    if config.split == "all":
        return pairs, "The pairs of all patients were taken: the figures hold if no finder has learned from them."
    test = split_patients(pairs).test
    return test, (
        f"Of {len(pairs):,} pairs the {len(test):,} of those patients were taken whom train_segmenter leaves out: two "
        "tenths of them, chosen by CRC-32 of the patient's id."
    )


def _drawn(config: LungEvaluationConfig, pairs: Sequence[MaskPair]) -> Sequence[MaskPair]:
    train = split_patients(pairs).train
    if not train:
        raise ConfigError(f"none of {len(pairs):,} pairs can be the atlas: give a folder of pairs by atlas=DIR.")
    order = np.random.default_rng(config.seed).permutation(len(train))
    return [train[number] for number in order[: config.atlas_pairs]]


def apart_from(others: Sequence[MaskPair], pairs: Sequence[MaskPair]) -> Sequence[MaskPair]:
    """The pairs of which neither the patient nor the image, by its bytes, is among the others."""
    patients, images = {pair.patient for pair in others}, {_digest(pair) for pair in others}
    return [pair for pair in pairs if pair.patient not in patients and _digest(pair) not in images]


def _digest(pair: MaskPair) -> bytes:
    return hashlib.sha256(pair.image.read_bytes()).digest()


def _open(name: FinderName, config: LungEvaluationConfig, atlas: Sequence[MaskPair]) -> LungFinder:
    if name == "atlas":
        return AtlasFinder.of_pairs(atlas)
    return open_finder(name, weights=Path(config.weights) if name == "segmenter" and config.weights else None)


def _summary(trial: Trial, verdicts: Sequence[Verdict], out: Folder, record: JobRecord) -> str:
    seconds = sum(record.timings[verdict.finder.name] for verdict in verdicts)
    rows: dict[str, object] = {
        "images": len(trial.judged),
        "patients": record.counts["patients"],
        **{verdict.finder.name: in_a_line(verdict.figures) for verdict in verdicts},
        "time": f"{clock(seconds)}, report {clock(record.timings['report'])}",
    }
    title = f"Found the lungs in {trial.name}"
    return "\n".join([summary_text(title, rows), "", "research use only", f"page  {out.uri}/{PAGE}"])


def in_a_line(figures: Figures) -> str:
    """A finder's figures, as a job's summary tells them."""
    overlap = "" if figures.dice is None else f"Dice {figures.dice.mean:.3f}, "
    return (
        f"{overlap}box IoU {figures.box_iou.mean:.3f}, lung lost {percent(figures.lost.mean, 1)}, "
        f"more than 1 % of it in {percent(figures.losing.mean, 1)} of images, "
        f"kept whole {percent(figures.whole.mean, 1)}, {figures.milliseconds:.1f} ms"
    )
