"""The status page in a browser: live, usable by hand, on a phone, in the dark, and after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import PATIENCE_MS
from tests.e2e.processes import Gateway, Simulator, free_port
from tests.e2e.settings import CLIENT_KEY, SPEC, configuration

CHAT = {"model": "gpt-4o", "max_tokens": 20, "messages": [{"role": "user", "content": "Hello"}]}
REPORTS_KEY = "reports-key-71c0"
PTU, PAYGO = "gpt-4o-ptu@sweden", "gpt-4o-paygo@sweden"
WINDOW = {"width": 1280, "height": 1000}
PHONE = {"width": 390, "height": 844}


class Place:
    """A gateway that can be started again, and its status page in a window."""

    def __init__(self, start: Callable[[], Gateway], simulator: Simulator, url: str, page: Page) -> None:
        self._start = start
        self.gateway = start()
        self.simulator = simulator
        self.page = page
        self.url = url
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        self.expect_state("ready")

    def restart(self) -> None:
        """End the gateway, see that the page says so, and start it again."""
        assert self.gateway.stop() == 0, self.gateway.log
        self.expect_state("no answer")
        expect(self.page.locator("body")).to_contain_class("stale")
        self.gateway = self._start()

    def ask(self, **changes: Any) -> str | None:
        """Make a call; gives the backend that answered."""
        path = "/openai/v1/chat/completions"
        answer = self.gateway.request("POST", path, key=CLIENT_KEY, json_body=CHAT | changes)
        return answer.headers.get("x-gateway-backend") if answer.status == 200 else None

    def expect_state(self, text: str) -> None:
        """Wait until the page says so of the gateway."""
        expect(self.page.locator("#status")).to_contain_text(text)

    def backend(self, name: str) -> Locator:
        """Return a backend's row."""
        return self.page.locator(f'[data-backend="{name}"]')

    def client(self, name: str) -> Locator:
        """Return a client's row."""
        return self.page.locator(f'[data-client="{name}"]')

    def press(self, row: Locator, action: str, reason: str = "") -> None:
        """Press a button, and agree to what the dialog asks."""
        row.locator(f'[data-action="{action}"]').click()
        dialog = self.page.locator("#dialog")
        expect(dialog).to_be_visible()
        if reason:
            dialog.locator('[name="reason"]').fill(reason)
        dialog.locator('[data-action="confirm"]').click()
        expect(dialog).to_be_hidden()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, home: Path, browser: Browser) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("status")
    simulator = Simulator(SPEC, folder)
    admin = free_port()
    clients = [
        {"name": "Support bot", "key": CLIENT_KEY, "max_tokens_per_minute": 60_000},
        {"name": "Reports", "key": REPORTS_KEY, "max_tokens_per_day": 2_000_000},
    ]
    # What is written to a full disk is lost, and the loss is counted.
    records = {"usage_log": "/dev/full", "usage_sinks": {"csv": {"folder": str(folder / "csv")}}}
    config = configuration(simulator.urls, simulator.keys, admin={"port": admin}, clients=clients, **records)
    started: list[Gateway] = []

    def start() -> Gateway:
        started.append(Gateway("serve", config, folder, home=home, name=f"gateway-{len(started)}"))
        return started[-1]

    try:
        page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]  # a plain dict will do
        yield Place(start, simulator, f"http://127.0.0.1:{admin}/", page)
    finally:
        for gateway in started:
            gateway.kill()
            print(gateway.log)
        simulator.kill()


@pytest.fixture(autouse=True)
def at_rest(place: Place) -> Iterator[None]:
    """Leave no breaks and nothing that is switched off."""
    yield
    place.simulator.reset()
    api = f"{place.url}api/"
    for each in place.page.request.get(f"{api}status").json()["by_hand"]["switched_off"]:
        place.page.request.post(f"{api}switch", data={**each, "on": True})
    place.page.request.post(f"{api}breaks/close", data={})


def test_it_shows_what_each_place_of_records_has_taken_and_lost(place: Place) -> None:
    assert place.ask() is not None
    full = place.page.locator('[data-sink="/dev/full"]')
    expect(full).to_contain_text("No space left on device")
    expect(full.locator(".bad").last).not_to_have_text("0")
    expect(place.page.locator("#sinks tbody tr")).to_have_count(2)
    expect(place.page.locator("#banner")).to_contain_text("No space left on device")


def test_a_break_says_since_when_it_is(place: Place) -> None:
    place.page.request.post(f"{place.url}api/breaks/open", data={"name": PTU, "seconds": 60, "reason": "x"})
    expect(place.backend(PTU)).to_contain_text("by hand: x, since ")


def tell(place: Place, count: int = 1) -> None:
    """Have some calls made."""
    for _ in range(count):
        assert place.ask() is not None


def fits(page: Page) -> bool:
    """Whether the page is no wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_figures_follow_the_traffic(place: Place) -> None:
    calls = place.page.locator('[data-tile="calls"]')
    before = int(calls.inner_text())
    tell(place, 3)
    expect(calls).to_have_text(str(before + 3))
    expect(place.page.locator('[data-tile="tokens"]')).not_to_have_text("0")
    expect(place.page.locator("#chart-calls svg path")).not_to_have_count(0)
    expect(place.backend(PTU)).to_contain_text("0 failed")
    expect(place.client("Support bot").locator(".quota")).to_contain_text("of 60k")


def test_a_break_counts_down(place: Place) -> None:
    place.simulator.fault("429", endpoint="sweden", deployment="gpt-4o-ptu", retry_after_seconds=40)
    assert place.ask() == PAYGO
    state = place.backend(PTU).locator(".state")
    expect(state).to_contain_text("429 RateLimitReached")
    left = state.locator(".pill.bad")
    begun = left.inner_text()
    expect(left).not_to_have_text(begun)
    assert float(left.inner_text().removesuffix(" s")) < float(begun.removesuffix(" s")) <= 40


def test_the_buttons_of_a_half_open_backend_are_inside_their_column(place: Place) -> None:
    place.simulator.fault("429", endpoint="sweden", deployment="gpt-4o-ptu", retry_after_seconds=1)
    assert place.ask() == PAYGO
    actions = place.backend(PTU).locator(".actions")
    expect(actions.locator("button").first).to_have_text("End half-open state")
    assert actions.evaluate("cell => cell.scrollWidth <= cell.clientWidth")


def test_a_break_is_opened_and_closed_by_hand(place: Place) -> None:
    assert place.ask() == PTU
    place.press(place.backend(PTU), "break", "being resized")
    expect(place.backend(PTU).locator(".state")).to_contain_text("being resized")
    assert place.ask() == PAYGO
    place.press(place.backend(PTU), "close")
    expect(place.backend(PTU).locator(".state .ok")).to_be_visible()
    assert place.ask() == PTU
    expect(place.page.locator("#actions li").first).to_contain_text(PTU)


def test_a_standin_and_a_client_are_switched_off_and_on(place: Place) -> None:
    place.press(place.backend(PTU), "off")
    expect(place.backend(PTU)).to_contain_text("switched off by hand")
    assert place.ask() == PAYGO
    place.press(place.client("Support bot"), "off")
    expect(place.client("Support bot")).to_contain_text("switched off by hand")
    assert place.ask() is None
    place.press(place.client("Support bot"), "on")
    place.press(place.backend(PTU), "on")
    expect(place.backend(PTU).locator(".state .ok")).to_be_visible()
    assert place.ask() == PTU


def test_it_is_dark_in_the_dark_and_fits_on_a_phone(place: Place) -> None:
    page = place.page
    color = "getComputedStyle(document.body).backgroundColor"
    try:
        assert fits(page)
        light = page.evaluate(color)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(color) != light
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]  # a plain dict will do
        place.simulator.fault("429", endpoint="sweden", deployment="gpt-4o-ptu", retry_after_seconds=60)
        tell(place)
        expect(place.backend(PTU).locator(".state")).to_contain_text("429")
        assert fits(page)
        place.backend(PTU).locator('[data-action="close"]').click()
        box = page.locator("#dialog").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        page.keyboard.press("Escape")
        expect(page.locator("#dialog")).to_be_hidden()
    finally:
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(WINDOW)  # type: ignore[arg-type]  # a plain dict will do


def test_no_key_is_in_the_page(place: Place) -> None:
    tell(place)
    shown = place.page.content() + place.page.request.get(f"{place.url}api/status").text()
    assert "Support bot" in shown
    for key in (CLIENT_KEY, REPORTS_KEY, *place.simulator.keys.values()):
        assert key not in shown


def test_it_goes_on_after_a_restart(place: Place) -> None:
    place.restart()
    place.expect_state("ready")
    expect(place.page.locator("body")).not_to_contain_class("stale")
    expect(place.page.locator("#banner")).to_be_hidden()
    tell(place, 2)
    expect(place.page.locator('[data-tile="calls"]')).to_have_text("2")
