"""Stored heads side by side: the same rows, differences to the first, and files that say what the page shows."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from html_pages import Page
from vector_lake import EXTRACTOR, write_vector_lake

from classifiers.errors import HeadError
from classifiers.tasks import get_task
from classifiers.training import train_head
from pipelines.compare import CompareConfig, compare_heads
from pipelines.config import model_from
from pipelines.errors import ConfigError, LakeError
from pipelines.job import JobRecord
from pipelines.labelled import read_labelled
from pipelines.lake import Lake
from pipelines.stored_heads import load_head, save_head
from pipelines.train import TrainConfig, train


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return write_vector_lake(tmp_path / "lake")


def keep(lake: Lake, head: str, task: str = "binary", *, name: str | None = None, extractor: str = EXTRACTOR) -> None:
    with read_labelled(lake, EXTRACTOR, get_task(task)) as rows:
        params = {"max_epochs": 3} if head == "mlp" else {}
        trained = train_head(
            get_task(task), head, rows.train, extractor=extractor, val=rows.val, test=rows.test, params=params,
            resamples=20,
        )  # fmt: skip
    save_head(lake, name or head, trained, JobRecord("train_head", CompareConfig(lake="x", heads=("x",))))


def config(lake: Lake, *heads: str, **settings: Any) -> CompareConfig:
    return CompareConfig(lake=lake.folder.path, heads=heads, **({"resamples": 20} | settings))


def files(lake: Lake, name: str = "heads") -> tuple[Page, list[dict[str, str]], dict[str, Any]]:
    run = lake.comparisons(name).runs()[-1]
    rows = list(csv.DictReader(run.read("comparison.csv").decode().splitlines()))
    return Page(run.read("report.html").decode()), rows, run.read_json("comparison.json")


def test_heads_of_several_tasks_are_compared_within_each(lake: Lake) -> None:
    keep(lake, "logistic")
    keep(lake, "mlp")
    keep(lake, "logistic", "three_class")
    keep(lake, "mlp", "three_class")
    summary = str(
        compare_heads(config(lake, "binary/logistic", "binary/mlp", "three_class/mlp", "three_class/logistic"))
    )
    page, rows, figures = files(lake)
    page.assert_sound()
    assert "Task binary" in page.text
    assert "Task three_class" in page.text
    assert "the first head of the task (binary/logistic, three_class/mlp)" in page.text
    assert [(row["task"], row["head"]) for row in rows] == [
        ("binary", "binary/logistic"),
        ("binary", "majority baseline"),
        ("binary", "binary/mlp"),
        ("three_class", "three_class/mlp"),
        ("three_class", "majority baseline"),
        ("three_class", "three_class/logistic"),
    ]
    by_name = {row["name"]: row for row in figures["rows"]}
    assert by_name["binary/logistic"]["difference"] is None
    assert set(by_name["three_class/logistic"]["p_values"]) == {"normal", "viral", "bacterial"}
    assert summary.count("majority baseline") == 2
    assert str(lake.comparisons("heads").runs()[-1].uri) in summary


def test_figures_are_those_that_the_heads_had_when_they_were_trained(lake: Lake) -> None:
    keep(lake, "logistic", "three_class")
    keep(lake, "mlp", "three_class")
    for split in ("test", "val"):
        compare_heads(config(lake, "three_class/logistic", "three_class/mlp", split=split, name=split))
        page, rows, figures = files(lake, split)
        assert ("looked at val" in page.text) == (split == "val")
        for row in figures["rows"]:
            stored = load_head(lake, row["name"])
            assert row["evaluation"]["n"] == 36
            assert row["evaluation"]["accuracy"]["value"] == stored.metrics[split].accuracy.value
            assert row["baseline"]["accuracy"]["value"] == stored.baseline[split].accuracy.value
        first, second = (row["evaluation"]["averages"]["macro"]["auc"]["value"] for row in figures["rows"])
        difference = figures["rows"][1]["difference"]["macro_auc"]
        assert difference["value"] == pytest.approx(second - first)
        assert difference["low"] <= difference["value"] <= difference["high"]
        assert float(rows[-1]["difference_macro_auc"]) == pytest.approx(second - first)


def test_on_val_heads_are_judged_by_what_all_of_them_held_out(lake: Lake) -> None:
    folder = lake.folder.path
    for name, by in (("one", "series"), ("other", "series"), ("none", "none")):
        asked = {"lake": folder, "task": "binary", "head": "logistic", "name": name, "resamples": 0}
        train(TrainConfig.model_validate(asked | {"hold_out": {"by": by}}))
    alike = load_head(lake, "binary/one").metrics["val"]
    summary = str(compare_heads(config(lake, "binary/one", "binary/other", split="val")))
    page, _, figures = files(lake)
    assert {row["evaluation"]["n"] for row in figures["rows"]} == {alike.n}
    assert alike.n > 36
    assert figures["rows"][0]["evaluation"]["accuracy"]["value"] == alike.accuracy.value
    assert "held out  by series" in summary
    assert "by series (the lowest file numbers" in page.text
    summary = str(compare_heads(config(lake, "binary/one", "binary/none", split="val")))
    page, _, figures = files(lake)
    assert {row["evaluation"]["n"] for row in figures["rows"]} == {36}
    assert "compared on the lake's own val alone" in summary
    assert "compared on the lake's own val alone" in page.text


def test_two_runs_of_a_head_can_be_compared(lake: Lake) -> None:
    keep(lake, "logistic", name="mine")
    keep(lake, "mlp", name="mine")
    older, newer = (f"binary/mine/{run.name}" for run in lake.head_runs("binary", "mine").runs())
    compare_heads(config(lake, older, newer))
    assert {row["name"] for row in files(lake)[2]["rows"]} == {older, newer}


def test_one_head_stands_beside_the_baseline(lake: Lake) -> None:
    keep(lake, "logistic")
    compare_heads(config(lake, "binary/logistic"))
    page, rows, _ = files(lake)
    page.assert_sound()
    assert [row["head"] for row in rows] == ["binary/logistic", "majority baseline"]


def test_what_can_not_be_compared_is_told(lake: Lake) -> None:
    keep(lake, "logistic")
    keep(lake, "mlp", name="other", extractor="f" * 64)
    with pytest.raises(HeadError, match=f"{'f' * 64}.*{EXTRACTOR}"):
        compare_heads(config(lake, "binary/logistic", "binary/other"))
    with pytest.raises(LakeError, match="Heads there: binary/logistic, binary/other"):
        compare_heads(config(lake, "binary/xgboost"))
    with pytest.raises(ConfigError, match="name each once"):
        model_from(CompareConfig, {"lake": "x", "heads": ["binary/mlp", "binary/mlp"]})
    assert not lake.comparisons("heads").names()


def test_questions_that_only_share_a_name_are_told_apart(lake: Lake, tmp_path: Path) -> None:
    keep(lake, "logistic")
    (tmp_path / "binary.yaml").write_text("classes:\n  normal:\n  pneumonia: {any: [bacterial]}\n")
    keep(lake, "mlp", str(tmp_path / "binary.yaml"))
    with pytest.raises(HeadError, match="different questions that are both called 'binary'"):
        compare_heads(config(lake, "binary/logistic", "binary/mlp"))


def test_an_empty_split_is_told(tmp_path: Path) -> None:
    lake = write_vector_lake(tmp_path / "bare", images=9)  # three patients, all in train
    keep(lake, "logistic")
    with pytest.raises(LakeError, match=r"the test split has no row.*split="):
        compare_heads(config(lake, "binary/logistic"))
