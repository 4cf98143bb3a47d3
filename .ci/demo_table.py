"""Prints what the demo made: a table of all heads, and where things are."""

import json
import sys
from pathlib import Path


def main(lake: Path, seconds: int) -> None:
    """Read the metrics of every head in `lake` and print them."""
    rows = []
    # In the order of training: the baseline comes first.
    files = sorted(lake.glob("heads/*/*/run=*/metrics.json"), key=lambda file: file.parent.name)
    for file in files:
        task, head = file.parts[-4:-2]
        test = json.loads(file.read_text())["metrics"].get("test")
        if test:
            rows.append((task, head, test["n"], test["accuracy"], test["auc"], test["macro_f1"]))
    write = sys.stdout.write
    write(
        "Results on the phantoms' test split (untrained backbone, drawn images: this checks the way, not medicine)\n\n"
    )
    write(f"{'task':12} {'head':10} {'n':>4} {'accuracy':>9} {'AUC':>7} {'macro F1':>9}\n")
    for task, head, n, *values in rows:
        shown = ["n/a" if value is None else f"{value:.3f}" for value in values]
        write(f"{task:12} {head:10} {n:4} {shown[0]:>9} {shown[1]:>7} {shown[2]:>9}\n")
    write(f"\nlake         {lake}\na report     {files[-1].with_name('report.html')}\n")
    write(f"predictions  {lake}/predictions\n")
    write(f"time         {seconds // 60}:{seconds % 60:02}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
