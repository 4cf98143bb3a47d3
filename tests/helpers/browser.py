"""A headless Chromium that draws pages as a reader's would."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Nothing but the page is loaded, and nothing is looked up.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip
#: A narrow window is no narrower than 500 px in headless Chromium: a frame in the page is.
_PROBE = """<!DOCTYPE html><body style="margin:0"><iframe id="page" src="{page}" width="{width}" height="4000"
style="border:0"></iframe><pre id="probe"></pre><script>
addEventListener("load", () => {{ const inner = document.getElementById("page").contentDocument.documentElement;
document.getElementById("probe").textContent = "widths " + inner.clientWidth + " " + inner.scrollWidth; }});
</script>"""


class Drawn(NamedTuple):
    """What became of a page: its width in pixels, how far its content reaches, what the console said."""

    width: int
    scroll_width: int
    console: list[str]


def find_browser() -> str | None:
    """Where a Chromium is, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def draw(browser: str, html: str, folder: Path, width: int) -> Drawn:
    """Draw a page in a frame of this width.

    Args:
        browser: the program.
        html: the page.
        folder: an empty one, to work in.
        width: in pixels.
    """
    (folder / "page.html").write_text(html, encoding="utf-8")
    probe = folder / "probe.html"
    probe.write_text(_PROBE.format(page="page.html", width=width), encoding="utf-8")
    done = run(browser, folder, "--allow-file-access-from-files", "--dump-dom", probe.as_uri())
    found = re.search(r"widths (\d+) (\d+)", done.stdout)
    assert found, f"the page was not drawn: {done.stderr[-2000:]}"
    return Drawn(int(found[1]), int(found[2]), re.findall(r"CONSOLE.*", done.stderr))


def run(browser: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start it with a profile of its own inside the folder."""
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
