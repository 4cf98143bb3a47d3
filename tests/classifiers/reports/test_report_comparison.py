from __future__ import annotations

import re
from dataclasses import replace

import pytest
from drawn_heads import FOURTEEN, THREE, TWO, baseline_of, evaluated
from html_pages import Page

from classifiers.evaluation import Figure
from classifiers.reports.comparison import ComparedHead, Comparison, render_comparison

N = 100


def compared_head(name, task=THREE, signal=1.5, **changes) -> ComparedHead:
    settings = {"balance": "none", "seed": "7"}
    drawn = ComparedHead(
        name, task.name, settings, evaluated(task, N, signal=signal), baseline_of(task, N), seconds=1.5
    )
    return replace(drawn, **changes)


def page_of(*rows, reference=None) -> Page:
    about = {"extractor": "e" * 64}
    return Page(render_comparison(Comparison("All heads", "Which?", rows, reference, "Five folds.", about)))


@pytest.fixture(scope="module")
def rows() -> list[ComparedHead]:
    return [
        compared_head("logistic"),
        compared_head("mlp", signal=2.5, settings={"balance": "smote", "seed": "7"}, difference={
            "balanced_accuracy": Figure(0.12, 0.05, 0.2), "macro_auc": Figure(-0.01, -0.05, 0.03),
            "macro_f1": Figure(None),
        }, p_values={"normal": 0.0002, "viral": 0.04, "bacterial": None}),
        compared_head("xgboost", signal=0.5),
    ]  # fmt: skip


def test_page_is_sound(rows):
    page = page_of(*rows, reference="logistic")
    page.assert_sound()
    assert "Research use only" in page.text
    assert "winner's curse" in page.text


def test_best_first_and_marked_not_by_colour_alone(rows):
    page = page_of(*rows)
    best = rows[1].evaluation.balanced_accuracy.value
    assert f"★ {best:.3f}" in page.text
    start = page.text.index("Heads side by side")
    places = [page.text.index(name, start) for name in ("mlp", "logistic", "xgboost", "majority baseline")]
    assert places == sorted(places)
    baseline = rows[0].baseline
    assert f"majority baseline {baseline.balanced_accuracy.value:.3f}" in page.text


def test_settings_that_do_not_vary_are_told_once(rows):
    text = page_of(*rows).text
    assert "seed 7" in text
    assert text.count("seed") == 1
    assert "seconds to fit balance" in text


def test_same_names_are_told_apart_by_their_settings():
    heads = [compared_head("mlp", settings={"balance": each}) for each in ("none", "smote")]
    labels = [svg.get("aria-label") or "" for svg in page_of(*heads).named("svg")]
    assert {"mlp, none", "mlp, smote"} <= {label.partition(":")[0] for label in labels}


def test_differences_that_may_be_none_are_marked(rows):
    text = page_of(*rows, reference="logistic").text
    assert "mlp +0.120 +0.050 to +0.200 ≈ −0.010 −0.050 to +0.030 n/a" in text
    assert "Difference to logistic" in text
    assert "Difference to" not in page_of(rows[0]).text


def test_p_values_are_held_against_their_number(rows):
    text = page_of(*rows, reference="logistic").text
    assert "mlp ★ <0.001 0.040 n/a" in text
    assert "2 tests" in text
    assert "below 0.025" in text


def test_heads_with_rows_of_their_own_have_baselines_of_their_own(rows):
    other = replace(rows[0], name="elsewhere", baseline=baseline_of(THREE, N, seed=5))
    text = page_of(*rows, other).text
    assert "majority baseline of elsewhere" in text


def test_labels_have_their_aucs_side_by_side():
    text = page_of(compared_head("logistic", FOURTEEN), compared_head("mlp", FOURTEEN, 2.0)).text
    assert "AUC of every class" in text
    assert "Not measured: there is no image of Hernia here" in text
    assert "AUC of every class" not in page_of(compared_head("logistic", TWO)).text


def test_fifty_six_heads_on_two_tasks_fit(rows):
    names = [f"head {number}" for number in range(28)]
    two, three = compared_head("", TWO), compared_head("")
    page = page_of(*(replace(one, name=name) for one in (two, three) for name in names))
    page.assert_sound()
    assert [h2["id"] for h2 in page.named("h2")][1:3] == ["task-1", "task-2"]
    whiskers = [svg for svg in page.named("svg") if re.match(r"head \d+: ", svg.get("aria-label") or "")]
    assert len(whiskers) == 56


def test_one_head_is_no_contest(rows):
    assert "winner's curse" not in page_of(rows[0]).text


def test_names_are_escaped():
    evil = "<b>&\"'"
    head = compared_head(evil, settings={evil: evil}, difference={evil: Figure(0.1)}, p_values={"viral": 0.5})
    page = page_of(head, replace(head, settings={evil: "other"}), reference=evil)
    assert "<b>" not in page.html
    page.assert_sound()
