"""The looks of every page: light and dark, phone and print, with no font or picture to load."""

from __future__ import annotations

from typing import Final

#: Lines differ by colour and by dashes; marks by shape: nothing is told by colour alone.
STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --shade: 37, 99, 235;
  --s1: #2563eb; --s2: #c2660a; --s3: #0d9488; --s4: #9333ea; --mark: #d97706; }
@media (prefers-color-scheme: dark) { :root { --shade: 96, 165, 250;
  --s1: #60a5fa; --s2: #fbbf24; --s3: #2dd4bf; --s4: #c084fc; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; } h1, h2, h3 { overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { margin: 1.75rem 0 .25rem; font-size: 1.1rem; }
p, li, dd { max-width: 46rem; }
.notice, .caution { border: 2px solid var(--mark); border-radius: .4rem; padding: .6rem .9rem; max-width: none; }
.caution p { margin: .3rem 0; }
.headline { display: flex; flex-wrap: wrap; gap: .5rem 3rem; margin: 1.5rem 0; }
.headline div { display: flex; flex-direction: column; } .headline dd, .headline dt { margin: 0; }
.headline dt { font-weight: 400; } .headline strong { font-size: 2.6rem; line-height: 1.15; }
.headline .beside strong { font-weight: 400; }
nav ol { columns: 14rem; padding-left: 1.4rem; margin: .5rem 0; } nav li { break-inside: avoid; }
small { display: block; font-size: .75em; opacity: .85; white-space: nowrap; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; } code { font-size: .9em; }
.scroll { overflow-x: auto; margin: .75rem 0; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption, figcaption { text-align: left; font-weight: 600; padding: .25rem 0; }
caption span { position: sticky; left: 0; display: inline-block; max-width: min(46rem, calc(100vw - 2rem)); }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; } th { max-width: 14rem; overflow-wrap: break-word; } .words td { white-space: normal;
  text-align: left; min-width: 10rem; }
thead th { vertical-align: bottom; } th[scope=row], thead tr:first-child th:first-child { text-align: left;
  min-width: 9rem; }
.scroll th[scope=row], .scroll thead tr:first-child th:first-child { position: sticky; left: 0; background: Canvas; }
.average th, .average td { background: rgba(var(--shade), .07); } .best { font-weight: 700; }
.upright thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  max-height: 11rem; font-weight: 400; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; margin: .75rem 0; }
.plots figure { margin: 0; flex: 0 1 18.5rem; min-width: 0; } .plots figure.one { flex-basis: 13rem; }
.plots figure.wide { flex-basis: 26rem; } .pair { display: flex; } .pair svg { width: 50%; }
.plots svg { width: 100%; height: auto; display: block; } .plots .pair svg { width: 50%; }
.plots p { margin: 0; font-size: .85rem; } figcaption { overflow-wrap: anywhere; }
svg text { fill: currentColor; font: 10px system-ui, sans-serif; } .grid { stroke: var(--line); stroke-width: 1;
  fill: none; } .line { fill: none; stroke-width: 1.75; stroke-linecap: round; stroke-linejoin: round; }
.l1 { stroke: var(--s1); } .l2 { stroke: var(--s2); stroke-dasharray: 5 3; }
.l3 { stroke: var(--s3); stroke-dasharray: 1 3.5; } .l4 { stroke: var(--s4); stroke-dasharray: 8 3 1 3; }
.chance { stroke: currentColor; stroke-width: 1; stroke-dasharray: 2 3; opacity: .7; }
.d1 { fill: var(--s1); } .d2 { fill: Canvas; stroke: var(--s2); stroke-width: 1.5; }
.keys { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0; margin: .5rem 0; list-style: none;
  font-size: .9rem; overflow-wrap: anywhere; }
.keys svg { display: inline-block; width: 2rem; height: .8rem; vertical-align: middle; margin-right: .35rem; }
.whiskers { margin: 1rem 0; } .whisker { display: grid; grid-template-columns: 15rem 1fr 10.5rem; gap: 0 .75rem;
  align-items: center; font-size: .9rem; line-height: 1.25; padding: .15rem 0; border-top: 1px solid var(--line); }
.whisker .name { overflow-wrap: anywhere; } .whisker .told { font-variant-numeric: tabular-nums; }
.whisker svg { width: 100%; height: 1rem; display: block; overflow: visible; }
.whisker .scale { display: flex; justify-content: space-between; grid-column: 2; font-size: .8rem; }
.range { stroke: var(--s1); stroke-width: 2; } .limit { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 3 2; }
.sheet { display: flex; flex-wrap: wrap; gap: .75rem; } .sheet figure { margin: 0; width: 9.5rem; }
.sheet img, .sheet .blank { width: 100%; aspect-ratio: 1; display: block; border-radius: .2rem; object-fit: contain;
  background: #000; } .sheet .blank { background: none; border: 1px dashed var(--line); padding: .5rem;
  font-size: .8rem; } .sheet figcaption { font: .8rem/1.35 system-ui, sans-serif; }
details { margin: 1rem 0; } summary { cursor: pointer; }
@media (max-width: 40rem) { .whisker { grid-template-columns: 1fr auto; padding: .35rem 0; }
  .whisker svg { grid-row: 2; grid-column: 1 / 3; } .whisker .scale { grid-column: 1 / 3; }
  .sheet figure { width: calc(50% - .4rem); } th, td { padding: .25rem .4rem; font-size: .9rem; }
  .scroll th[scope=row], .scroll thead tr:first-child th:first-child { min-width: 5.5rem; }
  .scroll th[scope=row] { max-width: 8rem; font-size: .8rem; } .plots figure, .plots figure.one { flex: 1 1 100%; }
  .plots figure.one { flex: 0 1 calc(50% - .75rem); } }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } .scroll { overflow: visible; }
  figure, tr, .whisker, .notice, .caution { break-inside: avoid; } h2, h3, caption { break-after: avoid; }
  table { font-size: 8pt; } th, td { padding: .15rem .3rem; }
  .scroll th[scope=row], .scroll thead tr:first-child th:first-child { position: static; min-width: 0; }
  td, th { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
