"""How many tasks embed at the same time, with how many cores, and which GPUs they ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from pyspark import SparkConf
from pyspark.sql import SparkSession

from pipelines.errors import ConfigError
from pipelines.executor_embedder import Compile, Workers, worth_compiling

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


def test_a_cluster_whose_executors_have_no_gpus_is_told_which_setting_gives_them() -> None:
    with pytest.raises(ConfigError, match=r"device=cuda, and spark\.executor\.resource\.gpu\.amount is not set"):
        Workers.of(session(CLUSTER, 8, spark_executor_cores=4), "cuda")


def test_a_cluster_chooses_the_gpu_itself() -> None:
    with pytest.raises(ConfigError, match=r"device=cuda:1: on a cluster Spark chooses.*Use device=cuda"):
        Workers.of(session(CLUSTER, 8, spark_executor_cores=4), "cuda:1")


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
