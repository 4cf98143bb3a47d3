"""What an executor does when an archive is scored: a file's path comes in, each head's answer or a reason goes out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import Broadcast

from featurizers.crops import crop_lungs
from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.lungs import LungFinder
from featurizers.radiograph import Pixels
from featurizers.reasons import Reason
from pipelines.dicom_header import is_dicom, read_header
from pipelines.executor_embedder import EmbedderSettings, Setup, cores_of_task, executor_embedder
from pipelines.ingest_worker import HEADLESS, Row, StudyReader, because, rejected
from pipelines.live_counts import Teller
from pipelines.scoring import ANSWERS, ShippedHeads, answers

#: Where an input lies, as bytes, goes to the executors and no further: a path may carry an identifier. An input with a
#: `reason` is not read.
LISTED = pa.schema([("position", pa.int64()), ("path", pa.binary()), ("uri", pa.string()), ("reason", pa.string())])

#: What comes of an input, without the answers. Without a reason it was answered, now or before.
INPUTS = pa.schema(
    [
        ("position", pa.int64()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

#: A row for every head that answered for an input, or one without answers.
STAGED_ANSWERS = pa.schema([*INPUTS, *(each for each in ANSWERS if each.name not in INPUTS.names)])

Digests = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class ImageReader(StudyReader):
    """Reads images of an archive that nobody has labels for, or needs any.

    Attributes:
        answered: sorted SHA-256 digests of the images that need no answer any more; 'S32' (n,).
    """

    answered: npt.NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, "S32"))

    def _study(self, told: Row, content: bytes) -> Row:
        digest = hashlib.sha256(content).digest()
        known = told | {"image_id": digest.hex()}
        header = None
        if is_dicom(content):
            # Whose it is stands in its header, and paths repeat what headers tell.
            known["uri"] = self.identities.keyed_uri(told["path"])
            header = read_header(content, self.limits.decode)
        place = int(np.searchsorted(self.answered, digest))
        # NumPy keeps no zeros at the end of bytes.
        if place < len(self.answered) and self.answered[place] == digest.rstrip(b"\0"):
            return known
        if header is not None and (rejection := self.policy.of_header(header, None)):
            return known | rejected(rejection)
        try:
            radiograph = decode_radiograph(content, self.limits.decode)
        except DecodeError as error:
            return (known if header else self._unseen(known)) | because(error.reason, error.detail)
        if is_dicom(content) and header is None:
            return known | HEADLESS
        if header is not None and (rejection := self.policy.of_silence(header)):
            return known | rejected(rejection)
        return known | {"crop": crop_lungs(radiograph.pixels, self.crop, self.finder).pixels}

    def _unseen(self, told: Row) -> Row:
        # No source vouches here for what a file's ending says of its header.
        return told | {"uri": self.identities.keyed_uri(told["path"])}


@dataclass(frozen=True)
class ImageScorer:
    """Answers for inputs of one archive.

    Attributes:
        reader: without its finder and without what is answered.
        shared: those two, which are megabytes.
        settings: of the embedder.
        heads: that answer.
        tell_setup: told how long the embedder took to make.
        tell: told how many inputs are done; each chunk has its own.
    """

    reader: ImageReader
    shared: Broadcast[tuple[LungFinder | None, Digests]]
    settings: EmbedderSettings
    heads: ShippedHeads
    tell_setup: Callable[[list[Setup]], None]
    tell: Teller | None = None

    def score_all(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of the schema LISTED to batches of the schema STAGED_ANSWERS.

        Files are read and cropped in child processes, one for each of the task's cores, while the backbone embeds
        what came before.
        """
        embedder = executor_embedder(self.settings, self.tell_setup)
        finder, answered = self.shared.value
        reader = replace(self.reader, finder=finder, answered=answered)
        others: deque[Row] = deque()

        def crops() -> Iterator[tuple[Row, Pixels]]:
            for rows in reader.read_batches(batches, children=cores_of_task()):
                for row in rows:
                    if (crop := row.pop("crop", None)) is None:
                        others.append(row)
                    else:
                        yield row, crop

        for embedded in embedder.embed_stream(crops(), _as_it_is):
            others.extend(row | _NO_VECTOR for row in (*embedded.damaged, *embedded.not_finite))
            yield from self._answered(embedded.keys, embedded.features)
            yield from self._unanswered(others)
        yield from self._unanswered(others)

    def _answered(self, rows: Sequence[Row], features: npt.NDArray[np.float32]) -> Iterator[pa.RecordBatch]:
        if not rows:
            return
        inputs = pa.RecordBatch.from_pylist(rows, INPUTS)
        for fingerprint, trained in self.heads.open():
            told = answers(fingerprint, trained, inputs.column("image_id"), features)
            columns = [(inputs if name in INPUTS.names else told).column(name) for name in STAGED_ANSWERS.names]
            yield pa.RecordBatch.from_arrays(columns, schema=STAGED_ANSWERS)
        self._count(len(rows))

    def _count(self, inputs: int) -> None:
        if self.tell:
            self.tell(inputs)

    def _unanswered(self, others: deque[Row]) -> Iterator[pa.RecordBatch]:
        # Another thread appends meanwhile.
        rows = [others.popleft() for _ in range(len(others))]
        if rows:
            yield pa.RecordBatch.from_pylist(rows, STAGED_ANSWERS)
            self._count(len(rows))


def _as_it_is(pixels: Pixels) -> Pixels:
    return pixels


_NO_VECTOR = because(
    Reason.PROCESSING_FAILED, "the backbone gave no finite vector for it; please report it with the file"
)
