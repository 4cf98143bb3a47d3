from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST_FOREIGN = """
import importlib, sys
for name in {names}:
    importlib.import_module("classifiers." + name)
ours = {{"jobs", "pipelines", "featurizers", "pyspark"}}
print(sorted(ours & {{name.partition(".")[0] for name in sys.modules}}))
"""


def test_layer_needs_no_spark_and_nothing_of_ours():
    names = sorted(path.stem for path in (ROOT / "classifiers").glob("[!_]*.py"))
    assert "trained" in names
    script = LIST_FOREIGN.format(names=names)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
