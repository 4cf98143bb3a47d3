"""Every source through ingest: phantoms in its layout, and the real sets that are at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.ingest import IngestConfig, ingest
from pipelines.job import JobRecord
from pipelines.lake import Lake
from pipelines.phantoms import PhantomsConfig, make_phantoms
from pipelines.pseudonyms import KEY_VARIABLE
from pipelines.sources.chestxray14 import CHESTXRAY14_LABELS
from pipelines.sources.chexpert import CHEXPERT_OBSERVATIONS

pytestmark = pytest.mark.usefixtures("spark")

IMAGES = 48
#: Findings, values and official splits of each source's studies, and the reasons that phantoms of its layout end with.
EXPECTED: dict[str, tuple[set[str], set[int], set[str], set[str]]] = {
    "kermany": ({"normal", "pneumonia", "viral", "bacterial"}, {0, 1}, {"test"}, set()),
    "chestxray14": ({*CHESTXRAY14_LABELS, "No Finding"}, {0, 1}, {"test"}, set()),
    "chexpert": (set(CHEXPERT_OBSERVATIONS), {-1, 0, 1}, {"val"}, {"not_frontal"}),
    "mimic_cxr_jpg": (set(CHEXPERT_OBSERVATIONS), {-1, 0, 1}, {"train", "val", "test"}, {"not_frontal"}),
    "medmnist": (set(CHESTXRAY14_LABELS), {0, 1}, {"train", "val", "test"}, set()),
    "dicom": ({"normal", "pneumonia", "viral", "bacterial"}, {0, 1}, set(), {"not_frontal", "not_chest", "not_dicom"}),
}


def run(source: str, archive: Path, lake: Path, **settings: Any) -> tuple[JobRecord, pd.DataFrame, Counter[str]]:
    values = {"source": source, "archive": str(archive), "lake": str(lake)} | settings
    record = ingest(IngestConfig.model_validate(values))
    tables = Lake.at(str(lake))
    studies = tables.studies.to_arrow([name for name in tables.studies.schema.names if name != "crop"]).to_pandas()
    reasons = Counter(tables.quarantine.to_arrow(["reason"])["reason"].to_pylist())
    assert len(studies) + reasons.total() == record.counts["inputs"]
    assert (studies.groupby("patient_key")["split"].nunique() == 1).all()
    return record, studies, reasons


@pytest.mark.parametrize("source", EXPECTED)
def test_phantoms_in_every_layout(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "k" * 64)
    side = 28 if source == "medmnist" else 96
    config = {"out": str(tmp_path / "archive"), "layout": source, "studies": IMAGES, "seed": 3, "long_side": side}
    make_phantoms(PhantomsConfig.model_validate(config))
    record, studies, reasons = run(source, tmp_path / "archive", tmp_path / "lake", crop={"size": 32})
    findings, values, official, allowed = EXPECTED[source]
    assert len(studies) > IMAGES // 2
    assert set(reasons) <= allowed
    assert "have no image" not in str(record)
    told = [dict(each) for each in studies["findings"]]
    assert {name for each in told for name in each} <= findings
    assert {value for each in told for value in each.values()} == values
    assert official <= set(studies["split"])
    if source in ("chestxray14", "chexpert"):
        assert set(studies["view"]) <= {"PA", "AP"}
        assert studies["age_years"].between(0, 90).all()
    if source == "chestxray14":
        boxes = [box for each in studies["boxes"] for box in each]
        assert boxes
        assert all(0 <= box["left"] < box["right"] <= 1 and 0 <= box["top"] < box["bottom"] <= 1 for box in boxes)


def test_lateral_views_are_taken_when_the_config_says_so(tmp_path: Path) -> None:
    config = {"out": str(tmp_path / "archive"), "layout": "chexpert", "studies": 24, "seed": 3, "long_side": 96}
    make_phantoms(PhantomsConfig.model_validate(config))
    _, frontal, reasons = run("chexpert", tmp_path / "archive", tmp_path / "lake", crop={"size": 32})
    assert set(frontal["view"]) <= {"PA", "AP", None}
    policy = {"not_frontal": "ingest"}
    _, both, left = run("chexpert", tmp_path / "archive", tmp_path / "lake", crop={"size": 32}, policy=policy)
    assert (both["view"] == "LATERAL").sum() == reasons["not_frontal"] > 0
    assert not left


@pytest.mark.real
def test_the_real_chestxray14_images(real_data: Path, tmp_path: Path) -> None:
    record, studies, reasons = run("chestxray14", real_data / "nih_chestxray14", tmp_path / "lake")
    assert len(studies) == 773
    assert reasons == {"duplicate": 14}
    assert "111,347 of 112,120 label rows have no image in the archive: 0" in str(record)
    assert {name for each in studies["findings"] for name, _ in each} == {*CHESTXRAY14_LABELS, "No Finding"}


@pytest.mark.real
def test_the_real_pneumoniamnist_file(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "pneumoniamnist.npz").symlink_to(real_data / "pneumoniamnist.npz")
    _, studies, reasons = run("medmnist", tmp_path / "archive", tmp_path / "lake", crop={"size": 32})
    assert len(studies) + reasons["duplicate"] == 3166
    assert set(reasons) <= {"duplicate"}
    assert (studies["width"] == 28).all()
