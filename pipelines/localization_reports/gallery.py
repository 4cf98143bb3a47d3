"""The gallery: crops with the heat, the found boxes and the annotated ones over them, and the same as a picture file.

Boxes and the cross are SVG over a PNG: they stay sharp when enlarged or printed, and a reader can take each layer away.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from html import escape
from io import BytesIO
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from classifiers.reports.tables import named
from pipelines.localization_reports.subject import Shown

#: Characters of an image id that a page shows.
_SHOWN: Final = 12
#: The heat's only hue, and how much of it the hottest place has; of what is under it something must stay visible.
_HUE: Final = (255, 122, 0)
_OPAQUE: Final = 0.72
#: Above 1: what is half as hot is less than half as visible, so that a map's floor does not tint the whole crop.
_FALL: Final = 1.6
#: Rows and columns of the heat in the page at most: it is smooth, and enlarged smoothly.
_HEAT_SIDE: Final = 56
#: Levels of opacity: PNG packs few values far better than many.
_LEVELS: Final = 48
#: Colours of the lines, on radiographs of any grey with a dark edge around them.
_FOUND, _TRUTH, _EDGE = "#ffffff", "#22d3ee", "#000000"
#: Units of a card's drawing, and half the length of the peak's cross.
_UNITS, _ARM = 100, 3.2
_THIRDS: Final = (("upper", "middle", "lower"), ("left", "centre", "right"))


class _Layer(NamedTuple):
    """What can be taken away: its name in ids and classes, what a reader is told, and how it looks, SVG."""

    name: str
    told: str
    sample: str


def _stroked(path: str) -> str:
    """A line on a dark edge."""
    return f'<path class="edge" d="{path}"/><path d="{path}"/>'


_WARM: Final = "".join(
    f'<rect x="{3 * step}" width="3" height="16" fill="rgb{_HUE}" fill-opacity="{_OPAQUE * (step / 13) ** _FALL:.2f}"/>'
    for step in range(14)
)
_LAYERS: Final = (
    _Layer("heat", "heat", _WARM),
    _Layer("peak", "hottest place", _stroked("M15 8h12M21 2v12")),
    _Layer("found", "found boxes", _stroked("M3 8h36")),
    _Layer("truth", "annotated boxes", _stroked("M3 8h36")),
)

#: Of the gallery; goes behind the page's own.
GALLERY_STYLE: Final = (
    """
.layers { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; padding: .4rem 0; margin: 0; border: 0; position: sticky;
  top: 0; background: Canvas; z-index: 2; font-size: .9rem; border-bottom: 1px solid var(--line); }
.layers label { padding: .15rem 0; }
.layers input { width: 1.05rem; height: 1.05rem; vertical-align: -.15rem; margin: 0 .4rem 0 0; }
.layers svg { width: 2.6rem; height: 1rem; vertical-align: -.15rem; background: #4b4b4b; margin-right: .4rem;
  border-radius: .15rem; }
.layers input:focus-visible, .cards a:focus-visible, .classes a:focus-visible { outline: 3px solid var(--mark);
  outline-offset: 2px; }
.classes { columns: 18rem; column-gap: 2.5rem; padding-left: 1.2rem; }
.classes li { break-inside: avoid; margin-bottom: .2rem; }
h3, h4, .cards figure { scroll-margin-top: 4.5rem; }
@media (max-width: 40rem) { .layers { display: grid; grid-template-columns: auto auto; font-size: .85rem;
  gap: 0 .5rem; } .layers svg { width: 1.7rem; margin-right: .25rem; } }
h4 { margin: 1rem 0 .4rem; font-size: .95rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(13.5rem, 46%), 1fr)); gap: 1.1rem .9rem; }
.cards figure { margin: 0; min-width: 0; } .cards svg { width: 100%; height: auto; display: block; background: #000;
  border-radius: .25rem; }
.cards figcaption { font: .8rem/1.4 system-ui, sans-serif; padding-top: .35rem; } .cards figcaption b { font-weight:
  600; } .cards figcaption span { display: block; } .cards a { display: inline-block; padding: .2rem 0; }
.badge { border: 1.5px solid currentColor; border-radius: .25rem; padding: 0 .35rem; margin-right: .3rem; font-weight:
  600; white-space: nowrap; } .miss { border-style: dashed; } .open { border-style: dotted; font-weight: 400; }
.cards .smaller { display: none; } .cards figure:target { grid-column: 1 / -1; justify-self: center;
  width: min(100%, 44rem, 78vh); } .cards figure:target figcaption { font-size: .95rem; }
.cards figure:target .smaller { display: inline-block; } .cards figure:target .larger { display: none; }
.found, .truth, .peak { fill: none; stroke-width: 2; } .found path, .truth path, .peak path { vector-effect:
  non-scaling-stroke; } .edge { stroke: #000; stroke-width: 4; stroke-opacity: .55; stroke-dasharray: none; }
.found, .peak { stroke: """
    + _FOUND
    + "; } .truth { stroke: "
    + _TRUTH
    + """; stroke-dasharray: 6 4; } .truth .edge { stroke-opacity: .4; }
@media print { .layers { position: static; } .layers input, .cards a { display: none !important; }
  .layers svg, .cards svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .cards { grid-template-columns: repeat(4, 1fr); } .cards figure { break-inside: avoid; }
  .cards figure:target { grid-column: auto; width: auto; } h4 { break-after: avoid; } }
@media screen { """
    + " ".join(
        f"body:has(#show-{layer.name}:not(:checked)) .cards .{layer.name} {{ display: none; }}" for layer in _LAYERS
    )
    + " }\n"
)


class _Outcome(StrEnum):
    """How well a place fits, in the order in which cards are shown."""

    HIT = "hit"
    MISS = "miss"
    OPEN = "no annotated box"

    @property
    def heading(self) -> str:
        return {
            _Outcome.HIT: "Hits: the hottest place lies in an annotated box",
            _Outcome.MISS: "Misses: it lies in none",
            _Outcome.OPEN: "Without an annotated box of this class: whether the place fits is not known",
        }[self]

    @property
    def kind(self) -> str:
        return {_Outcome.HIT: "hit", _Outcome.MISS: "miss", _Outcome.OPEN: "open"}[self]


def gallery(shown: Sequence[Shown], classes: Sequence[str]) -> str:
    """Draw all cards, by class, hits before misses before what has no annotation, the most probable first.

    Args:
        shown: in any order.
        classes: in the order of the page; those of which nothing is shown are left out.
    """
    by_class = {name: _by_outcome([one for one in shown if one.finding == name]) for name in classes}
    there = {f"shown-{number}": (name, cards) for number, (name, cards) in enumerate(by_class.items(), 1) if cards}
    index = "".join(
        f'<li><a href="#{place}">{named(name)}</a>: {_counted(cards)}</li>\n' for place, (name, cards) in there.items()
    )
    sections = "".join(
        f'<h3 id="{place}">{named(name)}</h3>\n'
        + "".join(
            f'<h4>{outcome.heading}</h4>\n<div class="cards">\n{"".join(_cards(some, place, outcome))}</div>\n'
            for outcome, some in cards.items()
        )
        for place, (name, cards) in there.items()
    )
    return f'<ul class="classes">\n{index}</ul>\n{_layer_keys()}{sections}'


def overlay_png(one: Shown, scale: int = 2) -> bytes:
    """The picture of a card as a file: RGB PNG, as many pixels wide and high as the crop times `scale`.

    Found boxes are solid and white, annotated ones dashed and cyan, the hottest place a cross.
    """
    with Image.open(BytesIO(one.crop)) as crop:
        size = (crop.width * scale, crop.height * scale)
        grey = crop.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    heat = Image.fromarray(_opacity(one.heat)).resize(size, Image.Resampling.BILINEAR)
    picture = Image.composite(Image.new("RGB", size, _HUE), grey, heat)
    draw = ImageDraw.Draw(picture)
    width = max(1, scale)
    # An edge's half on either side of the line, and the line itself, stay inside the picture.
    inset = (width + 2) / 2
    for box in _insides(box[:4] for box in one.found):
        _draw_lines(draw, _sides(box, size, inset), _FOUND, width)
    for box in _insides(one.truth):
        _draw_lines(draw, _sides(box, size, inset), _TRUTH, width, dash=4 * width)
    if one.peak is not None:
        (x, y), arm = (share * side for share, side in zip(one.peak, size, strict=True)), _ARM / _UNITS * min(size)
        _draw_lines(draw, [((x - arm, y), (x + arm, y)), ((x, y - arm), (x, y + arm))], _FOUND, width)
    png = BytesIO()
    picture.save(png, "PNG", optimize=True)
    return png.getvalue()


def _by_outcome(shown: Iterable[Shown]) -> dict[_Outcome, list[Shown]]:
    ordered = sorted(shown, key=lambda one: (-one.probability, one.image_id))
    told = {outcome: [one for one in ordered if _outcome(one) is outcome] for outcome in _Outcome}
    return {outcome: some for outcome, some in told.items() if some}


def _outcome(one: Shown) -> _Outcome:
    if one.is_hit is None:
        return _Outcome.OPEN
    return _Outcome.HIT if one.is_hit else _Outcome.MISS


def _counted(cards: Mapping[_Outcome, Sequence[Shown]]) -> str:
    words = {_Outcome.HIT: ("hit", "hits"), _Outcome.MISS: ("miss", "misses"), _Outcome.OPEN: ("without a box",) * 2}
    return ", ".join(f"{len(some):,} {words[outcome][len(some) != 1]}" for outcome, some in cards.items())


def _layer_keys() -> str:
    """What each mark means, each with a box to tick that takes it away."""
    labels = "".join(
        f'<label><input type="checkbox" id="show-{layer.name}" checked/><svg viewBox="0 0 42 16" aria-hidden="true">'
        f'<g class="{layer.name}">{layer.sample}</g></svg>{layer.told}</label>\n'
        for layer in _LAYERS
    )
    return f'<fieldset class="layers" aria-label="Shown on the radiographs">\n{labels}</fieldset>\n'


def _cards(shown: Sequence[Shown], place: str, outcome: _Outcome) -> Iterator[str]:
    for number, one in enumerate(shown, 1):
        own, told = f"{place}-{outcome.kind}-{number}", escape(one.image_id[:_SHOWN])
        yield (
            f'<figure id="{own}">{_svg(one)}<figcaption>'
            f'<span><b class="badge {outcome.kind}">{outcome.value}</b>{_fit(one)}</span>'
            f"<span>{_decided(one)}</span><code>{told}</code> "
            f'<a class="larger" href="#{own}" aria-label="larger: {told}">larger</a>'
            f'<a class="smaller" href="#{place}" aria-label="small again: {told}">small again</a>'
            "</figcaption></figure>\n"
        )


def _fit(one: Shown) -> str:
    """How well the found boxes fit, and what the picture can't show."""
    said = [] if one.iobb is None else [f"best IoBB\N{NO-BREAK SPACE}{one.iobb:.2f}" if one.found else "no box found"]
    if one.peak is None:
        said.append("the map is 0 everywhere")
    return ", ".join([*said, *_beyond(one)])


def _beyond(one: Shown) -> list[str]:
    inside = len(_insides(one.truth))
    whole = sum(bool((box >= 0).all() and (box <= 1).all()) for box in one.truth)
    outside, cut = len(one.truth) - inside, inside - whole
    said = []
    if cut:
        said.append("annotated box reaches out of the crop" if cut == 1 else f"{cut} annotated boxes reach out of it")
    if outside:
        said.append(f"{outside} annotated {'box lies' if outside == 1 else 'boxes lie'} outside the crop")
    return said


def _decided(one: Shown) -> str:
    against = (
        f"{'' if one.decision else 'not '}the largest" if one.threshold is None else f"threshold {one.threshold:.2f}"
    )
    return f"probability {one.probability:.2f}, {against}<br>decided: {'yes' if one.decision else 'no'}"


def _alt(one: Shown) -> str:
    """What a sighted reader sees."""
    said = [f"Crop of a radiograph with the heat of {one.finding}"]
    said.append("no heat" if one.peak is None else f"the hottest place is {_third(one.peak)} of the picture")
    said += _placed("found box", "found boxes", [box[:4] for box in one.found])
    said += _placed("annotated box", "annotated boxes", one.truth)
    if one.is_hit is not None:
        said.append("hit" if one.is_hit else "miss")
    return "; ".join(said)


def _third(point: Sequence[float]) -> str:
    across, down = (min(max(int(3 * share), 0), 2) for share in point)
    row, column = _THIRDS[0][down], _THIRDS[1][across]
    return "in the centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _placed(name: str, several: str, boxes: Iterable[Any]) -> list[str]:
    inside = _insides(boxes)
    if not inside:
        return []
    places = ", ".join(
        f"{100 * left:.0f} to {100 * right:.0f} % across and {100 * top:.0f} to {100 * bottom:.0f} % down"
        for left, top, right, bottom in inside
    )
    return [f"{len(inside)} {name if len(inside) == 1 else several}, {places}"]


def _svg(one: Shown) -> str:
    found = "".join(map(_box, _insides(box[:4] for box in one.found)))
    truth = "".join(map(_box, _insides(one.truth)))
    peak = ""
    if one.peak is not None:
        x, y = (_UNITS * share for share in one.peak)
        peak = _stroked(f"M{x - _ARM:.1f} {y:.1f}h{2 * _ARM:.1f}M{x:.1f} {y - _ARM:.1f}v{2 * _ARM:.1f}")
    layers = {"found": found, "truth": truth, "peak": peak}
    drawn = "".join(f'<g class="{name}">{content}</g>' for name, content in layers.items() if content)
    size = f'width="{_UNITS}" height="{_UNITS}" preserveAspectRatio="none"'
    return (
        f'<svg viewBox="0 0 {_UNITS} {_UNITS}" role="img" aria-label="{escape(_alt(one))}">'
        f'<image {size} href="{_inlined(one.crop)}"/>'
        f'<image class="heat" {size} href="{_inlined(_heat_png(one.heat))}"/>{drawn}</svg>'
    )


def _box(box: tuple[float, float, float, float]) -> str:
    # So far from the edge that a line along it is seen whole.
    left, top, right, bottom = (min(max(_UNITS * side, 0.6), _UNITS - 0.6) for side in box)
    return _stroked(f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z")


def _inlined(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _heat_png(heat: npt.NDArray[np.float32]) -> bytes:
    side = min(_HEAT_SIDE, heat.shape[0])
    small = Image.fromarray(np.asarray(heat, np.float32)).resize((side, side), Image.Resampling.BOX)
    opacity = _opacity(np.asarray(small))
    opacity = np.round(np.round(opacity / 255 * _LEVELS) / _LEVELS * 255).astype(np.uint8)
    picture = np.empty((side, side, 4), np.uint8)
    picture[..., :3], picture[..., 3] = _HUE, opacity
    png = BytesIO()
    Image.fromarray(picture).save(png, "PNG", optimize=True)
    return png.getvalue()


def _opacity(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.round(255 * _OPAQUE * np.clip(heat, 0, 1) ** _FALL).astype(np.uint8)


def _insides(boxes: Iterable[Any]) -> list[tuple[float, float, float, float]]:
    """What lies in the crop of each box that does."""
    clipped = [np.clip(np.asarray(box, np.float64), 0, 1).tolist() for box in boxes]
    return [(left, top, right, bottom) for left, top, right, bottom in clipped if left < right and top < bottom]


_Point = tuple[float, float]


def _sides(box: tuple[float, float, float, float], size: tuple[int, int], inset: float) -> list[tuple[_Point, _Point]]:
    left, right = (min(max(x * size[0], inset), size[0] - 1 - inset) for x in box[0::2])
    top, bottom = (min(max(y * size[1], inset), size[1] - 1 - inset) for y in box[1::2])
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return list(zip(corners, corners[1:] + corners[:1], strict=True))


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[tuple[_Point, _Point]],
    colour: str,
    width: int,
    dash: float | None = None,
) -> None:
    """Lines on a dark edge, solid or with dashes of this length and gaps of two thirds of it."""
    for line in lines:
        draw.line(line, fill=_EDGE, width=width + 2)
    for line in lines:
        for part in [line] if dash is None else _dashes(*line, dash):
            draw.line(part, fill=colour, width=width)


def _dashes(start: _Point, end: _Point, dash: float) -> Iterator[tuple[_Point, _Point]]:
    (x, y), (across, down) = start, (end[0] - start[0], end[1] - start[1])
    length = float(np.hypot(across, down))
    for at in np.arange(0, length, dash * 5 / 3).tolist():
        low, high = at / length, min((at + dash) / length, 1)
        yield (x + low * across, y + low * down), (x + high * across, y + high * down)
