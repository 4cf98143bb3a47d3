"""What an executor does in ingest: an input's path comes in, a study or a reason goes out."""

from __future__ import annotations

import hashlib
import itertools
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pyarrow as pa

from featurizers.crops import Crop, CropSettings, crop_lungs, encode_png
from featurizers.decode import decode_radiograph
from featurizers.errors import DecodeError
from featurizers.lungs import LungFinder
from featurizers.radiograph import DecodeLimits, Radiograph
from featurizers.reasons import Reason
from pipelines.archives import Images
from pipelines.dicom_header import LABEL_KEYS, DicomHeader, is_dicom, read_header
from pipelines.identities import Identities
from pipelines.isolation import Death, Isolated
from pipelines.policy import Policy
from pipelines.sources.base import Rejection
from pipelines.tables import LABELS, PIXELS

#: Files that are read while another one is decoded: object stores answer slowly, and several at a time.
READ_AHEAD = 4

#: What comes of an input: labels and pixels, or a reason. `label_keys` join a DICOM
#: file to its label row.
STAGED = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("label_keys", pa.list_(pa.string())),
        pa.field("names_patient", pa.bool_()),
        *LABELS,
        *PIXELS,
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

#: Files that have no header of a DICOM file's kind, whatever happens when they are read.
HEADLESS_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

Row = dict[str, Any]


@dataclass(frozen=True)
class WorkerLimits:
    """What one image may cost.

    Attributes:
        decode: sizes.
        seconds: from its turn on.
        memory: bytes beyond what a worker has when it starts, and beyond the files that it reads ahead.
    """

    decode: DecodeLimits
    seconds: float
    memory: int


@dataclass(frozen=True)
class StudyReader:
    """Reads inputs of one archive.

    Attributes:
        images: where their bytes are.
        identities, policy: of the data set.
        limits, crop: as configured.
        finder: tells where the lungs are; None: nobody asks.
    """

    images: Images
    identities: Identities
    policy: Policy
    limits: WorkerLimits
    crop: CropSettings
    finder: LungFinder | None

    def read_all(
        self, batches: Iterable[pa.RecordBatch], count: Callable[[int], None] = lambda _: None
    ) -> Iterator[pa.RecordBatch]:
        """Batches of the schema LISTING to batches of the schema STAGED, row by row.

        Args:
            batches: inputs.
            count: told how many inputs each finished batch held.
        """
        for rows in self.read_batches(batches, count):
            yield pa.RecordBatch.from_pylist(rows, STAGED)

    def read_batches(
        self, batches: Iterable[pa.RecordBatch], count: Callable[[int], None] = lambda _: None, children: int = 1
    ) -> Iterator[list[Row]]:
        """What comes of each batch's inputs, in order.

        The images are worked on in child processes: one on which a decoder crashes, hangs or runs out of memory
        becomes a row like the others.

        Args:
            batches: of inputs.
            count: told how many inputs each finished batch held.
            children: how many share a batch.
        """
        # Files that wait for their turn are no cost of the image that is worked on.
        memory = None if self.images.starts_jvm else self.limits.memory + READ_AHEAD * self.limits.decode.max_bytes
        with ExitStack() as stack:
            isolated = [
                stack.enter_context(Isolated(self._read_rows, self.limits.seconds, memory)) for _ in range(children)
            ]
            rows: list[Row] = []
            for batch in batches:
                told = [row | {"path": os.fsdecode(row["path"])} for row in batch.to_pylist(maps_as_pydicts=None)]
                self.images.prepare(row["path"] for row in told if not row["reason"])
                results = [child.map(told[start::children]) for start, child in enumerate(isolated)]
                # The batch before this one goes its way while the children work on this one.
                if rows:
                    yield rows
                # In turn, so that none waits long with a full pipe.
                answers = (next(results[index % children]) for index in range(len(told)))
                rows = [
                    self._of_death(row, answer) if isinstance(answer, Death) else answer
                    for row, answer in zip(told, answers, strict=True)
                ]
                count(len(rows))
            if rows:
                yield rows

    def _read_rows(self, listed: Sequence[Row]) -> Iterator[Row]:
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            rest = iter(listed)
            ahead = deque((told, self._fetch(pool, told)) for told in itertools.islice(rest, READ_AHEAD))
            while ahead:
                told, content = ahead.popleft()
                ahead.extend((each, self._fetch(pool, each)) for each in itertools.islice(rest, 1))
                yield self._read(told, content)

    def _fetch(self, pool: ThreadPoolExecutor, told: Row) -> Future[bytes] | None:
        return None if told["reason"] else pool.submit(self.images.read, told["path"])

    def _read(self, told: Row, content: Future[bytes] | None) -> Row:
        if content is None:
            return told
        try:
            return self._study(told, content.result())
        except (FileNotFoundError, NotADirectoryError):
            return self._unseen(told) | because(Reason.MISSING_FILE, "no such file in the archive")
        except OSError as error:
            # The message of the error names the path, which may carry an identifier.
            why = because(Reason.UNREADABLE_FILE, f"reading failed: {type(error).__name__}")
        except MemoryError:
            why = because(
                Reason.TOO_MUCH_MEMORY, "it needs more memory than limits.max_memory_mb; raise it if the file is sound"
            )
        except Exception as error:  # a fault of ours costs this image, not the night's job
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = because(
                Reason.PROCESSING_FAILED,
                f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}; please report it with the file",
            )
        return self._unseen(told) | why

    def _study(self, told: Row, content: bytes) -> Row:
        known = told | {"image_id": hashlib.sha256(content).hexdigest()}
        header = read_header(content, self.limits.decode) if is_dicom(content) else None
        if header is not None:
            known = self.identities.of_header(known, told["path"], header)
            if told["patient_key"] is None:
                known |= {"names_patient": bool(header.patient_id), "label_keys": self._label_keys(header)}
            if rejection := self.policy.of_header(header, told["view"]):
                return known | rejected(rejection)
        elif known["patient_key"] is None and content and not is_dicom(content):
            return known | _NOT_DICOM
        try:
            radiograph = decode_radiograph(content, self.limits.decode)
        except DecodeError as error:
            return (known if header else self._unseen(known)) | because(error.reason, error.detail)
        if known["patient_key"] is None:
            return known | HEADLESS
        if header is not None and (rejection := self.policy.of_silence(header)):
            return known | rejected(rejection)
        return known | _pixels(radiograph, crop_lungs(radiograph.pixels, self.crop, self.finder))

    def _unseen(self, told: Row) -> Row:
        """A row whose file's header nobody has seen: if it may have one, its path may repeat what that tells."""
        if told["path"].lower().endswith(HEADLESS_SUFFIXES):
            return told
        return told | {"uri": self.identities.keyed_uri(told["path"])}

    def _label_keys(self, header: DicomHeader) -> list[str | None]:
        """One for each of LABEL_KEYS; None where the header has no such value."""
        values = {attribute: header.label_key(attribute) for attribute in LABEL_KEYS}
        label = self.identities.pseudonymizer.label
        return [label(attribute, value) if value else None for attribute, value in values.items()]

    def _of_death(self, told: Row, death: Death) -> Row:
        if death.was_too_slow:
            why = because(
                Reason.TOO_SLOW,
                f"it took longer than limits.max_seconds={self.limits.seconds:g}; raise it if the file is sound",
            )
        elif death.signal is SIGKILL:
            why = because(
                Reason.TOO_MUCH_MEMORY,
                "the system killed its process, as it does where memory runs out: give executors more of it, or fewer "
                "cores, and then retry=true",
            )
        else:
            signal = death.signal.name if death.signal else "an exit of its own"
            why = because(
                Reason.DECODER_CRASHED,
                f"decoding it ended the process with {signal}; the file is damaged, copy it again from its source",
            )
        return self._unseen(told) | why


#: Of a DICOM file that nothing but its pixels can be read of.
HEADLESS = {
    "reason": str(Reason.CORRUPT_IMAGE),
    "detail": "its DICOM header can't be read; copy it again from its source",
}
_NOT_DICOM = {
    "reason": str(Reason.NOT_DICOM),
    "detail": "the file is not DICOM, so nothing tells whose image it is; use source=manifest for it",
}


def because(reason: Reason, detail: str) -> Row:
    """The columns that tell why an input is no study."""
    return {"reason": str(reason), "detail": detail}


def rejected(rejection: Rejection) -> Row:
    """The columns that tell why a policy turned an input away."""
    return because(rejection.reason, rejection.detail)


def _pixels(radiograph: Radiograph, crop: Crop) -> Row:
    height, width = radiograph.pixels.shape
    box = crop.box
    return {
        "crop": encode_png(crop.pixels),
        "lung_box": {"left": box.left, "top": box.top, "right": box.right, "bottom": box.bottom},
        "lung_quality": crop.quality,
        "cropper": str(crop.cropper),
        "width": width,
        "height": height,
        "bits": radiograph.bits,
        "photometric": radiograph.photometric,
        "pixel_spacing": list(radiograph.pixel_spacing) if radiograph.pixel_spacing else None,
    }
