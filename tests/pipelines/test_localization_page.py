"""The page about localized findings: what it says in every state, what it draws, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import replace
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from browser import draw, find_browser, run
from drawn_localizations import SUBJECT, draw_cases, draw_checks, draw_shown
from html_pages import Page
from PIL import Image

from classifiers.evaluation import Figure
from classifiers.reports.tables import in_words
from featurizers.heat_boxes import HeatBox
from pipelines.localization_reports.figures import THRESHOLDS, Figures, Finder, figures_of
from pipelines.localization_reports.gallery import overlay_png
from pipelines.localization_reports.page import render_page
from pipelines.localization_reports.subject import Likeness, Shown

BROWSER = find_browser()
NASTY = 'Mass_<b>&"</b>'
#: As far from the mass as heat must be for a miss.
AWAY = 0.4


@pytest.fixture(scope="module")
def figures() -> Figures:
    return figures_of(draw_cases({"Mass": 60, "Nodule": 30}), SUBJECT.classes, resamples=50, seed=0)


@pytest.fixture(scope="module")
def shown() -> list[Shown]:
    return [
        draw_shown(2, probability=0.3, has_truth=False),
        draw_shown(9, probability=0.5, away=AWAY),
        draw_shown(12, probability=0.6),
        draw_shown(6, probability=0.7),
        draw_shown(7, "Nodule", probability=0.2),
    ]


def read(html: str) -> Page:
    page = Page(html)
    page._assert_alone()
    page._assert_accessible()
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    return page


def cards(page: Page) -> list[str]:
    """What each card's picture is said to show."""
    return [svg["aria-label"] for svg in page.named("svg") if (svg.get("aria-label") or "").startswith("Crop of")]


def test_every_figure_that_is_given_is_printed(figures, shown):
    page = read(render_page(SUBJECT, figures, draw_checks(), shown))
    everyone = [figures.mean, *(one.by_finder for one in figures.by_class.values())]
    for by_finder in everyone:
        for finder in Finder:
            told = by_finder[finder]
            for one in (told.pointing, *told.iou_accuracy, *told.iobb_accuracy, *told.iou_false, *told.iobb_false):
                assert f"<td>{one.value:.3f}<small>{one.low:.3f} to {one.high:.3f}</small></td>" in page.html
    for name, one in figures.by_class.items():
        assert f'<th scope="row">{name}</th><td>{one.images}</td><td>{one.boxes}</td><td>{one.patients}</td>' in (
            page.html
        )
        assert f"{name} {in_words(one.by_finder[Finder.HEAD].pointing)}" in page.text
    # Two tables by IoBB and two by IoU, a row for each class and finder, and one more class: the mean.
    assert page.text.count("lung box") >= 4 * 3
    assert page.html.count('<tr class="own">') == 4 * 3
    assert page.text.count("T = 0.25") == 4


def test_the_headline_is_the_mean_beside_those_who_never_look(figures):
    opening = render_page(SUBJECT, figures, draw_checks(), []).split("<nav")[0]
    large = re.findall(r"<strong>([\d.]+)</strong>", opening)
    at = THRESHOLDS.index(0.25)
    wanted = [figures.mean[finder].pointing.value for finder in Finder]
    wanted += [figures.mean[finder].iobb_accuracy[at].value for finder in Finder]
    assert large == [f"{value:.3f}" for value in wanted]
    assert "on test" in opening
    assert "mean over 2 classes" in opening
    whole = render_page(replace(SUBJECT, split=None), figures, None, [])
    assert "Pointing game, on all images" in whole


def test_one_class_is_no_mean_over_classes():
    alone = figures_of(draw_cases({"Mass": 4}), ["Mass"], resamples=0, seed=0)
    page = read(render_page(SUBJECT, alone, None, []))
    assert "(one class)" in page.text
    assert "no interval: too few patients for one" in page.text


def test_without_an_annotated_box_the_page_says_why(shown):
    subject = replace(SUBJECT, annotated=0, unscored=("The data set <x> has no boxes.",))
    page = read(render_page(subject, None, draw_checks(), shown[:1]))
    assert "nothing is known about how well they fit" in page.text
    assert "0 of 1,200 images have annotated boxes of these classes. The data set <x> has no boxes." in page.text
    assert "Against annotated boxes" not in page.text
    assert 'class="headline"' not in page.html
    assert 'class="caution"' not in page.html


def test_few_patients_are_told_by_class(figures):
    # Two of three images are of one patient: 60 images of 40, 30 of 20.
    assert "have annotated boxes of: Nodule (20)." in read(render_page(SUBJECT, figures, draw_checks(), [])).text


def test_a_head_that_points_no_better_than_a_box_is_told(figures):
    mean = {
        Finder.HEAD: figures.mean[Finder.HEAD]._replace(pointing=Figure(0.5, 0.4, 0.6)),
        Finder.CENTRE: figures.mean[Finder.CENTRE]._replace(pointing=Figure(0.41, 0.3, 0.5)),
        Finder.LUNGS: figures.mean[Finder.LUNGS]._replace(pointing=Figure(0.39, 0.3, 0.5)),
    }
    told = read(render_page(SUBJECT, replace(figures, mean=mean), draw_checks(), [])).text
    assert "Not shown to point better than the centre box , which never looks" in told
    better = mean | {Finder.CENTRE: mean[Finder.LUNGS]}
    assert "Not shown" not in read(render_page(SUBJECT, replace(figures, mean=better), draw_checks(), [])).text


def test_checks_are_told_with_what_is_good():
    checks = draw_checks()
    page = read(render_page(SUBJECT, None, checks, []))
    assert "Nothing was found against the maps." in page.text
    assert "64 images of 50 patients" in page.text
    assert "0.047 0.013 to 0.111" in page.text
    assert "not looked at A tree head has no weights to shuffle." in page.text
    for one in checks.erasures:
        assert f"{one.deletion_area.value:.3f} {one.deletion_area.low:.3f} to {one.deletion_area.high:.3f}" in page.text
        assert f'<th scope="row">{one.order}</th>' in page.html
    labels = [svg.get("aria-label") or "" for svg in page.named("svg")]
    (deletion,) = [label for label in labels if label.startswith("Deletion")]
    assert "hottest first: 0.80, half way 0.19, 0.10" in deletion


def test_doubts_stand_at_the_top_too():
    page = read(render_page(SUBJECT, None, draw_checks(["Maps are <alike>."]), []))
    assert page.text.count("Maps are <alike>.") == 2
    assert "Nothing was found" not in page.text
    assert page.text.index("Maps are <alike>.") < page.text.index("Can the maps be trusted?")


def test_a_likeness_that_nothing_defines_links_to_what_that_means():
    checks = replace(draw_checks(), likenesses=[Likeness("backbone", Figure(None), "")], erasures=[], patients=3)
    page = read(render_page(SUBJECT, None, checks, []))
    assert ("#undefined", "n/a") in page.links
    assert "were checked on images of 3 alone" in page.text
    assert "Area under the curves" not in page.text


def test_maps_that_were_not_checked_are_told():
    page = read(render_page(SUBJECT, None, None, []))
    assert "The maps were not checked:" in page.text
    assert "Whether the maps show what the model looks at was not checked: nobody asked for it" in page.text


def test_the_notice(shown):
    plain = read(render_page(SUBJECT, None, None, [])).text
    assert "Research use only; not a medical device; not for diagnosis." in plain
    assert "A heatmap shows where the head's evidence lies, not where disease is." in plain
    assert "Probabilities: not calibrated: the probabilities are the head's own." in plain
    assert "No image is shown." in plain
    assert not re.search("confidential|untrained", plain)
    other = read(render_page(replace(SUBJECT, is_untrained=True), None, None, shown)).text
    assert "This page shows radiographs: it is as confidential as they are." in other
    assert "The backbone is untrained" in other


def test_what_this_is():
    text = read(render_page(SUBJECT, None, None, [])).text
    for told in (SUBJECT.head_fingerprint, SUBJECT.localizer, SUBJECT.features, SUBJECT.method, SUBJECT.truth):
        assert told in text
    assert "reaches 71 % of the map's greatest intensity" in text
    assert "1,200, of them 90 with" in text


def test_hits_come_before_misses_before_what_nobody_annotated(shown):
    page = read(render_page(SUBJECT, None, None, shown))
    ids = re.findall(r"<code>(\w+)</code>", page.html)
    assert ids == [f"{seed:02d}" * 6 for seed in (6, 12, 9, 2, 7)]
    assert "Mass : 2 hits, 1 miss, 1 without a box" in page.text
    assert [label.split("; ")[-1] for label in cards(page)][:3] == ["hit", "hit", "miss"]
    hits, misses, unknown = (page.text.index(word) for word in ("Hits:", "Misses:", "Without an annotated"))
    assert hits < misses < unknown


def test_a_card_says_what_it_shows():
    one = replace(
        draw_shown(6),
        peak=(0.9, 0.1),
        found=(HeatBox(0.1, 0.2, 0.3, 0.4, 1.0),),
        truth=np.array([[0.5, 0.5, 1.5, 0.75], [1.1, 0, 1.2, 1]]),
        is_hit=False,
        iobb=0.123,
        probability=0.804,
        decision=True,
    )
    page = read(render_page(SUBJECT, None, None, [one]))
    assert cards(page) == [
        "Crop of a radiograph with the heat of Mass; the hottest place is upper right of the picture; "
        "1 found box, 10 to 30 % across and 20 to 40 % down; "
        "1 annotated box, 50 to 100 % across and 50 to 75 % down; miss"
    ]
    assert (
        "miss best IoBB 0.12, annotated box reaches out of the crop, 1 annotated box lies outside the "
        "crop probability 0.80, threshold 0.40 decided: yes 060606060606"
    ) in page.text
    # The line along the crop's edge is drawn where it is seen.
    assert 'd="M50.0 50.0H99.4V75.0H50.0Z"' in page.html


def test_a_map_of_nothing_and_a_class_that_is_not_the_largest():
    nothing = replace(
        draw_shown(6),
        heat=np.zeros((112, 112), np.float32),
        peak=None,
        found=(),
        is_hit=False,
        iobb=0.0,
        threshold=None,
        decision=False,
    )
    page = read(render_page(SUBJECT, None, None, [nothing]))
    assert "no box found, the map is 0 everywhere" in page.text
    assert "probability 0.80, not the largest decided: no" in page.text
    assert "no heat" in cards(page)[0]
    card = page.html[page.html.index("<figure id=") :]
    assert '<g class="peak">' not in card
    assert '<g class="found">' not in card


def test_pictures_are_inlined_and_heat_is_small(shown):
    page = read(render_page(SUBJECT, None, None, shown[:1]))
    images = page.named("image")
    assert all((image["href"] or "").startswith("data:image/png;base64,") for image in images)
    crop, heat = (b64decode((image["href"] or "").split(",")[1]) for image in images)
    assert crop == shown[0].crop
    with Image.open(BytesIO(heat)) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (56, 56))
        alpha = np.asarray(picture)[..., 3]
    assert alpha.min() < 5
    row, column = np.unravel_index(alpha.argmax(), alpha.shape)
    assert shown[0].peak is not None
    assert ((column + 0.5) / 56, (row + 0.5) / 56) == pytest.approx(shown[0].peak, abs=0.03)
    assert len(heat) < 4000


def test_names_that_are_html_stay_text(figures):
    cases = [replace(case, finding=NASTY) for case in draw_cases({"Mass": 9})]
    subject = replace(SUBJECT, classes=(NASTY,), head="<i>", made="<made>", unscored=("<why>",), calibration="<how>")
    page = read(
        render_page(
            subject, figures_of(cases, [NASTY], resamples=0, seed=0), draw_checks(), [draw_shown(6, finding=NASTY)]
        )
    )
    assert '<b>&"' not in page.html
    assert all(told in page.text for told in ("<why>", "<made>", "<how>", "head <i>"))
    assert escape(NASTY).replace("_", "_<wbr>") in page.html
    assert NASTY in cards(page)[0]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_overlay_is_the_card_as_a_file(scale):
    one = replace(draw_shown(6), found=(), truth=np.empty((0, 4)), peak=None)
    cold = replace(one, heat=np.zeros_like(one.heat))
    with Image.open(BytesIO(one.crop)) as crop, Image.open(BytesIO(overlay_png(one, scale))) as warm:
        assert (warm.mode, warm.size, warm.format) == ("RGB", (crop.width * scale, crop.height * scale), "PNG")
        pixels = np.asarray(warm).astype(int)
    with Image.open(BytesIO(overlay_png(cold, scale))) as grey:
        without = np.asarray(grey).astype(int)
    assert (without[..., 0] == without[..., 2]).all()
    redder = pixels[..., 0] - pixels[..., 2]
    heat = np.asarray(Image.fromarray(one.heat).resize(warm.size))
    assert redder[heat > 0.95].min() > 80
    assert redder[heat < 0.02].max() < 5


def test_overlay_tells_found_boxes_from_annotated_ones_and_marks_the_peak():
    one = replace(
        draw_shown(6),
        heat=np.zeros((112, 112), np.float32),
        found=(HeatBox(0.25, 0.25, 0.5, 0.5, 1.0),),
        truth=np.array([[0.6, 0.6, 1.3, 1.3]]),
        peak=(0.75, 0.25),
    )
    with Image.open(BytesIO(overlay_png(one))) as picture:
        pixels = np.asarray(picture)
    white, cyan = (255, 255, 255), (0x22, 0xD3, 0xEE)
    found = (pixels[256, 130:250] == white).all(axis=-1)
    assert found.all()
    dashed = (pixels[round(0.6 * 512), 312:500] == cyan).all(axis=-1)
    assert 0.4 < dashed.mean() < 0.8
    # Of a box that reaches out, the edge of the picture closes it.
    assert (pixels[330:500, 505:] == cyan).all(axis=-1).any()
    assert (pixels[128, 384 - 14 : 384 + 14] == white).all()
    assert (pixels[128 - 14 : 128 + 14, 384] == white).all()


def full_page(figures: Figures, shown: list[Shown]) -> str:
    long = "Pleural_Thickening_and_a_name_that_is_long"
    subject = replace(SUBJECT, features="x" * 200, truth="/a/very/long/path/" + "x" * 200)
    return render_page(subject, figures, draw_checks(["A doubt."]), [*shown, draw_shown(12, long)])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to draw pages with: install chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_its_window_and_the_console_is_silent(figures, shown, width, tmp_path):
    drawn = draw(BROWSER, full_page(figures, shown), tmp_path, width)
    assert drawn.width <= width
    assert drawn.scroll_width <= drawn.width
    assert drawn.console == []


_PROBE = """<!DOCTYPE html><iframe id="page" src="page.html{fragment}" width="1000" height="900"></iframe>
<pre id="probe"></pre><script>
addEventListener("load", () => {{
  const page = document.getElementById("page"), inner = page.contentDocument, told = {{}};
  const hidden = name => [...inner.querySelectorAll(".cards ." + name)].map(
    one => page.contentWindow.getComputedStyle(one).display === "none");
  const all = () => Object.fromEntries(["heat", "peak", "found", "truth"].map(name => [name, hidden(name)]));
  told.before = all();
  for (const name of ["heat", "peak", "found", "truth"]) {{
    const box = inner.getElementById("show-" + name);
    box.click();
    told[name] = all();
    box.click();
  }}
  told.after = all();
  told.widths = [...inner.querySelectorAll(".cards figure")].map(one => one.clientWidth);
  told.named = [...inner.querySelectorAll(".layers input")].map(one => one.labels[0].textContent.trim());
  document.getElementById("probe").textContent = "told " + JSON.stringify(told) + " end";
}});
</script>"""


def probe(html: str, folder: Path, fragment: str = "") -> dict[str, dict[str, list[bool]]]:
    assert BROWSER is not None
    (folder / "page.html").write_text(html, encoding="utf-8")
    (folder / "probe.html").write_text(_PROBE.format(fragment=fragment), encoding="utf-8")
    address = (folder / "probe.html").as_uri()
    done = run(BROWSER, folder, "--allow-file-access-from-files", "--dump-dom", address)
    found = re.search(r"told (\{.*\}) end</pre>", done.stdout)
    assert found, f"the page was not probed: {done.stderr[-2000:]}"
    return json.loads(found[1])


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to draw pages with: install chromium")
def test_each_box_that_is_ticked_off_takes_its_own_layer_away(shown, tmp_path):
    told = probe(render_page(SUBJECT, None, None, shown), tmp_path)
    layers = ("heat", "peak", "found", "truth")
    assert told["named"] == ["heat", "hottest place", "found boxes", "annotated boxes"]
    for state in ("before", "after"):
        assert all(told[state][layer] and not any(told[state][layer]) for layer in layers)
    for ticked in layers:
        assert {layer for layer in layers if all(told[ticked][layer])} == {ticked}
        assert {layer for layer in layers if any(told[ticked][layer])} == {ticked}
    assert len(set(told["widths"])) == 1


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to draw pages with: install chromium")
def test_the_card_that_is_linked_to_is_larger(shown, tmp_path):
    widths = probe(render_page(SUBJECT, None, None, shown), tmp_path, "#shown-1-hit-2")["widths"]
    assert widths[1] > 2 * widths[0]
    assert len(set(widths)) == 2
