"""A workbench with calls that a test makes up, without a gateway around it, and a tab in which it is open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mitmproxy.http import HTTPFlow
from playwright.sync_api import BrowserContext, expect
from playwright.sync_api import Page as Tab

from tests.browser.chromium import PATIENCE_MS
from tests.workbench.serving import Page, made_setup, serving


@contextmanager
def workbench(flows: Iterable[HTTPFlow], folder: Path) -> Iterator[Page]:
    """Serve a workbench that has seen some flows. ``folder``: of its sets of cases."""
    ready, over, found = threading.Event(), threading.Event(), list[Page]()

    async def scenario(page: Page) -> None:
        for flow in flows:
            page.bench.calls.response(flow)
        found.append(page)
        ready.set()
        await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=serving, args=(made_setup(), folder, scenario), daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield found[0]
    finally:
        over.set()
        thread.join(60)


@contextmanager
def tab_of(context: BrowserContext, bench: Page) -> Iterator[Tab]:
    """Open the workbench in a tab of its own, in which nothing may go wrong or elsewhere.

    Nothing is stored there yet; but what the page consists of need not be loaded and compiled for each tab.
    A tab of a test that fails is closed, too: what it goes on to store would be there in the next one's.
    """
    if not context.pages:
        # Another tab stays, and with it the process of Chromium that has compiled the page: tabs that a tab
        # opens have its process.
        context.new_page().goto(f"{bench.url}/workbench/icon.svg")
    with context.expect_page() as opened:
        context.pages[0].evaluate("() => { open('about:blank') }")
    page = opened.value
    try:
        yield from _watched(page, context, bench)
    finally:
        page.close()


def _watched(page: Tab, context: BrowserContext, bench: Page) -> Iterator[Tab]:
    page.set_default_timeout(PATIENCE_MS)
    everything = {"origin": bench.url, "storageTypes": "all"}
    context.new_cdp_session(page).send("Storage.clearDataForOrigin", everything)
    requested, problems = list[str](), list[str]()
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.accept()))
    page.goto(f"{bench.url}/workbench")
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    yield page
    assert problems == []
    assert {url for url in requested if not url.startswith((bench.url, "blob:"))} == set()
    assert page.title() == "Workbench"
