"""Ingest of thousands of damaged files: each is a study or has a reason, and the job goes on to its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import TWELVE, by_gdcm, dicom
from mutations import BY_GDCM, SEEDS, mutated

from featurizers.reasons import Reason
from pipelines.ingest import IngestConfig, ingest
from pipelines.lake import Lake
from pipelines.pseudonyms import KEY_VARIABLE

MUTATIONS = 2_000
MUTATIONS_BY_GDCM = 100
#: None of these may ever come of damaged bytes, in 256 MB.
FAULTS = {Reason.PROCESSING_FAILED, Reason.DECODER_CRASHED, Reason.TOO_SLOW, Reason.TOO_MUCH_MEMORY}


@pytest.mark.usefixtures("spark")
def test_damaged_files_are_all_accounted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "k" * 64)
    archive = tmp_path / "archive"
    archive.mkdir()
    rng = np.random.default_rng(11)
    for number in range(MUTATIONS):
        name = sorted(SEEDS)[number % len(SEEDS)]
        (archive / f"{name}-{number}").write_bytes(mutated(name, SEEDS, rng))
    seeds = SEEDS | {name: by_gdcm(dicom(TWELVE, BitsStored=12), BY_GDCM[name], tmp_path) for name in BY_GDCM}
    for number in range(MUTATIONS_BY_GDCM):
        name = sorted(BY_GDCM)[number % len(BY_GDCM)]
        (archive / f"{name}-{number}").write_bytes(mutated(name, seeds, rng))
    files = sorted(file.name for file in archive.iterdir())
    rows = "".join(f"{name},patient-{number},1\n" for number, name in enumerate(files))
    (archive / "labels.csv").write_text("path,patient_id,Mass\n" + rows)
    lake_at = str(tmp_path / "lake")
    limits = {"max_memory_mb": 256, "max_bytes": 2**20}
    record = ingest(
        IngestConfig.model_validate({"source": "manifest", "archive": str(archive), "lake": lake_at, "limits": limits})
    )
    lake = Lake.at(str(tmp_path / "lake"))
    studies = lake.studies.to_arrow(["uri"])["uri"].to_pylist()
    quarantine = lake.quarantine.to_arrow(["uri", "reason"]).to_pydict()
    assert len(studies) + len(quarantine["uri"]) == record.counts["inputs"] == len(files)
    assert not set(studies) & set(quarantine["uri"])
    # Damage that no format can notice, such as a flipped grey value, gives a study; the rest must have been noticed.
    assert min(len(studies), len(quarantine["uri"])) > len(files) // 20
    assert set(quarantine["reason"]) <= set(map(str, Reason))
    assert not FAULTS & set(quarantine["reason"])
