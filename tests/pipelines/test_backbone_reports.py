"""What a fine-tuning leaves for people: the page, the picture of its curves, the table of its epochs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from browser import draw, find_browser
from drawn_heads import FOURTEEN, THREE, TWO, baseline_of, decide, draw_answers
from html_pages import Page

from classifiers.evaluation import Evaluation
from classifiers.metrics import evaluate
from classifiers.tasks import Task
from featurizers.finetuning.trainer import EpochResult
from pipelines.acquisition import ACQUISITION, AS_TRAIN, HeldOut
from pipelines.backbone_reports.curves import curves_svg, epochs_table
from pipelines.backbone_reports.page import render_page
from pipelines.finetuned import BackboneCard, Judged, without_places

HELD_OUT = "held out by series"
#: As the card of a training without a hold-out has it.
NOBODY = HeldOut().as_dict()
SVG = "{http://www.w3.org/2000/svg}"


def draw_epochs(n: int = 13, frozen: int = 3, best: int = 9, **figures: float | None) -> list[EpochResult]:
    """Epochs that learn, and from the best one on learn by heart."""

    def epoch(at: int) -> EpochResult:
        away = abs(at - best)
        found: dict[str, float | None] = {
            "loss": 0.2 + 0.02 * away,
            "auc": 0.99 - 0.01 * away,
            "macro_f1": 0.9 - 0.01 * away,
            "recall": 0.91 - 0.01 * away,
            "accuracy": 0.92 - 0.01 * away,
        }
        is_frozen = at <= frozen
        return EpochResult(
            epoch=at,
            phase="freeze" if is_frozen else "unfreeze",
            updates=40,
            images=1280,
            learning_rate=1e-3 if is_frozen else 1e-4 / (at - frozen),
            train_loss=0.7 / at,
            figures=found | figures,
            is_best=at <= best,
            seconds=72.0,
            images_per_second=1000.0 + at,
        )

    return [epoch(at) for at in range(1, n + 1)]


def draw_card(task: Task = THREE, **changed: Any) -> BackboneCard:
    images = {"train": 4000, "val": 600, "test": 400}
    card = BackboneCard(
        name="three_class-resnet50",
        backbone="resnet50:pool=lse,size=128",
        started_from="random (seed 0)",
        licence="BSD-3-Clause",
        parameters=23_514_179,
        trained_parameters=14_970_883,
        task=task.name,
        classes=task.classes,
        multi_label=task.multi_label,
        top="one linear layer, sigmoid" if task.multi_label else "one linear layer, softmax",
        crops="projection lungs, margin 0.05, 256 px",
        hold_out={"by": "series", "share": 0.2, "patients": 310, "images": 1024, "sha256": "b" * 64},
        images=images,
        patients={"train": 2000, "val": 310, "test": 200},
        class_counts={
            split: {name: n // (2 + at) for at, name in enumerate(task.classes)} for split, n in images.items()
        },
        data="d" * 64,
        identity="f" * 64,
        monitor="auc",
        best_epoch=9,
        seconds=4210.0,
        device="cpu, 2 threads, 1 process",
        config={"task": task.name, "seed": 7, "name": None, "unfreeze": {"epochs": 10, "schedule": "cosine"}},
        versions={"torch": "2.11.0", "torchvision": "0.26.0"},
    )
    return replace(card, **changed)


def draw_judged(task: Task = THREE, n: int = 400, seed: int = 0, *, lost: float = 0.0, apart: str = "") -> Judged:
    """The first half was taken as train was, the other was held out, and is told with less of a signal.

    Args:
        apart: `both`, or the only part that there is; empty: parts are not told.
    """
    y, p = draw_answers(task, n, seed, signal=2.5)
    half = n // 2
    p[half:] = draw_answers(task, n, seed, signal=2.5 - lost)[1][half:]
    parts = np.where(np.arange(n) < half, AS_TRAIN, HELD_OUT) if apart == "both" else np.full(n, apart)
    found = evaluate(
        task, y, p, decide(task, p), patients=np.arange(n) // 2, attributes={ACQUISITION: parts} if apart else {},
        resamples=50,
    )  # fmt: skip
    return Judged(np.array([f"{row:064x}" for row in range(n)]), p, found, baseline_of(task, n, seed))


def judge_splits(task: Task = THREE, splits: Sequence[str] = ("val", "test"), **changed: Any) -> dict[str, Judged]:
    judged = {"val": draw_judged(task, lost=1.5, apart="both", **changed), "test": draw_judged(task, seed=1, **changed)}
    return {split: judged[split] for split in splits}


SHAPES: dict[str, tuple[Task, dict[str, Any], dict[str, Any], Sequence[str]]] = {
    "two": (TWO, {}, {}, ("val", "test")),
    "three": (THREE, {}, {}, ("val", "test")),
    "fourteen, one never there": (FOURTEEN, {}, {}, ("val", "test")),
    "no test, no hold-out": (THREE, {"hold_out": NOBODY}, {}, ("val",)),
    "not judged": (THREE, {}, {}, ()),
    "one epoch": (TWO, {"best_epoch": 1}, {"n": 1, "frozen": 0, "best": 1}, ("val", "test")),
    "hundred epochs": (TWO, {"best_epoch": 80}, {"n": 100, "best": 80}, ("val",)),
    "a figure never defined": (FOURTEEN, {}, {"auc": None}, ("val", "test")),
}


def page_of(
    task: Task = THREE,
    card: dict[str, Any] | None = None,
    epochs: dict[str, Any] | None = None,
    splits: Sequence[str] = ("val", "test"),
) -> Page:
    return Page(render_page(draw_card(task, **(card or {})), draw_epochs(**(epochs or {})), judge_splits(task, splits)))


@pytest.mark.parametrize("shape", SHAPES)
def test_page_is_sound(shape: str) -> None:
    task, card, epochs, splits = SHAPES[shape]
    page = page_of(task, card, epochs, splits)
    page.assert_sound()
    assert "Research use only; not a medical device; not for diagnosis." in page.text
    assert "The probabilities are not calibrated" in page.text
    (policy,) = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    headings = {attrs["id"] for attrs in page.named("h2")}
    assert {f"#{each}" for each in headings} <= {href for href, _ in page.links}


def test_summary_tells_task_backbone_best_epoch_and_figures_beside_the_baseline() -> None:
    judged = judge_splits()
    text = Page(render_page(draw_card(), draw_epochs(), judged)).text
    top = text[: text.index("What it learned from", text.index("Balanced accuracy on test"))]
    assert "three_class: 3 classes, normal, viral, bacterial" in top
    assert "resnet50:pool=lse,size=128, started from random (seed 0)" in top
    assert "9 of 13, chosen by the AUC on val; in phase unfreeze" in top
    assert f"Balanced accuracy on test {judged['test'].evaluation.balanced_accuracy.value:.3f}" in top

    def told(evaluation: Evaluation) -> str:
        of = evaluation.balanced_accuracy
        return f"{of.value:.3f} {of.low:.3f} to {of.high:.3f}"

    columns = (told(of) for split in ("test", "val") for of in (judged[split].evaluation, judged[split].baseline))
    assert f"balanced accuracy {' '.join(columns)}" in top


def test_figures_of_val_alone_are_told_as_such() -> None:
    alone = page_of(splits=("val",)).text
    assert "Balanced accuracy on val" in alone
    assert "No test split." in alone
    assert "there is no test split to check them on" in alone
    both = page_of().text
    assert "No test split." not in both
    assert both.index("On test") < both.index("On val")
    assert "The best epoch was chosen by the AUC on val" in both
    assert "Not evaluated" in page_of(splits=()).text


def test_what_films_taken_apart_cost_is_told() -> None:
    judged = judge_splits()
    parts = {part.value: part for part in judged["val"].evaluation.subgroups}
    lost = parts[AS_TRAIN].balanced_accuracy.value - parts[HELD_OUT].balanced_accuracy.value  # type: ignore[operator]
    assert lost > 0.05
    text = Page(render_page(draw_card(), draw_epochs(), judged)).text
    assert f"On films held out by series the balanced accuracy is {lost:.3f} lower" in text
    assert f"−{lost:.3f}" in text
    for name, recall in parts[HELD_OUT].recall.items():
        alike = parts[AS_TRAIN].recall[name]
        shown = [f"{each.value:.3f} {each.low:.3f} to {each.high:.3f}" for each in (alike, recall)]
        assert f"recall of {name} {' '.join(shown)}" in re.sub(r"\s+", " ", text)
    assert "Held out by series, about 20 % of the images of train: 1,024 images of 310 patients." in text


@pytest.mark.parametrize(
    ("apart", "lost", "told"),
    [
        ("both", -2.0, "No drop on films held out by series"),
        (HELD_OUT, 0.0, "All of val was held out by series"),
        (AS_TRAIN, 0.0, None),
        ("", 0.0, None),
    ],
)
def test_val_that_shows_no_drop(apart: str, lost: float, told: str | None) -> None:
    judged = {"val": draw_judged(apart=apart, lost=lost)}
    page = Page(render_page(draw_card(), draw_epochs(), judged))
    page.assert_sound()
    assert ("lower:" in page.text) is False
    assert told in page.text if told else "Val apart" not in page.text


def test_without_a_hold_out_the_reader_is_warned() -> None:
    warning = "Nothing was held out by acquisition."
    without = page_of(card={"hold_out": NOBODY}).text
    assert warning in without
    assert without.count("Nothing was held out by acquisition: val is the lake's own.") == 2
    assert "Held out by" not in without
    assert warning not in page_of().text


@pytest.mark.parametrize("splits", [("val", "test"), ()])
def test_images_of_val_that_the_start_has_learned_are_told_at_the_top(splits: Sequence[str]) -> None:
    caution = "the backbone was fine-tuned with hold_out.by=none, <and> these rows are with border"
    page = page_of(card={"caution": caution}, splits=splits)
    page.assert_sound()
    told = f"What it started from may have learned images of val: {caution}."
    assert told in page.text[: page.text.index("Images and patients that the task answers")]
    assert page.text.count(caution) == 2
    assert "What it started from may have learned" not in page_of(splits=splits).text


def test_a_card_comes_back_from_json_whatever_version_wrote_it() -> None:
    card = draw_card(caution="why")
    told = json.loads(json.dumps(card.as_dict()))
    assert BackboneCard.from_dict(told) == card
    del told["caution"]
    assert BackboneCard.from_dict(told).caution is None


def test_no_page_tells_where_anything_lies() -> None:
    places = {
        "lake": "/home/jo/lake",
        "task": "/home/jo/task.yaml",
        "master": "spark://jo:7077",
        "backbone": {"name": "resnet50", "weights": "/home/jo/weights.pt"},
    }
    page = page_of(card={"config": places | {"seed": 7}})
    assert "jo" not in page.text.split()
    assert "/home" not in page.html
    assert "7077" not in page.html
    assert "backbone.name resnet50" in page.text
    assert without_places(places) == {"backbone": {"name": "resnet50"}}


def test_parts_of_val_with_other_classes_are_no_comparison() -> None:
    judged = draw_judged(FOURTEEN, n=60, apart="both")
    supports = [part.support for part in judged.evaluation.subgroups]
    (absent, *_) = [name for name in FOURTEEN.classes if bool(supports[0][name]) != bool(supports[1][name])]
    text = Page(render_page(draw_card(FOURTEEN), draw_epochs(), {"val": judged})).text
    assert absent in text[text.index("One of the two has no image of") :].partition(":")[0]


def test_curves_are_there_for_every_figure_and_tell_where_they_are_best() -> None:
    labels = [svg.get("aria-label") or "" for svg in page_of().named("svg")]
    assert "Loss of train and val by epoch. train: 0.7 in epoch 1, 0.05385 in epoch 13; val: lowest 0.2 in epoch 9" in (
        labels
    )
    for figure, best in (("AUC", 0.99), ("F1, macro", 0.9), ("recall, macro", 0.91), ("accuracy", 0.92)):
        assert f"{figure} on val by epoch: highest {best} in epoch 9" in labels
    assert "Learning rate: 0.001 in epoch 1, 1e-05 in epoch 13" in labels
    assert "Images per second: 1,001 to 1,013 images/s" in labels
    text = page_of().text
    assert "freeze: epochs 1–3 · unfreeze: epochs 4–13" in text
    assert "a phase ends" in text
    assert "AUC on val, which chose the best epoch" in text


def test_every_epoch_is_there_in_numbers_and_the_best_is_marked() -> None:
    text = page_of().text
    assert "★ 9 unfreeze 0.0778 0.2000 0.9900 0.9000 0.9100 0.9200 1.67e-05 1,009 1 min" in text
    assert "13 unfreeze 0.0538 0.2800" in text
    undefined = page_of(epochs={"auc": None}).text
    assert "★ 9 unfreeze 0.0778 0.2000 n/a 0.9000" in undefined


def test_a_training_cut_short_is_told() -> None:
    told = "The best epoch is the last"
    assert told in page_of(card={"best_epoch": 13}, epochs={"best": 13}).text
    assert told not in page_of().text
    one = page_of(card={"best_epoch": 1}, epochs={"n": 1, "frozen": 0, "best": 1}).text
    assert told not in one
    assert "the best of" not in one
    assert "a phase ends" not in one


def test_a_lone_epoch_is_told_and_drawn_once() -> None:
    page = page_of(card={"best_epoch": 1}, epochs={"n": 1, "frozen": 0, "best": 1})
    labels = [svg.get("aria-label") or "" for svg in page.named("svg")]
    assert "Loss of train and val by epoch. train: 0.7 in epoch 1; val: lowest 0.2 in epoch 1" in labels
    assert "Learning rate: 0.0001 in epoch 1" in labels
    assert "Images per second: 1,001 images/s" in labels


def test_an_epoch_whose_speed_is_not_known_is_left_out() -> None:
    epochs = [replace(epoch, images_per_second=0.0) for epoch in draw_epochs(2, 0, 2)]
    page = Page(render_page(draw_card(best_epoch=2), epochs, {}))
    page.assert_sound()
    assert "Images per second: not measured" in [svg.get("aria-label") for svg in page.named("svg")]
    epochs[1] = replace(epochs[1], images_per_second=50.0)
    assert "Images per second: 50 images/s" in render_page(draw_card(best_epoch=2), epochs, {})


def test_counts_identity_settings_and_versions_are_told() -> None:
    text = page_of().text
    for told in (
        "train 4,000 2,000 val 600 310 test 400 200",
        "viral 1,333 33.3 % 200 33.3 % 133 33.2 %",
        "23,514,179, of which the last phase trained 14,970,883",
        "cpu, 2 threads, 1 process; 1 h 10 min",
        "d" * 64,
        "f" * 64,
        "BSD-3-Clause",
        "unfreeze.schedule cosine",
        "name null",
        "torchvision 0.26.0",
        "trained once (seed 7)",
        "Features of train images look better than they are",
    ):
        assert told in text


def test_labels_are_decided_each_by_itself() -> None:
    text = page_of(FOURTEEN).text
    assert "Macro AUC on test" in text
    assert "A label is decided at 0.5 or above." in text
    assert "14 classes" in text
    assert "The likeliest class is decided." in page_of().text


def test_names_are_escaped() -> None:
    evil = "<b>&\"'</b>"
    task = Task.exclusive(evil, ("normal", evil))
    card = draw_card(task, name=evil, backbone=evil, started_from=evil, licence=evil, top=evil, crops=evil, device=evil)
    epochs = [replace(epoch, phase=evil) for epoch in draw_epochs()]
    page = Page(render_page(replace(card, config={evil: evil}, versions={evil: evil}), epochs, judge_splits(task)))
    assert "<b>" not in page.html
    page.assert_sound()
    assert evil in "".join(ElementTree.fromstring(curves_svg(epochs, "auc")).itertext())


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.skipif(find_browser() is None, reason="no Chromium to draw pages with: install chromium")
def test_page_fits_its_window_and_the_console_is_silent(width: int, tmp_path) -> None:
    long = {"name": "a_backbone_" * 12, "backbone": "timm:" + "x" * 150, "started_from": "/a/very/" + "long/" * 40}
    html = page_of(FOURTEEN, card=long | {"config": {"name": "x" * 200}}).html
    drawn = draw(find_browser() or "", html, tmp_path, width)
    assert drawn.width <= width
    assert drawn.scroll_width <= drawn.width
    assert drawn.console == []


def test_picture_shows_losses_and_the_monitored_figure_by_itself() -> None:
    picture = ElementTree.fromstring(curves_svg(draw_epochs(), "auc"))
    words = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"Learning curves", "train", "val", "best epoch", "a phase ends", "loss", "AUC"} <= set(words)
    assert "freeze: epochs 1–3 · unfreeze: epochs 4–13 · best: epoch 9, by the AUC on val" in words
    # Viewers of pictures know neither the page's style nor its variables.
    (style,) = picture.iter(f"{SVG}style")
    assert style.text and "var(" not in style.text and ".l1" in style.text
    assert int(picture.attrib["width"]) > 600
    assert not {"script", "image", "foreignObject"} & {each.tag.removeprefix(SVG) for each in picture.iter()}


def test_picture_of_one_epoch_and_of_the_loss_alone() -> None:
    one = ElementTree.fromstring(curves_svg(draw_epochs(1, 0, 1), "auc"))
    assert "a phase ends" not in [text.text for text in one.iter(f"{SVG}text")]
    loss = ElementTree.fromstring(curves_svg(draw_epochs(), "loss"))
    assert len(list(loss.iter(f"{SVG}g"))) == 1
    assert b"nan" not in curves_svg(draw_epochs(auc=None), "auc").lower()


def test_table_has_a_typed_row_for_every_epoch_and_null_for_what_is_not_defined() -> None:
    table = epochs_table(draw_epochs(auc=None))
    assert table.schema.names == [
        "epoch", "phase", "updates", "images", "learning_rate", "train_loss", "val_loss", "val_auc", "val_macro_f1",
        "val_recall", "val_accuracy", "is_best", "seconds", "images_per_second",
    ]  # fmt: skip
    assert table.schema.field("epoch").type == pa.int32()
    assert table.schema.field("val_auc").type == pa.float64()
    assert table["val_auc"].to_pylist() == [None] * 13
    assert table["epoch"].to_pylist() == list(range(1, 14))
    assert table["phase"].to_pylist() == ["freeze"] * 3 + ["unfreeze"] * 10
    assert table["is_best"].to_pylist() == [True] * 9 + [False] * 4
    assert table["train_loss"][0].as_py() == 0.7


def test_table_of_no_epochs_has_its_columns() -> None:
    table = epochs_table([])
    assert table.num_rows == 0
    assert table.schema.field("train_loss").type == pa.float64()
