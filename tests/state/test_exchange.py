"""What processes tell each other through a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import redis

from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.exchange import ChangeBatch, Exchange
from tests.ports import free_port
from tests.redis_server import RedisServer


def between(url: str, prefix: str, script: Callable[[Exchange, Exchange], Awaitable[None]]) -> None:
    """Run a script of two processes."""

    async def run() -> None:
        one, other = Exchange(url, prefix, "one"), Exchange(url, prefix, "other")
        try:
            await script(one, other)
        finally:
            await one.aclose()
            await other.aclose()

    asyncio.run(run())


def test_all_hear_what_the_others_tell_in_order(redis_server: RedisServer) -> None:
    async def script(one: Exchange, other: Exchange) -> None:
        await one.tell([["a", 1], ["b", None]], 100.5)
        await other.tell([["c"]], 7.25)
        await one.tell([["d"]], 100.5)
        assert await other.news(wait=False) == [
            ChangeBatch("one", 100.5, [["a", 1], ["b", None]]),
            ChangeBatch("one", 100.5, [["d"]]),
        ]
        assert await one.news(wait=False) == [ChangeBatch("other", 7.25, [["c"]])]
        assert await one.news(wait=False) == []

    between(redis_server.url, "order", script)


def test_a_wait_ends_when_something_comes(redis_server: RedisServer) -> None:
    async def script(one: Exchange, other: Exchange) -> None:
        waiting = asyncio.create_task(one.news(wait=True))
        await asyncio.sleep(0.05)
        await other.tell([["x"]], 1.0)
        assert await waiting == [ChangeBatch("other", 1.0, [["x"]])]

    between(redis_server.url, "wait", script)


@pytest.mark.parametrize("ahead", [-86_400.0, 86_400.0])
def test_a_clock_that_is_wrong_takes_nothing_away_that_is_to_be_read(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)

    async def script(one: Exchange, other: Exchange) -> None:
        # Redis takes away blocks of a hundred entries.
        for number in range(250):
            await one.tell([number], 1.0)
        read: list[ChangeBatch] = []
        while found := await other.news(wait=False):
            read += found
        assert [told.records for told in read] == [[number] for number in range(250)]

    between(redis_server.url, f"clock {ahead}", script)


def test_homes_are_read_newest_first(redis_server: RedisServer) -> None:
    async def script(one: Exchange, other: Exchange) -> None:
        for number in range(250):
            await one.tell_homes([(f"resp_{number}", "sweden", float(number))])
        found = [home async for some in other.homes() for home in some]
        assert found == [(f"resp_{number}", "sweden", float(number)) for number in reversed(range(250))]

    between(redis_server.url, "homes", script)


def test_what_was_done_is_not_kept_for_long(redis_server: RedisServer) -> None:
    async def script(one: Exchange, other: Exchange) -> None:
        with redis.Redis.from_url(redis_server.url) as store:
            for second in range(1, 1001):
                store.xadd("short:{peers}:events", {"p": "old", "c": "0", "r": "[]"}, id=f"{second}-0")
            # The answer to the first one tells the store's time.
            await one.tell([["new"]], 1.0)
            await one.tell([["newer"]], 1.0)
            assert store.xlen("short:{peers}:events") < 200

    between(redis_server.url, "short", script)


def test_a_store_that_began_anew_is_read_from_its_begin(redis_server: RedisServer) -> None:
    async def script(one: Exchange, other: Exchange) -> None:
        await one.tell([["before"]], 1.0)
        assert await other.news(wait=False)
        with redis.Redis.from_url(redis_server.url) as store:
            store.delete("anew:{peers}:events")
            store.xadd("anew:{peers}:events", {"p": "one", "c": "1.0", "r": '[["after"]]'}, id="5-0")
        assert await other.news(wait=False) == []
        await other.follow()
        assert await other.news(wait=False) == [ChangeBatch("one", 1.0, [["after"]])]

    between(redis_server.url, "anew", script)


def test_without_a_store() -> None:
    async def script(one: Exchange, other: Exchange) -> None:
        with pytest.raises(StateUnavailableError):
            await one.tell([], 1.0)
        with pytest.raises(StateUnavailableError):
            await one.news(wait=True)
        with pytest.raises(StateUnavailableError):
            await one.follow()

    between(f"redis://127.0.0.1:{free_port()}/0", "none", script)
