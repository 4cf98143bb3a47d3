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

from featurizers.mask_pairs import MaskPair, list_pairs, split_patients
from featurizers.phantoms import Finding, Habitus, draw_phantom
from featurizers.segmenter.calibration import fit_quality, judge_quality, try_views
from featurizers.segmenter.finder import SegmenterFinder, packed
from featurizers.segmenter.network import SegmenterNet
from featurizers.segmenter.training import Example, Recipe, Trainer, example, mean_dice
from pipelines import __version__
from pipelines.config import Config, yaml_value
from pipelines.errors import ConfigError
from pipelines.folders import Folder
from pipelines.job import JobRecord, summary_text
from pipelines.lung_evaluation import PAGE, LungEvaluationConfig, apart_from, in_a_line, judge, open_trial, write_report
from pipelines.lung_reports.card import Schooling, render_card
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
    pairs = list_pairs(Path(config.pairs))
    identity = _identity(config, pairs)
    _check_out(Path(config.out), identity)
    out = Folder.at(config.out)
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
    # The same film under another patient's name would be judged by what was learned from it.
    train = _examples("train", apart_from([*split.val, *split.test], split.train), record)
    val = _examples("val", apart_from(split.test, split.val), record)
    phantoms = _phantoms(config, record)
    kept_back, phantoms = phantoms[:_KEPT_BACK], phantoms[_KEPT_BACK:]
    record.count("phantoms", len(phantoms))
    trainer = Trainer(train, phantoms, _recipe(config))
    course = _Course(config, trainer, identity)
    course.resume()
    course.run(val, record)

    with record.time("calibrate"):
        quality = fit_quality(try_views(trainer.shadow, [*val, *kept_back], config.seed), config.seed)
    weights = packed(trainer.shadow, quality, __version__)
    out.write(WEIGHTS, weights)
    out.write(HISTORY, _history_table(course.history))

    finder = SegmenterFinder(weights)
    trial = replace(others, finders=[finder, *others.finders])
    verdicts = judge(trial, record)
    write_report(trial, verdicts, out, record)
    with record.time("judge the quality"):
        left_out = try_views(trainer.shadow, _examples("test", trial.judged, record), config.seed + 1)
        trust = judge_quality(left_out, quality, finder.min_quality)
    schooling = Schooling(config.about, len(train), len(val), len(phantoms), _ADULTS, _overrides(config))
    out.write(CARD, render_card(schooling, verdicts, trust, finder.min_quality).encode())
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


def _check_out(out: Path, identity: str) -> None:
    """Refuse a folder that holds anything but a training of the same settings and pairs that broke off."""
    if "://" in str(out) or ":/" in str(out):
        raise ConfigError(f"out='{out}': name a folder of this machine; a training writes to it all the time.")
    names = {each.name for each in out.iterdir()} - {_PARTLY} if out.is_dir() else set()
    if out.is_file() or (names and CHECKPOINT not in names):
        raise ConfigError(f"out='{out}' is not empty, and holds no training that broke off. Name a new folder.")
    if names and torch.load(out / CHECKPOINT, weights_only=True)["of"] != identity:
        raise ConfigError(
            f"out='{out}' holds a training with other settings or other pairs. Name a new folder, or remove it."
        )


def _identity(config: SegmenterTrainingConfig, pairs: Sequence[MaskPair]) -> str:
    """Changes with all that decides the weights: settings, the content of the pairs, and the version of the code."""
    digest = hashlib.sha256(f"{__version__} {_recipe(config)} {config.phantoms} {SegmenterNet()}".encode())
    for pair in pairs:
        digest.update(f"{pair.image.name} {pair.mask.name} {pair.patient}".encode())
        for file in (pair.image, pair.mask):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


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


def _overrides(config: SegmenterTrainingConfig) -> str:
    """The settings that are not the defaults, as the command line takes them."""
    changed = config.model_dump(exclude_defaults=True, exclude={"pairs", "out", "about"})
    return " ".join(f"{name}={yaml_value(value)}" for name, value in changed.items())
