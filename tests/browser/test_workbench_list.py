"""Ten thousand calls in the workbench's list, with more coming: it loads, filters and scrolls smoothly.

Its bounds are wide, for a machine that is busy; what is measured is printed (``pytest -s``).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mitmproxy.http import HTTPFlow
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from tests.browser.chromium import PATIENCE_MS
from tests.workbench.serving import Page, made_setup, serving
from tests.workbench.test_calls import call

MANY = 10_000
MORE_A_SECOND = 200
LONGEST_TASK_MS = 500
"""For which the page may be busy at a time: a person notices a tenth of that as a delay of a key."""

ATTEMPTS = 4

WATCH = """() => {
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((each) => each.duration)))
    .observe({ entryTypes: ["longtask"] });
}"""

SCROLL = """async () => {
  const scroller = document.querySelector("#list .scroller");
  const gaps = [];
  let before = performance.now();
  for (let step = 0; step < 120; step++) {
    scroller.scrollTop = (step / 119) * scroller.scrollHeight;
    await new Promise(requestAnimationFrame);
    gaps.push(performance.now() - before);
    before = performance.now();
  }
  const rows = [...document.querySelectorAll("#list .row")];
  const numbers = (name) => rows.map((row) => Number(row.getAttribute(name)));
  const last = Math.max(...numbers("aria-posinset")), all = Math.max(...numbers("aria-setsize"));
  gaps.sort((a, b) => a - b);
  return { median: gaps[60], worst: gaps[119], rows: rows.length, last, all };
}"""

PRESSED_ON = """() => document.querySelector("#list .row:hover").dataset.call"""

UNTIL_REPLACED = """(call) => new Promise((done) => {
  const row = document.getElementById(`row-${call}`), began = performance.now();
  const over = () => !row.isConnected || performance.now() - began > 500;
  const look = () => (over() ? done() : requestAnimationFrame(look));
  look();
})"""


@dataclass
class Serving:
    """A workbench in a thread of its own, with many calls."""

    url: str
    page: Page
    loop: asyncio.AbstractEventLoop
    pause: threading.Event

    def add(self, flow: HTTPFlow) -> None:
        self.loop.call_soon_threadsafe(self.page.bench.calls.response, flow)


def made(number: int) -> HTTPFlow:
    noted: dict[str, Any] = {
        "gateway_client": "Bot" if number % 3 else "Reports",
        "gateway_deployment": "gpt-4o",
        "gateway_backend": f"gpt-4o-{'ab'[number % 2]}@{'ab'[number % 2]}",
        "gateway_duration_ms": 100 + number % 9000,
        "gateway_tokens_in": number % 700,
        "gateway_tokens_out": 40,
    }
    flow = call(f"Parcel {number}: where is it?\nIt was sent on Friday.", **noted)
    flow.timestamp_created = 1_760_000_000 + number / 100
    if number % 100 == 0:
        assert flow.response is not None
        flow.response.status_code = 429
    return flow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    ready, over = threading.Event(), threading.Event()
    found: list[Serving] = []

    async def scenario(page: Page) -> None:
        for number in range(MANY):
            page.bench.calls.response(made(number))
        loop, pause = asyncio.get_running_loop(), threading.Event()
        pause.set()
        found.append(Serving(f"{page.url}/workbench", page, loop, pause))
        ready.set()
        number = MANY
        while not over.is_set():
            if not pause.is_set():
                for _ in range(MORE_A_SECOND // 20):
                    page.bench.calls.response(made(number))
                    number += 1
            await asyncio.sleep(0.05)

    folder = tmp_path_factory.mktemp("sets")
    thread = threading.Thread(target=serving, args=(made_setup(), folder, scenario), daemon=True)
    thread.start()
    assert ready.wait(60)
    yield found[0]
    over.set()
    thread.join(30)


@pytest.fixture
def tab(browser: Browser, bench: Serving) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(bench.url)
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    yield page
    bench.pause.set()
    context.close()


def measured(what: str, **figures: float) -> None:
    print(f"\n{what}: " + ", ".join(f"{name} {value:,.0f}" for name, value in figures.items()))


def test_ten_thousand_calls_are_loaded(tab: Tab) -> None:
    expect(tab.locator(".list-status")).to_have_text(f"{MANY:,} calls")
    loaded = tab.evaluate("() => performance.now()")
    assert tab.locator("#list .row").count() < 60
    measured("loading 10,000 calls", ms=loaded)
    assert loaded < PATIENCE_MS


def shortest(what: str, tab: Tab, bench: Serving, act: Callable[[], float]) -> tuple[float, float]:
    """Do something while calls come, again if the page seems slow: another process may have had its turn.

    Returns the best of some attempts: the milliseconds of the longest task, and what ``act`` gave.
    """
    found: list[tuple[float, float]] = []
    while len(found) < ATTEMPTS and (not found or found[-1][0] >= LONGEST_TASK_MS):
        tab.evaluate(WATCH)
        bench.pause.clear()
        figure = act()
        bench.pause.set()
        found.append((max(tab.evaluate("() => window.tasks"), default=0.0), figure))
        measured(what, longest_task_ms=found[-1][0], figure=figure)
    return min(found)


def test_the_list_is_filtered_while_calls_come(tab: Tab, bench: Serving) -> None:
    status, numbers = tab.locator(".list-status"), itertools.count(20_000_000)

    def filtered() -> float:
        tab.locator("#filter").fill("is:failed client:Reports")
        expect(status).to_contain_text(re.compile(r" of [\d,]+ calls"))
        tab.locator("#filter").press_sequentially(" slower:2s", delay=30)
        # A new one: on a slow machine, those that were here are gone before they are looked for.
        number = next(numbers)
        bench.add(made(number))
        tab.locator("#filter").fill(f"parcel {number}")
        expect(tab.locator("#list .row")).to_have_count(1)
        tab.locator("#list .row").click()
        expect(tab.locator(".message.role-user")).to_contain_text(f"Parcel {number}: where is it?")
        tab.locator("#filter").fill("")
        bench.pause.set()
        expect(status).to_have_text("10,000 calls")
        return 0.0

    longest, _ = shortest("filtering with 200 calls a second", tab, bench, filtered)
    assert longest < LONGEST_TASK_MS


def test_the_list_is_scrolled_from_end_to_end(tab: Tab, bench: Serving) -> None:
    def scrolled() -> float:
        found = tab.evaluate(SCROLL)
        # How many calls are listed is another test: while they come, a slow page is some calls behind.
        assert found["last"] >= found["all"] - 60, json.dumps(found)
        assert found["rows"] < 60 < found["all"]
        return float(found["median"])

    longest, median = shortest("scrolling, the median of a frame in ms", tab, bench, scrolled)
    assert longest < LONGEST_TASK_MS
    assert median < LONGEST_TASK_MS / 2


def test_a_click_chooses_the_call_that_was_pressed_though_more_come(tab: Tab, bench: Serving) -> None:
    tab.locator("#list .row").nth(4).hover()
    bench.pause.clear()
    tab.mouse.down()
    pressed = tab.evaluate(PRESSED_ON)
    # For as long as a person's finger takes, or until the row is another element.
    tab.evaluate(UNTIL_REPLACED, pressed)
    tab.mouse.up()
    tab.wait_for_url(f"**#/call/{pressed}")
    # And the list goes on.
    bench.add(made(25_000_001))
    expect(tab.locator("#list .row .prompt").first).to_contain_text("Parcel 25000001")


def test_the_newest_ten_thousand_are_shown(tab: Tab, bench: Serving) -> None:
    tab.locator("#list .scroller").press("Home")
    bench.add(made(30_000_000))
    expect(tab.locator("#list .row .prompt").first).to_contain_text("Parcel 30000000")
    expect(tab.locator(".list-status")).to_have_text(f"{MANY:,} calls")
