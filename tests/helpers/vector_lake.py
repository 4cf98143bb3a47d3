"""Lakes whose features are drawn, not extracted: they start in a moment, without Spark, and hold a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from synthetic_studies import study, write_lake, write_run

from pipelines.lake import EXTRACTOR_CARD, Lake

EXTRACTOR = "e" * 64
DIM = 12
KINDS = ("normal", "viral", "bacterial")


def write_vector_lake(folder: Path, images: int = 180, *, extractor: str = EXTRACTOR, seed: int = 0) -> Lake:
    """Draw images of Kermany's findings, three a patient; of the patients 3/5 are in train, 1/5 in val, 1/5 in test."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(KINDS), DIM))
    studies: list[dict[str, Any]] = []
    features: list[dict[str, Any]] = []
    for number in range(images):
        patient = number // 3
        kind = int(rng.integers(len(KINDS)))
        findings = {name: int(name == KINDS[kind]) for name in KINDS} | {"pneumonia": int(kind > 0)}
        split = ("train", "train", "train", "val", "test")[patient % 5]
        one = study(number, split=split, findings=findings, patient_key=f"{patient:064x}")
        studies.append(one)
        vector = centres[kind] + rng.normal(scale=1.5, size=DIM)
        features.append({"image_id": one["image_id"], "variant": 0, "features": vector.astype(np.float32).tolist()})
    lake = write_lake(folder, [studies])
    write_run(lake.features(extractor), [features])
    card = {"backbone": "resnet50", "precision": "bf16", "weights": "drawn"}
    lake.features(extractor).folder.write_json(EXTRACTOR_CARD, card)
    return lake
