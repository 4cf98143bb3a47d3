"""The layer's law: featurizers need no Spark and nothing of ours, in a notebook and in an executor alike."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("pyspark", "pipelines", "classifiers", "jobs")


def loaded_of(foreign: tuple[str, ...], modules: list[str]) -> list[str]:
    """Which of `foreign` a fresh Python has loaded once it has imported `modules`."""
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.split() if name in foreign]


def test_featurizers_load_no_spark_and_nothing_of_ours() -> None:
    files = sorted((ROOT / "featurizers").rglob("*.py"))
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    assert {"featurizers.embedder", "featurizers.segmenter.finder"} <= set(modules)
    assert loaded_of(FOREIGN, modules) == []


def test_the_check_sees_spark_where_it_is_loaded() -> None:
    assert loaded_of(FOREIGN, ["pyspark"]) == ["pyspark"]


def test_featurizers_import_nothing_foreign_inside_functions_either() -> None:
    for file in sorted((ROOT / "featurizers").rglob("*.py")):
        packages = {name.partition(".")[0] for name in imported_names(ast.parse(file.read_text()))}
        assert packages.isdisjoint(FOREIGN), file.name


def imported_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
