"""Starts the Spark session of a job and ships our packages to its executors."""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType

import psutil
from py4j.protocol import Py4JError
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from pipelines.errors import ConfigError
from pipelines.progress import tell

#: What executors import from us; `jobs` runs on the driver alone.
SHIPPED_PACKAGES = ("pipelines", "featurizers", "classifiers")
#: What they read beside them there: the tasks, by name.
SHIPPED_CONFIGS = "conf/tasks"
PACKAGES_ZIP = "pleura.zip"

#: 50 KB rows in Arrow batches of 10,000 halve the throughput and hold 500 MB a task; 64 rows are a few MB.
ARROW_BATCH_ROWS = 64

#: A split of a Parquet scan: some hundreds of crops, so that tasks are neither seconds too short nor memory-hungry.
SPLIT_BYTES = 16 * 2**20

_SECONDS_BETWEEN_ACTS = 0.2
_STAGE_NAME = "callSite.short"
_ARROW_BATCH_KEY = "spark.sql.execution.arrow.maxRecordsPerBatch"
SQL_SETTINGS = {
    _ARROW_BATCH_KEY: str(ARROW_BATCH_ROWS),
    "spark.sql.files.maxPartitionBytes": str(SPLIT_BYTES),
    "spark.sql.files.openCostInBytes": "0",
    "spark.sql.session.timeZone": "UTC",
}


class TaskCores(StrEnum):
    """How many cores a Python task gets, unless the user set `spark.task.cpus`."""

    #: Spark's default.
    ONE = "one"
    #: All of its executor: one multi-threaded model per executor rather than one model per core.
    WHOLE_EXECUTOR = "whole executor"
    #: The same where the driver does all the work; on a cluster a stage asks for its own by a resource profile.
    WHOLE_DRIVER = "whole driver"


@contextmanager
def spark_session(
    name: str,
    master: str | None,
    *,
    task_cores: TaskCores = TaskCores.ONE,
    encrypted_scratch: bool = False,
    arrow_batch_rows: int = ARROW_BATCH_ROWS,
) -> Iterator[SparkSession]:
    """A session with our packages importable on every executor.

    A session that runs already (a notebook's) is used as it is and left running; else one is started, and stopped at
    the end.

    Args:
        name: the application's name in Spark's UI.
        master: Spark master; None leaves what spark-submit was told, or local[*] without it.
        task_cores: of a Python task.
        encrypted_scratch: what Spark keeps on disk while it runs (shuffles, what the driver hands over) is encrypted,
            unless the user set `spark.io.encryption.enabled` or started the session.
        arrow_batch_rows: rows that a Python task gets at once, unless the user set them.

    Raises:
        ConfigError: if a session runs already on another master, or none can be started on this one.
    """
    # Not getActiveSession, which knows only the sessions of its own thread.
    context = SparkContext._active_spark_context
    sql = SQL_SETTINGS | {_ARROW_BATCH_KEY: str(arrow_batch_rows)}
    if context is not None:
        running = SparkSession.builder.getOrCreate()
        if master not in (None, running.sparkContext.master):
            raise ConfigError(
                f"a Spark session runs already on {running.sparkContext.master}, so master={master} can't be had. "
                "Leave master out, or stop that session first."
            )
        before = {key: running.conf.get(key, None) for key in sql}
        _set(running, sql)
        try:
            _ship_packages(running)
            yield running
        finally:
            _set(running, before)
        return
    session = _start(name, master, sql, task_cores=task_cores, encrypted_scratch=encrypted_scratch)
    try:
        with _cancelled_when_interrupted(session.sparkContext):
            _ship_packages(session)
            yield session
    finally:
        session.stop()


@contextmanager
def named_jobs(spark: SparkSession, name: str) -> Iterator[None]:
    """Spark's UI calls what the body has it do by this name: jobs, stages and queries."""
    context = spark.sparkContext
    before = context.getLocalProperty(_STAGE_NAME)
    context.setJobDescription(name)
    context.setLocalProperty(_STAGE_NAME, name)
    try:
        yield
    finally:
        # None takes a property back.
        context.setJobDescription(None)  # type: ignore[arg-type]
        context.setLocalProperty(_STAGE_NAME, before)  # type: ignore[arg-type]


@functools.cache
def scratch_folder() -> Path:
    """A folder of this process for files that executors fetch; removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="pleura-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _start(
    name: str, master: str | None, sql: Mapping[str, str], *, task_cores: TaskCores, encrypted_scratch: bool
) -> SparkSession:
    tell("starting Spark")
    conf = session_settings(master)
    where = conf.get("spark.master") or ""
    conf.setAppName(f"pleura {name}")
    # pyspark's own launcher turns Spark's bar on; ours tells images, not tasks.
    conf.set("spark.ui.showConsoleProgress", "false")
    settings = dict(sql)
    if where.startswith("local"):
        # Spark's 200 are meant for clusters; each costs some milliseconds, also when it is empty.
        settings["spark.sql.shuffle.partitions"] = str(_jvm_cores())
    if task_cores is TaskCores.WHOLE_EXECUTOR or (task_cores is TaskCores.WHOLE_DRIVER and runs_in_driver(where)):
        settings["spark.task.cpus"] = str(executor_cores(conf, where))
    if encrypted_scratch:
        settings["spark.io.encryption.enabled"] = "true"
    for key, value in settings.items():
        conf.setIfMissing(key, value)
    heed = signal.getsignal(signal.SIGINT)
    try:
        context = SparkContext(conf=conf)
        if threading.current_thread() is threading.main_thread():
            # Not pyspark's own, which asks the JVM on a connection that is busy with the call it interrupts.
            signal.signal(signal.SIGINT, heed)
        session = SparkSession.builder.getOrCreate()
    except (Py4JError, PySparkException) as error:
        cause = next((line for line in str(error).splitlines() if "Exception" in line), str(error))
        raise ConfigError(
            f"Spark can't be started on master {where}: {cause.strip()}. "
            "Check master=… (local[*], spark://HOST:7077, yarn, k8s://…)."
        ) from error
    context.setLogLevel("ERROR")
    return session


def session_settings(master: str | None) -> SparkConf:
    """What the running session was started with, or else what one would be: spark-submit's settings, SPARK_CONF_DIR's.

    Starts the JVM, which alone can tell, unless it runs, as under spark-submit; nothing else of Spark.

    Args:
        master: Spark master; None leaves what the settings say, or local[*] without any.
    """
    context = SparkContext._active_spark_context
    if context is not None:
        return context.getConf()
    # Executors run the driver's Python; without this Spark starts whatever `python3` means on the machine.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if master and master.startswith("local-cluster"):
        # Otherwise Spark's embedded cluster writes its work folders into the installed pyspark package.
        os.environ.setdefault("SPARK_TESTING", "1")
    _start_jvm()
    conf = SparkConf()
    return conf.setMaster(master) if master else conf.setIfMissing("spark.master", "local[*]")


def _start_jvm() -> None:
    before = set(psutil.Process().children(recursive=True))

    def kill() -> None:
        for process in set(psutil.Process().children(recursive=True)) - before:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # pyspark forgets a JVM that it is interrupted in starting, and that waits for ever for somebody to ask for it; or
    # goes on starting it, for Python swallows what is raised while it forks.
    with _insisting_when_interrupted(kill):
        SparkContext._ensure_initialized()


@contextmanager
def _cancelled_when_interrupted(context: SparkContext) -> Iterator[None]:
    """While the body runs, Ctrl-C cancels Spark's jobs: pyspark would wait for the end of one that it collects."""

    def cancel() -> None:
        # Tasks that are cut off complain.
        context.setLogLevel("OFF")
        context.cancelAllJobs()

    with _insisting_when_interrupted(cancel):
        yield


@contextmanager
def _insisting_when_interrupted(act: Callable[[], None]) -> Iterator[None]:
    """While the body runs, Ctrl-C has something done as well, again and again until the body has ended, and then once.

    Again, since what it is done to may be about to start. From a thread, which has a connection to the JVM of its own:
    the main thread's may be in the middle of a call.
    """
    heed = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(heed):
        yield
        return
    ended = threading.Event()
    insisting: list[threading.Thread] = []

    def insist() -> None:
        while not ended.wait(_SECONDS_BETWEEN_ACTS):
            act()
        act()

    def interrupt(number: int, frame: FrameType | None) -> None:
        insisting.append(threading.Thread(target=insist, name="interrupted", daemon=True))
        insisting[-1].start()
        heed(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # After Ctrl-C the next one has a handler already.
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, heed)
        ended.set()
        for thread in insisting:
            thread.join()


def _ship_packages(session: SparkSession) -> None:
    context = session.sparkContext
    if not any(file.endswith(f"/{PACKAGES_ZIP}") for file in context.listFiles):
        context.addPyFile(str(zip_packages(scratch_folder())))


def runs_in_driver(master: str | None) -> bool:
    """Whether the driver's machine does all the work: a master local, not a cluster of any kind."""
    return re.match(r"local($|\[)", master or "") is not None


def executor_cores(conf: SparkConf, master: str | None) -> int:
    """Cores of one executor, as far as the settings tell it before the application starts; 1 when they do not."""
    where = master or conf.get("spark.master", "local[*]") or "local[*]"
    if where == "local":
        return 1
    if local := re.fullmatch(r"local\[(\d+|\*)(?:,\s*\d+)?\]", where):
        return _jvm_cores() if local.group(1) == "*" else int(local.group(1))
    if cluster := re.fullmatch(r"local-cluster\[\s*\d+\s*,\s*(\d+)\s*,\s*\d+\s*\]", where):
        return min(int(cluster.group(1)), int(conf.get("spark.executor.cores", cluster.group(1)) or 1))
    return int(conf.get("spark.executor.cores", "1") or 1)


def _set(session: SparkSession, settings: Mapping[str, str | None]) -> None:
    for key, value in settings.items():
        if value is None:
            session.conf.unset(key)
        else:
            session.conf.set(key, value)


def _jvm_cores() -> int:
    """What Spark takes local[*] for: in a container that may be fewer than Python counts."""
    SparkContext._ensure_initialized()
    assert SparkContext._jvm is not None
    return int(SparkContext._jvm.java.lang.Runtime.getRuntime().availableProcessors())


def zip_packages(folder: Path) -> Path:
    """Our packages, and the tasks, as a zip that Python can import from, in `folder`."""
    root = Path(__file__).resolve().parents[1]
    archive = folder / PACKAGES_ZIP
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for package in SHIPPED_PACKAGES:
            for module in sorted((root / package).rglob("*.py")):
                target.write(module, module.relative_to(root))
        for task in sorted((root / SHIPPED_CONFIGS).glob("*.yaml")):
            target.write(task, task.relative_to(root))
    return archive
