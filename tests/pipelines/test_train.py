"""Training and scoring on a lake: heads are kept, found again and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from classifiers import tasks
from classifiers.errors import HeadError, TaskError
from classifiers.heads import HEADS
from pipelines import train as train_module
from pipelines.errors import LakeError
from pipelines.extract import BackboneConfig, ExtractConfig, extract
from pipelines.lake import Lake
from pipelines.score import ScoreConfig, score
from pipelines.tables import FEATURES
from pipelines.train import TrainConfig, as_matrix, load_head, read_labelled, train

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def lake(extracted_lake: Path, tmp_path: Path) -> Path:
    """A lake with features, to be written to."""
    copy = tmp_path / "lake"
    shutil.copytree(extracted_lake, copy, ignore=shutil.ignore_patterns("heads", "predictions"))
    return copy


def config(lake: Path, **settings: object) -> TrainConfig:
    return TrainConfig.model_validate({"lake": str(lake), "task": "three_class", "head": "logistic"} | settings)


def test_vectors_meet_their_own_findings(extracted_lake: Path) -> None:
    there = Lake.open(str(extracted_lake))
    extractor = there.choose_extractor(None)
    labelled = read_labelled(there, extractor)
    vectors = there.features(extractor).to_arrow(["image_id", "features"])
    by_id = {row["image_id"]: row for row in there.studies.to_arrow(["image_id", "findings", "split"]).to_pylist()}
    for index, image_id in enumerate(vectors["image_id"].to_pylist()):
        assert labelled.findings[index] == dict(by_id[image_id]["findings"])
        assert labelled.splits[index] == by_id[image_id]["split"]
    np.testing.assert_array_equal(labelled.features, np.array(vectors["features"].to_pylist(), np.float32))
    assert labelled.without_features == 0


@pytest.mark.parametrize("task", ["binary", "three_class"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_and_leaves_all_its_files(lake: Path, task: str, head: str) -> None:
    summary = str(train(config(lake, task=task, head=head)))
    (run,) = (lake / "heads" / task / head).glob("run=*")
    assert {"head.json", "metrics.json", "report.html", "run.json", "_SUCCESS"} < {file.name for file in run.iterdir()}
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["metrics"]) == {"val", "test"}
    assert set(metrics["baseline"]) == {"val", "test"}
    assert str(run) in summary
    assert "not calibrated" in summary


def test_heads_learn_what_phantoms_show(lake: Path) -> None:
    """Even an untrained backbone's features tell normal from pneumonia on phantoms, clearly better than chance."""
    train(config(lake, task="binary", head="logistic"))
    (run,) = (lake / "heads" / "binary" / "logistic").glob("run=*")
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert (metrics["val"]["auc"] + metrics["test"]["auc"]) / 2 > 0.65


def test_parameters_reach_the_head_and_runs_are_kept_apart(lake: Path) -> None:
    train(config(lake, params={"C": 0.5}))
    train(config(lake, params={"C": 0.25}))
    train(config(lake, params={"C": 0.125}, name="other"))
    there = Lake.open(str(lake))
    assert there.heads() == ["three_class/logistic", "three_class/other"]
    newest = load_head(there, "three_class/logistic")
    assert newest.params["C"] == 0.25
    first = there.head_runs("three_class", "logistic").runs()[0]
    assert load_head(there, f"three_class/logistic/{first.name}").params["C"] == 0.5


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"task": "four_class"}, TaskError, "three_class"),
        ({"head": "forest"}, HeadError, "logistic"),
        ({"params": {"c": 1}}, HeadError, "C"),
        ({"extractor": "beef"}, LakeError, "It holds"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    lake: Path, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(config(lake, **settings))


def test_without_features_the_next_step_is_told(ingested_lake: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(ingested_lake, bare, ignore=shutil.ignore_patterns("features", "heads", "predictions"))
    with pytest.raises(LakeError, match="extract_features"):
        train(config(bare))


def test_findings_that_the_lake_does_not_have_are_told_with_those_it_has(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.Task("lumps", ("normal", "Mass"))
    monkeypatch.setattr(train_module, "get_task", lambda name: task)
    with pytest.raises(LakeError, match=r"Mass\. It has: bacterial, normal, pneumonia, viral"):
        train(config(lake, task="lumps"))


def test_a_report_says_what_it_stands_on(lake: Path) -> None:
    train(config(lake))
    (report,) = lake.glob("heads/three_class/logistic/run=*/report.html")
    text = report.read_text()
    assert "weights random (seed 0), untrained" in text
    assert "kermany, 90 images of " in text
    assert "Few images" in text


def test_features_without_a_study_are_told(lake: Path, spark: SparkSession) -> None:
    there = Lake.open(str(lake))
    features = there.features(there.choose_extractor(None))
    row = {"image_id": "stray", "variant": 0, "features": [0.0] * 2048}
    features.append(spark.createDataFrame(pa.Table.from_pylist([row], FEATURES)))
    with pytest.raises(LakeError, match="1 features belong to no study"):
        train(config(lake))


def test_every_image_with_features_gets_one_prediction(lake: Path, spark: SparkSession) -> None:
    train(config(lake, head="mlp"))
    summary = str(score(ScoreConfig(lake=str(lake), head="three_class/mlp")))
    there = Lake.open(str(lake))
    head = load_head(there, "three_class/mlp")
    rows = there.predictions(head.fingerprint).to_arrow(["image_id", "task", "probabilities", "decisions"]).to_pylist()
    vectors = there.features(head.extractor).to_arrow(["image_id", "features"])
    assert sorted(row["image_id"] for row in rows) == sorted(vectors["image_id"].to_pylist())
    expected = dict(
        zip(vectors["image_id"].to_pylist(), head.score(as_matrix(vectors["features"])).probabilities, strict=True)
    )
    for row in rows:
        probabilities, decisions = dict(row["probabilities"]), dict(row["decisions"])
        assert row["task"] == "three_class"
        assert list(probabilities) == ["normal", "viral", "bacterial"]
        np.testing.assert_allclose(list(probabilities.values()), expected[row["image_id"]], atol=1e-5)
        assert decisions == {name: value == max(probabilities.values()) for name, value in probabilities.items()}
    assert f"new predictions  {len(rows)}" in summary
    again = score(ScoreConfig(lake=str(lake), head="three_class/mlp"))
    assert "none: every image with features is scored already" in str(again)


def test_a_head_for_other_features_names_both_extractors(lake: Path) -> None:
    train(config(lake))
    there = Lake.open(str(lake))
    own = there.choose_extractor(None)
    extract(ExtractConfig(lake=str(lake), backbone=BackboneConfig(weights="random", seed=1)))
    (other,) = set(there.extractors()) - {own}
    with pytest.raises(HeadError) as caught:
        score(ScoreConfig(lake=str(lake), head="three_class/logistic", extractor=other[:10]))
    assert own in str(caught.value)
    assert other in str(caught.value)


@pytest.mark.parametrize("head", ["three_class/mlp", "three_class", "binary/logistic", "three_class/logistic/run=1"])
def test_a_head_that_is_not_there_is_told_with_those_that_are(lake: Path, head: str) -> None:
    train(config(lake))
    with pytest.raises(LakeError, match="Heads there: three_class/logistic"):
        score(ScoreConfig(lake=str(lake), head=head))


def test_a_damaged_head_is_refused(lake: Path) -> None:
    train(config(lake))
    (run,) = (lake / "heads" / "three_class" / "logistic").glob("run=*")
    weights = run / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(HeadError, match="damaged"):
        score(ScoreConfig(lake=str(lake), head="three_class/logistic"))
