"""Both stores under one virtual clock."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
import redis

from aoai_gateway.quota.quotas import Decision, Reservation
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.state.redis import RedisState
from tests.redis_server import RedisServer

VIRTUAL_CLOCK = "local function clock() return tonumber(redis.call('GET', 'virtual-now')) end\n"


class Bench:
    """A store seen through synchronous calls at times that the test chooses.

    Every `fresh()` starts with empty counters.
    """

    def fresh(self, lease: float = 3600.0) -> None:
        raise NotImplementedError

    def peek(self, reservation: Reservation, now: float) -> Decision:
        raise NotImplementedError

    def reserve(self, reservation: Reservation, now: float) -> Decision:
        raise NotImplementedError

    def settle(self, reservation: Reservation, tokens: int, now: float, cost: int | None = None) -> None:
        raise NotImplementedError

    def cancel(self, reservation: Reservation, now: float) -> None:
        raise NotImplementedError

    def renew(self, reservations: list[Reservation], now: float) -> None:
        raise NotImplementedError


class MemoryBench(Bench):
    def fresh(self, lease: float = 3600.0) -> None:
        self.state = MemoryState(lease)

    def peek(self, reservation, now):
        return self.state.peek(reservation, now)

    def reserve(self, reservation, now):
        return self.state.reserve(reservation, now)

    def settle(self, reservation, tokens, now, cost=None):
        self.state.settle(reservation, tokens, now, cost)

    def cancel(self, reservation, now):
        self.state.cancel(reservation, now)

    def renew(self, reservations, now):
        self.state.renew(reservations, now)


class RedisBench(Bench):
    _lives = itertools.count()

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner()
        self._clock = redis.Redis.from_url(url)
        self.state: RedisState | None = None

    def fresh(self, lease: float = 3600.0) -> None:
        self.close_state()
        self.state = RedisState(
            self._url, prefix=f"life{next(self._lives)}", lease=lease, clock=VIRTUAL_CLOCK, timeout=10
        )

    def close_state(self) -> None:
        if self.state:
            self._runner.run(self.state.aclose())

    def close(self) -> None:
        self.close_state()
        self._runner.close()
        self._clock.close()

    def at(self, now: float) -> None:
        self._clock.set("virtual-now", round(now * 1e6))

    def run(self, awaitable, now: float):
        self.at(now)
        return self._runner.run(awaitable)

    def peek(self, reservation, now):
        return self.run(self.state.peek(reservation), now)

    def reserve(self, reservation, now):
        return self.run(self.state.reserve(reservation), now)

    def settle(self, reservation, tokens, now, cost=None):
        self.run(self.state.settle(reservation, tokens, cost=cost), now)

    def cancel(self, reservation, now):
        self.run(self.state.cancel(reservation), now)

    def renew(self, reservations, now):
        self.run(self.state.renew(reservations), now)


@pytest.fixture(scope="session")
def memory_bench() -> MemoryBench:
    return MemoryBench()


@pytest.fixture(scope="session")
def redis_bench(redis_server: RedisServer) -> Iterator[RedisBench]:
    bench = RedisBench(redis_server.url)
    yield bench
    bench.close()


@pytest.fixture(scope="session", params=["memory", "redis"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return request.getfixturevalue(f"{request.param}_bench")
