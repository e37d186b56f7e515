"""What a gateway makes of the breaks that it finds in the shared store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from aoai_gateway.proxy.gateway import Gateway
from aoai_gateway.proxy.sharing import CLOSED, Sharing
from aoai_gateway.routing.breaks import Break
from tests.engine_driver import config

pytestmark = pytest.mark.anyio

SWEDEN, FRANCE = ("sweden", "ptu"), ("france", None)


class Store:
    """A shared store that holds breaks: seconds left by backend."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], float] = {}

    def breaks(self, now: float) -> Mapping[tuple[str, str], float]:
        return self.found


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def shared() -> tuple[Gateway, Sharing, Store]:
    gateway, store = Gateway(), Store()
    sharing: Any = Sharing(gateway)
    sharing._failover = store
    return gateway, sharing, store


async def looked(sharing: Sharing, gateway: Gateway) -> dict[Any, Break]:
    await sharing.look()
    return dict(gateway.engine.breaks)


async def test_a_break_of_another_process_holds_here_until_it_is_ended() -> None:
    gateway, sharing, store = shared()
    store.found = {("sweden\nptu", "*"): 9.0, ("france\n*", "*"): 5.0}
    found = await looked(sharing, gateway)
    assert {scope: round(brk.until - time.monotonic()) for scope, brk in found.items()} == {
        SWEDEN: 9,
        FRANCE: 5,
    }
    store.found = {("france\n*", "*"): 4.5}
    assert set(await looked(sharing, gateway)) == {FRANCE}


async def test_a_break_of_its_own_keeps_its_reason_and_can_be_withdrawn() -> None:
    gateway, sharing, store = shared()
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 9, "429 RateLimitReached", "call 1"))
    store.found = {("sweden\nptu", "*"): 9.01}
    found = await looked(sharing, gateway)
    assert found[SWEDEN].reason == "429 RateLimitReached"
    gateway.engine.breaks.withdraw(SWEDEN, "call 1")
    assert dict(gateway.engine.breaks) == {}


async def test_a_longer_break_of_another_process_counts() -> None:
    gateway, sharing, store = shared()
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 9, "429 RateLimitReached", "call 1"))
    store.found = {("sweden\nptu", "*"): 30.0}
    assert "another gateway process" in (await looked(sharing, gateway))[SWEDEN].reason


async def test_what_is_closed_by_hand_elsewhere_is_closed_here_though_this_process_opened_it() -> None:
    gateway, sharing, store = shared()
    now = time.monotonic()
    for scope in (SWEDEN, FRANCE):
        gateway.engine.breaks.open(scope, Break(now, now + 50, "429", "call"))
    store.found = {("sweden\nptu", CLOSED): 2.0}
    assert set(await looked(sharing, gateway)) == {FRANCE}
    # It is said once: what is opened after it stays, though the store still tells of the closing.
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 50, "429", "another call"))
    assert set(await looked(sharing, gateway)) == {SWEDEN, FRANCE}
    store.found = {}
    await sharing.look()
    store.found = {("sweden\nptu", CLOSED): 2.0}
    assert set(await looked(sharing, gateway)) == {FRANCE}


async def test_a_closing_is_told_and_does_not_come_back() -> None:
    gateway, sharing, store = shared()
    gateway.adopt(config("ptu@sweden"))
    told: list[tuple[str, str]] = []

    def tell(backend: str, cls: str, *rest: float) -> None:
        told.append((backend, cls))

    other: Any = store
    other.open_break, other.close_break = tell, tell
    await sharing.tell_closed([SWEDEN])
    assert told == [("sweden\nptu", "*"), ("sweden\nptu", CLOSED)]
    now = time.monotonic()
    gateway.engine.breaks.open(SWEDEN, Break(now, now + 50, "429", "call"))
    store.found = {("sweden\nptu", CLOSED): 1.9}
    assert set(await looked(sharing, gateway)) == {SWEDEN}
