"""Studies drawn as rows, not from images: lakes of any size and any labels in a moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurizers.crops import encode_png
from pipelines.lake import Lake
from pipelines.tables import Table

SHARES = {
    "Infiltration": 0.18, "Effusion": 0.12, "Atelectasis": 0.1, "Nodule": 0.06, "Mass": 0.05, "Pneumothorax": 0.05,
    "Consolidation": 0.04, "Pleural Thickening": 0.03, "Cardiomegaly": 0.025, "Emphysema": 0.02, "Edema": 0.02,
    "Fibrosis": 0.015, "Pneumonia": 0.012, "Hernia": 0.002,
}  # fmt: skip


def study(number: int, **columns: Any) -> dict[str, Any]:
    """A row of `studies`; what is not given is plain."""
    return {
        "image_id": sha256(str(number).encode()).hexdigest(),
        "dataset": "first",
        "uri": f"secret-uri-{number}",
        "patient_key": sha256(f"patient {number}".encode()).hexdigest(),
        "study_key": f"secret-study-{number}",
        "findings": {},
        "split": "train",
        "crop": encode_png(np.full((32, 32), number % 256, np.uint8)),
        "lung_quality": 0.95,
        "cropper": "projection",
        "width": 1024,
        "height": 1024,
        "bits": 8,
        "photometric": "MONOCHROME2",
    } | columns


def write_lake(location: Path, files: Iterable[Sequence[Mapping[str, Any]]], *, row_group: int = 512) -> Lake:
    """A lake with one run whose files hold these rows."""
    lake = Lake.create(str(location))
    write_run(lake.studies, files, row_group=row_group)
    return lake


def write_run(table: Table, files: Iterable[Sequence[Mapping[str, Any]]], *, row_group: int = 512) -> None:
    """One more committed run of a table."""
    run = table.folder.new_run()
    Path(run.path).mkdir(parents=True)
    for number, rows in enumerate(files):
        mapped = [
            dict(row) | ({"findings": list(row["findings"].items())} if "findings" in row else {}) for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(mapped, table.schema), f"{run.path}/part-{number}.parquet", row_group)
    run.commit()


def draw_studies(images: int, seed: int = 0, *, first: int = 0) -> list[dict[str, Any]]:
    """Studies of two data sets, of several images per patient, with unlike findings, views and ages.

    The data set `plain` mentions every finding on every image; `reports` mentions few, some as uncertain, and no
    Hernia. Edema is taken in AP view and Nodule at old age more often than other findings.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + images):
        dataset = "plain" if rng.random() < 0.7 else "reports"
        positive = {
            name: bool(rng.random() < share * (3 if rng.random() < 0.3 else 0.6)) for name, share in SHARES.items()
        }
        findings = {"No Finding": int(not any(positive.values()))} | {
            name: int(is_so) for name, is_so in positive.items()
        }
        if dataset == "reports":
            findings = {
                name: -1 if rng.random() < 0.15 else value
                for name, value in findings.items()
                if name != "Hernia" and (value or rng.random() < 0.1)
            }
        patient = int(rng.integers(1 + (first + images) // 4))
        age = float(np.clip(rng.normal(66 if positive["Nodule"] else 48, 16), 0, 90))
        shade = rng.integers(60, 180)
        rows.append(
            study(
                number,
                dataset=dataset,
                patient_key=sha256(f"{dataset} {patient}".encode()).hexdigest(),
                split=("train", "train", "train", "val", "test")[patient % 5],
                findings=findings,
                view=None
                if rng.random() < 0.03
                else "AP"
                if rng.random() < (0.85 if positive["Edema"] else 0.4)
                else "PA",
                sex=None if rng.random() < 0.02 else "F" if rng.random() < 0.44 else "M",
                age_years=None if rng.random() < 0.08 else age,
                lung_quality=float(rng.beta(8, 1.5)),
                crop=encode_png(np.clip(rng.normal(shade, 30, (64, 64)), 0, 255).astype(np.uint8)),
                width=1024 if dataset == "plain" else int(rng.integers(1500, 3000)),
                height=1024 if dataset == "plain" else int(rng.integers(2000, 3000)),
                bits=8 if dataset == "plain" else 12,
            )
        )
    return rows


def rejected(number: int, reason: str, dataset: str = "first") -> dict[str, Any]:
    """A row of `quarantine`."""
    return {"uri": f"secret-uri-{number}", "dataset": dataset, "reason": reason, "detail": f"input {number}"}
