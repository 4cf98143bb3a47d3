"""Draws docs/phantoms.png, every finding that phantoms show, and measures how fast phantoms are drawn on one core.

Run: `python tests/benchmarks/phantom_sheet.py`.
"""

from __future__ import annotations

import time
from pathlib import Path

import _root  # noqa: F401

from featurizers.phantoms import contact_sheet, draw_phantom

STUDIES = 60


def phantoms_per_second(size: tuple[int, int] | None) -> float:
    """Phantoms per second of this process's CPU time, over the classes of the paediatric set."""
    kinds = ("normal", "viral", "bacterial")
    draw_phantom(0, ["viral"], size)
    start = time.process_time()
    for seed in range(STUDIES):
        draw_phantom(seed, [kinds[seed % 3]], size)
    return STUDIES / (time.process_time() - start)


if __name__ == "__main__":
    target = Path(__file__).parents[2] / "docs" / "phantoms.png"
    contact_sheet().save(target, optimize=True)
    print(f"{target.name}: {target.stat().st_size / 1e6:.2f} MB")
    for size in (None, (256, 256), (1024, 1024)):
        print(f"size {size or 'drawn, 400 to 1400 px'}: {phantoms_per_second(size):.1f} phantoms/s")
