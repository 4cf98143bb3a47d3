from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_heads import FOURTEEN, THREE, TWO, draw_head
from html_pages import Page
from small_heads import EXTRACTOR, QUICK

from classifiers.reports.examples import Example
from classifiers.reports.page import render_report
from classifiers.reports.tables import in_words
from classifiers.rows import SplitRows
from classifiers.tasks import Task
from classifiers.training import train_head

PNG = b"\x89PNG\r\n\x1a\n"
EXAMPLES = (Example("a" * 64, "viral", "normal", 0.97, PNG), Example("b" * 64, "normal", "viral", 0.95))

SHAPES = {
    "two": (TWO, {}),
    "three": (THREE, {}),
    "three calibrated": (THREE, {"calibrated": True}),
    "fourteen, one never there": (FOURTEEN, {}),
    "fourteen calibrated": (FOURTEEN, {"calibrated": True}),
    "no test": (THREE, {"splits": ("val",)}),
    "no val": (THREE, {"splits": ("test",)}),
    "neither": (THREE, {"splits": ()}),
    "one patient": (TWO, {"n": 2}),
}


@pytest.fixture(scope="module", params=SHAPES)
def page(request) -> Page:
    task, changes = SHAPES[request.param]
    return Page(render_report(draw_head(task, **changes), EXAMPLES))


def page_of(task=THREE, **changes) -> Page:
    return Page(render_report(draw_head(task, **changes)))


def test_page_is_sound(page):
    page.assert_sound()
    assert "Research use only; not a medical device; not for diagnosis." in page.text


def test_contents_name_every_section(page):
    headings = {attrs["id"] for attrs in page.named("h2")}
    assert {f"#{each}" for each in headings} <= {href for href, _ in page.links}


def test_headline_stands_beside_the_baseline():
    head = draw_head(THREE)
    text = Page(render_report(head)).text
    name, told = head.metrics["test"].headline
    assert name == "balanced accuracy"
    assert f"Balanced accuracy on test {told.value:.3f} 95 % interval {told.low:.3f} to {told.high:.3f}" in text
    baseline = head.baseline["test"].headline[1].value
    assert f"Majority baseline, same images {baseline:.3f}" in text
    assert text.index("On test") < text.index("On val")
    assert "rely on those of test" in text


def test_headline_of_labels_is_the_macro_auc():
    head = draw_head(FOURTEEN)
    assert f"Macro AUC on test {head.metrics['test'].auc.value:.3f}" in Page(render_report(head)).text


def test_headline_falls_back_to_val_and_says_so():
    text = page_of(splits=("val",)).text
    assert "Balanced accuracy on val" in text
    assert "No test split." in text
    assert "there is no test split to check them on" in text
    assert "Not evaluated: neither a val nor a test split" in page_of(splits=()).text


def test_every_class_and_average_has_its_figures():
    head = draw_head(THREE)
    page = Page(render_report(head))
    test = head.metrics["test"]
    for name, one in (*test.per_class.items(), *test.averages.items()):
        figures = (one.precision, one.recall, one.specificity, one.f1, one.auc, one.average_precision)
        told = (
            "n/a"
            if each.value is None
            else f"{each.value:.3f}" + (f" {each.low:.3f} to {each.high:.3f}" if each.low is not None else "")
            for each in figures
        )
        assert f"{name} {' '.join(told)} " in page.text


def test_confusion_counts_are_told():
    head = draw_head(THREE)
    text = Page(render_report(head)).text
    for row, name in zip(head.metrics["test"].confusion, THREE.classes, strict=True):
        shares = (f"{count:,} {100 * count / sum(row):.0f} %" for count in row)
        assert f"{name} {' '.join(shares)}" in text
    head = draw_head(FOURTEEN)
    tn, fp, fn, tp = head.metrics["test"].per_class["Edema"].confusion
    shares = ((tp, tp + fn), (fn, tp + fn), (fp, tn + fp), (tn, tn + fp))
    told = " ".join(f"{count} {100 * count / whole:.0f} %" for count, whole in shares)
    assert f"Edema {told}" in Page(render_report(head)).text


def test_classes_with_few_or_no_images_are_named_near_the_headline():
    head = draw_head(FOURTEEN, n=100)
    text = Page(render_report(head)).text
    opening = text[: text.index("What was trained on what")]
    assert "Not measured: there is no image of Hernia here" in opening
    support = head.metrics["test"].per_class["Edema"].support
    assert 0 < support < 30
    assert f"Edema ({support})" in opening
    assert "AUC: over 13 of 14 labels, without Hernia" in text
    assert "A wide interval." in page_of(n=40).text


def test_nothing_cautions_where_nothing_need():
    text = page_of(n=3000, splits=("test",)).text
    for word in ("Few images", "Not measured", "A wide interval", "Not shown to be better", "No test split"):
        assert word not in text


def test_head_no_better_than_the_baseline_is_told():
    baseline = draw_head(THREE).baseline
    told = "Not shown to be better than the majority baseline"
    assert told in page_of(metrics=baseline).text
    # The baseline itself is no better either, and need not be told so.
    assert told not in page_of(metrics=baseline, head="majority").text


def test_calibration_is_told_in_words_and_before_and_after():
    plain, calibrated = page_of(), page_of(calibrated=True)
    assert "The probabilities are not calibrated" in plain.text
    assert "ECE before" not in plain.text
    assert "The probabilities are calibrated on val by temperature scaling" in calibrated.text
    assert "ECE before ECE after" in calibrated.text
    one = draw_head(THREE, calibrated=True).metrics["test"].per_class["viral"]
    assert f"viral {one.reliability_before.ece:.3f} {one.reliability.ece:.3f}" in calibrated.text


def test_a_calibrator_that_could_fit_nothing_does_not_count():
    head = draw_head(THREE, calibrated=True)
    head = replace(head, calibrator=replace(head.calibrator, left_out=THREE.classes))
    assert "The probabilities are not calibrated" in Page(render_report(head)).text


def test_thresholds_name_rule_levels_and_defaults():
    text = page_of(FOURTEEN).text
    assert "Rule: best_f1 chosen on val." in text
    assert "Atelectasis 0.500" in text.replace("_ ", "_")
    assert "val could not decide the level of Hernia" in text
    assert "there are no levels" in page_of().text


def test_training_data_is_counted_before_and_after_balancing():
    text = page_of(FOURTEEN, n=200).text
    assert "train 200 100 3" in text
    assert "class train train, as fitted val test Atelectasis 140 7 not known 50 140 7 not known" in text
    assert "Balance is class_weight" in text
    assert "data set phantoms made by a test" in text


def test_subgroups_have_counts_and_warnings():
    head = draw_head(THREE)
    text = Page(render_report(head)).text
    for one in head.metrics["test"].subgroups:
        assert f"{one.value or 'not known'} {one.n} {one.patients} normal {one.support['normal']}" in text
        for name, recall in one.recall.items():
            assert f"{name} {in_words(recall) if recall.value is not None else 'n/a'}" in text
    assert "⚠ few:" in text


def test_curves_are_named_for_who_cannot_see_them():
    labels = [svg["aria-label"] for svg in page_of().named("svg") if "aria-label" in svg]
    for what in ("ROC curve of viral: AUC", "Precision-recall curve of viral", "Reliability diagram of viral"):
        assert any(label.startswith(what) for label in labels)
    # Of two exclusive classes, the second one's curves say all.
    assert not any("ROC curve of normal" in (svg.get("aria-label") or "") for svg in page_of(TWO).named("svg"))


def test_learning_curves_put_train_and_val_in_one_plot():
    page = page_of()
    labels = [svg["aria-label"] for svg in page.named("svg") if "Learning" in (svg.get("aria-label") or "")]
    assert len(labels) == 1
    assert "train: lowest 0.1739 at 20 of 20; val: lowest" in labels[0]
    assert "fitted in one piece" in page_of(learning_curves={}).text


@pytest.mark.parametrize("losses", [(0.5,), (0.7, 0.7, 0.7), (float("nan"), 1.0), (float("inf"),), (1e30, -1e-30)])
def test_learning_curves_of_any_kind_are_drawn(losses):
    page = page_of(learning_curves={"train loss": losses})
    page.assert_sound()
    assert "Learning curve, loss" in page.html


def test_worst_errors_are_shown_with_their_crops():
    page = Page(render_report(draw_head(THREE), EXAMPLES))
    (image,) = page.named("img")
    assert image["alt"] == "Crop of a radiograph; truth: viral; decided: normal, with probability 0.97"
    assert "a" * 12 in page.text
    assert "a" * 13 not in page.text
    assert "no crop" in page.text
    assert "as confidential as they are" in page.text
    assert "The worst errors" not in page_of().text


def test_names_are_escaped():
    evil = '<script>alert("1")</script>&amp;\''
    task = replace(Task.exclusive(f"t{evil}", (f"a{evil}", "<b>", "c&c")), description=evil)
    example = Example(evil, evil, evil, 0.9, PNG)
    page = Page(
        render_report(
            draw_head(
                task, extractor=f"e{evil}", provenance={evil: evil}, learning_curves={evil: (1.0, 2.0)},
            ),
            [example],
        )
    )  # fmt: skip
    assert "<script" not in page.html
    page.assert_sound()
    for name in (task.name, *task.classes, f"e{evil}"):
        assert name in page.text


def test_figures_do_not_hang_on_how_many_points_a_curve_has():
    head = draw_head(THREE, n=2000)
    sizes = [len(render_report(each)) for each in (draw_head(THREE), head)]
    assert sizes[1] < 3 * sizes[0]
    assert np.isfinite(head.metrics["test"].auc.value)


@pytest.mark.parametrize("head_name", QUICK)
@pytest.mark.parametrize("multi_label", [False, True])
def test_heads_of_every_kind_are_told(head_name, multi_label):
    task = replace(THREE, multi_label=multi_label)
    rng = np.random.default_rng(0)

    def rows(n: int) -> SplitRows:
        y = rng.integers(0, 3, n)
        X = (np.eye(3)[y] + rng.normal(scale=0.5, size=(n, 3))).astype(np.float32)
        return SplitRows(X, np.eye(3, dtype=np.int8)[y] if multi_label else y)

    trained = train_head(
        task, head_name, rows(200), extractor=EXTRACTOR, val=rows(80), test=rows(80), params=QUICK[head_name],
        resamples=20,
    )  # fmt: skip
    page = Page(render_report(trained))
    page.assert_sound()
    assert trained.fingerprint in page.text
    assert f"Head {head_name} on task three_class" in page.text
