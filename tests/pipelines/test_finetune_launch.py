"""Several processes at one training: what they need, where they find it, and what is told when one of them fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession
from small_trainings import config, losses, overrides
from torch import distributed

from featurizers.errors import FeaturizerError, TrainingError
from pipelines import finetune_join, finetune_launch, sweep_workers
from pipelines.errors import ConfigError, LakeError
from pipelines.finetune import finetune
from pipelines.finetune_config import FinetuneConfig
from pipelines.finetune_join import fault_of, join_rank
from pipelines.folders import Folder
from pipelines.shared_paths import ask_executors, check_shared
from pipelines.sweep_call import Call, Status, TrialResult
from pipelines.sweep_workers import trial_runner

pytestmark = pytest.mark.usefixtures("spark")

ROOT = Path(__file__).resolve().parents[2]
TASK = "classes:\n  well: {any: [normal]}\n  ill: {any: [pneumonia]}\n"


@pytest.fixture
def lake(ingested_lake: Path, tmp_path: Path) -> Path:
    """A lake with studies, to be written to."""
    copy = tmp_path / "lake"
    shutil.copytree(ingested_lake, copy, ignore=shutil.ignore_patterns("features", "heads", "predictions"))
    return copy


TWO = {"launcher": "spark", "processes": 2}


# On executors of their own.


@pytest.fixture(scope="module")
def python_without_pleura(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has all that we build on, and not us."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, symlinks=True)
    there = next(folder.glob("lib/python*/site-packages"))
    (there / "others.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    assert subprocess.run([python, "-c", "import pipelines"], cwd=folder, capture_output=True, check=False).returncode
    assert not subprocess.run([python, "-c", "import pyspark, torch"], cwd=folder, check=False).returncode
    return python


def run_on_executors(python: Path, folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYSPARK_", "PYTHONPATH"))}
    job = [str(python), str(ROOT / "jobs/finetune_backbone.py"), *arguments, "master=local-cluster[2,1,1024]"]
    return subprocess.run(job, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_executors_need_neither_pleura_nor_the_tasks_file(lake: Path, python_without_pleura: Path) -> None:
    """The lake and the task are named from the driver's folder, which is not theirs."""
    (lake.parent / "health.yaml").write_text(TASK)
    told = overrides("lake", **TWO, name="there", task="health.yaml")
    done = run_on_executors(python_without_pleura, lake.parent, told)
    assert done.returncode == 0, done.stderr
    finetune(config(lake, name="here", task=lake.parent / "health.yaml"))
    np.testing.assert_allclose(losses(lake, "there"), losses(lake, "here"), atol=1e-4)


def test_what_executors_fail_of_is_told_as_if_there_were_only_one_process(
    lake: Path, python_without_pleura: Path
) -> None:
    wild = {"freeze.epochs": 1, "unfreeze.optimiser": "sgd", "unfreeze.learning_rate": 1e20}
    with pytest.raises(TrainingError) as alone:
        finetune(config(lake, name="one", **wild))
    done = run_on_executors(python_without_pleura, lake.parent, overrides(lake, **TWO, **wild, name="two"))
    assert done.returncode == 2, done.stderr
    log, _, message = done.stderr.rpartition("\nerror: ")
    assert "kept: backbone.weights=" in message
    assert message.partition("kept:")[0] == str(alone.value).partition("kept:")[0]
    # Another attempt would have told of the first epoch again.
    assert log.count("epoch 1/") == 1
    assert "TrainingError" not in log


# On this machine.


def test_processes_share_the_curve_where_parameters_have_no_part_in_it(lake: Path) -> None:
    """ConvNeXt's last norm stands behind its own pooling, which another one replaces."""
    network = {"backbone.name": "timm:test_convnext:pool=avg,size=32", "unfreeze.epochs": 1, "batch_size": 32}
    finetune(config(lake, name="one", **network))
    finetune(config(lake, name="two", **network, **TWO))
    np.testing.assert_allclose(losses(lake, "two"), losses(lake, "one"), atol=1e-4)


# What a process does, as one of one.


@pytest.fixture
def one_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The surroundings that torchrun gives a process."""
    given = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def doing(monkeypatch: pytest.MonkeyPatch, what: Callable[[FinetuneConfig], None]) -> None:
    def train(told: str, *_: object) -> None:
        what(FinetuneConfig.model_validate_json(told))

    monkeypatch.setattr(finetune_join, "train_rank", train)


def join(course: Path, threads: int = 1, **settings: Any) -> None:
    told = config(course, **settings).model_dump_json(by_alias=True)
    join_rank(told, (str(course), "simple_cnn", None), None, threads)


@pytest.mark.usefixtures("one_of_one")
def test_a_training_on_the_cpu_of_a_machine_with_gpus_talks_by_gloo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, int]] = []
    doing(monkeypatch, lambda _: found.append((distributed.get_backend(), torch.get_num_threads())))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    join(tmp_path, threads=3)
    assert found == [("gloo", 3)]


def test_every_process_has_the_gpu_of_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    joined: list[torch.device] = []
    doing(monkeypatch, lambda given: found.append(given.device))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(finetune_join, "join_group", joined.append)
    monkeypatch.setattr(finetune_join, "leave_group", lambda: None)
    for place in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(place))
        join(tmp_path, device="cuda")
    assert found == [f"cuda:{place}" for place in range(4)]
    assert [each.index for each in joined] == [0, 1, 2, 3]


@pytest.mark.usefixtures("one_of_one")
@pytest.mark.parametrize("error", [LakeError("file x is damaged"), TrainingError("no"), FeaturizerError("hm")])
def test_errors_come_back_as_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: FinetuneConfig) -> None:
        raise error

    doing(monkeypatch, fail)
    join(tmp_path)
    fault = fault_of(str(tmp_path))
    assert (type(fault), str(fault)) == (type(error), str(error))
    # And are not made again by a second attempt.
    doing(monkeypatch, lambda _: pytest.fail("tried again"))
    join(tmp_path)


def test_a_process_that_fails_alone_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_join, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(finetune_join, "join_group", lambda _: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def fail(_: FinetuneConfig) -> None:
        raise TrainingError("the memory of cuda:1 does not hold a batch")

    doing(monkeypatch, fail)
    with pytest.raises(SystemExit) as left:
        join(tmp_path)
    assert left.value.code == 1
    assert isinstance(fault_of(str(tmp_path)), TrainingError)


# What is refused before any work.


class NoDistributor:
    """Stands for TorchDistributor, and keeps what it was told."""

    told: dict[str, Any]
    arguments: tuple[Any, ...]

    def __init__(self, **told: Any) -> None:
        type(self).told = told

    def run(self, _: object, *arguments: Any) -> None:
        type(self).arguments = arguments


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({**TWO, "device": "cuda"}, r"processes=2 need a GPU each, and torch sees 1 .*processes=1"),
        ({**TWO, "device": "cuda:0"}, r"device=cuda:0 is one GPU.*device=cuda\."),
    ],
)
def test_processes_without_a_gpu_each_are_refused(
    lake: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(finetune_launch, "TorchDistributor", None)
    with pytest.raises(ConfigError, match=told):
        finetune_launch.launch(config(lake, **settings), str(lake), "simple_cnn")


def test_gpus_of_a_cluster_must_be_sparks(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_launch, "is_local_master", lambda _: False)
    monkeypatch.setattr(finetune_launch, "TorchDistributor", None)
    with pytest.raises(ConfigError, match=r"not set.*--conf spark\.task\.resource\.gpu\.amount=1"):
        finetune_launch.launch(config(lake, **TWO, device="cuda"), str(lake), "simple_cnn")


def test_processes_of_one_machine_share_its_cores_and_gpus(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9)
    monkeypatch.setattr(finetune_launch, "TorchDistributor", NoDistributor)
    finetune_launch.launch(config(lake, **TWO, device="cuda"), str(lake), "simple_cnn")
    # Spark is not asked for GPUs, so that it needs no settings for them.
    assert NoDistributor.told == {"num_processes": 2, "local_mode": True, "use_gpu": False}
    assert NoDistributor.arguments[-1] == 4


def test_a_fault_of_an_earlier_start_is_forgotten(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_launch, "TorchDistributor", NoDistributor)
    note = {"kind": "TrainingError", "message": "of yesterday"}
    (Folder(str(lake)) / "faults").write_json("rank-00000.json", note)
    assert str(fault_of(str(lake))) == "of yesterday"
    finetune_launch.launch(config(lake, **TWO), str(lake), "simple_cnn")
    assert fault_of(str(lake)) is None


def test_a_path_that_a_machine_does_not_see_is_told(tmp_path: Path, spark: SparkSession) -> None:
    ask = ask_executors(spark.sparkContext, 2)
    named = {str(tmp_path): "lake=here", "s3://bucket/lake": "lake=s3", f"file://{tmp_path}/x": "task=x.yaml"}
    with pytest.raises(ConfigError, match=r"not every machine of the cluster sees task=x\.yaml\. Use"):
        check_shared(named, ask)
    del named[f"file://{tmp_path}/x"]
    check_shared(named, ask)


# Sweeps.


def test_a_sweep_on_a_cluster_sees_that_its_machines_have_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_workers, "is_local_master", lambda _: False)
    call = Call("trial", config(tmp_path / "nowhere", task="x.yaml").model_dump_json(by_alias=True), None)
    with trial_runner("spark", 1) as run, pytest.raises(ConfigError, match=r"sees lake=.*nowhere, task=x\.yaml"):
        list(run([call]))


def test_a_sweep_that_is_interrupted_waits_for_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    def trial(call: Call) -> TrialResult:
        try:
            Path(call.told, "one came through").touch(exist_ok=False)
        except FileExistsError:
            for _ in range(40):
                time.sleep(0.5)
            Path(call.told, f"{call.label} ended").touch()
        return TrialResult(Status.DONE)

    monkeypatch.setattr(sweep_workers, "run_trial", trial)
    calls = [Call(str(number), str(tmp_path), None) for number in range(4)]

    def interrupted() -> None:
        with trial_runner("spark", len(calls)) as run:
            next(run(calls))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not spark.sparkContext.statusTracker().getActiveJobsIds()
    assert {file.name for file in tmp_path.iterdir()} == {"one came through"}
