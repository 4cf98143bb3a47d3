"""A whole page around its sections: head, title, notice, contents."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final, NamedTuple

from classifiers.reports.style import STYLE

_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

#: Where every n/a of a page links to.
UNDEFINED_ID: Final = "undefined"

NOTICE: Final = "<strong>Research use only; not a medical device; not for diagnosis.</strong>"

_UNDEFINED: Final = """
<p>n/a marks a value that the rows do not define, which is not the same as 0: precision where the class was never
decided; recall, AUC and average precision where no row is of the class (specificity and AUC also where every row is);
F1 where the class neither occurs nor was decided; calibration error where there are no rows. A mean over classes leaves
out those that do not define the figure, and says so; it is n/a where none does. The average over samples, image by
image, exists for precision, recall and F1 only. A value without an interval rests on too few patients for one.</p>
"""


class Section(NamedTuple):
    """A part of a page that the contents name.

    Attributes:
        id: what links name; unique on the page.
        heading: plain text.
        content: HTML.
    """

    id: str
    heading: str
    content: str


def document(title: str, opening: str, sections: Sequence[Section]) -> str:
    """Draw a page: a whole HTML document that needs nothing but itself.

    Args:
        title: plain text.
        opening: HTML that stands above the contents.
        sections: in order; what n/a means is put behind them.
    """
    every = [*sections, Section(UNDEFINED_ID, "About n/a", _UNDEFINED)]
    contents = "".join(f'<li><a href="#{one.id}">{escape(one.heading)}</a></li>\n' for one in every)
    drawn = "".join(
        f'<section aria-labelledby="{one.id}">\n<h2 id="{one.id}">{escape(one.heading)}</h2>\n'
        f"{one.content.strip()}\n</section>\n"
        for one in every
    )
    body = f"""<header>
<h1>{escape(title)}</h1>
{opening.strip()}
</header>
<nav aria-label="Contents"><ol>
{contents}</ol></nav>
<main>
{drawn}</main>"""
    return html_file(title, STYLE, body)


def html_file(title: str, style: str, body: str) -> str:
    """Put a body into a file that may load nothing and run no script.

    Args:
        title: plain text.
        style: CSS.
        body: HTML.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body.strip()}
</body>
</html>
"""
