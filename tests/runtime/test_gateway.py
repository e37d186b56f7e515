"""What the gateway keeps of bookings, and what it says of its state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aoai_gateway.engine.effects import Book, Cancel, Reserve, Settle
from aoai_gateway.proxy.health import readiness
from aoai_gateway.quota.quotas import Decision, Quota, Reservation
from aoai_gateway.runtime.gateway import Gateway
from aoai_gateway.runtime.state_sync import StateSync
from aoai_gateway.state.memory import MemoryState


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


def test_readiness_says_where_counters_live() -> None:
    gateway = Gateway()
    assert readiness(gateway, True)["state"] == "memory"

    class Shared:
        degraded_since: float | None = None

    gateway.state = shared = Shared()  # type: ignore[assignment]
    assert readiness(gateway, True)["state"] == "shared"
    shared.degraded_since = 1_767_225_600.5
    assert readiness(gateway, True)["state"] == "degraded since 2026-01-01T00:00:00Z"
