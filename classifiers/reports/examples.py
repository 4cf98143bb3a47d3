"""The worst errors: decisions that were wrong with the most confidence, and their crops."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from classifiers.tasks import UNANSWERED, Task

if TYPE_CHECKING:
    from classifiers.trained import Scores

#: Characters of an image id that a page shows.
_SHOWN: Final = 12


@dataclass(frozen=True)
class Example:
    """One wrong decision.

    Attributes:
        image_id: of the image.
        truth: what the labels say, in words.
        decided: what the head said.
        probability: that the head gave to its decision.
        crop: a small PNG; None where there is none.
    """

    image_id: str
    truth: str
    decided: str
    probability: float
    crop: bytes | None = None

    def with_crop(self, crop: bytes | None) -> Self:
        """The same with its crop, a small PNG."""
        return replace(self, crop=crop)


def worst_errors(
    task: Task, targets: NDArray[np.integer[Any]], scores: Scores, image_ids: NDArray[np.str_], limit: int = 12
) -> list[Example]:
    """Find the wrong decisions that the head was surest of; none has a crop yet.

    Single-label: those whose decided class was given the most above the true one. Multi-label: false alarms and misses
    in turn, those farthest from the truth first, no label again before every label that errs had its turn.

    Args:
        task: whose classes they are.
        targets: as `Task.targets` gives them; entries that are `UNANSWERED` can't be wrong.
        scores: of the same rows.
        image_ids: str (n,).
        limit: at most so many.
    """
    find = _of_labels if task.multi_label else _of_classes
    return list(islice(find(task.classes, np.asarray(targets), scores, image_ids), limit))


def _of_classes(
    classes: Sequence[str], targets: NDArray[np.integer[Any]], scores: Scores, image_ids: NDArray[np.str_]
) -> Iterator[Example]:
    decided = scores.decisions.argmax(axis=1)
    wrong = np.flatnonzero((targets != UNANSWERED) & (decided != targets))
    of_decided = scores.probabilities[wrong, decided[wrong]]
    order = np.argsort(scores.probabilities[wrong, targets[wrong]] - of_decided, kind="stable")
    for row in wrong[order].tolist():
        probability = float(scores.probabilities[row, decided[row]])
        yield Example(str(image_ids[row]), classes[targets[row]], classes[decided[row]], probability)


def _of_labels(
    classes: Sequence[str], targets: NDArray[np.integer[Any]], scores: Scores, image_ids: NDArray[np.str_]
) -> Iterator[Example]:
    names = [(f"no {name}", name) for name in classes]

    def side(truth: int) -> Iterator[Example]:
        is_wrong = (targets == truth) & (scores.decisions != bool(truth))
        for row, label in _spread(is_wrong, np.abs(targets - scores.probabilities)):
            probability = float(scores.probabilities[row, label])
            yield Example(
                str(image_ids[row]),
                names[label][truth],
                names[label][1 - truth],
                1 - probability if truth else probability,
            )

    turns = chain.from_iterable(zip_longest(side(0), side(1)))
    return (example for example in turns if example is not None)


def _spread(is_wrong: NDArray[np.bool_], gap: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Order the wrong entries, (row, label): every label's worst, then every label's second worst, and so on."""
    rows, labels = np.nonzero(is_wrong)
    gaps = gap[rows, labels]
    by_label = np.lexsort((rows, -gaps, labels))
    rows, labels, gaps = rows[by_label], labels[by_label], gaps[by_label]
    # Sorted by label, an entry's place within its label is its distance from the label's first entry.
    place = np.arange(labels.size) - np.searchsorted(labels, labels)
    order = np.lexsort((-gaps, place))
    return list(zip(rows[order].tolist(), labels[order].tolist(), strict=True))


def sheet(examples: Sequence[Example]) -> str:
    """Examples as HTML, their crops inlined."""
    return f'<div class="sheet">\n{"".join(map(_shown, examples))}</div>\n'


def _shown(example: Example) -> str:
    told = f"truth: {example.truth}; decided: {example.decided}, with probability {example.probability:.2f}"
    if example.crop is None:
        image = '<span class="blank">no crop</span>'
    else:
        data = b64encode(example.crop).decode()
        image = f'<img alt="{escape(f"Crop of a radiograph; {told}")}" src="data:image/png;base64,{data}">'
    return (
        f"<figure>{image}<figcaption>truth: <strong>{escape(example.truth)}</strong><br>"
        f"decided: <strong>{escape(example.decided)}</strong><br>probability {example.probability:.2f}<br>"
        f"<code>{escape(example.image_id[:_SHOWN])}</code></figcaption></figure>\n"
    )
