"""What any page of ours must hold to, and its text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "br", "wbr", "img"}
#: SVG's own, written with their end.
SHAPES = {"path", "circle", "line"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers what a reader meets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.links: list[tuple[str | None, str]] = []
        self.parts: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self.links.append((dict(attrs).get("href"), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.parts.append(data)
        if "a" in self.open:
            self.links[-1] = (self.links[-1][0], data)

    @property
    def text(self) -> str:
        """Words, with one blank between those of different elements."""
        return " ".join(" ".join(self.parts).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def assert_sound(self) -> None:
        """Alone in the world, fit for screen readers, and honest about what is not defined."""
        self._assert_alone()
        self._assert_accessible()
        told = self.text + " ".join(str(each) for _, attrs in self.tags for each in attrs.values())
        assert not re.search(r"\b(nan|inf|none, none)\b", told, re.IGNORECASE)
        assert "None" not in self.text
        # Every n/a links to what it means; contents, heading and text of that section say the word without.
        assert self.text.count("n/a") == 4 + sum(word == "n/a" for _, word in self.links)
        assert all(href == "#undefined" for href, word in self.links if word == "n/a")

    def _assert_alone(self) -> None:
        assert not re.search(r"https?:|[\"'(]//|@import|url\(", self.html)
        assert {"script", "link", "iframe", "object", "base", "form"}.isdisjoint(name for name, _ in self.tags)
        assert not any(name.startswith("on") for _, attrs in self.tags for name in attrs)
        assert all((attrs["src"] or "").startswith("data:image/png;base64,") for attrs in self.named("img"))

    def _assert_accessible(self) -> None:
        assert self.named("html") == [{"lang": "en"}]
        assert any(meta.get("name") == "viewport" for meta in self.named("meta"))
        ids = [attrs["id"] for _, attrs in self.tags if "id" in attrs]
        assert len(set(ids)) == len(ids)
        assert {href for href, _ in self.links} <= {f"#{each}" for each in ids}
        levels = [int(name[1]) for name, _ in self.tags if re.fullmatch("h[1-6]", name)]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
        assert all(attrs.get("alt") for attrs in self.named("img"))
        for svg in self.named("svg"):
            assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label"))
        assert len(self.named("caption")) == len(self.named("table"))
        assert all(th["scope"] in {"row", "col", "colgroup"} for th in self.named("th"))
