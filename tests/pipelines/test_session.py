"""The session: what an executor has, and that our packages reach executors where nothing is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from pyspark import SparkConf
from pyspark.sql import SparkSession

from classifiers.tasks import task_names
from pipelines.errors import ConfigError
from pipelines.session import SHIPPED_PACKAGES, executor_cores, spark_session, zip_packages

ROOT = Path(__file__).resolve().parents[2]
ALL = os.cpu_count() or 1


def python(script: str, cwd: Path, *options: str) -> str:
    """The output of a Python that starts anew, told nothing of our packages or of a running Spark."""
    environment = {name: value for name, value in os.environ.items() if "SPARK" not in name and name != "PYTHONPATH"}
    environment["SPARK_LOCAL_IP"] = "127.0.0.1"
    file = cwd / "script.py"
    file.write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, *options, str(file)], cwd=cwd, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("master", "settings", "cores"),
    [
        ("local", {}, 1),
        ("local[1]", {}, 1),
        ("local[3]", {}, 3),
        ("local[3, 2]", {}, 3),
        ("local[*]", {}, ALL),
        ("local[*,2]", {}, ALL),
        (None, {}, ALL),
        (None, {"spark.master": "local[5]"}, 5),
        ("local[3]", {"spark.master": "local[5]"}, 3),
        ("local[3]", {"spark.executor.cores": "8"}, 3),
        ("local-cluster[2,3,1024]", {}, 3),
        ("local-cluster[2, 3, 1024]", {}, 3),
        ("spark://head:7077", {}, 1),
        ("spark://head:7077", {"spark.executor.cores": "6"}, 6),
        (None, {"spark.master": "spark://head:7077", "spark.executor.cores": "6"}, 6),
        ("yarn", {"spark.executor.cores": "4"}, 4),
        ("k8s://https://host:443", {"spark.executor.cores": "4"}, 4),
    ],
)
def test_cores_of_an_executor(master: str | None, settings: dict[str, str], cores: int) -> None:
    conf = SparkConf(loadDefaults=False)
    for key, value in settings.items():
        conf.set(key, value)
    assert executor_cores(conf, master) == cores


def test_a_running_session_is_used_and_left_running(spark: SparkSession) -> None:
    for master in (None, spark.sparkContext.master):
        with spark_session("test", master) as session:
            assert session is spark
    assert spark.range(3).count() == 3


def test_an_error_in_the_body_leaves_a_running_session_running(spark: SparkSession) -> None:
    with pytest.raises(ZeroDivisionError), spark_session("test", None):
        raise ZeroDivisionError
    assert spark.range(3).count() == 3


def test_another_master_than_the_running_sessions_is_told(spark: SparkSession) -> None:
    with (
        pytest.raises(ConfigError, match=r"runs already on local\[2\], so master=local\[7\] .*stop that session"),
        spark_session("test", "local[7]"),
    ):
        pytest.fail("a body ran on the wrong master")
    assert spark.range(3).count() == 3


def test_packages_are_shipped_once(spark: SparkSession) -> None:
    for _ in range(2):
        with spark_session("test", None) as session:
            shipped = [file for file in session.sparkContext.listFiles if file.endswith("/pleura.zip")]
            assert len(shipped) == 1


def test_a_users_running_session_is_left_running_by_another_thread(tmp_path: Path) -> None:
    """In a process of its own: a stopped session would take all other tests with it."""
    script = f"""
        import sys
        import threading
        sys.path.insert(0, {str(ROOT)!r})
        from pyspark.sql import SparkSession
        from pipelines.session import TaskCores, spark_session

        users = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()

        def use():
            with spark_session("test", None) as session:
                session.range(3).count()

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        print("running" if users.sparkContext._jsc else "stopped")
        """
    assert python(script, tmp_path).split() == ["running"]


def test_the_zip_holds_every_module_every_task_and_nothing_else(tmp_path: Path) -> None:
    archive = zip_packages(tmp_path)
    assert archive.parent == tmp_path
    names = zipfile.ZipFile(archive).namelist()
    expected = {str(file.relative_to(ROOT)) for name in SHIPPED_PACKAGES for file in (ROOT / name).rglob("*.py")}
    expected |= {str(file.relative_to(ROOT)) for file in (ROOT / "conf" / "tasks").glob("*.yaml")}
    assert set(names) == expected
    assert len(names) == len(expected)
    assert {"pipelines/sources/__init__.py", "featurizers/embedder.py", "classifiers/heads.py"} <= expected


def test_packages_hold_no_files_that_the_zip_leaves_out() -> None:
    """Data files beside the modules would be missing on executors."""
    others = {
        file.name
        for name in SHIPPED_PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    # The driver reads the segmenter's weights, and sends them inside the finder.
    assert others == {"lungs.safetensors", "CARD.md"}


def test_everything_can_be_imported_from_the_zip_alone(tmp_path: Path) -> None:
    archive = zip_packages(tmp_path)
    script = f"""
        import sys
        sys.path.insert(0, {str(archive)!r})
        import pipelines.extract, pipelines.ingest, pipelines.train, pipelines.score
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in {SHIPPED_PACKAGES!r}]
        print(*sorted({{module.__file__ for module in ours}}), sep="\\n")
        """
    files = python(script, tmp_path, "-I").splitlines()
    assert str(archive / "pipelines" / "extract.py") in files
    assert str(archive / "classifiers" / "heads.py") in files
    assert [file for file in files if not file.startswith(f"{archive}/")] == []


def test_tasks_are_known_by_name_from_the_zip_alone(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(zip_packages(tmp_path))!r})
        from classifiers.tasks import get_task, task_names
        print(*(get_task(name).name for name in task_names()))
        """
    assert python(script, tmp_path, "-I").split() == list(task_names())


def test_executors_in_processes_of_their_own_import_our_packages_from_the_shipped_zip(tmp_path: Path) -> None:
    script = f"""
        import json
        import os
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pipelines.session import TaskCores, spark_session

        def look(rows):
            import classifiers.errors, featurizers.errors, pipelines.folders
            modules = (classifiers.errors, featurizers.errors, pipelines.folders)
            yield {{"files": [module.__file__ for module in modules], "folder": os.getcwd(), "python": sys.executable}}

        with spark_session("test", "local-cluster[2,1,1024]", task_cores=TaskCores.WHOLE_EXECUTOR) as session:
            context = session.sparkContext
            # A barrier needs both executors at the same time.
            found = context.parallelize(range(2), 2).barrier().mapPartitions(look).collect()
            print(json.dumps({{"found": found, "task_cpus": context.getConf().get("spark.task.cpus")}}))
        """
    told = json.loads(python(script, tmp_path).splitlines()[-1])
    assert told["task_cpus"] == "1"
    first, second = told["found"]
    assert first["folder"] != second["folder"]
    for executor in (first, second):
        assert executor["python"] == sys.executable
        assert len(executor["files"]) == 3
        for file, package in zip(executor["files"], ("classifiers", "featurizers", "pipelines"), strict=True):
            assert f"/pleura.zip/{package}/" in file
            assert not file.startswith(str(ROOT))
        # Spark's work folders belong to no installed package.
        assert "site-packages" not in executor["folder"]
