from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST_FOREIGN = """
import importlib, sys
for name in {names}:
    importlib.import_module(name)
ours = {{"jobs", "pipelines", "featurizers", "pyspark"}}
print(sorted(ours & {{name.partition(".")[0] for name in sys.modules}}))
"""


def test_layer_needs_no_spark_and_nothing_of_ours():
    files = (ROOT / "classifiers").rglob("[!_]*.py")
    names = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    assert {"classifiers.trained", "classifiers.reports.page"} <= set(names)
    script = LIST_FOREIGN.format(names=names)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
