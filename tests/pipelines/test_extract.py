"""Extraction: one vector for every study, nothing twice, resumable, the same whatever the batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from small_backbone import FEATURES, NAME, UNTRAINED

from featurizers.backbones import get_backbone, load_weights, save_weights
from featurizers.crops import decode_png
from featurizers.embedder import Embedder
from featurizers.errors import FeaturizerError
from pipelines import extract as extraction
from pipelines.audit import AuditConfig, audit
from pipelines.errors import LakeError
from pipelines.extract import ExtractConfig, extract
from pipelines.extract_target import FeaturesTarget
from pipelines.increment import SourceFile, chunks
from pipelines.lake import Lake
from pipelines.stored_features import as_matrix
from pipelines.tables import UNEMBEDDED

pytestmark = pytest.mark.usefixtures("spark")


def config(lake: Path, **settings: object) -> ExtractConfig:
    return ExtractConfig.model_validate({"lake": str(lake), "backbone": UNTRAINED} | settings)


def vectors(lake: Path, extractor: str | None = None) -> dict[str, np.ndarray]:
    there = Lake.open(str(lake))
    table = there.features(there.choose_extractor(extractor)).to_arrow(["image_id", "features"])
    assert table["image_id"].value_counts().to_pandas().str["counts"].max() == 1
    return dict(zip(table["image_id"].to_pylist(), as_matrix(table["features"]), strict=True))


@pytest.fixture
def lake(ingested_lake: Path, tmp_path: Path) -> Path:
    """A lake of studies only, to be written to."""
    copy = tmp_path / "lake"
    shutil.copytree(ingested_lake, copy, ignore=shutil.ignore_patterns("features", "heads", "predictions"))
    return copy


def test_every_study_has_the_vector_that_the_library_gives(extracted_lake: Path) -> None:
    studies = Lake.open(str(extracted_lake)).studies.to_arrow(["image_id", "crop"]).to_pylist()
    found = vectors(extracted_lake)
    assert set(found) == {study["image_id"] for study in studies}
    embedder = Embedder(NAME, load_weights(get_backbone(NAME), "random"))
    chosen = studies[3:8]
    expected = embedder.embed([decode_png(study["crop"]) for study in chosen])
    for study, vector in zip(chosen, expected, strict=True):
        assert vector.shape == (FEATURES,)
        np.testing.assert_allclose(found[study["image_id"]], vector, rtol=0.02, atol=0.02 * np.abs(vector).max())


def test_a_second_extraction_does_nothing(extracted_lake: Path) -> None:
    before = sorted(path for path in (extracted_lake / "features").rglob("*"))
    assert "none: every study has its features already" in str(extract(config(extracted_lake)))
    assert before == sorted(path for path in (extracted_lake / "features").rglob("*"))


def test_other_weights_and_precision_are_another_extractor(lake: Path) -> None:
    for backbone, precision in (("random", "bf16"), ("random", "fp32")):
        extract(config(lake, backbone={"name": NAME, "weights": backbone}, precision=precision))
    there = Lake.open(str(lake))
    first, second = there.extractors()
    with pytest.raises(LakeError, match="several extractors"):
        there.choose_extractor(None)
    assert there.choose_extractor(second[:8]) == second
    bf16, fp32 = vectors(lake, first), vectors(lake, second)
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in ((bf16[key], fp32[key]) for key in bf16)
    ]
    assert min(cosines) > 0.999
    card = json.loads((lake / "features" / f"extractor={first}" / "_extractor.json").read_text())
    assert card["fingerprint"] == first
    assert card["weights"] == "random (seed 0), untrained"


def test_a_killed_extraction_goes_on_where_it_was(
    lake: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession
) -> None:
    """Kill after the first committed chunk; the second run extracts only what is missing."""
    split_studies(lake)
    calls = iter([None, KeyboardInterrupt()])
    commit = FeaturesTarget.commit

    def interrupted(*arguments: object) -> None:
        if error := next(calls, None):
            raise error
        commit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FeaturesTarget, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(config(lake, chunk_images=1))
    partial = vectors(lake)
    assert 0 < len(partial) < Lake.open(str(lake)).studies.read(spark).count()
    extract(config(lake, chunk_images=1))
    whole = vectors(lake)
    assert len(whole) == Lake.open(str(lake)).studies.read(spark).count()
    for image_id, vector in partial.items():
        np.testing.assert_array_equal(whole[image_id], vector)


def test_images_missing_from_a_file_that_is_half_done_are_extracted(lake: Path, spark: SparkSession) -> None:
    extract(config(lake))
    there = Lake.open(str(lake))
    table = there.features(there.choose_extractor(None))
    (run,) = table.folder.runs()
    rows = table.read(spark)
    half = rows.limit(rows.count() // 2).localCheckpoint()
    table.append(half)
    shutil.rmtree(run.path)
    extract(config(lake))
    assert len(vectors(lake)) == there.studies.read(spark).count()


def test_a_damaged_crop_costs_no_other_image_its_vector(lake: Path) -> None:
    image_id = damage_a_crop(lake)
    summary = str(extract(config(lake)))
    assert f"1 (damaged_crop 1): {image_id}" in summary
    assert len(vectors(lake)) == sum(len(pq.read_table(f)) for f in (lake / "studies").glob("run=*/*.parquet")) - 1


def test_what_has_no_vector_is_in_quarantine_and_lacks_nothing(lake: Path) -> None:
    """The audit and the next extraction both take it for done."""
    image_id = damage_a_crop(lake)
    extract(config(lake))
    there = Lake.open(str(lake))
    (row,) = there.unembedded(there.choose_extractor(None)).to_arrow(UNEMBEDDED.names).to_pylist()
    assert (row["image_id"], row["variant"], row["reason"]) == (image_id, 0, "damaged_crop")
    assert "lack them" not in str(audit(AuditConfig(lake=str(lake))))
    again = extract(config(lake))
    assert again.counts["images"] == 0
    assert "1 in all; to try them again, remove" in str(again)


def test_weights_that_give_no_finite_vector_are_told_and_nothing_is_kept(lake: Path, tmp_path: Path) -> None:
    spec = get_backbone(NAME)
    state = dict(load_weights(spec, "random").state)
    state["layer4.1.bn2.bias"] = torch.full_like(state["layer4.1.bn2.bias"], torch.nan)
    save_weights(tmp_path / "broken.safetensors", spec, state)
    with pytest.raises(PythonException, match=r"gives no finite vector for a black image.*Use precision=fp32"):
        extract(config(lake, backbone={"name": NAME, "weights": str(tmp_path / "broken.safetensors")}))
    assert Lake.open(str(lake)).extractors() == []


def test_float16_is_another_extractor_with_rounded_vectors_in_smaller_files(lake: Path) -> None:
    for storage in ("float32", "float16"):
        extract(config(lake, precision="fp32", storage=storage))
    there = Lake.open(str(lake))
    by_storage = {there.extractor_card(fingerprint)["storage"]: fingerprint for fingerprint in there.extractors()}
    expected, found = (vectors(lake, by_storage[storage]) for storage in ("float32", "float16"))
    for image_id, vector in expected.items():
        np.testing.assert_array_equal(found[image_id], vector.astype(np.float16).astype(np.float32))
    whole, rounded = (
        sum(file.stat().st_size for file in lake.glob(f"features/extractor={by_storage[storage]}/run=*/*.parquet"))
        for storage in ("float32", "float16")
    )
    assert rounded < 0.7 * whole


def test_what_a_job_did_and_where_the_time_went_lies_beside_the_features(extracted_lake: Path) -> None:
    told = [json.loads(file.read_text()) for file in extracted_lake.glob("features/*/_jobs/*/run.json")]
    (job,) = (each for each in told if each["job"] == "extract_features")
    studies = sum(len(pq.read_table(file)) for file in extracted_lake.glob("studies/run=*/*.parquet"))
    assert job["stages"]["images"] == job["counts"]["images"] == studies
    seconds = job["stages"]["seconds_of_all_tasks"]
    assert all(seconds[stage] > 0 for stage in ("read", "decode", "compute"))
    assert seconds["copy"] == 0
    assert job["workers"] == "1 task with 2 threads"
    assert (job["batch_size"], job["devices"]) == ([32], ["cpu"])


def test_a_gpu_that_is_not_there_is_told_before_any_work(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before weights are read, too."""
    monkeypatch.setattr(extraction, "spark_session", lambda *_, **__: pytest.fail("Spark was started"))
    monkeypatch.setattr(extraction, "open_backbone", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(FeaturizerError, match="cuda:99"):
        extract(config(lake, device="cuda:99"))
    assert not (lake / "features").exists()


def test_a_lake_without_studies_is_told(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no lake"):
        extract(config(tmp_path / "nowhere"))
    with pytest.raises(LakeError, match="no ingested studies"):
        extract(config(tmp_path))


@pytest.mark.parametrize(
    ("missing", "size", "expected"),
    [([3, 3, 3], 6, [2, 1]), ([9, 1], 6, [1, 1]), ([], 6, []), ([1] * 5, 100, [5]), ([4, 4], 1, [1, 1])],
)
def test_chunks_are_whole_files_up_to_a_size(missing: list[int], size: int, expected: list[int]) -> None:
    files = [SourceFile(str(index), number, number) for index, number in enumerate(missing)]
    assert [len(chunk) for chunk in chunks(files, lambda: size)] == expected


def damage_a_crop(lake: Path) -> str:
    """The image whose crop is no PNG any more."""
    file = next((lake / "studies").glob("run=*/*.parquet"))
    table = pq.read_table(file)
    crops = table["crop"].to_pylist()
    crops[1] = b"damaged"
    pq.write_table(table.set_column(table.schema.get_field_index("crop"), "crop", [crops]), file)
    for crc in file.parent.glob(".*.crc"):
        crc.unlink()
    return str(table["image_id"][1])


def split_studies(lake: Path) -> None:
    """Turn the lake's one file of studies into three."""
    file = next((lake / "studies").glob("run=*/*.parquet"))
    table = pq.read_table(file)
    third = len(table) // 3 + 1
    for start in range(0, len(table), third):
        pq.write_table(table.slice(start, third), file.with_name(f"part-{start:05}.parquet"))
    file.unlink()
