"""Fine-tuning on a lake: what it leaves, that features come of it, that it comes back exactly, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from small_trainings import SMALL, config, left, losses, overrides

from classifiers.calibration import Calibration
from classifiers.errors import TaskError
from featurizers.devices import computes_in_bf16
from featurizers.errors import TrainingError, WeightsError
from featurizers.extractor import Precision
from pipelines.errors import ConfigError, LakeError
from pipelines.extract import ExtractConfig, extract
from pipelines.extract_config import BackboneConfig
from pipelines.finetune import finetune, plan_training
from pipelines.lake import Lake
from pipelines.stored_heads import load_head
from pipelines.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("spark")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lake(ingested_lake: Path, tmp_path: Path) -> Path:
    """A lake with studies, to be written to."""
    copy = tmp_path / "lake"
    shutil.copytree(ingested_lake, copy, ignore=shutil.ignore_patterns("features", "heads", "predictions"))
    return copy


def card(lake: Path, name: str = "tried") -> dict[str, Any]:
    told: dict[str, Any] = json.loads((left(lake, name) / "card.json").read_text())
    return told


def same_weights(first: Path, second: Path) -> bool:
    one, other = (load_file(each / "backbone.safetensors") for each in (first, second))
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_it_computes_in_what_the_device_is_made_for(lake: Path) -> None:
    """What is planned, and kept beside the weights, is the arithmetic itself; what is asked for comes first."""
    has_bf16 = computes_in_bf16("cpu")
    asked = {"null": Precision.BF16 if has_bf16 else Precision.FP32, "bf16": Precision.BF16, "fp32": Precision.FP32}
    planned = {name: plan_training(config(lake, precision=name)) for name in asked}
    assert {name: training.config.precision for name, training in planned.items()} == asked
    assert planned["bf16"].identity != planned["fp32"].identity
    assert planned["null"].identity == planned[str(asked["null"])].identity


def test_it_leaves_a_backbone_with_all_that_tells_of_it(lake: Path) -> None:
    summary = str(finetune(config(lake, **{"freeze.epochs": 1})))
    names = {file.name for file in left(lake).iterdir()}
    assert names == {
        "backbone.safetensors",
        "top.safetensors",
        "card.json",
        "epochs.parquet",
        "metrics.json",
        "curves.svg",
        "report.html",
        "run.json",
        "_SUCCESS",
    }
    told = card(lake)
    assert (told["backbone"], told["task"], told["classes"]) == (SMALL, "binary", ["normal", "pneumonia"])
    studies = [row for file in lake.glob("studies/run=*/*.parquet") for row in pq.read_table(file).to_pylist()]
    for split in ("train", "val", "test"):
        of_split = [row for row in studies if row["split"] == split]
        assert told["images"][split] == len(of_split)
        assert told["patients"][split] == len({row["patient_key"] for row in of_split})
        normal = sum(dict(row["findings"]).get("normal") == 1 for row in of_split)
        assert told["class_counts"][split]["normal"] == normal
    metrics = json.loads((left(lake) / "metrics.json").read_text())
    assert set(metrics["metrics"]) == set(metrics["baseline"]) == {"val", "test"}
    epochs = pq.read_table(left(lake) / "epochs.parquet")
    assert epochs["phase"].to_pylist() == ["freeze", "unfreeze", "unfreeze"]
    assert "val: AUC" in summary
    assert "NOT calibrated" in summary
    assert "backbone.weights=lake://backbones/tried" in summary
    page = (left(lake) / "report.html").read_text()
    assert "Research use only" in page
    assert not list((lake / "backbones" / "tried" / "_courses").iterdir())


def test_what_is_done_is_not_done_again_and_other_settings_are(lake: Path) -> None:
    first = finetune(config(lake))
    assert "there already" in str(finetune(config(lake)))
    assert len(list((lake / "backbones" / "tried").glob("run=*"))) == 1
    # How it is run is no other training.
    assert "there already" in str(finetune(config(lake, cache_mb=0, checkpoint_minutes=1)))
    assert "there already" not in str(finetune(config(lake, seed=1)))
    assert "there already" not in str(first)
    assert len(list((lake / "backbones" / "tried").glob("run=*"))) == 2


def test_features_and_heads_come_of_it(lake: Path) -> None:
    """Stage two takes the backbone by name, and a head's val holds what the backbone's training held out."""
    finetune(config(lake, **{"hold_out.by": "border", "hold_out.share": 0.3}))
    extract(ExtractConfig(lake=str(lake), backbone=BackboneConfig(weights="lake://backbones/tried")))
    there = Lake.open(str(lake))
    (extractor,) = there.extractors()
    features = there.features(extractor).to_arrow(["features"])
    assert {len(row) for row in features["features"].to_pylist()} == {8}
    record = train(TrainConfig(lake=str(lake), task="binary", head="logistic"))
    assert "by border" in str(record)
    assert "Caution" not in str(record)
    metrics = json.loads(next((lake / "heads/binary/logistic").glob("run=*/metrics.json")).read_text())
    groups = {(each["attribute"], each["value"]) for each in metrics["metrics"]["val"]["subgroups"]}
    assert ("acquisition", "held out by border") in groups


def test_its_own_top_is_a_head_that_answers_as_the_network_did(lake: Path) -> None:
    finetune(config(lake, task="three_class", **{"top.dense": 6, "top.dropout": 0.1}))
    backbones = [{"weights": "lake://backbones/tried"}]
    # What the top was not trained on: other pooling, other weights.
    backbones += [backbones[0] | {"name": f"{SMALL},pool=max"}, {"name": SMALL, "weights": "random"}]
    for backbone in backbones:
        extract(ExtractConfig(lake=str(lake), backbone=BackboneConfig(**backbone), precision=Precision.FP32))
    there = Lake.open(str(lake))
    told = {each: there.extractor_card(each) for each in there.extractors()}
    asked = {"lake": str(lake), "task": "three_class", "head": "own_top", "calibration": Calibration.NONE}
    for extractor, card in told.items():
        settings = TrainConfig(**asked | {"extractor": extractor})
        if card["weights"].startswith("random"):
            with pytest.raises(LakeError, match="these features are of weights 'random"):
                train(settings)
        elif "pool=max" in card["backbone"]:
            with pytest.raises(LakeError, match=r"used as .*pool=max"):
                train(settings)
        else:
            own = extractor
            assert "not fitted: the top of lake://backbones/tried/run=" in str(train(settings))
    head = load_head(there, "three_class/own_top")
    end_to_end = json.loads((left(lake) / "metrics.json").read_text())["metrics"]["val"]
    # Brier scores are of the probabilities themselves.
    for name, each in head.metrics["val"].per_class.items():
        assert each.brier.value == pytest.approx(end_to_end["per_class"][name]["brier"]["value"], abs=1e-4)
    (report,) = lake.glob("heads/three_class/own_top/run=*/report.html")
    assert "it was fine-tuned along with its backbone, on the images of train" in report.read_text()
    with pytest.raises(LakeError, match=r"fine-tuned for task three_class .* and task binary asks for"):
        train(TrainConfig(**asked | {"extractor": own, "task": "binary"}))
    with pytest.raises(ConfigError, match="Leave params"):
        train(TrainConfig(**asked | {"extractor": own, "params": {"hidden": [3]}}))


def test_hold_outs_move_images_from_train_to_val_and_say_so(lake: Path) -> None:
    finetune(config(lake, name="plain"))
    summary = str(finetune(config(lake, **{"hold_out.by": "border", "hold_out.share": 0.3})))
    plain, held = card(lake, "plain")["images"], card(lake)["images"]
    moved = card(lake)["hold_out"]["images"]
    assert moved > 0
    assert (held["train"], held["val"]) == (plain["train"] - moved, plain["val"] + moved)
    assert held["test"] == plain["test"]
    assert "hold-out" in summary
    assert "held out by border" in (left(lake) / "report.html").read_text()


def test_a_start_that_has_seen_what_is_now_val_is_told(lake: Path) -> None:
    finetune(config(lake, name="plain"))
    start = {"backbone.weights": "lake://backbones/plain", "freeze.epochs": 0}
    assert "caution" in str(finetune(config(lake, **start, **{"hold_out.by": "border", "hold_out.share": 0.3})))
    assert "caution" not in str(finetune(config(lake, name="again", **start)))
    # What it starts from tells its architecture.
    assert card(lake, "again")["backbone"] == SMALL


@pytest.mark.parametrize(
    "settings", [{}, {"sampling": "over_sample"}, {"updates_per_epoch": 3}, {"updates_per_epoch": 11}]
)
def test_streaming_and_memory_give_the_same_training(lake: Path, settings: dict[str, Any]) -> None:
    finetune(config(lake, **settings))
    finetune(config(lake, name="streamed", cache_mb=0, **settings))
    assert losses(lake, "streamed") == losses(lake)
    assert same_weights(left(lake), left(lake, "streamed"))
    wanted = settings.get("updates_per_epoch")
    updates = pq.read_table(left(lake) / "epochs.parquet")["updates"].to_pylist()
    assert wanted is None or updates == [wanted, wanted]


def test_over_sampling_shows_rare_classes_as_often(lake: Path) -> None:
    finetune(config(lake, sampling="over_sample"))
    counts = card(lake)["class_counts"]["train"]
    images = pq.read_table(left(lake) / "epochs.parquet")["images"].to_pylist()
    even = 2 * max(counts.values())
    # Eight lanes of equal length: up to seven rows stand twice.
    assert all(even <= shown < even + 8 for shown in images)


def test_a_killed_training_goes_on_where_it_was(lake: Path) -> None:
    settings = {"unfreeze.epochs": 6, "backbone.name": "simple_cnn:dense=0,filters=4-8,size=64"}
    command = [sys.executable, str(ROOT / "jobs/finetune_backbone.py"), *overrides(lake, **settings)]
    job = subprocess.Popen([*command, "checkpoint_minutes=1e-9"], start_new_session=True, stderr=subprocess.DEVNULL)
    checkpoints = lake / "backbones" / "tried" / "_courses"
    while job.poll() is None and not list(checkpoints.glob("*/checkpoint.pt")):
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not list((lake / "backbones" / "tried").glob("run=*"))
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    finetune(config(lake, name="whole", **settings))
    assert same_weights(left(lake), left(lake, "whole"))
    assert losses(lake) == pytest.approx(losses(lake, "whole"))
    assert "Fine-tuned backbone tried" in again.stdout


def test_it_can_be_paused_after_an_epoch(lake: Path) -> None:
    training = plan_training(config(lake))
    training.advance(until=1)
    assert [each.epoch for each in training.history()] == [1]
    assert training.course.outcome() is None
    training.advance(until=1)
    assert len(training.history()) == 1
    finetune(config(lake))
    finetune(config(lake, name="whole"))
    assert same_weights(left(lake), left(lake, "whole"))


def test_two_processes_of_spark_give_the_curve_of_one(lake: Path) -> None:
    """Within 1e-4, as no batch norm is trained."""
    finetune(config(lake, name="one"))
    finetune(config(lake, name="two", launcher="spark", processes=2))
    np.testing.assert_allclose(losses(lake, "two"), losses(lake, "one"), atol=1e-4)
    assert "2 processes" in card(lake, "two")["device"]


def test_a_training_that_diverges_says_where_and_keeps_the_best(lake: Path) -> None:
    wild = {"freeze.epochs": 1, "unfreeze.optimiser": "sgd", "unfreeze.learning_rate": 1e20}
    with pytest.raises(TrainingError, match=r"epoch 2.*(?s:.*)weights of epoch 1.*kept: backbone.weights=") as told:
        finetune(config(lake, **wild))
    file = str(told.value).rpartition("backbone.weights=")[2]
    assert not list((lake / "backbones" / "tried").glob("run=*"))
    finetune(config(lake, **{"backbone.weights": file}))
    assert card(lake)["backbone"] == SMALL


def test_damaged_crops_are_left_out_and_counted(lake: Path) -> None:
    """So many that batches are empty now and then."""
    for file in sorted(lake.glob("studies/run=*/*.parquet")):
        table = pq.read_table(file)
        crops = [
            b"no PNG" if split == "train" and number % 12 else crop
            for number, (split, crop) in enumerate(
                zip(table["split"].to_pylist(), table["crop"].to_pylist(), strict=True)
            )
        ]
        place = table.schema.get_field_index("crop")
        pq.write_table(table.set_column(place, table.schema.field("crop"), [crops]), file)
    summary = str(finetune(config(lake, cache_mb=0, batch_size=8)))
    assert "damaged crops" in summary
    finetune(config(lake, name="memory", batch_size=8))
    assert losses(lake, "memory") == losses(lake)


def test_a_lake_without_val_is_told(lake: Path) -> None:
    for file in lake.glob("studies/run=*/*.parquet"):
        table = pq.read_table(file)
        splits = ["train" if split == "val" else split for split in table["split"].to_pylist()]
        place = table.schema.get_field_index("split")
        pq.write_table(table.set_column(place, table.schema.field("split"), [splits]), file)
    with pytest.raises(LakeError, match=r"no image of the val split.*hold_out.by="):
        finetune(config(lake))


def test_a_val_that_can_not_choose_is_told_before_anything_is_trained(lake: Path) -> None:
    for file in lake.glob("studies/run=*/*.parquet"):
        table = pq.read_table(file)
        kept = [row for row in table.to_pylist() if row["split"] != "val" or dict(row["findings"]).get("normal") == 1]
        pq.write_table(table.from_pylist(kept, table.schema), file)
    with pytest.raises(LakeError, match=r"images of val do not define auc.*monitor=loss"):
        finetune(config(lake))
    finetune(config(lake, monitor="loss"))


def test_a_lake_laid_out_anew_is_another_training(lake: Path) -> None:
    """Rows lie elsewhere, so that an epoch has another order; a checkpoint of the old one is not taken up."""
    before = plan_training(config(lake)).identity
    assert plan_training(config(lake)).identity == before
    for file in lake.glob("studies/run=*/*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.take(list(reversed(range(len(table))))), file)
    assert plan_training(config(lake)).identity != before


def test_a_class_that_train_lacks_is_told_before_anything_is_trained(lake: Path) -> None:
    for file in lake.glob("studies/run=*/*.parquet"):
        table = pq.read_table(file)
        kept = [row for row in table.to_pylist() if row["split"] != "train" or dict(row["findings"]).get("normal") == 1]
        pq.write_table(table.from_pylist(kept, table.schema), file)
    with pytest.raises(TaskError, match=r"'pneumonia'.*has no row in train"):
        finetune(config(lake))


def test_weights_of_another_architecture_are_told(lake: Path) -> None:
    finetune(config(lake))
    other = {"backbone.name": "resnet18:size=32", "backbone.weights": "lake://backbones/tried"}
    with pytest.raises(WeightsError, match=r"simple_cnn.*resnet18|resnet18.*simple_cnn"):
        finetune(config(lake, name="other", **other))


def test_a_stage_that_is_not_there_is_told(lake: Path) -> None:
    with pytest.raises(TrainingError, match=r"no stage 'layer9'.*block1"):
        finetune(config(lake, **{"unfreeze.train": "layer9"}))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"unfreeze.epochs": 0}, "nothing is trained"),
        ({"processes": 2}, "launcher=spark"),
        ({"batch_size": 12}, "multiple of 8"),
        ({"loss.kind": "focal", "loss.label_smoothing": 0.1}, "label_smoothing"),
        ({"augment.zoom": "[1.2,0.8]"}, "zoom"),
        ({"monitor": "beauty"}, "monitor"),
        ({"name": "a/b"}, "name"),
        ({"unfreeze.learning_rat": 1}, "did you mean unfreeze.learning_rate"),
    ],
)
def test_senseless_settings_are_told_before_any_work(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(tmp_path, **wrong)


def test_a_labels_task_trains_with_unknown_targets(lake: Path, tmp_path: Path) -> None:
    task = tmp_path / "pair.yaml"
    task.write_text("multi_label: true\nclasses:\n  bacterial: {any: [bacterial]}\n  viral: {any: [viral]}\n")
    settings = {"task": task, "loss.balance": "batch_weight", "sampling": "up_sample", "average": 0.9}
    finetune(config(lake, **settings))
    assert card(lake)["multi_label"]
    assert np.isfinite(losses(lake)).all()


def test_a_second_process_at_the_same_training_is_refused(lake: Path) -> None:
    training = plan_training(config(lake))
    note = {"id": "x", "host": "another-machine", "pid": 1, "alive": datetime.now(UTC).isoformat()}
    training.course.folder.write_json("_training.json", note)
    with pytest.raises(LakeError, match=r"another training is at work.*another-machine"):
        finetune(config(lake))
