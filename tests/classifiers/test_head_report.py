from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from small_heads import EXTRACTOR

from classifiers.report import render_report
from classifiers.tasks import Task
from classifiers.trained import TrainedHead
from classifiers.training import SplitFeatures, train_head

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers what a reader meets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(trained) -> Page:
    return Page(render_report(trained))


def test_page_stands_alone(page, trained):
    html = render_report(trained)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    assert {"script", "link", "img", "iframe", "object", "base"}.isdisjoint(name for name, _ in page.tags)
    targets = {attrs["href"] for attrs in page.named("a")}
    assert targets <= {"#undefined"}
    assert not any(name.startswith("on") or name == "src" for _, attrs in page.tags for name in attrs)


def test_page_serves_phones_and_screen_readers(page):
    assert page.named("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.named("meta"))
    assert all(header["scope"] in {"row", "col"} for header in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table")) == 2 * 3 + 1


def test_page_says_what_it_must(page, trained):
    text = " ".join(page.text.split())
    test, baseline = trained.metrics["test"], trained.baseline["test"]
    assert f"Balanced accuracy on test ({test.n} images): {test.balanced_accuracy:.3f}" in text
    assert f"majority baseline on the same images: {baseline.balanced_accuracy:.3f}" in text
    assert trained.fingerprint in text
    assert EXTRACTOR in text
    assert "Research use only; not a medical device; not for diagnosis." in text
    assert "probabilities are not calibrated" in text.lower()
    for row, name in zip(test.confusion, trained.task.classes, strict=True):
        assert name + "".join(map(str, row)) in page.text


def test_headline_falls_back_to_val_and_then_says_so(trained):
    val = replace(trained, metrics={"val": trained.metrics["val"]}, baseline={"val": trained.baseline["val"]})
    assert "Balanced accuracy on val" in Page(render_report(val)).text
    none = Page(render_report(replace(trained, metrics={}, baseline={}))).text
    assert "Not evaluated: neither a val nor a test split" in none


def test_undefined_values_are_not_numbers(draw):
    only_first = draw(60, seed=2)
    only_first = SplitFeatures(only_first.features, np.zeros(60, np.int64))
    trained = train_head("three_class", "majority", draw(100), extractor=EXTRACTOR, test=only_first)
    page = Page(render_report(trained))
    assert "n/a" in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)
    assert "None" not in page.text
    assert any(attrs.get("id") == "undefined" for attrs in page.named("h2"))


def test_names_are_escaped(draw):
    evil = '<script>alert("1")</script>'
    task = Task(f"t{evil}", (f"a{evil}", "b&b"))
    rows = draw(60, 2)
    trained = train_head(task, "majority", rows, extractor=f"e{evil}", val=rows, test=rows)
    html = render_report(trained)
    page = Page(html)
    assert "<script" not in html
    assert not page.named("script")
    for name in (task.name, *task.classes, trained.extractor):
        assert name in page.text
    # ... and names of any kind come back from the files.
    assert TrainedHead.from_files(trained.to_files()).task == task
