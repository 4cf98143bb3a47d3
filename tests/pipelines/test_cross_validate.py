"""A grid cross-validated on a lake: the same folds for all, the baseline always, nothing lost when it breaks off."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from html_pages import Page
from vector_lake import EXTRACTOR, write_vector_lake

from classifiers.errors import HeadError, TaskError
from pipelines import cross_validate as module
from pipelines.acquisition import HeldOut
from pipelines.config import model_from
from pipelines.cross_validate import cross_validate_heads
from pipelines.cross_validation_grid import CrossValidationConfig
from pipelines.errors import ConfigError
from pipelines.folders import Folder
from pipelines.lake import EXTRACTOR_CARD, Lake
from pipelines.splits import Split

QUICK = {"params": {"mlp": {"hidden": [8], "max_epochs": 3}}}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return write_vector_lake(tmp_path / "lake")


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """A task whose labels do not exclude each other."""
    file = tmp_path / "labels.yaml"
    file.write_text("multi_label: true\nclasses:\n  ill: {any: [pneumonia]}\n  bacterial:\n")
    return str(file)


def config(lake: Lake, **settings: Any) -> CrossValidationConfig:
    plain = {"lake": lake.folder.path, "tasks": "binary", "heads": "logistic", "folds": 3, "resamples": 20}
    return model_from(CrossValidationConfig, plain | settings)


def newest(lake: Lake) -> Folder:
    return lake.comparisons("cross_validation").runs()[-1]


def rows(lake: Lake) -> list[dict[str, Any]]:
    return list(newest(lake).read_json("comparison.json")["rows"])


def test_the_grid_of_tasks_heads_and_balances_is_one_page(lake: Lake) -> None:
    grid = {"tasks": ["binary", "three_class"], "heads": ["logistic", "mlp"], "balances": ["none", "smote"]}
    summary = str(cross_validate_heads(config(lake, **grid, **QUICK)))
    page = Page(newest(lake).read("report.html").decode())
    page.assert_sound()
    for part in ("Task binary", "Task three_class", "logistic, smote", "The test split was not touched"):
        assert part in page.text
    table = list(csv.DictReader(newest(lake).read("comparison.csv").decode().splitlines()))
    assert [(row["task"], row["head"], row["balance"]) for row in table if row["head"] != "majority baseline"] == [
        (task, head, balance) for task in grid["tasks"] for head in grid["heads"] for balance in grid["balances"]
    ]
    assert [row["task"] for row in table if row["head"] == "majority baseline"] == grid["tasks"]
    assert summary.count("majority baseline") == 2
    assert "research use only" in summary
    assert "8 on the same 3 folds" in summary


def test_rows_are_train_and_val_and_never_test(lake: Lake) -> None:
    cross_validate_heads(config(lake))
    (row,) = rows(lake)
    studies = lake.studies.to_arrow(["image_id", "split"]).to_pylist()
    wanted = {study["image_id"] for study in studies if study["split"] != Split.TEST}
    table = pq.read_table(BytesIO((newest(lake) / "settings").read("binary-logistic-class_weight.parquet")))
    assert set(table["image_id"].to_pylist()) == wanted
    assert row["evaluation"]["n"] == len(wanted) == 144
    assert row["evaluation"]["patients"] == 48
    assert row["baseline"]["averages"]["macro"]["auc"]["value"] == 0.5
    assert set(table["fold"].to_pylist()) == {0, 1, 2}
    assert (np.array(table["probability_pneumonia"]) >= 0).all()


def test_that_a_fine_tuned_backbone_knows_the_images_is_told(lake: Lake) -> None:
    assert "fine-tuned" not in str(cross_validate_heads(config(lake)))
    folder = lake.features(EXTRACTOR).folder
    folder.write_json(EXTRACTOR_CARD, folder.read_json(EXTRACTOR_CARD) | {"hold_out": HeldOut().as_dict()})
    assert "caution  The backbone behind these features was fine-tuned" in str(cross_validate_heads(config(lake)))
    assert "was fine-tuned" in Page(newest(lake).read("report.html").decode()).text


def test_all_are_held_against_the_first_named(lake: Lake) -> None:
    cross_validate_heads(config(lake, heads=["mlp", "logistic"], balances=["over_sample", "none"], **QUICK))
    by_label = {(row["name"], row["settings"]["balance"]): row for row in rows(lake)}
    assert [label for label, row in by_label.items() if row["difference"] is None] == [("mlp", "over_sample")]
    assert newest(lake).read_json("comparison.json")["reference"] == "mlp, over_sample"
    other, first = by_label["logistic", "none"], by_label["mlp", "over_sample"]
    accuracy = [row["evaluation"]["balanced_accuracy"]["value"] for row in (other, first)]
    assert other["difference"]["balanced_accuracy"]["value"] == pytest.approx(accuracy[0] - accuracy[1])
    assert 0 <= other["p_values"]["pneumonia"] <= 1


def test_pairs_that_do_not_go_together_are_skipped_and_told(lake: Lake, labels: str) -> None:
    grid = {"heads": ["logistic", "mlp", "majority"], "balances": ["smote", "focal", "none"], **QUICK}
    summary = str(cross_validate_heads(config(lake, tasks=["three_class", labels], **grid)))
    tried = [(row["task"], row["name"], row["settings"]["balance"]) for row in rows(lake)]
    assert set(tried) == {
        ("three_class", "logistic", "smote"),
        ("three_class", "logistic", "none"),
        ("three_class", "mlp", "smote"),
        ("three_class", "mlp", "focal"),
        ("three_class", "mlp", "none"),
        ("labels", "logistic", "none"),
        ("labels", "mlp", "focal"),
        ("labels", "mlp", "none"),
    }
    assert "skipped  logistic, focal: this head has no such balance" in summary
    assert "skipped  mlp, smote: task labels has labels that do not exclude each other" in summary
    # The first setting that every task allows.
    assert newest(lake).read_json("comparison.json")["reference"] == "logistic, none"
    assert "Not tried: logistic, focal" in Page(newest(lake).read("report.html").decode()).text


def test_thresholds_of_labels_may_be_chosen_inside_the_folds(lake: Lake, labels: str) -> None:
    cross_validate_heads(config(lake, tasks=labels))
    plain = rows(lake)[0]
    cross_validate_heads(config(lake, tasks=labels, threshold="best_f1", calibration="platt"))
    chosen = rows(lake)[0]
    assert plain["evaluation"]["per_class"]["ill"]["reliability_before"] is None
    assert chosen["evaluation"]["per_class"]["ill"]["reliability_before"] is not None
    assert "a tenth of the training patients" in Page(newest(lake).read("report.html").decode()).text


def test_a_job_that_broke_off_goes_on_with_the_setting_it_was_at(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[str] = []
    real = module.cross_validate

    def counted(task: Any, head: str, *given: Any, **settings: Any) -> Any:
        fitted.append(settings["params"]["balance"])
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return real(task, head, *given, **settings)

    monkeypatch.setattr(module, "cross_validate", counted)
    grid = {"balances": ["none", "class_weight", "over_sample"]}
    with pytest.raises(KeyboardInterrupt):
        cross_validate_heads(config(lake, **grid))
    assert not lake.comparisons("cross_validation").runs()
    record = cross_validate_heads(config(lake, **grid))
    assert fitted == ["none", "class_weight", "over_sample", "over_sample"]
    assert record.counts["taken up"] == 2
    assert [row["settings"]["balance"] for row in rows(lake)] == grid["balances"]
    broken_off = rows(lake)
    # What was taken up lies in the new run too, and a run that was not broken off says the same.
    assert len((newest(lake) / "settings").names()) == 6
    cross_validate_heads(config(lake, **grid, name="whole"))
    (whole,) = lake.comparisons("whole").runs()
    for row, alone in zip(broken_off, whole.read_json("comparison.json")["rows"], strict=True):
        assert row["evaluation"] == alone["evaluation"]
        assert row["difference"] == alone["difference"]


@pytest.mark.parametrize(
    "changed",
    [{"folds": 4}, {"seed": 1}, {"params": {"logistic": {"C": 1.0}}}, {"resamples": 21}, {"tasks": "three_class"}],
)
def test_other_settings_are_not_taken_up(lake: Lake, changed: dict[str, Any]) -> None:
    cross_validate_heads(config(lake))
    assert "taken up" not in cross_validate_heads(config(lake, **changed)).counts
    assert cross_validate_heads(config(lake)).counts["taken up"] == 1


def test_a_setting_that_can_not_be_fitted_costs_the_others_nothing(lake: Lake) -> None:
    grid = {"heads": ["mlp", "logistic"], "params": {"mlp": {"learning_rate": 1e30, "optimizer": "sgd"}}}
    summary = str(cross_validate_heads(config(lake, **grid)))
    assert [row["name"] for row in rows(lake)] == ["logistic"]
    assert "failed   binary: mlp, class_weight: training diverged" in summary
    page = Page(newest(lake).read("report.html").decode())
    page.assert_sound()
    assert "Could not be fitted: binary: mlp, class_weight" in page.text
    with pytest.raises(HeadError, match=r"no setting could be fitted:\n  binary: mlp, class_weight: training diverged"):
        cross_validate_heads(config(lake, **grid | {"heads": "mlp"}))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tasks": "four_class"}, TaskError, "three_class"),
        ({"heads": "forest"}, HeadError, "logistic"),
        ({"heads": "mlp", "params": {"mlp": {"depth": 3}}}, HeadError, "no parameter depth"),
        ({"folds": 49}, HeadError, "49 folds of 48 patients"),
        ({"heads": "majority"}, HeadError, "nothing is left to fit for task 'binary' beside the baseline"),
        ({"balances": "focal"}, HeadError, r"nothing is left.*logistic, focal"),
        ({"params": {"mlp": {}}}, ConfigError, r"params\.mlp belongs to no head of heads=\[logistic\]"),
        ({"params": {"logistic": {"balance": "none"}}}, ConfigError, "leave it out"),
        ({"heads": ["mlp", "mlp"]}, ConfigError, "name each once"),
    ],
)
def test_mistakes_leave_no_run_behind(
    lake: Lake, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        cross_validate_heads(config(lake, **settings))
    assert not lake.comparisons("cross_validation").names()


def test_two_tasks_of_one_name_are_refused(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_text("classes:\n  normal:\n  pneumonia: {any: [bacterial]}\n")
    with pytest.raises(ConfigError, match="have the same name"):
        cross_validate_heads(config(lake, tasks=["binary", str(tmp_path / "binary.yaml")]))
