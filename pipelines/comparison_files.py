"""A comparison of heads, kept: the page, its figures as CSV and JSON, and the table on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from itertools import zip_longest
from typing import Any

from classifiers.evaluation import Evaluation, Figure
from classifiers.reports.comparison import ComparedHead, Comparison, render_comparison
from pipelines.folders import Folder
from pipelines.job import JobRecord

PAGE, TABLE, FIGURES = "report.html", "comparison.csv", "comparison.json"
BASELINE = "majority baseline"


def keep_comparison(run: Folder, compared: Comparison, record: JobRecord, spreads: Sequence[float | None] = ()) -> None:
    """Write a comparison into a run and commit it.

    Args:
        run: of `Lake.comparisons`.
        compared: what the page shows.
        record: of the job, whole but for its summary.
        spreads: of every row, the standard deviation of its headline between folds; none where there are no folds.
    """
    run.write(PAGE, render_comparison(compared).encode())
    rows = list(zip_longest(compared.rows, spreads))
    run.write(TABLE, _csv(rows).encode())
    run.write_json(FIGURES, asdict(compared) | {"rows": [asdict(row) | {"spread": spread} for row, spread in rows]})
    run.write_json("run.json", record.as_dict())
    run.commit()


def table_lines(compared: Comparison, spreads: Sequence[float | None] = ()) -> list[str]:
    """The table of the terminal: per task, the highest headline first, the baseline last."""
    lines = []
    rows = list(zip_longest(compared.rows, spreads))
    for task in dict.fromkeys(row.task for row in compared.rows):
        heads = [(row, spread) for row, spread in rows if row.task == task]
        heads.sort(key=lambda pair: _or_last(pair[0].evaluation.headline[1].value), reverse=True)
        names = [row.name for row, _ in heads]
        labels = [
            row.name if names.count(row.name) == 1 else ", ".join((row.name, *row.settings.values()))
            for row, _ in heads
        ]
        width = max(map(len, (*labels, BASELINE)))
        first = heads[0][0].evaluation
        columns = f"{first.headline[0] + ' (95 % interval)':>34}  {'± folds':>7}  {'AUC':>5}  {'F1':>5}  {'seconds':>7}"
        lines += [
            "",
            f"{task}: {first.n:,} images of {first.patients:,} patients",
            f"  {''.ljust(width)}  {columns}",
        ]
        for told, (row, spread) in zip(labels, heads, strict=True):
            seconds = "" if row.seconds is None else f"{row.seconds:,.1f}"
            figures = _figures(row.evaluation, "" if spread is None else _shown(spread))
            lines.append(f"  {told.ljust(width)}  {figures}  {seconds:>7}".rstrip())
        for baseline in dict.fromkeys(_figures(row.baseline, "") for row, _ in heads):
            lines.append(f"  {BASELINE.ljust(width)}  {baseline}")
    return lines


def _or_last(value: float | None) -> float:
    return float("-inf") if value is None else value


def _figures(evaluation: Evaluation, spread: str) -> str:
    figure = evaluation.headline[1]
    interval = f" ({figure.low:.3f} to {figure.high:.3f})" if figure.low is not None and figure.high is not None else ""
    told = _shown(figure.value) + interval
    return f"{told:>34}  {spread:>7}  {_shown(evaluation.auc.value):>5}  {_shown(evaluation.macro_f1.value):>5}"


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _csv(compared: Sequence[tuple[ComparedHead, float | None]]) -> str:
    """A row per setting, and one per baseline; a cell is empty where there is no such figure."""
    rows: list[dict[str, Any]] = []
    for row, spread in compared:
        differences = _figure_cells({f"difference_{name}": each for name, each in (row.difference or {}).items()})
        rows.append(
            {"task": row.task, "head": row.name, **row.settings}
            | _evaluation_cells(row.evaluation)
            | {"sd_between_folds": spread, "seconds": row.seconds}
            | differences
        )
        baseline = {"task": row.task, "head": BASELINE} | _evaluation_cells(row.baseline)
        if baseline not in rows:
            rows.append(baseline)
    text = StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _evaluation_cells(evaluation: Evaluation) -> dict[str, Any]:
    macro = evaluation.averages["macro"]
    figures = {
        "balanced_accuracy": evaluation.balanced_accuracy,
        "macro_auc": evaluation.auc,
        "macro_average_precision": macro.average_precision,
        "macro_f1": evaluation.macro_f1,
        "accuracy": evaluation.accuracy,
        "macro_brier": macro.brier,
    }
    return {"images": evaluation.n, "patients": evaluation.patients} | _figure_cells(figures)


def _figure_cells(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {
        f"{name}{end}": value
        for name, figure in figures.items()
        for end, value in (("", figure.value), ("_low", figure.low), ("_high", figure.high))
    }
