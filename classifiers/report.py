"""The report: one HTML page that says how good a head is, beside the baseline, and what it must not be used for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from classifiers.metrics import Evaluation

if TYPE_CHECKING:
    from classifiers.trained import TrainedHead

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --shade: 37, 99, 235; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.notice { border: 2px solid #d97706; border-radius: .4rem; padding: .6rem .9rem; }
.headline { font-size: 1.15rem; } .headline strong { font-size: 2.4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: right; }
th[scope=row], thead th:first-child { text-align: left; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; } code { font-size: .9em; }
@media print { body { max-width: none; font-size: 11pt; } table { break-inside: avoid; }
  td { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

#: Below this many images of a class the report warns: a recall of them moves by more than 3 % with each image.
FEW_IMAGES: Final = 30

_AND_TEST: Final = ": rely on those of test"
_AND_NO_TEST: Final = ", and there is no test split to check them on"

_LIMITS: Final = """
<p>Research use only. This head is not a medical device and is not for diagnosis, triage or any other care of
patients.</p>
<p>The figures hold for images like those of the split they were measured on: the same hospitals, machines, views and
ages, labelled in the same way. Labels of public archives are often read from reports or folders by a program, and some
are wrong; a head learns their mistakes. It may also answer from what has nothing to do with the disease, such as a
marker, a tube, or the machine. Expect worse figures on images from elsewhere, and measure them there before you rely
on any.</p>
<p>Probabilities are not calibrated: a probability of 0.8 does not mean that the decision is right eight times in ten.
They serve to rank images. The head always decides for one of its classes, also on an image that shows none of them.</p>
"""


def render_report(trained: TrainedHead) -> str:
    """Draw a head's report: a whole HTML page that needs nothing but itself, no script, no network.

    The headline is the balanced accuracy on test, or on val where there is no test, beside the majority baseline's.
    """
    task, head = escape(trained.task.name), escape(trained.head_name)
    splits = [_split(trained, name) for name in sorted(trained.metrics)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Head {head} on task {task}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Head <em>{head}</em> on task <em>{task}</em></h1>
<p class="notice"><strong>Research use only; not a medical device; not for diagnosis.</strong>
The probabilities are not calibrated.</p>
{_headline(trained)}
{_provenance(trained)}
{"".join(splits)}
<h2>Images per class</h2>
{_counts(trained)}
<h2>What this head is</h2>
{_facts(trained)}
<h2>Limits</h2>
{_LIMITS.strip()}
<h2 id="undefined">About n/a</h2>
<p>n/a marks a value that the rows do not define, which is not the same as 0: precision where the class was never
decided; recall and AUC where no row is of the class (AUC also where every row is); F1 where the class neither occurs
nor was decided; and a mean over classes where one of its values is n/a.</p>
</body>
</html>
"""


def _headline(trained: TrainedHead) -> str:
    split = next((name for name in ("test", "val") if name in trained.metrics), None)
    if split is None:
        return "<p>Not evaluated: neither a val nor a test split had rows that the task answers.</p>"
    head, baseline = trained.metrics[split], trained.baseline[split]
    fewest = min(one.support for one in head.per_class.values())
    caution = (
        f"<p><strong>Few images:</strong> one class has only {fewest} of them here, so another draw of patients could "
        "give quite other figures. No intervals are computed yet.</p>"
        if fewest < FEW_IMAGES
        else "<p>No intervals are computed yet: another draw of patients would give somewhat other figures.</p>"
    )
    return (
        f'<p class="headline">Balanced accuracy on {split} ({head.n} images): '
        f"<strong>{_number(head.balanced_accuracy)}</strong><br>"
        f"majority baseline on the same images: {_number(baseline.balanced_accuracy)}<br>"
        f"(accuracy {_number(head.accuracy)}, majority baseline {_number(baseline.accuracy)})</p>{caution}"
    )


def _provenance(trained: TrainedHead) -> str:
    items = "".join(f"<li>{escape(what)}: {escape(where)}</li>\n" for what, where in trained.provenance.items())
    return f"<ul>\n{items}</ul>" if items else ""


def _split(trained: TrainedHead, split: str) -> str:
    head, baseline = trained.metrics[split], trained.baseline[split]
    note = (
        "<p>mlp and xgboost choose their weights on val, so these figures may be a little too good"
        f"{_AND_TEST if 'test' in trained.metrics else _AND_NO_TEST}.</p>"
        if split == "val"
        else ""
    )
    auc = "AUC" if len(trained.task.classes) == 2 else "AUC (macro, one against the rest)"
    summary = _table(
        f"Head and majority baseline on {split}",
        ("metric", "head", "majority baseline"),
        [
            (name, _number(mine), _number(theirs))
            for name, mine, theirs in (
                (auc, head.auc, baseline.auc),
                ("balanced accuracy", head.balanced_accuracy, baseline.balanced_accuracy),
                ("macro F1", head.macro_f1, baseline.macro_f1),
                ("accuracy", head.accuracy, baseline.accuracy),
            )
        ],
    )
    per_class = _table(
        f"Per class on {split}",
        ("class", "precision", "recall", "F1", "AUC", "support"),
        [
            (escape(name), *map(_number, (one.precision, one.recall, one.f1, one.auc)), str(one.support))
            for name, one in head.per_class.items()
        ],
    )
    return f"<h2>On {escape(split)}: {head.n} images</h2>\n{note}{summary}{per_class}{_confusion(head, split)}"


def _confusion(evaluation: Evaluation, split: str) -> str:
    names = [escape(name) for name in evaluation.per_class]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(_shaded(count, sum(counts)) for count in counts)}</tr>\n'
        for name, counts in zip(names, evaluation.confusion, strict=True)
    )
    caption = f"Confusion on {escape(split)}: rows the true class, columns the decision, shade the share of the row"
    return _framed(caption, f'<th scope="col">true \\ decided</th>{head}', rows)


def _shaded(count: int, row: int) -> str:
    # At half opacity the page's own text colour keeps its contrast on the shade, in light and in dark.
    opacity = 0.5 * count / row if row else 0.0
    return f'<td style="background: rgba(var(--shade), {opacity:.2f})">{count}</td>'


def _counts(trained: TrainedHead) -> str:
    splits = list(trained.class_counts)
    counts = [trained.class_counts[split] for split in splits]
    rows = [(escape(name), *(str(one.per_class[name]) for one in counts)) for name in trained.task.classes]
    unanswered = ("unanswered, left out", *(str(one.unanswered) for one in counts))
    return _table("Images per class and split", ("class", *map(escape, splits)), [*rows, unanswered])


def _facts(trained: TrainedHead) -> str:
    facts = {
        "Head's fingerprint": trained.fingerprint,
        "Extractor's fingerprint": trained.extractor,
        "Features": f"{trained.feature_dim} per image",
        "Parameters": json.dumps(trained.params, sort_keys=True),
        "Decision rule": json.dumps(trained.thresholds.as_dict(), sort_keys=True),
        "Calibration": f"{trained.calibration.value}: probabilities are not calibrated",
    }
    return (
        "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd><code>{escape(v)}</code></dd>\n" for k, v in facts.items()) + "</dl>"
    )


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Frame cells that are HTML already; the first of a row is its header."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    return _framed(escape(caption), head, body)


def _framed(caption: str, head: str, body: str) -> str:
    return (
        f'<div class="scroll"><table><caption>{caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _number(value: float | None) -> str:
    return '<a href="#undefined">n/a</a>' if value is None else f"{value:.3f}"
