"""What an executor does in an extraction: it reads row groups of crops, embeds them and writes the vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurizers.crops import decode_png
from featurizers.embedder import Embedded, Embedder
from featurizers.radiograph import Pixels
from featurizers.reasons import NoVector
from featurizers.stages import Stages
from pipelines.copy_rule import CopyRule, Key
from pipelines.crop_feed import CropReader
from pipelines.executor_embedder import EmbedderSettings, Setup, executor_embedder
from pipelines.folders import Folder
from pipelines.live_counts import Teller
from pipelines.row_groups import RowGroup
from pipelines.tables import FEATURES, ORIGINAL
from pipelines.task_files import TaskWriter, write_tasks


class Failure(NamedTuple):
    """A crop, or a copy of it, that has no vector."""

    image_id: str
    variant: int
    reason: NoVector


@dataclass(frozen=True)
class Report:
    """Whom workers tell how it went: Spark's accumulators, which count a task once however often it was tried.

    Attributes:
        failures: told what has no vector.
        setups: told how the embedder came about.
        stages: told where the time of each task went.
    """

    failures: Callable[[list[Failure]], None]
    setups: Callable[[list[Setup]], None]
    stages: Callable[[list[Stages]], None]


@dataclass(frozen=True)
class Crops:
    """All crops of the row groups are wanted.

    Attributes:
        done: images that have their vector already.
    """

    done: frozenset[str]

    def embed(self, embedder: Embedder, reader: CropReader) -> Iterator[Embedded[Key]]:
        """Their vectors."""
        wanted = (((image_id, ORIGINAL), png) for image_id, png in reader if image_id not in self.done)
        return embedder.embed_pngs(wanted)


@dataclass(frozen=True)
class Copies:
    """Augmented copies of some crops of the row groups are wanted.

    Attributes:
        variants: of each image, those that it lacks.
        rule: how they are drawn.
    """

    variants: Mapping[str, Sequence[int]]
    rule: CopyRule

    def embed(self, embedder: Embedder, reader: CropReader) -> Iterator[Embedded[Key]]:
        """Their vectors."""

        def draw(item: tuple[Key, bytes]) -> Pixels:
            key, png = item
            return self.rule.copy(decode_png(png), *key)

        keys = (((image_id, variant), png) for image_id, png in reader for variant in self.variants.get(image_id, ()))
        return embedder.embed_stream(((key, (key, png)) for key, png in keys), draw)


@dataclass(frozen=True)
class ExtractWorker:
    """Embeds what the tasks of one chunk were dealt; travels to the executors.

    Attributes:
        settings: of the embedder, made once per Python worker and kept for its next tasks.
        hands: the row groups of each task.
        wanted: of their crops.
        report: told how it went.
        tell: told how many images, or copies, are done.
        run: that is being made.
    """

    settings: EmbedderSettings
    hands: Sequence[Sequence[RowGroup]]
    wanted: Crops | Copies
    report: Report
    tell: Teller
    run: Folder

    def embed(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Numbers of tasks, as Spark deals them out, to batches of the schema WRITTEN."""
        return write_tasks(batches, self.run, FEATURES, self._task)

    def _task(self, number: int, writer: TaskWriter) -> None:
        embedder = executor_embedder(self.settings, self.report.setups)
        before = Stages.copy_of(embedder.stages)
        reader, told = CropReader(self.hands[number]), 0
        for embedded in self.wanted.embed(embedder, reader):
            if failures := _failures(embedded):
                self.report.failures(failures)
            read = reader.bytes_read
            self.tell(embedded.images, read - told)
            told = read
            writer.write(to_arrow(embedded.keys, embedded.features))
        self.report.stages([embedder.stages.since(before)])


def to_arrow(keys: Sequence[Key], features: npt.NDArray[np.float32]) -> pa.RecordBatch:
    """Vectors, float32 (n, d), as rows of the schema FEATURES."""
    rows, width = features.shape
    offsets = pa.array(np.arange(0, (rows + 1) * width, width, dtype=np.int32))
    vectors = pa.ListArray.from_arrays(offsets, pa.array(features.reshape(-1)))
    image_ids = pa.array([image_id for image_id, _ in keys], pa.string())
    variants = pa.array([variant for _, variant in keys], pa.int32())
    return pa.RecordBatch.from_arrays([image_ids, variants, vectors], schema=FEATURES)


def _failures(embedded: Embedded[Key]) -> list[Failure]:
    return [
        Failure(*key, reason)
        for reason, keys in ((NoVector.DAMAGED_CROP, embedded.damaged), (NoVector.NOT_FINITE, embedded.not_finite))
        for key in keys
    ]
