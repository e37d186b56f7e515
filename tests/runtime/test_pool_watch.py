"""A line when a backend breaks and one when it is back; the same of pools."""

from __future__ import annotations

import logging

import pytest

from aoai_gateway.routing.breaker import BY_HAND, NO_CREDENTIAL, Break
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.pool_watch import STEADY_SECONDS, PoolWatch
from aoai_gateway.runtime.trouble import troubles
from tests.engine_driver import config


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_700_000_000


class Watched:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = Clock()
        self.gateway = Gateway(self.clock)  # type: ignore[arg-type]
        self.gateway.adopt(config("a", "b"))
        self.watch = PoolWatch(self.gateway)
        self.caplog = caplog
        caplog.set_level(logging.INFO)

    def break_(self, name: str, seconds: float, call_id: str = "call-1") -> None:
        backend = next(b for b in self.gateway.setup.table.backends if b.name == name)
        now = self.clock.now
        self.gateway.engine.breaks.open(backend.key, Break(now, now + seconds, "429", call_id))

    def after(self, seconds: float) -> list[str]:
        """Let time pass, looking twice a second; give the events that were logged."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.watch.look()
            self.clock.now += 0.5
        self.watch.look()
        events = [r.event for r in self.caplog.records if hasattr(r, "event")]
        self.caplog.clear()
        return events


def test_a_storm_of_breaks_is_one_line_and_the_recovery_another(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    events = []
    for _ in range(20):
        here.break_("a@a", 2)
        events += here.after(3)  # it comes back for a second, and breaks again
    assert events == ["backend.broken"]
    assert here.after(STEADY_SECONDS) == ["backend.recovered"]
    assert here.after(60) == []


def test_the_recovery_says_how_long_it_took(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    here.break_("a@a", 30)
    here.after(1)
    here.caplog.clear()
    for _ in range(100):
        here.clock.now += 0.5
        here.watch.look()
    assert "a@a is back after 30 s; meanwhile, 0 attempts failed." in caplog.text


def test_an_endpoint_that_breaks_as_a_whole_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    here.gateway.adopt(config("gpt@a", "mini@a", "embed@a", "b"))
    for name in ("gpt@a", "mini@a", "embed@a", "b@b"):
        here.break_(name, 30)
    here.watch.look()
    said = [record.getMessage() for record in caplog.records if record.event.endswith(".broken")]
    assert said == [
        "a is in a break for 30.0 s with its 3 backends: 429 (call call-1)",
        "b@b is in a break for 30.0 s: 429 (call call-1)",
    ]
    assert here.after(40)[-2:] == ["endpoint.recovered", "backend.recovered"]


@pytest.mark.parametrize("opener", [BY_HAND, NO_CREDENTIAL])
def test_a_break_that_no_call_has_opened_names_none(caplog: pytest.LogCaptureFixture, opener: str) -> None:
    here = Watched(caplog)
    here.break_("a@a", 30, opener)
    here.watch.look()
    assert caplog.messages == ["a@a is in a break for 30.0 s: 429"]


def test_a_pool_that_empties_is_an_error_and_trouble_until_it_has_a_backend(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = Watched(caplog)
    here.break_("a@a", 20)
    here.break_("b@b", 10)
    assert here.after(1) == ["backend.broken", "backend.broken", "pool.empty"]
    assert [each.text for each in troubles(here.gateway)] == ["gpt has no backend for the next 9 s"]
    assert here.after(5) == []
    assert here.after(5) == ["pool.back"]
    assert troubles(here.gateway) == []


def test_a_backend_that_is_no_longer_configured_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    here.break_("a@a", 30)
    here.after(1)
    here.gateway.adopt(config("b"))
    assert here.after(60) == []


def test_what_expires_soon_is_trouble(caplog: pytest.LogCaptureFixture) -> None:
    here = Watched(caplog)
    here.gateway.expiries = {"listen.certificate": here.gateway.unix_time() + 3 * 86_400, "other": 1e12}
    assert [(t.kind, t.text) for t in troubles(here.gateway)] == [
        ("expiry", "listen.certificate expires in 3 days")
    ]
