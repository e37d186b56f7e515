"""What the gateway keeps of bookings, and what it says of its state."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from aoai_gateway.engine.effects import Book, Cancel, CountDelivered, CountTokens, Reserve, Settle
from aoai_gateway.proxy.health import readiness
from aoai_gateway.quota.quotas import Decision, Quota, Reservation
from aoai_gateway.runtime import gateway as gateway_module
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.state_sync import StateSync
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.tokens.counting import ESTIMATE
from aoai_gateway.wire.bodies import parse_body
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.targets import parse_target


def call(name: str, tokens: int = 60) -> Reservation:
    return Reservation(name, "team", (Quota(None, 100),), tokens)


class Elsewhere(MemoryState):
    """A store that must be awaited."""

    async def reserve(self, reservation: Reservation, now: float) -> Decision:  # type: ignore[override]
        return super().reserve(reservation, now)


async def decided(answer: Any) -> Decision:
    return answer if isinstance(answer, Decision) else await answer


def test_a_booking_is_kept_until_it_ends() -> None:
    for state in (MemoryState(), Elsewhere()):
        gateway = Gateway()
        gateway.state = state
        for end in (Settle(call("a"), 5), Cancel(call("a"))):
            assert asyncio.run(decided(gateway.reserve(Reserve(call("a"))))).admitted
            assert list(gateway.reservations) == ["a"]
            gateway.settle(end)
            assert gateway.reservations == {}


def test_a_booking_that_is_made_anew_is_kept_though_it_does_not_fit() -> None:
    gateway = Gateway()
    for name in ("a", "b"):
        gateway.settle(Book(call(name)))
    assert list(gateway.reservations) == ["a", "b"]
    gateway.settle(Settle(call("b"), 90))
    assert list(gateway.reservations) == ["a"]
    (standing,) = gateway.state.peek(call("c", 1), gateway.unix_time()).standings  # type: ignore[union-attr]
    assert standing.remaining == 0


def test_a_refused_booking_is_not_kept() -> None:
    """It will never end: every refused call would stay in memory, and have a lease to renew, for ever."""
    for state in (MemoryState(), Elsewhere()):
        gateway = Gateway()
        gateway.state = state
        assert asyncio.run(decided(gateway.reserve(Reserve(call("a"))))).admitted
        assert not asyncio.run(decided(gateway.reserve(Reserve(call("b"))))).admitted
        assert list(gateway.reservations) == ["a"]


class SystemClock:
    """A clock whose two times a test sets."""

    def __init__(self) -> None:
        self.up, self.of_day = 100.0, 1_800_000_000.0

    def monotonic(self) -> float:
        return self.up

    def time(self) -> float:
        return self.of_day


@pytest.mark.parametrize(
    ("awake", "gone_by", "seen"),
    [
        pytest.param(5.0, 5.0, 5.0, id="awake"),
        pytest.param(5.0, 8 * 3600.0, 8 * 3600.0, id="a machine that slept"),
        pytest.param(5.0, -3600.0, 5.0, id="a clock that was set back"),
    ],
)
def test_the_time_of_day_is_the_systems_unless_that_goes_back(
    awake: float, gone_by: float, seen: float
) -> None:
    clock = SystemClock()
    gateway = Gateway(clock=clock)
    before = gateway.unix_time()
    clock.up += awake
    clock.of_day += gone_by
    asyncio.run(StateSync(gateway).look())
    assert gateway.unix_time() - before == pytest.approx(seen)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A gateway whose threads have all something to do that does not end, and that waits a moment only."""
    gateway, free = Gateway(), threading.Event()
    monkeypatch.setattr(gateway_module, "COUNT_SECONDS", 0.01)
    monkeypatch.setattr(gateway.counter, "count_request", lambda *_: free.wait(30))
    monkeypatch.setattr(gateway.counter, "count_delivered", lambda *_: free.wait(30))
    yield gateway
    free.set()
    gateway.threads.close()


def test_a_prompt_whose_turn_does_not_come_is_refused(busy: Gateway) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": "word " * 10_000}]}).encode()
    chat = parse_target("POST", "/openai/deployments/gpt-4o/chat/completions")
    body = parse_body(chat, "application/json", raw)

    async def counted() -> Any:
        return await busy.count_tokens(CountTokens(chat, body, "gpt-4o"), "team")  # type: ignore[misc]

    with pytest.raises(GatewayError, match="too many long texts") as refused:
        asyncio.run(counted())
    assert refused.value.status == 503


def test_an_answer_whose_turn_does_not_come_is_estimated(busy: Gateway) -> None:
    answer = json.dumps({"choices": [{"message": {"content": "word " * 10_000}}]}).encode()
    delivered = Delivered.of_answer("chat.completions", answer)

    async def counted() -> Any:
        return await busy.count_delivered(CountDelivered(delivered, "gpt-4o"), "team")  # type: ignore[misc]

    count = asyncio.run(counted())
    assert (count.exact, count.encoding) == (False, ESTIMATE)
    assert 10_000 <= count.tokens <= 20_000


def test_readiness_says_where_counters_live() -> None:
    gateway = Gateway()
    assert readiness(gateway, True)["state"] == "memory"

    class Shared:
        degraded_since: float | None = None

    gateway.state = shared = Shared()  # type: ignore[assignment]
    assert readiness(gateway, True)["state"] == "shared"
    shared.degraded_since = 1_767_225_600.5
    assert readiness(gateway, True)["state"] == "degraded since 2026-01-01T00:00:00Z"
