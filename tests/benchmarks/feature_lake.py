"""A lake of features that no image stands behind: ChestX-ray14's labels as often as there, vectors that show them.

Files and row groups are of the size that extraction writes; memory grows with one file, not with the lake.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lake import Lake
from pipelines.tables import FEATURES, ROW_GROUP_BYTES, ROWS_PER_FILE, STUDIES, Table

EXTRACTOR = "drawn"
#: Images of 112,120 that the official label file gives each finding.
OF = 112_120
IMAGES = {
    "Infiltration": 19_894, "Effusion": 13_317, "Atelectasis": 11_559, "Nodule": 6_331, "Mass": 5_782,
    "Pneumothorax": 5_302, "Consolidation": 4_667, "Pleural_Thickening": 3_385, "Cardiomegaly": 2_776,
    "Emphysema": 2_516, "Edema": 2_303, "Fibrosis": 1_686, "Pneumonia": 1_431, "Hernia": 227,
}  # fmt: skip
#: 30,805 patients have 3.6 images each.
IMAGES_PER_PATIENT = 4
#: Of ten patients; the official test list has 23 % of the images.
SPLITS = ("train",) * 7 + ("val",) + ("test",) * 2
#: How far a finding moves a vector, in standard deviations of the noise; AUCs come out near 0.8.
SIGNAL = 1.2


def draw_feature_lake(location: Path, images: int, dim: int = 2048, seed: int = 0) -> Lake:
    """A lake with studies and, of the extractor `EXTRACTOR`, features of as many images."""
    lake = Lake.create(str(location))
    rng = np.random.default_rng(seed)
    is_positive = rng.random((images, len(IMAGES))) < np.array(list(IMAGES.values())) / OF
    ids = [sha256(f"image {number}".encode()).hexdigest() for number in range(images)]
    _write(lake.studies, [_studies(ids, is_positive, rng)])
    directions = rng.standard_normal((len(IMAGES), dim)).astype(np.float32)
    directions *= SIGNAL / np.linalg.norm(directions, axis=1, keepdims=True)
    _write(lake.features(EXTRACTOR), _features(ids, is_positive, directions, rng))
    return lake


def feature_files(lake: Lake) -> list[str]:
    """The paths of the files that hold the features."""
    (run,) = lake.features(EXTRACTOR).folder.runs()
    return [f"{run.path}/{name}" for name in run.names() if name.endswith(".parquet")]


def _studies(ids: list[str], is_positive: npt.NDArray[np.bool_], rng: np.random.Generator) -> pa.Table:
    images = len(ids)
    patients = np.arange(images) // IMAGES_PER_PATIENT
    findings = [
        [("No Finding", int(not any(row))), *zip(IMAGES, map(int, row), strict=True)] for row in is_positive.tolist()
    ]
    columns: dict[str, object] = {
        "image_id": ids,
        "dataset": ["drawn"] * images,
        "patient_key": [sha256(f"patient {patient}".encode()).hexdigest() for patient in patients],
        "view": rng.choice(["PA", "AP"], images),
        "sex": rng.choice(["F", "M"], images),
        "age_years": rng.integers(1, 90, images).astype(np.float32),
        "findings": findings,
        "split": [SPLITS[patient % len(SPLITS)] for patient in patients],
    }
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(images, f.type) for f in STUDIES]
    return pa.Table.from_arrays(arrays, schema=STUDIES)


def _features(
    ids: list[str],
    is_positive: npt.NDArray[np.bool_],
    directions: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> Iterator[pa.Table]:
    dim = directions.shape[1]
    for start in range(0, len(ids), ROWS_PER_FILE):
        here = is_positive[start : start + ROWS_PER_FILE]
        vectors = rng.standard_normal((len(here), dim), dtype=np.float32) + here.astype(np.float32) @ directions
        offsets = pa.array(np.arange(len(here) + 1, dtype=np.int32) * dim)
        lists = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
        variants = pa.array(np.zeros(len(here), np.int32))
        yield pa.Table.from_arrays([pa.array(ids[start : start + len(here)]), variants, lists], schema=FEATURES)


def _write(table: Table, files: Iterator[pa.Table] | list[pa.Table]) -> None:
    run = table.folder.new_run()
    Path(run.path).mkdir(parents=True)
    for number, rows in enumerate(files):
        group = max(1, int(ROW_GROUP_BYTES * rows.num_rows / max(1, rows.nbytes)))
        # As Spark writes them, but for the dictionaries: it finds that floats are not worth one.
        pq.write_table(rows, f"{run.path}/part-{number:05}.parquet", row_group_size=group, use_dictionary=["image_id"])
    run.commit()
