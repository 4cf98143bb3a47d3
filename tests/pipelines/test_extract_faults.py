"""Extraction under faults: killed, hung, full, damaged, at odds with another; the table is right, nothing is in twice.

A job runs in a process of its own, as a user starts it. Where executors matter they are those of a real standalone
cluster on loopback: a master, and two workers at two addresses, because Spark speculates on another host only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from small_backbone import NAME, UNTRAINED

from featurizers.backbones import get_backbone, load_weights
from pipelines import extract as extraction
from pipelines.extract import ExtractConfig, extract
from pipelines.folders import Folder
from pipelines.lake import Lake
from pipelines.stored_features import as_matrix
from pipelines.tables import STUDIES, UNEMBEDDED
from pipelines.task_files import STAGING

pytestmark = pytest.mark.usefixtures("spark")

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "jobs/extract_features.py"
BIN = Path(sys.executable).parent
#: Above what anything here takes on a busy machine; whoever waits so long has found a fault.
PATIENCE = 180
#: Images of a task that keeps one core busy for some seconds, so that there is time to meet it at work.
LONG = 400
FoundT = TypeVar("FoundT")


@dataclass
class FaultLake:
    """A lake of the phantoms' studies, each as often as there is need, every time as an image of its own.

    Attributes:
        folder: of it.
        originals: of each image, the phantom's own image_id, whose vector is known.
    """

    folder: Path
    originals: dict[str, str] = field(default_factory=dict)

    def add(self, studies: pa.Table, groups: Sequence[int]) -> Path:
        """A file of studies with row groups of so many images each; gives its path."""
        runs = self.folder / "studies"
        run = next(runs.glob("run=*"), None) or Path(Folder.at(str(runs)).new_run().path)
        run.mkdir(parents=True, exist_ok=True)
        (run / "_SUCCESS").touch()
        file = run / f"part-{len(list(run.iterdir())):05}.parquet"
        with pq.ParquetWriter(file, studies.schema) as writer:
            for images in groups:
                rows = studies.take([number % len(studies) for number in range(images)])
                ids = rows["image_id"].to_pylist()
                made = [hashlib.sha256(f"{i}{len(self.originals) + n}".encode()).hexdigest() for n, i in enumerate(ids)]
                self.originals.update(zip(made, ids, strict=True))
                writer.write_table(rows.set_column(rows.schema.get_field_index("image_id"), "image_id", [made]))
        return file

    @property
    def features(self) -> Folder:
        """Of the one extractor."""
        lake = Lake.open(str(self.folder))
        return lake.features(lake.choose_extractor(None)).folder

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        """Rows of the one extractor's."""
        lake = Lake.open(str(self.folder))
        rows: list[dict[str, Any]] = lake.unembedded(lake.choose_extractor(None)).to_arrow(UNEMBEDDED.names).to_pylist()
        return rows

    def vectors(self) -> dict[str, np.ndarray]:
        """By image_id, of which none is there twice."""
        lake = Lake.open(str(self.folder))
        table = lake.features(lake.choose_extractor(None)).to_arrow(["image_id", "features"])
        ids = table["image_id"].to_pylist()
        assert len(ids) == len(set(ids))
        return dict(zip(ids, as_matrix(table["features"]), strict=True))

    def check(self, expected: dict[str, np.ndarray]) -> None:
        """Every image is there once, with the vector that one process gave its crop."""
        found = self.vectors()
        assert set(found) == set(self.originals)
        for image_id, vector in found.items():
            wanted = expected[self.originals[image_id]]
            # bf16: threads may add in another order; a hundredth of a vector's length is far above that.
            assert np.linalg.norm(vector - wanted) <= 0.01 * np.linalg.norm(wanted)

    def config(self, **settings: object) -> ExtractConfig:
        """Of an extraction in this process."""
        return ExtractConfig.model_validate({"lake": str(self.folder), "backbone": UNTRAINED} | settings)

    def arguments(self, *settings: str) -> list[str]:
        """Of the same extraction as a job."""
        backbone = [] if any("weights" in each for each in settings) else ["backbone.weights=random"]
        return [str(JOB), f"lake={self.folder}", f"backbone.name={NAME}", *backbone, *settings]


@pytest.fixture(scope="module")
def expected(extracted_lake: Path) -> dict[str, np.ndarray]:
    """The vectors of a single process that nothing happened to, by the phantoms' own image_id."""
    lake = Lake.open(str(extracted_lake))
    table = lake.features(lake.choose_extractor(None)).to_arrow(["image_id", "features"])
    return dict(zip(table["image_id"].to_pylist(), as_matrix(table["features"]), strict=True))


@pytest.fixture(scope="module")
def studies(ingested_lake: Path) -> pa.Table:
    """The phantoms'."""
    return Lake.open(str(ingested_lake)).studies.to_arrow(STUDIES.names)


@pytest.fixture
def lake(ingested_lake: Path, tmp_path: Path) -> FaultLake:
    """One without studies as yet."""
    folder = tmp_path / "a lake"
    shutil.copytree(ingested_lake / "_datasets", folder / "_datasets")
    return FaultLake(folder)


def environment(*spark_settings: str, **variables: str) -> dict[str, str]:
    """Of a job that starts anew, with settings of Spark as spark-submit would take them."""
    options = shlex.join(part for each in spark_settings for part in ("--conf", each))
    return {
        **os.environ,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": f"{options} pyspark-shell",
    } | variables


@contextmanager
def started(command: Sequence[str], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with a group of its own, all of which is gone at the end."""
    with log.open("wb") as output:
        job = subprocess.Popen(command, stdout=output, stderr=output, env=env, start_new_session=True)
    try:
        yield job
    finally:
        kill_group(job)


def kill_group(job: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all that it started."""
    for each in [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)] if alive(job) else []:
        kill(each)
    job.wait()


def alive(job: subprocess.Popen[bytes]) -> bool:
    """Whether it runs."""
    return job.poll() is None


def kill(process: psutil.Process) -> None:
    """SIGKILL, if it is not gone already."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def await_(look: Callable[[], FoundT | None], job: subprocess.Popen[bytes], log: Path) -> FoundT:
    """What `look` finds while a job runs; fails if the job ends first."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        assert alive(job), f"ended too soon, with {job.returncode}:\n{log.read_text()}"
        time.sleep(0.05)
    raise AssertionError(f"waited {PATIENCE} s:\n{log.read_text()}")


def reading(file: Path) -> psutil.Process | None:
    """The Python worker of an executor that has a file of studies open: it is in the middle of a task."""
    for process in psutil.process_iter():
        try:
            if "pyspark.daemon" in process.cmdline() and any(each.path == str(file) for each in process.open_files()):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None


def executor_of(worker: psutil.Process) -> psutil.Process:
    """The JVM that a Python worker works for."""
    return next(each for each in worker.parents() if any("ExecutorBackend" in word for word in each.cmdline()))


def ended(job: subprocess.Popen[bytes], log: Path) -> str:
    """What a job told that ended well."""
    job.wait(PATIENCE)
    told = log.read_text()
    assert job.returncode == 0, told
    return told


@dataclass(frozen=True)
class Cluster:
    """Spark's own, on this machine: its first host has two cores and two GPUs (so it says), its second one core."""

    master: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A standalone master with two workers, at free ports."""
    folder = tmp_path_factory.mktemp("cluster")
    find_gpus = folder / "find_gpus"
    find_gpus.write_text('#!/bin/sh\necho \'{"name": "gpu", "addresses": ["0", "1"]}\'\n')
    find_gpus.chmod(0o755)
    settings = folder / "gpus.conf"
    settings.write_text(f"spark.worker.resource.gpu.amount 2\nspark.worker.resource.gpu.discoveryScript {find_gpus}\n")
    classes = "org.apache.spark.deploy"
    # Spark's own log settings, with which a master tells where it is.
    talkative = folder / "conf"
    talkative.mkdir()

    def start(name: str, host: str, *options: str) -> tuple[list[str], Path, dict[str, str]]:
        words = [str(BIN / "spark-class"), f"{classes}.{name}", "--host", host, "--port", "0", "--webui-port", "0"]
        return (
            [*words, *options],
            folder / f"{name} {host}.log",
            environment(SPARK_LOCAL_IP=host, SPARK_CONF_DIR=str(talkative)),
        )

    def told(log: Path, job: subprocess.Popen[bytes], pattern: str) -> str:
        return await_(lambda: (m := re.search(pattern, log.read_text())) and m[0], job, log)

    master = start("master.Master", "127.0.0.1")
    with started(*master) as job:
        url = told(master[1], job, r"spark://127\.0\.0\.1:\d+")
        shared = (url, "--memory", "4g", "--work-dir", str(folder / "work"))
        first = start("worker.Worker", "127.0.0.1", *shared, "--cores", "2", "--properties-file", str(settings))
        second = start("worker.Worker", "127.0.0.2", *shared, "--cores", "1")
        with started(*first) as one, started(*second) as other:
            for log, worker in ((first[1], one), (second[1], other)):
                told(log, worker, "Successfully registered with master")
            yield Cluster(url)


#: Else the first executor may be through with everything before the second one is there.
TOGETHER = ("spark.scheduler.minRegisteredResourcesRatio=1.0", "spark.scheduler.maxRegisteredResourcesWaitingTime=60s")
#: One executor with one core on each of the cluster's hosts.
TWO_EXECUTORS = ("spark.executor.cores=1", "spark.cores.max=2", "spark.executor.memory=1g", *TOGETHER)


def test_a_submitted_job_outlives_an_executor_and_a_python_worker_that_are_killed(
    lake: FaultLake, studies: pa.Table, cluster: Cluster, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """As users submit it; each of the two chunks loses one of the two processes at work on it."""
    # A row group is dealt out whole: two make two tasks, one for each executor.
    files = [lake.add(studies, [LONG, LONG]) for _ in range(2)]
    log = tmp_path / "log"
    conf = [word for each in TWO_EXECUTORS for word in ("--conf", each)]
    command = [str(BIN / "spark-submit"), "--master", cluster.master, *conf, *lake.arguments("chunk_images=1")]
    with started(command, log, environment()) as job:
        executor = executor_of(await_(lambda: reading(files[0]), job, log))
        assert not committed(lake)
        kill(executor)
        worker = await_(lambda: reading(files[1]), job, log)
        assert len(committed(lake)) == 1
        kill(worker)
        ended(job, log)
    lake.check(expected)
    # As many as there were chunks: what was lost was done again within its chunk.
    assert len(lake.features.runs()) == 2
    assert not lake.features.dead_runs()


def test_a_task_that_hangs_is_overtaken_by_its_copy_and_counts_once(
    lake: FaultLake, studies: pa.Table, cluster: Cluster, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Speculation, for real: the worker of one of two tasks is stopped, and Spark starts the task on the other host."""
    # A first chunk makes both Python workers ready, so that the short task of the second ends long before the other.
    lake.add(studies, [10, 10])
    file = lake.add(studies, [20, LONG])
    log, events = tmp_path / "log", tmp_path / "events"
    events.mkdir()
    env = environment(
        *TWO_EXECUTORS,
        "spark.speculation=true",
        "spark.speculation.interval=100ms",
        "spark.speculation.quantile=0.5",
        "spark.speculation.multiplier=1.1",
        "spark.speculation.minTaskRuntime=4s",
        "spark.eventLog.enabled=true",
        "spark.eventLog.compress=false",
        f"spark.eventLog.dir=file://{events}",
    )
    with started([sys.executable, *lake.arguments(f"master={cluster.master}", "chunk_images=1")], log, env) as job:

        def long_task() -> psutil.Process | None:
            # The short one has written its file, so what still reads is the long one.
            return reading(file) if committed(lake) and staged(lake) else None

        stopped = await_(long_task, job, log)
        stopped.suspend()
        await_(lambda: len(committed(lake)) == 2 or None, job, log)
        # Late, it goes on as if nothing had happened.
        if stopped.is_running():
            stopped.resume()
        ended(job, log)
    tasks = [json.loads(line) for each in events.rglob("events_*") for line in each.open()]
    ends = [task["Task Info"] for task in tasks if task["Event"] == "SparkListenerTaskEnd"]
    assert any(task["Speculative"] and not task["Failed"] and not task["Killed"] for task in ends)
    lake.check(expected)


def test_what_a_killed_driver_left_is_never_read_and_keeps_nobody_out(
    lake: FaultLake, studies: pa.Table, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Killed when one task of the second chunk has ended and the other has not."""
    lake.add(studies, [15, 15])
    lake.add(studies, [20, LONG])
    log = tmp_path / "log"
    # Two tasks at a time in one process.
    env = environment("spark.task.cpus=1")
    with started([sys.executable, *lake.arguments("master=local[2]", "chunk_images=1")], log, env) as job:
        await_(lambda: (committed(lake) and staged(lake)) or None, job, log)
        kill_group(job)
    (left,) = lake.features.dead_runs()
    (file,) = (left / STAGING).names()
    assert 0 < len(pq.read_table(f"{left.path}/{STAGING}/{file}")) < 20 + LONG
    assert "_extract.json" in lake.features.names()
    assert len(lake.vectors()) == 30
    assert extract(lake.config(chunk_images=1)).counts["images"] == 20 + LONG
    lake.check(expected)
    assert "_extract.json" not in lake.features.names()
    assert (left / STAGING).names() == [file]


def test_a_full_disk_ends_the_job_with_one_message_and_costs_no_committed_row(
    lake: FaultLake, studies: pa.Table, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The system lets a Python worker write 64 KiB to a file: room for the first chunk's vectors, not the second's."""
    lake.add(studies, [5])
    lake.add(studies, [85])
    # POSIX counts blocks of 512 bytes.
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -f 128\nexec {shlex.quote(sys.executable)} "$@"\n')
    limited.chmod(0o755)
    log = tmp_path / "log"
    env = environment(PYSPARK_PYTHON=str(limited))
    with started([sys.executable, *lake.arguments("master=local[2]", "chunk_images=1")], log, env) as job:
        job.wait(PATIENCE)
    told = log.read_text()
    assert job.returncode == 2, told
    (message,) = re.findall(r"^error: (.+)$", told, re.MULTILINE)
    assert re.match(
        rf"'{re.escape(lake.features.uri)}/run=[^/]+/{STAGING}' can't be written: File too large. Make", message
    )
    # What did fit is gone again, for there is no room to waste.
    assert not lake.features.dead_runs()
    assert "run the same command again: what was committed is kept" in message
    assert not [line for line in told.partition("\nerror: ")[2].splitlines() if "Traceback" in line]
    assert len(lake.vectors()) == 5
    assert extract(lake.config()).counts["images"] == 85
    lake.check(expected)


def test_a_damaged_crop_is_quarantined_until_someone_repairs_it(
    lake: FaultLake, studies: pa.Table, expected: dict[str, np.ndarray]
) -> None:
    file = lake.add(studies, [40])
    whole = pq.read_table(file, partitioning=None)
    crops = whole["crop"].to_pylist()
    crops[7] = crops[7][: len(crops[7]) // 2]
    pq.write_table(whole.set_column(whole.schema.get_field_index("crop"), "crop", [crops]), file)
    image_id = whole["image_id"][7].as_py()
    assert f"1 (damaged_crop 1): {image_id}" in str(extract(lake.config()))
    (row,) = lake.quarantine
    assert (row["image_id"], row["variant"], row["reason"]) == (image_id, 0, "damaged_crop")
    assert set(lake.vectors()) == set(lake.originals) - {image_id}

    before = sorted(lake.folder.rglob("*"))
    again = extract(lake.config())
    assert again.counts == {"images": 0, "failed": 0, "in quarantine": 1}
    assert "1 in all; to try them again, remove " in str(again)
    assert sorted(lake.folder.rglob("*")) == before

    there = Lake.open(str(lake.folder))
    shutil.rmtree(there.unembedded(there.choose_extractor(None)).folder.path)
    pq.write_table(whole, file)
    assert extract(lake.config()).counts["images"] == 1
    lake.check(expected)
    assert lake.quarantine == []


@pytest.mark.parametrize(
    ("command", "moment"),
    [("python", "starting Spark"), ("spark-submit", "looking for what is missing"), ("python", "task")],
)
def test_ctrl_c_is_one_line_and_leaves_nothing_behind(
    command: str, moment: str, lake: FaultLake, studies: pa.Table, tmp_path: Path
) -> None:
    """To the whole group, as a terminal sends it: the JVM under spark-submit hears it too."""
    file = lake.add(studies, [LONG])
    log = tmp_path / "log"
    env = environment(SPARK_CONF_DIR=str(ROOT / "conf/spark"))
    with started([str(BIN / command), *lake.arguments()], log, env) as job:

        def is_there() -> bool | None:
            return bool(reading(file) if moment == "task" else moment in log.read_text()) or None

        await_(is_there, job, log)
        os.killpg(job.pid, signal.SIGINT)
        assert job.wait(PATIENCE) == 130
        end = time.monotonic() + PATIENCE
        while (left := session_of(job)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left
    _, line, after = log.read_text().partition(
        "\ninterrupted: what was committed is kept; run the same command again.\n"
    )
    assert line
    # What a JVM greets with, that was being started.
    assert after.replace("WARNING: Using incubator modules: jdk.incubator.vector\n", "") == ""
    assert not list(lake.folder.glob("features/*/_extract.json"))
    assert not committed(lake)


def session_of(job: subprocess.Popen[bytes]) -> list[str]:
    """What a job has started that still runs."""
    running = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == job.pid and process.status() != psutil.STATUS_ZOMBIE:
                running.append(" ".join(process.cmdline()))
    return running


def test_a_gpu_that_a_cluster_does_not_let_choose_is_told_before_the_cluster_is_asked(
    lake: FaultLake, studies: pa.Table, tmp_path: Path
) -> None:
    """The master is spark-submit's, and there is none."""
    lake.add(studies, [1])
    log = tmp_path / "log"
    command = [str(BIN / "spark-submit"), "--master", "spark://nowhere:7077", *lake.arguments("device=cuda:0")]
    with started(command, log, environment()) as job:
        assert job.wait(PATIENCE) == 2
    assert "error: device=cuda:0: on a cluster Spark chooses the GPU" in log.read_text()
    assert "starting Spark" not in log.read_text()


def test_a_weights_file_that_changed_is_refused_until_it_is_restored(
    lake: FaultLake, studies: pa.Table, tmp_path: Path
) -> None:
    first, second, renamed = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "renamed"))
    for seed, file in enumerate((first, second)):
        state = load_weights(get_backbone(NAME), "random", seed).state
        safetensors.torch.save_file({name: value.clone() for name, value in state.items()}, file)
    weights = tmp_path / "weights.safetensors"
    shutil.copy(first, weights)
    given = {"backbone": {"name": NAME, "weights": str(weights)}}
    lake.add(studies, [12])
    extract(lake.config(**given))
    lake.add(studies, [6])
    before = sorted(lake.folder.rglob("*"))

    shutil.copy(second, weights)
    log = tmp_path / "log"
    with started([sys.executable, *lake.arguments(f"backbone.weights={weights}")], log, environment()) as job:
        job.wait(PATIENCE)
    assert job.returncode == 2
    (message,) = re.findall(r"^error: (.+)$", log.read_text(), re.MULTILINE)
    assert message.startswith(f"the weights '{weights}' have changed since")
    assert "Restore the file" in message
    assert sorted(lake.folder.rglob("*")) == before

    shutil.copy(first, weights)
    assert extract(lake.config(**given)).counts["images"] == 6
    assert len(lake.vectors()) == 18
    shutil.copy(first, renamed)
    assert extract(lake.config(backbone={"name": NAME, "weights": str(renamed)})).counts["images"] == 0


def test_two_extractions_at_once_extract_every_image_once(
    lake: FaultLake, studies: pa.Table, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for images in (30, 600):
        lake.add(studies, [images])
    command = [sys.executable, *lake.arguments("master=local[1]", "chunk_images=1")]
    logs = [tmp_path / "one", tmp_path / "other"]
    with started(command, logs[0], environment()) as one, started(command, logs[1], environment()) as other:
        codes = sorted(job.wait(PATIENCE) for job in (one, other))
    told = [log.read_text() for log in logs]
    assert codes in ([0, 0], [0, 2]), "\n\n".join(told)
    if codes == [0, 2]:
        refusals = [each for each in told if "error: another extract " in each]
        assert len(refusals) == 1
    lake.check(expected)


def test_what_another_job_extracted_between_plan_and_lease_is_not_extracted_again(
    lake: FaultLake, studies: pa.Table, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The narrow gap of the test before this one, held open: the other job begins and ends in it."""
    lake.add(studies, [30])
    lease = extraction.lease

    def late(*arguments: str) -> object:
        monkeypatch.setattr(extraction, "lease", lease)
        extract(lake.config())
        return lease(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(extraction, "lease", late)
    extract(lake.config())
    lake.check(expected)


GPU_SCRIPT = f"""
    import json, sys, time
    sys.path.insert(0, {str(ROOT)!r})
    import pyarrow as pa
    from pipelines.executor_embedder import Workers, task_device
    from pipelines.session import TaskCores, spark_session

    def look(batches):
        for batch in batches:
            for number in batch.column(0).to_pylist():
                start = time.time()
                time.sleep(2)
                row = {{"task": number, "device": task_device("cuda"), "start": start, "end": time.time()}}
                yield pa.RecordBatch.from_pylist([row])

    with spark_session("gpus", sys.argv[1], task_cores=TaskCores.WHOLE_DRIVER) as spark:
        workers = Workers.of(spark, "cuda")
        schema = "task long, device string, start double, end double"
        rows = spark.range(0, 4, 1, 4).mapInArrow(look, schema, profile=workers.profile).toArrow().to_pylist()
        print(json.dumps({{"cores": workers.cores, "rows": rows}}))
    """


def gpu_script(cluster: Cluster, folder: Path, *settings: str) -> Any:
    """What it tells."""
    script = folder / "gpus.py"
    script.write_text(textwrap.dedent(GPU_SCRIPT))
    command = [sys.executable, str(script), cluster.master]
    done = subprocess.run(command, env=environment(*settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_tasks_at_the_same_time_work_on_gpus_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    """Spark hands out what the discovery script told."""
    settings = ("spark.executor.cores=2", "spark.cores.max=2", "spark.executor.resource.gpu.amount=2")
    told = gpu_script(cluster, tmp_path, *settings, *TOGETHER)
    assert told["cores"] == 1
    rows = told["rows"]
    assert sorted(row["task"] for row in rows) == [0, 1, 2, 3]
    assert {row["device"] for row in rows} == {"cuda:0", "cuda:1"}
    together = [(a, b) for a in rows for b in rows if a["task"] < b["task"] and overlap(a, b) > 0]
    assert together
    for a, b in together:
        assert a["device"] != b["device"]


def overlap(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Seconds for which two tasks ran both."""
    return float(min(a["end"], b["end"]) - max(a["start"], b["start"]))


def committed(lake: FaultLake) -> list[Path]:
    """Marks of the committed chunks."""
    return list(lake.folder.glob("features/extractor=*/run=*/_SUCCESS"))


def staged(lake: FaultLake) -> list[Path]:
    """Whole files that tasks of a chunk under way have written."""
    return [file for file in lake.folder.glob(f"features/*/run=*/{STAGING}/*.parquet") if whole(file)]


def whole(file: Path) -> bool:
    """Whether a Parquet file has its end."""
    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return False
    return True
