"""Sweeps of fine-tunings: one table of all trials, the worse stopped early, failures that end nothing, resumption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from html_pages import Page
from hypothesis import given
from hypothesis import strategies as st
from synthetic_studies import study, write_lake

from featurizers.backbones import build_untrained, get_backbone, save_weights
from featurizers.crops import encode_png
from featurizers.errors import TrainingError
from featurizers.finetuning.trainer import EpochResult
from pipelines import sweep_call
from pipelines.errors import ConfigError
from pipelines.finetune import finetune
from pipelines.finetune_config import FinetuneConfig
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.stored_backbones import open_backbone
from pipelines.sweep import sweep_backbones
from pipelines.sweep_call import Status, TrialResult
from pipelines.sweep_config import HalvingConfig, SweepConfig
from pipelines.sweep_halving import run_halving, rungs
from pipelines.sweep_trials import Trial
from pipelines.sweep_workers import trial_runner

IMAGES = 60
RATE = "unfreeze.learning_rate"
BASE: dict[str, Any] = {
    "task": "binary",
    "backbone": {"name": "simple_cnn:size=28,filters=4-8,dense=0", "weights": "random"},
    "freeze": {"epochs": 0},
    "unfreeze": {"epochs": 2, "learning_rate": 0.01},
    "batch_size": 16,
    "precision": "fp32",
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Crops of which those with pneumonia are a little brighter, one a patient."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(IMAGES):
        ill = number % 2
        crop = rng.normal(100 + 10 * ill + rng.normal(0, 10), 25, (32, 32))
        findings = {"normal": 1 - ill, "pneumonia": ill}
        split = ("train", "train", "train", "val", "test")[number % 5]
        png = encode_png(np.clip(crop, 0, 255).astype(np.uint8))
        rows.append(study(number, split=split, findings=findings, crop=png))
    return write_lake(tmp_path / "lake", [rows])


def config(lake: Lake, content: dict[str, Any], **settings: Any) -> SweepConfig:
    file = Path(lake.folder.path).parent / "rates.yaml"
    file.write_text(yaml.safe_dump({"base": BASE} | content, sort_keys=False))
    return SweepConfig(lake=lake.folder.path, sweep=str(file), **settings)


def newest(lake: Lake, name: str = "rates") -> Folder:
    return lake.sweeps(name).runs()[-1]


def table(lake: Lake, name: str = "rates") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(BytesIO(newest(lake, name).read("sweep.parquet"))).to_pylist()
    return rows


def by_trial(lake: Lake, name: str = "rates") -> dict[str, dict[str, Any]]:
    return {row["trial"]: row for row in table(lake, name)}


def test_all_trials_are_in_one_table_the_best_first(lake: Lake) -> None:
    grid = {RATE: [0.0001, 0.05], "average": [None, 0.5], "augment.zoom": [[1.0, 1.0], [0.9, 1.1]]}
    summary = str(sweep_backbones(config(lake, {"grid": grid})))
    rows = table(lake)
    assert len(rows) == 8
    figures = [row["val_auc"] for row in rows]
    assert figures == sorted(figures, reverse=True)
    assert {(row[RATE], row["average"], row["augment.zoom"]) for row in rows} == {
        (rate, average, zoom) for rate in grid[RATE] for average in grid["average"] for zoom in ("[1,1]", "[0.9,1.1]")
    }
    for row in rows:
        assert (row["status"], row["epochs"], row["error"]) == ("done", 2, None)
        opened = open_backbone(lake, None, f"lake://backbones/{row['backbone']}")
        assert opened.spec.name.startswith("simple_cnn")
        run = lake.backbones(row["backbone"]).runs()[-1]
        assert row["run"] == f"lake://backbones/{row['backbone']}/{run.name}"
        assert row["parameters"] == opened.spec.parameters + (opened.spec.feature_dim + 1) * 2
        epochs = pq.read_table(BytesIO(run.read("epochs.parquet"))).to_pylist()
        best = next(epoch for epoch in reversed(epochs) if epoch["is_best"])
        assert best["epoch"] == row["best_epoch"]
        assert {key: row[key] for key in row if key.startswith("val_")} == {
            key: best[key] for key in best if key.startswith("val_")
        }
    assert f"lake://backbones/{rows[0]['backbone']}" in summary
    assert "8 done" in summary
    assert "research use only; the best of many" in summary
    resolved = newest(lake).read_json("trials.json")
    for row in rows:
        assert FinetuneConfig.model_validate(resolved[row["trial"]]).unfreeze.learning_rate == row[RATE]
    page = Page(newest(lake).read("report.html").decode())
    page.assert_sound()
    for part in ("The best of many trials looks better than it is", "Research use only", "AUC on val", *by_trial(lake)):
        assert part in page.text


def test_the_worse_are_stopped_and_the_better_train_as_if_nothing_had_been(lake: Lake) -> None:
    content = {
        "base": BASE | {"unfreeze": {"epochs": 3}, "monitor": "loss"},
        "grid": {RATE: [1e-6, 0.02, 1e-5, 0.01]},
        "halving": {"first": 1, "factor": 2},
    }
    summary = str(sweep_backbones(config(lake, content)))
    rows = table(lake)
    assert [(row["status"], row["epochs"]) for row in rows] == [
        ("done", 3),
        ("stopped", 2),
        ("stopped", 1),
        ("stopped", 1),
    ]
    assert rows[0][RATE] == 0.01
    assert [row["val_loss"] for row in rows] == sorted(row["val_loss"] for row in rows)
    assert "1 done, 3 stopped" in summary
    assert all((row["run"] is None) == (row["status"] == "stopped") for row in rows)
    page = Page(newest(lake).read("report.html").decode())
    page.assert_sound()
    assert "1 trained to the end, 3 stopped early" in page.text
    told = newest(lake).read_json("trials.json")[rows[0]["trial"]]
    finetune(FinetuneConfig.model_validate(told | {"name": "at_once"}))
    at_once = pq.read_table(BytesIO(lake.backbones("at_once").runs()[-1].read("epochs.parquet"))).to_pylist()
    best = next(epoch for epoch in reversed(at_once) if epoch["is_best"])
    assert (best["epoch"], best["val_loss"]) == (rows[0]["best_epoch"], rows[0]["val_loss"])
    assert best["train_loss"] == rows[0]["train_loss"]


def test_one_that_fails_is_a_row_and_is_tried_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(settings: FinetuneConfig) -> None:
        if settings.batch_size == 8:
            raise RuntimeError("the device caught fire\nand more")
        finetune(settings)

    diverging = {"optimiser": "sgd", "learning_rate": 1e30, "epochs": 1}
    trials = {"good": {}, "broken": {"batch_size": 8}, "diverging": {"unfreeze": diverging}}
    settings = config(lake, {"trials": trials})
    with monkeypatch.context() as patch:
        patch.setattr(sweep_call, "finetune", fails)
        summary = str(sweep_backbones(settings))
    rows = by_trial(lake)
    assert [row["status"] for row in table(lake)] == ["done", "failed", "failed"]
    assert rows["broken"]["error"] == "RuntimeError: the device caught fire\nand more"
    assert "the loss is nan at update" in rows["diverging"]["error"]
    assert rows["broken"]["val_auc"] is None
    assert "1 done, 2 failed" in summary
    assert "failed  trial broken: RuntimeError: the device caught fire\n" in summary
    assert "the device caught fire" in Page(newest(lake).read("report.html").decode()).text
    first = lake.backbones("rates-good").runs()
    assert "1 failed" in str(sweep_backbones(settings))
    assert by_trial(lake)["broken"]["status"] == "done"
    assert lake.backbones("rates-good").runs() == first


def test_table_and_page_tell_no_places(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(settings: FinetuneConfig) -> None:
        if settings.backbone.weights != "random":
            raise OSError(f"'{settings.lake}/a b' and file://{settings.lake}/c, {settings.lake}/d; lake://backbones/e")
        finetune(settings)

    folder = Path(lake.folder.path).parent
    task, start = folder / "own.yaml", folder / "start.safetensors"
    task.write_text(yaml.safe_dump({"description": "Ill?", "classes": {"normal": None, "pneumonia": None}}))
    spec = get_backbone(BASE["backbone"]["name"])
    save_weights(start, spec, build_untrained(spec).state_dict())
    content = {"base": BASE | {"task": str(task)}, "grid": {"backbone.weights": ["random", str(start)]}}
    content["base"]["backbone"] = {"name": spec.name}
    monkeypatch.setattr(sweep_call, "finetune", fails)
    sweep_backbones(config(lake, content))
    rows = by_trial(lake)
    assert rows.keys() == {"weights_random", "weights_start.safetensors"}
    failed = rows["weights_start.safetensors"]
    assert failed["backbone.weights"] == "start.safetensors"
    assert failed["error"] == "OSError: … and …, …; lake://backbones/e"
    page = newest(lake).read("report.html").decode()
    assert "Task own" in Page(page).text
    for told in (page, str(table(lake))):
        assert str(folder) not in told


def test_a_sweep_that_broke_off_goes_on_where_it_was(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(lake, {"grid": {"seed": [1, 2, 3]}})

    def killed(trial: FinetuneConfig) -> None:
        if trial.seed == 2:
            raise KeyboardInterrupt
        finetune(trial)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep_call, "finetune", killed)
        sweep_backbones(settings)
    assert not lake.sweeps("rates").runs()
    first = lake.backbones("rates-seed_1").runs()
    assert len(first) == 1
    assert not lake.backbones("rates-seed_2").runs()
    assert "3 done" in str(sweep_backbones(settings))
    assert lake.backbones("rates-seed_1").runs() == first
    again = sweep_backbones(settings)
    assert "the same sweep is there" in str(again)
    assert "seed_2" in str(again)
    assert len(lake.sweeps("rates").runs()) == 1


def test_a_larger_grid_trains_only_what_is_new(lake: Lake) -> None:
    sweep_backbones(config(lake, {"grid": {"seed": [2, 3]}}))
    runs = {name: lake.backbones(name).runs() for name in lake.backbone_names()}
    sweep_backbones(config(lake, {"grid": {"seed": [1, 2, 3]}}))
    assert {name: lake.backbones(name).runs() for name in runs} == runs
    assert len(table(lake)) == 3


def test_if_every_trial_fails_the_reason_is_told_once(lake: Lake) -> None:
    base = BASE | {"unfreeze": {"optimiser": "sgd", "learning_rate": 1e30, "epochs": 1}}
    with pytest.raises(TrainingError, match="no trial could be trained") as caught:
        sweep_backbones(config(lake, {"base": base, "grid": {"seed": [1, 2]}}))
    assert str(caught.value).count("the loss is nan") == 1
    assert not lake.sweeps("rates").runs()


def test_what_no_config_can_know_is_told_before_any_training(lake: Lake) -> None:
    names = ["simple_cnn:size=28,filters=4-8,dense=0", "resnet5000", "simple_cnn:size=28,filters=4"]
    trials = {str(place): {"backbone.name": name, "unfreeze.train": "block2"} for place, name in enumerate(names)}
    with pytest.raises(ConfigError) as caught:
        sweep_backbones(config(lake, {"trials": trials}))
    assert "trial 1: there is no backbone 'resnet5000'" in str(caught.value)
    assert "trial 2: unfreeze.train: " in str(caught.value)
    assert "trial 0" not in str(caught.value)
    with pytest.raises(ConfigError, match="every trial: "):
        sweep_backbones(config(lake, {"base": BASE | {"task": "nothing"}, "grid": {"seed": [1, 2]}}))
    assert not (lake.folder / "backbones").names()


@pytest.mark.parametrize("workers", ["local", "spark"])
def test_trials_on_workers_give_what_they_give_here(lake: Lake, workers: str, request: pytest.FixtureRequest) -> None:
    if workers == "spark":
        request.getfixturevalue("spark")
    content = {"trials": {"good": {}, "bad": {"unfreeze": {"optimiser": "sgd", "learning_rate": 1e30}}}}
    for name, where in (("here", None), ("there", workers)):
        sweep_backbones(config(lake, content, workers=where, name=name))
    for trial, row in by_trial(lake, "there").items():
        same = by_trial(lake, "here")[trial]
        assert row["status"] == same["status"]
        assert row["val_auc"] == same["val_auc"]
        assert row["error"] == same["error"]


@pytest.mark.usefixtures("spark")
def test_a_task_that_dies_is_a_result_and_the_others_come_through(lake: Lake) -> None:
    sweep_backbones(config(lake, {"trials": {"good": {}}}))
    good = json.dumps(newest(lake).read_json("trials.json")["good"])
    with trial_runner("spark", 2) as run:
        found = dict(run([sweep_call.Call("dies", "no config", None), sweep_call.Call("good", good, None)]))
    assert [found[place].status for place in (0, 1)] == [Status.FAILED, Status.DONE]
    assert "its process ended" in str(found[0].error)
    assert "fewer workers" in str(found[0].error)


# Halving by itself, on trainings that are drawn.


def epochs_of(figures: Sequence[float]) -> tuple[EpochResult, ...]:
    best = [figure > max((-1.0, *figures[:place])) for place, figure in enumerate(figures)]
    return tuple(
        EpochResult(place, "unfreeze", 1, 16, 0.1, 0.5, {"auc": figure}, is_best, 1.0, 16.0)
        for place, (figure, is_best) in enumerate(zip(figures, best, strict=True), 1)
    )


class Drawn:
    """Trials whose figures are known beforehand."""

    def __init__(self, curves: dict[str, Sequence[float]], ends: dict[str, int] | None = None) -> None:
        self.curves, self.ends = curves, ends or {}
        self.trained: list[tuple[list[str], int | None]] = []
        longest = max(map(len, curves.values()))
        base = BASE | {"lake": "x", "unfreeze": {"epochs": longest}}
        self.trials = [Trial(name, FinetuneConfig.model_validate(base), {}) for name in curves]

    def __call__(self, trials: Sequence[Trial], until: int | None) -> dict[str, TrialResult]:
        self.trained.append(([trial.name for trial in trials], until))
        return {trial.name: self.result(trial.name, until) for trial in trials}

    def result(self, name: str, until: int | None) -> TrialResult:
        curve = self.curves[name]
        if not curve:
            return TrialResult(Status.FAILED, error="it failed")
        end = self.ends.get(name, len(curve))
        stop = end if until is None else min(until, end)
        return TrialResult(Status.DONE if stop == end else Status.PAUSED, epochs_of(curve[:stop]))


def test_the_best_third_goes_on_at_every_rung() -> None:
    drawn = Drawn({f"t{place}": [0.5 + place / 100] * 12 for place in range(9)})
    results = run_halving(drawn.trials, HalvingConfig(first=1, factor=3), "auc", drawn)
    assert drawn.trained == [
        ([f"t{place}" for place in range(9)], 1),
        (["t6", "t7", "t8"], 3),
        (["t8"], 9),
        (["t8"], None),
    ]
    assert [results[f"t{place}"].status for place in (0, 6, 8)] == [Status.STOPPED, Status.STOPPED, Status.DONE]


def test_one_that_ended_by_itself_is_done_and_one_that_failed_stays_so() -> None:
    drawn = Drawn({"short": [0.4] * 4, "failed": [], "slow": [0.6] * 4, "good": [0.9] * 4}, ends={"short": 1})
    results = run_halving(drawn.trials, HalvingConfig(first=2, factor=4), "auc", drawn)
    assert {name: result.status.value for name, result in results.items()} == {
        "short": "done",
        "failed": "failed",
        "slow": "stopped",
        "good": "done",
    }
    assert drawn.trained[-1] == (["good"], None)


def test_what_was_trained_beyond_a_rung_before_does_not_count_there() -> None:
    drawn = Drawn({"early": [0.8, 0.8, 0.8, 0.8], "late": [0.5, 0.5, 0.5, 0.99]}, ends={"late": 4})
    fresh = run_halving(drawn.trials, HalvingConfig(first=2, factor=2), "auc", drawn)
    drawn.result = lambda name, until: TrialResult(Status.PAUSED, epochs_of(drawn.curves[name]))  # type: ignore[method-assign]
    again = run_halving(drawn.trials, HalvingConfig(first=2, factor=2), "auc", drawn)
    assert fresh["late"].status is again["late"].status is Status.STOPPED


@given(
    curves=st.lists(st.lists(st.floats(0, 1), min_size=8, max_size=8), min_size=1, max_size=9),
    first=st.integers(1, 9),
    factor=st.integers(2, 4),
)
def test_someone_always_comes_to_the_end_and_nobody_trains_twice(
    curves: list[list[float]], first: int, factor: int
) -> None:
    drawn = Drawn({f"t{place}": curve for place, curve in enumerate(curves)})
    halving = HalvingConfig(first=first, factor=factor)
    results = run_halving(drawn.trials, halving, "auc", drawn)
    done = [name for name, result in results.items() if result.status is Status.DONE]
    assert done
    assert set(results) == set(drawn.curves)
    assert all(result.status in (Status.DONE, Status.STOPPED) for result in results.values())
    sizes = [len(names) for names, _ in drawn.trained]
    assert sizes == sorted(sizes, reverse=True)
    assert [until for _, until in drawn.trained] == [*rungs(halving, 8), None]


def test_a_sweep_is_one_json_per_trial_that_any_process_can_run(lake: Lake) -> None:
    sweep_backbones(config(lake, {"grid": {"seed": [1]}}))
    told = json.dumps(newest(lake).read_json("trials.json")["seed_1"])
    result = sweep_call.run_trial(sweep_call.Call("again", told, None))
    assert (result.status, result.run) == (Status.DONE, lake.backbones(table(lake)[0]["backbone"]).runs()[-1].uri)
