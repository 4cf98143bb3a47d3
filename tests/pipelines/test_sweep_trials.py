"""What a sweep's file says: combinations, draws and named trials as whole configs, and every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from pipelines.finetune_config import FinetuneConfig
from pipelines.sweep_config import SWEEPS, SweepConfig
from pipelines.sweep_trials import Sweep, read_sweep

RATE = "unfreeze.learning_rate"


def read(folder: Path, content: dict[str, Any], **settings: Any) -> Sweep:
    file = folder / "my sweep.yaml"
    file.write_text(yaml.safe_dump({"base": {"task": "binary"}} | content, sort_keys=False))
    return read_sweep(SweepConfig(lake="lake", sweep=str(file), **settings), "/lake")


def refused(folder: Path, content: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, content, **settings)
    return str(caught.value)


def test_a_grid_is_every_combination_in_the_order_of_the_file(tmp_path: Path) -> None:
    sweep = read(tmp_path, {"grid": {RATE: [0.001, 0.00001], "batch_size": [8, 16]}})
    assert [dict(trial.settings) for trial in sweep.trials] == [
        {RATE: rate, "batch_size": size} for rate in (0.001, 0.00001) for size in (8, 16)
    ]
    assert [trial.name for trial in sweep.trials][:3] == [
        "learning_rate_0.001-batch_size_8",
        "learning_rate_0.001-batch_size_16",
        "learning_rate_1e-05-batch_size_8",
    ]
    config = sweep.trials[1].config
    assert (config.lake, config.name) == ("/lake", "my_sweep-learning_rate_0.001-batch_size_16")
    assert (config.unfreeze.learning_rate, config.batch_size, config.task) == (0.001, 16, "binary")


def test_a_name_does_not_change_when_others_are_added(tmp_path: Path) -> None:
    few = read(tmp_path, {"grid": {RATE: [0.001, 0.01]}})
    more = read(tmp_path, {"grid": {RATE: [0.1, 0.001, 0.01]}})
    assert {trial.name for trial in few.trials} < {trial.name for trial in more.trials}


def test_names_of_long_or_strange_values_stay_apart_and_fit_a_folder(tmp_path: Path) -> None:
    names = ["simple_cnn:size=28,filters=4-8", "simple_cnn:size=28,filters=4-8,dense=8,dropout=" + "0.25-" * 20 + "0.1"]
    names += ["simple_cnn:size=28", "simple_cnn:size_28", "simple_cnn_size_28"]
    sweep = read(tmp_path, {"grid": {"backbone.name": names}})
    assert len({trial.name for trial in sweep.trials}) == len(names)
    assert all(len(trial.name) < 100 for trial in sweep.trials)


def test_what_the_command_line_says_stands_above_the_file_and_a_trial_above_both(tmp_path: Path) -> None:
    content = {"base": {"task": "binary", "unfreeze": {"epochs": 3}, "seed": 1}, "grid": {RATE: [0.1, 0.2]}}
    override = {"task": "three_class", "unfreeze": {"learning_rate": 0.5}}
    config = read(tmp_path, content, base=override).trials[0].config
    assert (config.task, config.seed, config.unfreeze.epochs, config.unfreeze.learning_rate) == (
        "three_class",
        1,
        3,
        0.1,
    )


def test_named_trials_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    trials = {
        "small": {"batch_size": 8, "seed": 5},
        "long": {"unfreeze": {"epochs": 20}, "seed": 5},
        "plain": {"seed": 5},
    }
    sweep = read(tmp_path, {"trials": trials})
    assert sweep.varying == ("batch_size", "unfreeze.epochs")
    assert [(trial.name, *trial.settings.values()) for trial in sweep.trials] == [
        ("small", 8, 10),
        ("long", 32, 20),
        ("plain", 32, 10),
    ]
    assert [trial.epochs for trial in sweep.trials] == [13, 23, 13]


@given(seed=st.integers(0, 1000), trials=st.integers(2, 12))
def test_draws_are_within_their_space_and_the_seeds_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, trials: int
) -> None:
    folder = tmp_path_factory.mktemp("random")
    space = {RATE: {"log_uniform": [1e-6, 1e-2]}, "seed": {"integers": [3, 90]}, "batch_size": [8, 16]}
    content = {"random": {"trials": trials, "seed": seed, "space": space}}
    sweep = read(folder, content)
    assert len(sweep.trials) == trials
    for trial in sweep.trials:
        assert 1e-6 <= trial.config.unfreeze.learning_rate <= 1e-2
        assert 3 <= trial.config.seed <= 90
        assert trial.config.batch_size in (8, 16)
    assert read(folder, content) == sweep


def test_every_mistake_of_every_trial_is_told_at_once(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        {
            "base": {"task": "binary", "unfrezze": {"epochs": 3}},
            "trials": {"one": {"batch_size": "many"}, "two": {"unfreeze.epochs": -1}, "three": {}},
        },
    )
    assert "3 mistakes in sweep" in message
    assert "every trial: unfrezze: no such key" in message
    assert "trial one: batch_size:" in message
    assert "trial two: unfreeze.epochs:" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "one of grid, random and trials .got none"),
        ({"grid": {RATE: [1, 2]}, "trials": {"a": {}}}, "one of grid, random and trials .got grid, trials"),
        ({"grid": {RATE: []}}, "grid.unfreeze.learning_rate"),
        ({"grid": {RATE: 0.1}}, "grid.unfreeze.learning_rate"),
        ({"gird": {RATE: [0.1]}}, "gird: no such key; did you mean grid"),
        ({"grid": {RATE: [0.1, 0.1]}}, "is there twice"),
        ({"grid": {"batch_size": [32, 32.0]}}, "twice|same settings"),
        ({"trials": {"a": {"seed": 1}, "b": {"seed": 1}}}, "trials a, b have the same settings"),
        ({"trials": {"a/b": {}}}, "trials.a/b: a name is of letters"),
        ({"grid": {"name": ["a", "b"]}}, "name: the sweep gives it"),
        ({"base": {"lake": "x", "task": "binary"}, "grid": {RATE: [0.1]}}, "lake: the sweep gives it"),
        ({"grid": {"monitor": ["auc", "loss"]}}, "monitor: it is the same in all trials"),
        ({"grid": {"hold_out.by": ["size", "series"]}}, "hold_out.by: it is the same in all trials"),
        ({"base": {"task": "binary", "unfreeze": 3}, "grid": {RATE: [0.1]}}, "unfreeze: it has a value"),
        ({"grid": {"unfreeze": [1, 2], RATE: [0.1]}}, "unfreeze: it has a value"),
        ({"random": {"trials": 9, "space": {RATE: [0.1, 0.2]}}}, "the space holds 2 settings, fewer than 9"),
        ({"random": {"trials": 2, "space": {RATE: {"log_uniform": [0, 1]}}}}, "log_uniform starts above 0"),
        ({"random": {"trials": 2, "space": {RATE: 3, "seed": {"integers": [2, 1]}}}}, "2 mistakes in random"),
        ({"grid": {RATE: [0.1]}, "halving": {"first": 0}}, "halving.first"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(tmp_path: Path, content: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(tmp_path, content)


def test_one_trial_in_many_processes_and_many_trials_do_not_go_together(tmp_path: Path) -> None:
    content = {"base": {"task": "binary", "launcher": "spark", "processes": 2}, "grid": {RATE: [0.1, 0.2]}}
    assert len(read(tmp_path, content).trials) == 2
    assert "every trial: launcher=spark" in refused(tmp_path, content, workers="local")


def test_a_file_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no sweep 'nowhere\.yaml'.*conf/sweeps/au_eleven\.yaml"):
        read_sweep(SweepConfig(lake="x", sweep="nowhere.yaml"), "/x")


@pytest.mark.parametrize(
    ("name", "trials", "varying"),
    [
        ("au_eleven", 11, {"backbone.name", "batch_size", "unfreeze.epochs"}),
        ("heffernan_learning_rates", 5, {RATE}),
        ("vazquez_learning_rate_l2", 9, {RATE, "unfreeze.weight_decay"}),
    ],
)
def test_the_published_sweeps_can_be_read(name: str, trials: int, varying: set[str]) -> None:
    sweep = read_sweep(SweepConfig(lake="x", sweep=str(SWEEPS / f"{name}.yaml")), "/x")
    assert len(sweep.trials) == trials
    assert set(sweep.varying) == varying
    assert all(isinstance(trial.config, FinetuneConfig) for trial in sweep.trials)
