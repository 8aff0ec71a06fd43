"""Take the picture of a report that stands in the README.

Of the demo, whose heads are synthetic: no picture of a person goes into the repository. Again, when the page has changed::

    cohort demo demo-output
    python tests/reporting/screenshot.py demo-output/store/report/index.html .github/report.png
"""

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import browser as browsers

WIDTH, HEIGHT = 1200, 2400
"""Pixels of the page that are shown, from its top."""

MOST_BYTES = 300_000


def main(report: Path, picture: Path) -> None:
    """Open the report, take its picture, and make it small: 128 colours are enough for greys and a few accents."""
    with browsers.launched(browsers.chromium()) as running:
        visit = browsers.Visit(running, report.resolve(), width=WIDTH, height=HEIGHT)
        assert visit.quiet()
        assert visit.undecoded() == []
        picture.parent.mkdir(exist_ok=True)
        visit.page.screenshot(path=picture, animations="disabled")
    with Image.open(picture) as shot:
        small = shot.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)
    size = picture.stat().st_size
    if size >= MOST_BYTES:
        raise SystemExit(f"{picture} has {size} bytes, expected less than {MOST_BYTES}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
