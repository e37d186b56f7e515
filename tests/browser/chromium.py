"""A headless Chromium, as the system has it: none is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.processes import CHECKOUT
from tests.programs import require

PATIENCE_MS = 30_000
"""How long anything on a page is waited for; in vain only where the test fails."""

ARGUMENTS = [
    "--no-sandbox",  # there is none in most containers
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-lcd-text",  # or letters in pictures would have coloured edges
    # Nothing of its own on the network.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SCREENSHOTS = "AOAI_GATEWAY_SCREENSHOTS"
"""Environment variable: the folder in the checkout that gets the pictures of docs/, if they are wanted."""


def require_chromium() -> str:
    """Return the path of Chromium; skip the test, or fail it in CI, where there is none."""
    return require("chromium")


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Run a browser.

    Playwright occupies this thread's event loop as long as the browser runs, so it must end with the module.
    """
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=ARGUMENTS, env=dict(os.environ), timeout=2 * PATIENCE_MS
        )
        try:
            yield browser
        finally:
            browser.close()


def take_picture(page: Page, name: str, *, height: int | None = None) -> None:
    """Take a picture for docs/, if they are wanted: of the page as it is seen, down to `height`."""
    folder = os.environ.get(SCREENSHOTS)
    if not folder:
        return
    path = CHECKOUT / folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    assert size is not None
    page.evaluate("scrollTo(0, 0); document.activeElement?.blur()")  # no ring around what was clicked last
    page.mouse.move(0, size["height"] - 1)  # nothing is hovered over
    clip = {"x": 0.0, "y": 0.0, "width": float(size["width"]), "height": float(height or size["height"])}
    page.screenshot(path=path, clip=clip, animations="disabled")  # type: ignore[arg-type]  # a plain dict will do
