"""How many tasks embed at the same time, with how many cores, and which GPUs they ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from pyspark import SparkConf
from pyspark.sql import SparkSession

from featurizers.errors import FeaturizerError
from pipelines import executor_embedder
from pipelines.errors import ConfigError
from pipelines.executor_embedder import Compile, Workers, check_device_of_workers, worth_compiling

CLUSTER = "spark://host:7077"


def session(master: str, cores: int, **settings: object) -> SparkSession:
    """What `Workers` asks of a session; real clusters are those of test_extract_faults.py."""
    conf = SparkConf(loadDefaults=False).setAll(
        [(key.replace("_", "."), str(value)) for key, value in settings.items()]
    )
    context = SimpleNamespace(getConf=lambda: conf, master=master, defaultParallelism=cores)
    return cast(SparkSession, SimpleNamespace(sparkContext=context))


@pytest.mark.parametrize(
    ("master", "cores", "settings", "device", "expected"),
    [
        ("local[8]", 8, {"spark_task_cpus": 8}, "cpu", "1 task with 8 threads"),
        ("local[8]", 8, {"spark_task_cpus": 2}, "cpu", "4 tasks at a time with 2 threads each"),
        ("local[8]", 8, {"spark_task_cpus": 8}, "cuda", "1 task with 8 threads"),
        ("local[8]", 8, {}, "cuda:1", "1 task with 1 thread"),
        (CLUSTER, 32, {"spark_executor_cores": 4}, "cpu", "8 tasks at a time with 4 threads each"),
        (
            CLUSTER,
            32,
            {"spark_executor_cores": 4, "spark_task_cpus": 1},
            "cpu",
            "32 tasks at a time with 1 thread each",
        ),
        (
            CLUSTER,
            32,
            {"spark_executor_cores": 8, "spark_executor_resource_gpu_amount": 2},
            "cuda",
            "8 tasks at a time with 4 threads each",
        ),
        # GPUs that nobody asks for are left alone.
        (
            CLUSTER,
            32,
            {"spark_executor_cores": 8, "spark_executor_resource_gpu_amount": 2},
            "cpu",
            "4 tasks at a time with 8 threads each",
        ),
        ("local-cluster[2,3,1024]", 6, {}, "cpu", "2 tasks at a time with 3 threads each"),
    ],
)
def test_tasks_and_their_cores(
    master: str, cores: int, settings: dict[str, object], device: str, expected: str
) -> None:
    workers = Workers.of(session(master, cores, **settings), device)
    assert str(workers) == expected
    if master.startswith("local["):
        assert workers.profile is None
        return
    assert workers.profile is not None
    asked = {name: request.amount for name, request in workers.profile.taskResources.items()}
    assert asked == {"cpus": workers.cores} | ({"gpu": 1} if device == "cuda" else {})


GPUS = "spark.executor.resource.gpu.amount"


@pytest.mark.parametrize(
    ("device", "master", "submitted", "error", "message"),
    [
        ("cuda:99", "local[2]", {"spark.master": CLUSTER}, FeaturizerError, "device=cuda:99 was asked for"),
        ("cuda:99", None, {"spark.master": "local[*]"}, FeaturizerError, "device=cuda:99 was asked for"),
        ("cuda:1", CLUSTER, {"spark.master": "local[*]"}, ConfigError, "on a cluster Spark chooses.*Use device=cuda"),
        ("cuda:1", None, {"spark.master": CLUSTER, GPUS: "1"}, ConfigError, "on a cluster Spark chooses"),
        ("cuda", None, {"spark.master": "yarn"}, ConfigError, f"device=cuda, and {GPUS} is not set"),
        ("cuda", "local-cluster[1,1,1024]", {}, ConfigError, f"device=cuda, and {GPUS} is not set"),
    ],
)
def test_a_device_that_tasks_can_not_have_is_told_by_the_settings_alone(
    device: str,
    master: str | None,
    submitted: dict[str, str],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SparkConf(loadDefaults=False).setAll(list(submitted.items()))
    monkeypatch.setattr(executor_embedder, "session_settings", lambda _: settings)
    with pytest.raises(error, match=message):
        check_device_of_workers(device, master)


@pytest.mark.parametrize(("device", "submitted"), [("cuda", {"spark.master": "yarn", GPUS: "2"}), ("cpu", {})])
def test_a_device_that_tasks_can_have(device: str, submitted: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SparkConf(loadDefaults=False).setAll(list(submitted.items()))
    monkeypatch.setattr(executor_embedder, "session_settings", lambda _: settings)
    check_device_of_workers(device, None)


@pytest.mark.parametrize(
    ("wanted", "images", "tasks", "expected"),
    [
        (Compile.AUTO, 2_999, 1, Compile.NEVER),
        (Compile.AUTO, 3_000, 1, Compile.AUTO),
        (Compile.AUTO, 3_000, 2, Compile.NEVER),
        (Compile.ALWAYS, 1, 8, Compile.ALWAYS),
        (Compile.NEVER, 10**6, 1, Compile.NEVER),
    ],
)
def test_compiling_is_worth_it_from_some_images_per_task_on(
    wanted: Compile, images: int, tasks: int, expected: Compile
) -> None:
    assert worth_compiling(wanted, images, Workers(tasks, 1, None), "cpu") is expected
