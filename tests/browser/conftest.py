"""A browser for a module, and what the end-to-end tests have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.browser.chromium import chromium, require_chromium
from tests.e2e.conftest import home

__all__ = ["home"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. Each test module has its own: see `chromium`."""
    with chromium(require_chromium()) as running:
        yield running


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A window for the tabs of a module, see `tests.browser.served`."""
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    yield made
    made.close()
