"""An audit as text for a terminal: one screen, the verdict at its end."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from featurizers.reasons import Reason
from pipelines.audit_counts import DatasetCounts, Example, Values
from pipelines.audit_faults import Fault, LakeBooks
from pipelines.audit_storage import History, Leftover
from pipelines.splits import Split

MEANINGS = {str(reason): reason.meaning for reason in Reason}
#: Dead runs and staging folders that are named; all are counted, and `out` names all.
LEFTOVERS_TOLD = 10
_ROW = re.compile(r" \(row (\d+)\)$")


def report_text(books: LakeBooks, faults: Sequence[Fault], when: datetime) -> str:
    """The report.

    Args:
        books: what was found.
        faults: in it.
        when: the audit began, UTC.
    """
    title = f"Audit of {books.lake}, {when:%Y-%m-%d %H:%M} UTC"
    lines = ["", title, "─" * len(title)]
    for name, counts in books.datasets.items():
        lines += [*_dataset(name, counts, books.ingests.get(name, History())), ""]
    if not books.datasets:
        lines += ["nothing was ever ingested into it", ""]
    if len(books.datasets) > 1:
        everything = list(books.datasets.values())
        images = {split: sum(each.images.get(split, 0) for each in everything) for split in map(str, Split)}
        lines += ["in all", *_aligned([("inputs", _inputs(everything)), ("images", _listed(images))]), ""]
    lines += _tables(books)
    lines += _leftovers(
        "dead runs",
        [run for table in books.tables.values() for run in table.dead],
        "no reader sees them. They are safe to remove, from the top, while no job is running",
    )
    lines += _leftovers(
        "staging folders",
        books.staging,
        "of running ingests, or left by killed ones; the next ingest removes day-old ones",
    )
    return "\n".join([*lines, *_verdict(faults)])


def _verdict(faults: Sequence[Fault]) -> Iterator[str]:
    if not faults:
        yield "The books balance."
        return
    yield from ("To look at", "──────────")
    for number, fault in enumerate(faults, 1):
        yield f"{number}. {fault.cause}"
        yield f"   {fault.remedy}"


# --- a data set ------------------------------------------------------------------------------------------------------


def _dataset(name: str, counts: DatasetCounts, ingests: History) -> Iterator[str]:
    yield name
    conflicts = counts.reasons[Reason.DUPLICATE].conflicts if Reason.DUPLICATE in counts.reasons else 0
    rows = [("last ingest", _last(ingests)), ("inputs", _inputs([counts]))]
    if (complete := ingests.complete) and complete.label_rows:
        rows.append(("labels", f"{complete.label_rows:,} rows, {complete.missing:,} of them without an image"))
    if counts.studies:
        torn = f"{counts.torn_patients:,}" if counts.torn_patients else "none"
        rows += [
            ("images", _listed(counts.images)),
            ("patients", f"{_listed(counts.patients)}; {torn} in two splits"),
            ("views", _listed(counts.views)),
            ("crops", _listed(counts.croppers)),
        ]
    if Reason.DUPLICATE in counts.reasons:
        told = f", {conflicts:,} of them with conflicting labels: find out which are right" if conflicts else ""
        rows.append(("duplicates", f"{counts.reasons[Reason.DUPLICATE].inputs:,}{told}"))
    if counts.changed:
        rows.append(
            ("changed files", f"{counts.changed:,} in quarantine; the studies of what they held before are kept")
        )
    yield from _aligned(rows)
    yield from _quarantine(counts)
    yield from _findings(counts.findings)


def _last(ingests: History) -> str:
    last = ingests.last
    if last is None:
        return "none is known"
    counts = last.counts
    quarantined = sum(number for name, number in counts.items() if name.startswith("quarantine: "))
    told = [
        f"{counts.get(name, 0):,} {shown}"
        for name, shown in (("inputs", "inputs"), ("known", "known before"), ("studies", "new studies"))
    ]
    if quarantined:
        told.append(f"{quarantined:,} to quarantine")
    if counts.get("unchanged"):
        told.append(f"{counts['unchanged']:,} with the same bytes and a new date")
    if counts.get("left alone"):
        told.append(f"{counts['left alone']:,} left alone by a retry")
    when = f"{datetime.fromisoformat(last.finished):%Y-%m-%d %H:%M} UTC"
    unfinished = "" if last.is_complete else "; NOT FINISHED: it still runs, or the same command goes on from there"
    return f"{when}: {', '.join(told)}{unfinished}"


def _inputs(counts: Sequence[DatasetCounts]) -> str:
    studies, quarantined = sum(each.studies for each in counts), sum(each.quarantined for each in counts)
    return f"{studies + quarantined:,} = {studies:,} studies + {quarantined:,} in quarantine"


def _quarantine(counts: DatasetCounts) -> Iterator[str]:
    if not counts.reasons:
        return
    yield "  quarantine"
    names = max(map(len, counts.reasons))
    numbers = max(len(f"{rejects.inputs:,}") for rejects in counts.reasons.values())
    for reason, rejects in counts.reasons.items():
        meaning = MEANINGS.get(reason, "a code that this version does not know")
        yield f"    {reason.ljust(names)}  {rejects.inputs:>{numbers},}  {meaning}"
        for _, group in itertools.groupby(rejects.examples, key=lambda example: _ROW.sub("", example.detail)):
            yield from _examples(list(group))


def _examples(alike: Sequence[Example]) -> Iterator[str]:
    """Inputs of one detail, which is told once; only its row differs."""
    if len(alike) == 1:
        yield f"      {alike[0].uri}  {alike[0].detail}"
        return
    yield f"      {_ROW.sub('', alike[0].detail)}"
    for example in alike:
        row = _ROW.search(example.detail)
        yield f"        {example.uri}" + (f"  row {row[1]}" if row else "")


def _findings(findings: Mapping[str, Mapping[str, Values]]) -> Iterator[str]:
    if not findings:
        return
    splits = [str(split) for split in Split if any(split in by_split for by_split in findings.values())]
    is_uncertain = any(values.uncertain for by_split in findings.values() for values in by_split.values())
    head = "findings: positive/negative" + ("/uncertain" if is_uncertain else "")
    cells = {
        name: [_values(by_split.get(split, Values()), is_uncertain=is_uncertain) for split in splits]
        for name, by_split in findings.items()
    }
    yield from _table("  ", [(f"{head}", splits), *((f"  {name}", row) for name, row in cells.items())])


def _values(values: Values, *, is_uncertain: bool) -> str:
    told = f"{values.positive:,}/{values.negative:,}"
    return f"{told}/{values.uncertain:,}" if is_uncertain else told


# --- tables and what is left over ------------------------------------------------------------------------------------


def _tables(books: LakeBooks) -> Iterator[str]:
    rows: list[tuple[str, list[str]]] = [("tables", ["rows", "files", "size", "runs", ""])]
    for name, table in books.tables.items():
        if table.runs and not name.startswith("_"):
            rows.append(
                (
                    f"  {books.titles.get(name, name)}",
                    [_rows_in(name, books), f"{table.files:,}", _size(table.bytes), f"{table.runs:,}", ""],
                )
            )
            if (images := books.images.get(name)) and images.lacking:
                verb = "score_studies" if name.startswith("predictions/") else "extract_features"
                rows[-1][1][-1] = f"{images.lacking:,} studies lack them: jobs/{verb}.py"
    if len(rows) == 1:
        yield from ("tables: nothing was ever committed", "")
        return
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(4)]
    names = max(len(name) for name, _ in rows)
    for name, cells in rows:
        shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=False))
        yield f"{name.ljust(names)}  {shown}  {cells[-1]}".rstrip()
    yield ""


def _rows_in(name: str, books: LakeBooks) -> str:
    if name == "quarantine":
        return f"{sum(counts.quarantined for counts in books.datasets.values()):,}"
    return f"{books.images[name].rows:,}" if name in books.images else ""


def _leftovers(what: str, folders: Sequence[Leftover], meaning: str) -> Iterator[str]:
    if not folders:
        return
    yield f"{what}: {len(folders):,}, {_size(sum(folder.bytes for folder in folders))}; {meaning}:"
    for folder in folders[:LEFTOVERS_TOLD]:
        yield f"  {folder.uri}  {_size(folder.bytes)}, {_age(folder.age_seconds)}"
    if len(folders) > LEFTOVERS_TOLD:
        yield f"  and {len(folders) - LEFTOVERS_TOLD:,} more; out=FILE.json names them all"
    yield ""


# --- words and columns -----------------------------------------------------------------------------------------------


def _aligned(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    width = max(len(name) for name, _ in rows)
    yield from (f"  {name.ljust(width)}  {value}" for name, value in rows)


def _table(indent: str, rows: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    names = max(len(name) for name, _ in rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    for name, cells in rows:
        shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        yield f"{indent}{name.ljust(names)}  {shown}"


def _listed(counts: Mapping[str, int]) -> str:
    order = [*map(str, Split)]
    names = sorted(counts, key=lambda name: (order.index(name) if name in order else len(order), name))
    return ", ".join(f"{name} {counts[name]:,}" for name in names)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "of unknown age"
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} old"
    return f"{max(0, seconds):.0f} seconds old"
