"""Debian's Chromium, cut off from any network: opens a page as a person would, and notes what it complains of and asks for."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ARTEFACTS = Path(__file__).resolve().parent / "artefacts"
"""Screenshots of the last run, for people; ignored by git."""

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"),
    # Graphics without a graphics card.
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    # Nobody listens there: whatever the page asked of a network would fail, and be seen.
    "--proxy-server=127.0.0.1:9",
)


def chromium() -> str:
    """Path of the browser; without one a test is skipped, and fails where CI is true."""
    found = shutil.which("chromium")
    if found is None:
        message = "Chromium is not installed (Debian package chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@contextmanager
def launched(path: str) -> Iterator[Any]:
    """The browser, running."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def another(browser: Any, *more: str) -> Iterator[Any]:
    """The same browser once more, with further flags; playwright itself runs once a process."""
    second = browser.browser_type.launch(executable_path=chromium(), args=[*FLAGS, *more])
    try:
        yield second
    finally:
        second.close()


class Visit:
    """A page that is open.

    Parameters
    ----------
    browser
    path : Path
        Of an HTML file.
    width, height : int, pixels

    Notes
    -----
    `page` is playwright's. `troubles` are errors and warnings of the console, exceptions, and what the page's policy refused;
    `requests` whatever was asked for beside the file itself and data: URLs, none of which is let through.
    """

    def __init__(self, browser: Any, path: Path, *, width: int = 1200, height: int = 900) -> None:
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        self.page.route("**/*", lambda route: self._asked(route, path.as_uri()))
        self.page.add_init_script(
            "window.refused = []; document.addEventListener('securitypolicyviolation',"
            " (e) => window.refused.push(e.effectiveDirective + ' ' + e.blockedURI));"
        )
        self.page.goto(path.as_uri())

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type}: {message.text}")

    def _asked(self, route: Any, home: str) -> None:
        url = route.request.url
        if url.partition("#")[0] == home or url.startswith("data:"):
            route.continue_()
        else:
            self.requests.append(url)
            route.abort()

    def quiet(self) -> bool:
        """Whether nothing was complained of, refused or asked for; else the assertion says what."""
        refused = self.page.evaluate("window.refused")
        assert (self.troubles, refused, self.requests) == ([], [], [])
        return True

    def undecoded(self) -> list[str]:
        """Descriptions of pictures that did not become one."""
        return self.page.evaluate(
            "Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth ? null : i.alt, () => i.alt)))"
            ".then((all) => all.filter((each) => each !== null))"
        )

    def shot(self, name: str, selector: str | None = None, *, full: bool = False) -> np.ndarray:
        """A screenshot, (rows, columns, 3) uint8, kept under `ARTEFACTS`."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        if selector is None:
            self.page.screenshot(path=path, full_page=full, animations="disabled")
        else:
            self.page.locator(selector).first.screenshot(path=path, animations="disabled")
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))

    def focus(self) -> dict[str, Any]:
        """What has the focus: ``id``, ``tag``, and whether that can be seen."""
        return self.page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return { id: e.id, tag: e.tagName, seen: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0 }; })()"
        )

    def tabbed(self, most: int = 400) -> list[dict[str, Any]]:
        """What the tabulator reaches, in order, from the top of the page and once round."""
        self.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        found: list[dict[str, Any]] = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            now = self.focus()
            if now["tag"] == "BODY":
                break
            found.append(now)
        return found


def colours(picture: np.ndarray) -> int:
    """How many different colours a picture, (rows, columns, 3), has."""
    return len(np.unique(picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)))
