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
            macro = test["averages"]["macro"]
            rows.append((task, head, test["n"], test["accuracy"], test["balanced_accuracy"], macro["auc"], macro["f1"]))
    write = sys.stdout.write
    write(
        "Results on the phantoms' test split (a backbone trained for half a minute on drawn images: this checks the "
        "way, not medicine; own_top is the network end to end)\n\n"
    )
    titles = f"{'accuracy':>9} {'balanced':>9} {'AUC (95 % interval)':>22} {'macro F1':>9}"
    write(f"{'task':12} {'head':10} {'n':>4} {titles}\n")
    for task, head, n, *figures in rows:
        accuracy, balanced, _, f1 = (shown(figure["value"]) for figure in figures)
        auc = figures[2]
        interval = "" if auc["low"] is None else f" ({auc['low']:.2f} to {auc['high']:.2f})"
        write(f"{task:12} {head:10} {n:4} {accuracy:>9} {balanced:>9} {shown(auc['value']) + interval:>22} {f1:>9}\n")
    (page,) = lake.glob("backbones/demo/run=*/report.html")
    write(f"\nlake         {lake}\na report     {files[-1].with_name('report.html')}\n")
    write(f"stage one    {page}\n")
    write(f"predictions  {lake}/predictions\n")
    write(f"time         {seconds // 60}:{seconds % 60:02}\n")


def shown(value: float | None) -> str:
    """A figure; n/a where the rows do not define it."""
    return "n/a" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
