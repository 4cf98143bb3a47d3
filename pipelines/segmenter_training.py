"""Trains the lung segmenter on pairs of one's own and on phantoms, and judges it on patients left out."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, field_validator

from featurizers.mask_pairs import MaskPair, PairSplit, list_pairs, split_patients
from featurizers.phantoms import Finding, Habitus, draw_phantom
from featurizers.segmenter.calibration import try_views
from featurizers.segmenter.finder import SegmenterFinder, packed
from featurizers.segmenter.quality import Quality
from featurizers.segmenter.training import Example, Recipe, Trainer, example, mean_dice
from pipelines import __version__
from pipelines.config import Config, yaml_value
from pipelines.errors import ConfigError
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.lung_evaluation import PAGE, LungEvaluationConfig, in_a_line, judge, open_trial, write_report
from pipelines.lung_reports.figures import Estimate, Verdict
from pipelines.progress import Progress, clock

WEIGHTS, CARD, HISTORY = "lungs.safetensors", "CARD.md", "history.csv"
#: What a training that broke off goes on from.
CHECKPOINT, _PARTLY = "_checkpoint.pt", "_checkpoint.partly"
#: Steps between checkpoints, and between looks at the validation patients.
_STRETCH = 250
#: Phantoms drawn besides, to fit the quality on.
_KEPT_BACK = 100
#: Rows times columns of a phantom: a little more than the network looks at.
_PHANTOM_AREA = 256**2
#: Phantoms that a process draws at a time.
_CHUNK = 25
#: Width to height of the films, by whose they are, and how many of them are adults'.
_ASPECTS = {Habitus.CHILD: (1.0, 1.5), Habitus.ADULT: (0.82, 1.15)}
_ADULTS = 0.7
#: How many findings a phantom shows: none to three.
_FINDINGS = (0.35, 0.35, 0.2, 0.1)

_RECIPE = Recipe()


class SegmenterTrainingConfig(Config):
    """Settings of jobs/train_segmenter.py."""

    pairs: str = Field(..., min_length=1, description="folder with radiographs in images/ and lung masks in masks/")
    out: str = Field(..., min_length=1, description="folder of weights, card and report: new, or of a run broken off")
    about: str = Field(
        "not told", description="what the pairs are, where they come from and their licence, for the card"
    )
    phantoms: int = Field(5900, ge=0, description="phantoms to train on, adults and children")
    phantom_share: float = Field(_RECIPE.phantoms, ge=0, lt=1, description="their share of what is trained on")
    steps: int = Field(_RECIPE.steps, gt=2, description="updates of the weights")
    batch: int = Field(_RECIPE.batch, gt=1, description="radiographs per step")
    learning_rate: float = Field(_RECIPE.learning_rate, gt=0, description="at its highest")
    weight_decay: float = Field(_RECIPE.weight_decay, ge=0, description="of AdamW")
    compare: tuple[Literal["atlas", "projection"], ...] = Field(
        ("atlas", "projection"), min_length=1, description="other ways of finding lungs that the report shows beside it"
    )
    seed: int = Field(_RECIPE.seed, ge=0, description="of weights, phantoms, order and views")

    @field_validator("compare")
    @classmethod
    def _each_once(cls, compare: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(compare)) < len(compare):
            raise ValueError("name each finder once")
        return compare


def train_segmenter(config: SegmenterTrainingConfig) -> JobRecord:
    """Run the job.

    Raises:
        ConfigError: `out` holds something else, or a part of the patients is empty.
        FeaturizerError: a pair can't be read.
    """
    record = JobRecord("train_segmenter", config)
    out = Folder.at(config.out)
    pairs = list_pairs(Path(config.pairs))
    _check_out(config, pairs)
    split = split_patients(pairs)
    if not (split.train and split.val and split.test):
        raise ConfigError(
            f"pairs='{config.pairs}' has too few patients: of its pairs {len(split.train)} fall to train, "
            f"{len(split.val)} to val and {len(split.test)} to test. Give pairs of some dozens of patients."
        )
    # Whatever the report at the end needs and is missing had better be told now.
    others = open_trial(
        LungEvaluationConfig(pairs=config.pairs, out=config.out, finders=config.compare, seed=config.seed)
    )
    train, val = (_examples(name, part, record) for name, part in (("train", split.train), ("val", split.val)))
    phantoms = _phantoms(config, record)
    kept_back, phantoms = phantoms[:_KEPT_BACK], phantoms[_KEPT_BACK:]
    record.count("phantoms", len(phantoms))
    trainer = Trainer(train, phantoms, _recipe(config))
    course = _Course(config, trainer, _identity(config, pairs))
    course.resume()
    course.run(val, record)

    with record.time("calibrate"):
        trials = try_views(trainer.shadow, [*val, *kept_back], config.seed)
        quality = Quality.fit(trials.traits, trials.overlaps, config.seed)
    weights = packed(trainer.shadow, quality, __version__)
    out.write(WEIGHTS, weights)
    out.write(HISTORY, _history_table(course.history))

    trial = replace(others, finders=[SegmenterFinder.of_file(Path(config.out) / WEIGHTS), *others.finders])
    verdicts = judge(trial, record)
    write_report(trial, verdicts, out, record)
    out.write(CARD, _card(config, split, verdicts, record).encode())
    out.write_json("run.json", record.as_dict())
    course.end()
    rows = {
        "pairs": f"{len(train):,} to train, {len(val):,} to calibrate, {len(trial.judged):,} to judge",
        "phantoms": f"{len(phantoms):,} to train, {len(kept_back):,} to calibrate",
        "weights": f"{out.uri}/{WEIGHTS} ({len(weights) / 2**20:.2f} MB)",
        **{verdict.finder.name: in_a_line(verdict.figures) for verdict in verdicts},
        "time": f"{clock(record.timings['train'])} of training",
    }
    record.summary = "\n".join(
        [summary_text("Trained the lung segmenter", rows), "", "research use only", f"page  {out.uri}/{PAGE}"]
    )
    return record


def _recipe(config: SegmenterTrainingConfig) -> Recipe:
    return Recipe(
        steps=config.steps,
        batch=config.batch,
        phantoms=config.phantom_share,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
    )


def _check_out(config: SegmenterTrainingConfig, pairs: Sequence[MaskPair]) -> None:
    """Refuse a folder that holds anything but a training of the same settings and pairs that broke off."""
    out = Path(config.out)
    names = {each.name for each in out.iterdir()} - {_PARTLY} if out.is_dir() else set()
    if out.is_file() or (names and CHECKPOINT not in names):
        raise ConfigError(f"out='{out}' is not empty, and holds no training that broke off. Name a new folder.")
    if names and torch.load(out / CHECKPOINT, weights_only=True)["of"] != _identity(config, pairs):
        raise ConfigError(
            f"out='{out}' holds a training with other settings or other pairs. Name a new folder, or remove it."
        )


def _identity(config: SegmenterTrainingConfig, pairs: Sequence[MaskPair]) -> str:
    """Changes with the settings, and with any pair's name, patient or size."""
    told = [config.model_dump_json()]
    told += [f"{p.image.name} {p.patient} {p.image.stat().st_size} {p.mask.stat().st_size}" for p in pairs]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _history_table(history: Sequence[Mapping[str, float]]) -> bytes:
    text = StringIO()
    writer = csv.DictWriter(text, ["step", "loss", "val_dice"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def _examples(part: str, pairs: Sequence[MaskPair], record: JobRecord) -> list[Example]:
    """The pairs whose mask shows two lungs apart; the others are counted."""
    found: list[Example] = []
    with Progress(f"read {part}", len(pairs), lambda: len(found)):
        for pair in pairs:
            if (one := example(*pair.read())) is not None:
                found.append(one)
    record.count(f"{part} pairs", len(found))
    record.count("pairs left out: their mask does not show two lungs apart", len(pairs) - len(found))
    if not found:
        raise ConfigError(
            f"no mask of the {len(pairs):,} pairs to {part} shows two lungs apart: draw each lung by itself."
        )
    return found


def _phantoms(config: SegmenterTrainingConfig, record: JobRecord) -> list[Example]:
    drawn: list[Example] = []
    # Those of the lowest numbers are not trained on: the quality is fitted on them.
    seeds = [(config.seed, number) for number in range(config.phantoms + _KEPT_BACK)] if config.phantoms else []
    # Nothing has run on torch's threads so far, so that a fork is safe.
    fork = multiprocessing.get_context("fork")
    progress = Progress("draw phantoms", len(seeds), lambda: len(drawn))
    with record.time("draw"), progress, ProcessPoolExecutor(mp_context=fork) as pool:
        drawn.extend(one for one in pool.map(_phantom, seeds, chunksize=_CHUNK) if one is not None)
    return drawn


def _phantom(seed: tuple[int, int]) -> Example | None:
    rng = np.random.default_rng(seed)
    habitus = Habitus.ADULT if rng.random() < _ADULTS else Habitus.CHILD
    names = [str(finding) for finding in Finding if finding is not Finding.NORMAL]
    findings = rng.choice(names, rng.choice(len(_FINDINGS), p=_FINDINGS), replace=False).tolist()
    aspect = rng.uniform(*_ASPECTS[habitus])
    size = round((_PHANTOM_AREA / aspect) ** 0.5), round((_PHANTOM_AREA * aspect) ** 0.5)
    phantom = draw_phantom(int(rng.integers(2**62)), findings, size, habitus=habitus)
    return example(phantom.pixels, phantom.lung_mask, np.ones(size, dtype=np.bool_))


@dataclass
class _Course:
    """A training on its way, which leaves a checkpoint after every stretch.

    Attributes:
        identity: tells this training from others.
        history: a row of HISTORY for every stretch so far.
    """

    config: SegmenterTrainingConfig
    trainer: Trainer
    identity: str
    history: list[dict[str, float]] = field(default_factory=list)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self._file.is_file():
            kept = torch.load(self._file, weights_only=True)
            self.trainer.restore(kept["trainer"])
            self.history = kept["history"]

    def run(self, val: Sequence[Example], record: JobRecord) -> None:
        """Train to the end."""
        config, trainer = self.config, self.trainer
        losses: list[float] = []
        with record.time("train"), Progress("train", config.steps * config.batch, lambda: trainer.step * config.batch):
            for loss in trainer.run():
                losses.append(loss)
                if trainer.step % _STRETCH == 0 or trainer.step == config.steps:
                    score = mean_dice(trainer.shadow, val)
                    self.history.append({"step": trainer.step, "loss": float(np.mean(losses)), "val_dice": score})
                    losses.clear()
                    self._save()

    def end(self) -> None:
        """The checkpoint has served."""
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return Path(self.config.out) / CHECKPOINT

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partly = self._file.with_name(_PARTLY)
        kept = {"of": self.identity, "trainer": self.trainer.state(), "history": self.history}
        torch.save(kept, partly)
        partly.replace(self._file)


def _card(config: SegmenterTrainingConfig, split: PairSplit, verdicts: Sequence[Verdict], record: JobRecord) -> str:
    """What a reader has to know before using the weights."""
    test = len({pair.patient for pair in split.test})
    rows = [
        f"| {verdict.finder.name} | {_scored(verdict.figures.dice)} | {_scored(verdict.figures.box_iou)} "
        f"| {verdict.figures.losing.mean:.1%} | {verdict.figures.whole.mean:.1%} |"
        for verdict in verdicts
    ]
    return "\n".join(
        [
            "# Lung segmenter",
            "",
            "Finds both lungs of a frontal chest radiograph, parts behind the heart and under disease included, so "
            "that the image can be cropped to them. For research; no wording or number of it is a diagnosis.",
            "",
            "## Trained on",
            "",
            f"- {config.about}",
            f"- {record.counts['train pairs']:,} pairs of it; {record.counts['val pairs']:,} more to calibrate quality",
            f"- {record.counts['phantoms']:,} phantoms drawn by Pleura {__version__}, {_ADULTS:.0%} of them adults",
            "",
            f"## Judged on {len(split.test):,} pairs of {test:,} patients left out",
            "",
            "| finder | Dice (5th percentile) | box IoU (5th percentile) | losing more than 1 % of lung | kept whole |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "These patients come from the same hospital as the ones trained on: elsewhere expect less. `report.html` "
            "shows the worst images.",
            "",
            "## Train again",
            "",
            "```",
            f"python jobs/train_segmenter.py pairs=DIR out=DIR {_overrides(config)}".rstrip(),
            "```",
            "",
        ]
    )


def _scored(estimate: Estimate | None) -> str:
    return "no mask" if estimate is None else f"{estimate.mean:.3f} ({estimate.tail:.3f})"


def _overrides(config: SegmenterTrainingConfig) -> str:
    """The settings that are not the defaults, as the command line takes them."""
    changed = config.model_dump(exclude_defaults=True, exclude={"pairs", "out", "about"})
    return " ".join(f"{name}={yaml_value(value)}" for name, value in changed.items())
