"""What a gateway makes of the breaks that it finds in the shared store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from aoai_gateway.proxy.gateway import Gateway
from aoai_gateway.proxy.sharing import Sharing
from aoai_gateway.routing.breaks import Break

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
