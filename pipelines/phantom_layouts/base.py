"""What all layouts share: what was ordered, the images that are planned for it, and their drawing."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurizers.phantoms import Finding, Habitus, Phantom, draw_phantom
from pipelines.splits import Split

#: Every fifth patient is a test patient, whatever the class.
TEST_EVERY = 5
#: No patient has more images.
MOST_IMAGES_PER_PATIENT = 8


@dataclass(frozen=True)
class Order:
    """An archive that somebody wants.

    Attributes:
        out: its root folder, which is there and empty.
        images: how many.
        seed: decides every byte, together with `images` and `long_side`.
        long_side: of every image, in pixels; None: what the layout draws of itself.
        processes: how many draw at once; the images do not depend on it.
        report: called with (images written, images in all) after each.
    """

    out: Path
    images: int
    seed: int
    long_side: int | None
    processes: int
    report: Callable[[int, int], None]

    def rng(self, *stream: int) -> np.random.Generator:
        """A stream of random numbers of its own: 0 plans, 1 decides sizes, 4 what a file says beside its pixels."""
        return np.random.default_rng([self.seed, *stream])


@dataclass(frozen=True)
class Shot:
    """One image to draw: whose, of what, and where it goes."""

    path: str
    """Relative to the archive's root."""
    patient: int
    follow_up: int
    findings: tuple[Finding, ...]
    habitus: Habitus
    age: int
    """In years; some sets' files don't tell it."""
    split: Split | None
    """The official one; None where the data set has none."""


ShotT = TypeVar("ShotT", bound=Shot)
Task = TypeVar("Task")
Result = TypeVar("Result")
#: (height, width) in pixels of a shot's picture; None lets the phantom draw its own.
SizeRule = Callable[[Order, Shot, np.random.Generator], tuple[int, int] | None]


def any_size(order: Order, shot: Shot, rng: np.random.Generator) -> tuple[int, int] | None:
    """As films come: children's are wide, adults' are high."""
    if order.long_side is None:
        return None
    short_side = round(order.long_side / rng.uniform(1.05, 1.5))
    return (short_side, order.long_side) if shot.habitus is Habitus.CHILD else (order.long_side, short_side)


def drawn(order: Order, shots: Sequence[ShotT], size: SizeRule) -> Iterator[tuple[ShotT, Phantom]]:
    """Each shot with its phantom; reports it as written when the next one is asked for."""
    draw = functools.partial(_draw, order.seed)
    sizes = (size(order, shot, order.rng(1, index)) for index, shot in enumerate(shots))
    phantoms = _map(draw, zip(itertools.count(), shots, sizes, strict=False), order.processes)
    for done, (shot, phantom) in enumerate(zip(shots, phantoms, strict=True), start=1):
        yield shot, phantom
        order.report(done, len(shots))


def _draw(seed: int, task: tuple[int, Shot, tuple[int, int] | None]) -> Phantom:
    index, shot, size = task
    patient = _seed(seed, 3, shot.patient)
    return draw_phantom(_seed(seed, 2, index), shot.findings, size, habitus=shot.habitus, patient=patient)


def _map(function: Callable[[Task], Result], tasks: Iterator[Task], processes: int) -> Iterator[Result]:
    """Like `map`, in processes of their own, which are never more than a few results ahead of who takes them."""
    if processes == 1:
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        ahead = deque(pool.submit(function, task) for task in itertools.islice(tasks, 2 * processes))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(function, task) for task in itertools.islice(tasks, 1))


def _seed(*parts: int) -> int:
    """One seed made of several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def images_per_patient(rng: np.random.Generator, images: int, more: float) -> Iterator[int]:
    """Numbers of images, patient by patient, that sum to `images`; `more` is the chance of each further image."""
    while images > 0:
        count = min(int(rng.geometric(1 - more)), MOST_IMAGES_PER_PATIENT, images)
        images -= count
        yield count


def sideways(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frontal picture squeezed to 3/4 of its width: nothing draws laterals, so this stands for one by name only."""
    height, width = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width * 3 // 4, height)))


def csv_bytes(header: str, rows: Iterable[Sequence[object]]) -> bytes:
    """A CSV file whose header is written as it stands: some official ones are no proper CSV."""
    text = io.StringIO()
    text.write(header + "\n")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
