"""What a person can do to a running gateway."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import pytest

from aoai_gateway.admin.controls import ControlError, Controls, NothingOfThatNameError
from aoai_gateway.config.models import Config
from aoai_gateway.config.priorities import BreakLengths
from aoai_gateway.routing.backends import Backend
from aoai_gateway.routing.breaker import FailedCall
from aoai_gateway.runtime.gateway import Gateway
from tests.engine_driver import DEPLOYMENT, config

LENGTHS = {"default": BreakLengths(10, 1, 60)}

type Make = Callable[[Config], Gateway]


@pytest.fixture
def gateway(gateway_with: Make) -> Gateway:
    return gateway_with(config("a@one", "b@one", "c@two"))


@pytest.fixture
def controls(gateway: Gateway) -> Controls:
    return Controls(gateway)


def broken(gateway: Gateway) -> dict[str, int]:
    now = time.monotonic()
    found = {b.name: gateway.engine.breaks.on(b, now) for b in gateway.in_force().table.backends}
    return {name: round(brk.remaining(now)) for name, brk in found.items() if brk is not None}


def pool(gateway: Gateway) -> list[str]:
    return [b.name for b in gateway.in_force().table.pool(DEPLOYMENT) or ()]


def backend(gateway: Gateway, name: str) -> Backend:
    return next(b for b in gateway.in_force().table.backends if b.name == name)


def fail(gateway: Gateway, scope: tuple[str, str | None]) -> None:
    """Have a call fail there, just now."""
    gateway.engine.breaks.open_for(FailedCall(scope, time.monotonic(), 30, "429", "call"), LENGTHS)


def test_a_break_on_a_backend_and_on_an_endpoint(gateway: Gateway, controls: Controls) -> None:
    assert controls.open_break("a@one", 60) == "a@one: a break of 60 s was opened"
    assert broken(gateway) == {"a@one": 60}
    controls.open_break("two", 90, " maintenance\n there ")
    assert broken(gateway) == {"a@one": 60, "c@two": 90}
    found = gateway.engine.breaks.on(backend(gateway, "c@two"), time.monotonic())
    assert found is not None
    assert found.reason == "by hand: maintenance there"


def test_a_later_break_by_hand_takes_the_place_of_the_first(gateway: Gateway, controls: Controls) -> None:
    controls.open_break("a@one", 600)
    controls.open_break("a@one", 60)
    assert broken(gateway) == {"a@one": 60}


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, 1e9])
def test_a_break_takes_a_time(controls: Controls, seconds: float) -> None:
    with pytest.raises(ControlError, match="at most 86400 seconds"):
        controls.open_break("a@one", seconds)


def test_a_name_that_is_none(controls: Controls) -> None:
    with pytest.raises(NothingOfThatNameError, match="no backend or endpoint 'on'; did you mean"):
        controls.open_break("on", 5)
    with pytest.raises(NothingOfThatNameError):
        controls.close_break("d@one")


def test_closing_frees_a_backend_whose_whole_endpoint_is_out(gateway: Gateway, controls: Controls) -> None:
    fail(gateway, ("one", "a"))
    fail(gateway, ("one", "b"))
    fail(gateway, ("one", None))
    said = controls.close_break("a@one")
    assert said == "a@one: its break was closed, and that of all of one"
    assert list(broken(gateway)) == ["b@one"]
    assert not gateway.engine.breaks.is_half_open(backend(gateway, "a@one"), "default")
    assert gateway.engine.breaks.is_half_open(backend(gateway, "b@one"), "default")


def test_closing_an_endpoint_frees_all_that_it_has(gateway: Gateway, controls: Controls) -> None:
    for scope in (("one", "a"), ("one", None), ("two", "c")):
        fail(gateway, scope)
    controls.close_break("one")
    assert list(broken(gateway)) == ["c@two"]
    controls.close_all_breaks()
    assert broken(gateway) == {}


def test_there_is_nothing_to_close(controls: Controls) -> None:
    with pytest.raises(ControlError, match="a@one has no break"):
        controls.close_break("a@one")
    assert controls.close_all_breaks() == "all breaks were closed"


def test_switching_and_reloading(gateway: Gateway, controls: Controls) -> None:
    before = gateway.in_force()
    assert controls.switch("endpoint", "one", on=False) == "endpoint one was switched off"
    assert pool(gateway) == ["c@two"]
    assert len(before.table.pool(DEPLOYMENT) or ()) == 3, "calls under way keep what they began with"
    gateway.adopt(config("a@one", "d@three"))
    assert pool(gateway) == ["d@three"]
    assert controls.switch("endpoint", "one", on=False) == "endpoint one is off already"
    assert controls.switch("endpoint", "one", on=True) == "endpoint one was switched on again"
    assert pool(gateway) == ["a@one", "d@three"]


def test_what_is_off_can_be_switched_on_though_the_file_has_it_no_more(
    gateway: Gateway, controls: Controls
) -> None:
    controls.switch("standin", "c@two", on=False)
    gateway.adopt(config("a@one"))
    with pytest.raises(NothingOfThatNameError):
        controls.switch("standin", "b@one", on=False)
    controls.switch("standin", "c@two", on=True)
    gateway.adopt(config("a@one", "c@two"))
    assert pool(gateway) == ["a@one", "c@two"]


def test_the_file_has_the_last_word(gateway_with: Make) -> None:
    controls = Controls(gateway_with(config("a@one", ("b@one", {"enabled": False}))))
    for on in (True, False):
        with pytest.raises(ControlError, match="the configuration switches b@one off"):
            controls.switch("standin", "b@one", on=on)


def test_what_cannot_be_switched(controls: Controls) -> None:
    with pytest.raises(ControlError, match="'group' cannot be switched"):
        controls.switch("group", "x", on=False)


def test_everything_is_logged_and_kept(
    gateway: Gateway, controls: Controls, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        controls.switch("client", "anybody", on=False)
        controls.open_break("a@one", 5)
    assert [each["text"] for each in gateway.actions] == [
        "a@one: a break of 5 s was opened",
        "client anybody was switched off",
    ]
    assert caplog.messages[0] == "By hand: client anybody was switched off."


def test_those_in_line_look_again_when_a_shorter_break_takes_the_place_of_a_longer(
    gateway: Gateway, controls: Controls, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[None] = []
    monkeypatch.setattr(gateway.waiting, "changed", lambda: looked.append(None))
    controls.open_break("a@one", 600)
    looked.clear()
    controls.open_break("a@one", 1)
    assert looked
