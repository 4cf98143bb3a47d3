"""Training on a lake: heads are kept with their reports, and what can't be learnt is told."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession
from small_backbone import FEATURES as WIDTH
from vector_lake import EXTRACTOR, write_vector_lake

from classifiers.errors import HeadError, TaskError
from classifiers.heads import HEADS
from pipelines.acquisition import HoldOutBy, HoldOutSettings, hold_out
from pipelines.errors import LakeError
from pipelines.labelled import open_rows
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.stored_heads import load_head
from pipelines.tables import FEATURES
from pipelines.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def lake(extracted_lake: Path, tmp_path: Path) -> Path:
    """A lake with features, to be written to."""
    copy = tmp_path / "lake"
    shutil.copytree(extracted_lake, copy, ignore=shutil.ignore_patterns("heads", "predictions"))
    return copy


def config(lake: Path, **settings: object) -> TrainConfig:
    return TrainConfig.model_validate({"lake": str(lake), "task": "three_class", "head": "logistic"} | settings)


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
    assert "research use only" in summary


def test_heads_learn_what_phantoms_show(lake: Path) -> None:
    """Even an untrained backbone's features tell normal from pneumonia on phantoms, clearly better than chance."""
    train(config(lake, task="binary", head="logistic"))
    (run,) = (lake / "heads" / "binary" / "logistic").glob("run=*")
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    aucs = [metrics[split]["averages"]["macro"]["auc"]["value"] for split in ("val", "test")]
    assert sum(aucs) / 2 > 0.65


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


def test_findings_that_the_lake_does_not_have_are_told_with_those_it_has(lake: Path, tmp_path: Path) -> None:
    lumps = tmp_path / "lumps.yaml"
    lumps.write_text("classes: {normal: , Mass: }")
    with pytest.raises(TaskError, match=r"(?s)'Mass'.*bacterial, normal, pneumonia, viral"):
        train(config(lake, task=str(lumps)))


def test_a_task_of_ones_own_trains_labels_that_do_not_exclude_each_other(lake: Path, tmp_path: Path) -> None:
    kinds = tmp_path / "kinds.yaml"
    kinds.write_text(
        "multi_label: true\nclasses:\n"
        "  any pneumonia: {any: [viral, bacterial]}\n  sound: {none: [pneumonia]}\n  viral:\n"
    )
    summary = str(train(config(lake, task=str(kinds), head="mlp", params={"max_epochs": 3})))
    there = Lake.open(str(lake))
    head = load_head(there, "kinds/mlp")
    assert head.task.classes == ("any pneumonia", "sound", "viral")
    assert head.thresholds.rule == "best_f1"
    assert "best F1 on val" in summary
    assert set(head.metrics["test"].per_class) == set(head.task.classes)


def test_a_report_says_what_it_stands_on(lake: Path) -> None:
    train(config(lake))
    (report,) = lake.glob("heads/three_class/logistic/run=*/report.html")
    text = report.read_text()
    assert "weights random (seed 0), untrained" in text
    assert "kermany, 90 images of " in text
    assert "Few" in text


def test_features_without_a_study_are_told(lake: Path, spark: SparkSession) -> None:
    there = Lake.open(str(lake))
    features = there.features(there.choose_extractor(None))
    row = {"image_id": "stray", "variant": 0, "features": [0.0] * WIDTH}
    features.append(spark.createDataFrame(pa.Table.from_pylist([row], FEATURES)))
    with pytest.raises(LakeError, match="1 features belong to no study"):
        train(config(lake))


def test_the_report_shows_the_worst_errors_with_their_crops(lake: Path) -> None:
    train(config(lake))
    (report,) = lake.glob("heads/three_class/logistic/run=*/report.html")
    text = report.read_text()
    shown = re.findall(r"data:image/png;base64,([^\"]+)", text)
    assert 0 < len(shown) <= 12
    for png in shown:
        with Image.open(BytesIO(b64decode(png))) as crop:
            assert max(crop.size) == 128
    assert "as confidential as they are" in text


def test_what_is_chosen_on_val_is_stored_and_told(lake: Path) -> None:
    settings = {"calibration": "temperature", "threshold": "sensitivity", "threshold_value": 0.9}
    summary = str(train(config(lake, task="binary", **settings)))
    head = load_head(Lake.open(str(lake)), "binary/logistic")
    assert head.calibrator.method == "temperature"
    assert (head.thresholds.rule, head.thresholds.value) == ("sensitivity", 0.9)
    assert head.metrics["val"].per_class["pneumonia"].recall.value >= 0.9
    assert "recall of at least 0.9 on val" in summary


def test_features_that_do_not_fit_in_memory_give_the_same_head(lake: Path) -> None:
    train(config(lake, name="in_memory"))
    summary = str(train(config(lake, name="on_disk", memory_gb=1e-6)))
    there = Lake.open(str(lake))
    assert load_head(there, "three_class/on_disk").fingerprint == load_head(there, "three_class/in_memory").fingerprint
    assert "for want of memory" in summary


def test_without_val_nothing_is_chosen_on_it(lake: Path, tmp_path: Path) -> None:
    without_val(lake)
    with pytest.raises(HeadError, match="val split"):
        train(config(lake, calibration="isotonic"))
    summary = str(train(config(lake, head="mlp", params={"max_epochs": 3})))
    head = load_head(Lake.open(str(lake)), "three_class/mlp")
    assert head.calibrator.method == "none"
    assert list(head.metrics) == ["test"]
    assert "not calibrated" in summary.lower()


def test_patients_held_out_are_judged_beside_the_others(tmp_path: Path) -> None:
    lake = write_vector_lake(tmp_path / "lake")
    summary = str(train(config(tmp_path / "lake", hold_out={"by": "series", "share": 0.3})))
    head = load_head(lake, "three_class/logistic")
    parts = {one.value: one for one in head.metrics["val"].subgroups if one.attribute == "acquisition"}
    assert set(parts) == {"held out by series", "as train"}
    assert parts["as train"].n == 36
    assert all(count > 0 for count in parts["held out by series"].support.values())
    assert head.class_counts["val"].rows == 36 + parts["held out by series"].n
    assert head.class_counts["train"].rows == 108 - parts["held out by series"].n
    assert not [one for one in head.metrics["test"].subgroups if one.attribute == "acquisition"]
    told = head.provenance["Held out"]
    assert told.startswith("by series (the lowest file numbers")
    (run,) = (tmp_path / "lake").glob("heads/three_class/logistic/run=*")
    assert told in (run / "report.html").read_text()
    assert told in summary
    assert f"  held out by series: AUC {parts['held out by series'].auc.value:.3f}" in summary
    kept = json.loads((run / "run.json").read_text())
    assert kept["config"]["hold_out"] == {"by": "series", "share": 0.3}
    assert kept["hold_out"]["images"] == parts["held out by series"].n


def test_a_head_holds_out_whom_its_backbone_held_out(tmp_path: Path) -> None:
    lake = write_vector_lake(tmp_path / "lake")
    card = {"backbone": "resnet50", "precision": "bf16", "weights": "fine-tuned"}
    held_out = hold_out(lake, HoldOutSettings(HoldOutBy.SERIES, 0.25))
    lake.features(EXTRACTOR).folder.write_json(EXTRACTOR_CARD, card | {"hold_out": held_out.as_dict()})
    summary = str(train(config(tmp_path / "lake", name="alike")))
    alike = load_head(lake, "three_class/alike")
    assert alike.class_counts["val"].rows == 36 + len(held_out.image_ids)
    assert "caution" not in summary
    summary = str(train(config(tmp_path / "lake", name="own_val", hold_out={"by": "none"})))
    own_val = load_head(lake, "three_class/own_val")
    assert own_val.class_counts["val"].rows == 36
    assert "Held out" not in own_val.provenance
    # From the lake's own val nothing is ever learned.
    assert "caution" not in summary
    summary = str(train(config(tmp_path / "lake", name="other", hold_out={"by": "series", "share": 0.4})))
    other = load_head(lake, "three_class/other")
    assert re.search(r"(?m)^caution .*fine-tuned with hold_out.by=series, share 0.25", summary)
    assert "hold_out.by=series, share 0.4" in other.provenance["Caution"]
    rows = open_rows(str(tmp_path / "lake"), "three_class").val
    assert rows is not None
    assert len(rows) == alike.class_counts["val"].rows


def without_val(lake: Path) -> None:
    """Make train rows of val rows."""
    for file in lake.glob("studies/run=*/*.parquet"):
        studies = pq.read_table(file)
        splits = pc.replace_substring(studies["split"], "val", "train")
        pq.write_table(studies.set_column(studies.schema.get_field_index("split"), "split", splits), file)
