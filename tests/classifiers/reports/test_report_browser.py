from __future__ import annotations

import pytest
from browser import draw, find_browser
from drawn_heads import FOURTEEN, THREE, baseline_of, draw_head, evaluated

from classifiers.reports.comparison import ComparedHead, Comparison, render_comparison
from classifiers.reports.examples import Example
from classifiers.reports.page import render_report

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c6360000000020001"
    "48afa4710000000049454e44ae426082"
)
BROWSER = find_browser()

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium to draw pages with: install chromium")


def report() -> str:
    examples = [Example("a" * 64, "Pleural_Thickening", "no Pleural_Thickening", 0.97, PNG)] * 12
    provenance = {"archive": "/a/very/long/path/" + "x" * 200}
    return render_report(draw_head(FOURTEEN, n=300, calibrated=True, provenance=provenance), examples)


def comparison() -> str:
    def compared(name: str) -> ComparedHead:
        return ComparedHead(name, THREE.name, {"balance": name}, evaluated(THREE, 100), baseline_of(THREE, 100))

    rows = tuple(compared(f"a_head_with_a_name_that_is_long_{number}" * 3) for number in range(3))
    return render_comparison(Comparison("Title " + "x" * 100, "Which?", rows, None, "Five folds.", {"a": "e" * 64}))


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("make", [report, comparison])
def test_page_fits_its_window_and_the_console_is_silent(make, width, tmp_path):
    drawn = draw(BROWSER, make(), tmp_path, width)
    assert drawn.width <= width
    assert drawn.scroll_width <= drawn.width
    assert drawn.console == []


def test_the_browser_would_tell(tmp_path):
    drawn = draw(BROWSER, '<div style="width: 900px">wide</div><script>missing()</script>', tmp_path, 360)
    assert drawn.scroll_width == 900 + 8
    assert any("missing is not defined" in line for line in drawn.console)
