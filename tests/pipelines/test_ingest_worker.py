"""What an executor does with inputs: whatever one of them does to its process, each comes back as one row."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dicom_files import chest_dicom

from featurizers.crops import CropSettings
from featurizers.decode import decode_radiograph
from featurizers.projection import ProjectionFinder
from featurizers.radiograph import DecodeLimits, Radiograph
from pipelines import ingest_worker
from pipelines.archives import FileImages
from pipelines.folders import Folder
from pipelines.identities import Identities
from pipelines.ingest_worker import STAGED, StudyReader, WorkerLimits
from pipelines.listing import LISTING
from pipelines.policy import Policy
from pipelines.pseudonyms import Pseudonymizer
from pipelines.splits import SplitFractions

GOOD = chest_dicom()
IDENTITIES = Identities(Pseudonymizer(b"k" * 32, "mine"), SplitFractions(0.2, 0.2), are_public=False)


@dataclass(frozen=True)
class Misbehaving:
    """Images whose names say what reading or decoding them does."""

    starts_jvm: bool = False

    def prepare(self, paths: Iterable[str]) -> None:
        pass

    def read(self, path: str) -> bytes:
        match path:
            case "crash" | "hang" | "leave" | "eat" | "killed":
                return path.encode()
            case "refuse":
                raise PermissionError(13, "SECRET")
            case "gone":
                raise FileNotFoundError("SECRET")
            case "fault":
                raise RuntimeError("SECRET")
        return GOOD


def decode(data: bytes, limits: DecodeLimits) -> Radiograph:
    """What a decoder with a fault might do."""
    match data:
        case b"crash":
            ctypes.string_at(0)
        case b"hang":
            time.sleep(3600)
        case b"leave":
            os._exit(0)
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"eat":
            bytearray(2**34)
    return decode_radiograph(data, limits)


@pytest.fixture(autouse=True)
def _faulty_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_worker, "decode_radiograph", decode)


def read(*paths: str, images: Any = None, seconds: float = 60) -> list[dict[str, Any]]:
    limits = WorkerLimits(DecodeLimits(max_bytes=2**20), seconds, 2**29)
    reader = StudyReader(
        images or Misbehaving(),
        IDENTITIES,
        Policy(frozenset(), False),
        limits,
        CropSettings(size=32),
        ProjectionFinder(),
    )
    empty = dict.fromkeys(LISTING.names) | {"findings": [], "boxes": [], "uri": "listed", "patient_key": "p"}
    rows = [empty | {"position": number, "path": path} for number, path in enumerate(paths)]
    batches = [pa.RecordBatch.from_pylist(rows[start : start + 3], LISTING) for start in range(0, len(rows), 3)]
    counted: list[int] = []
    staged = list(reader.read_all(batches, counted.append))
    assert all(batch.schema == STAGED for batch in staged)
    assert sum(counted) == len(paths)
    return [row for batch in staged for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("crash", "decoder_crashed"),
        ("leave", "decoder_crashed"),
        ("killed", "too_much_memory"),
        ("refuse", "unreadable_file"),
        ("gone", "missing_file"),
        ("fault", "processing_failed"),
        ("eat", "too_much_memory"),
    ],
)
def test_a_bad_input_costs_itself(path: str, reason: str) -> None:
    rows = read("a", path, "b", path, "c", "d")
    assert [row["position"] for row in rows] == list(range(6))
    assert [row["reason"] for row in rows] == [None, reason, None, reason, None, None]
    assert all("SECRET" not in str(row["detail"]) for row in rows)
    assert all((row["crop"] is None) == (row["reason"] is not None) for row in rows)


def test_a_hang_ends_and_the_rest_goes_on() -> None:
    assert [row["reason"] for row in read("a", "hang", "b", seconds=1.5)] == [None, "too_slow", None]


def test_what_nobody_could_look_into_has_a_keyed_uri() -> None:
    (row,) = read("crash")
    assert row["uri"] == IDENTITIES.keyed_uri("crash")


def test_files_are_read_from_the_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GOOD)
    found, gone = read("x", "y", images=FileImages(Folder.at(str(tmp_path)), 2**20))
    assert found["reason"] is None
    assert found["crop"]
    assert gone["reason"] == "missing_file"
