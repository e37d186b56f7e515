"""How many connections are opened ahead, when, and until when; by whom they may be taken."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from aoai_gateway.config.models import Config
from aoai_gateway.runtime.opened_ahead import HELD_SECONDS, MOST_IN_ALL, RECENT_SECONDS, OpenedAhead

ONE, TWO = ("one.example", 443), ("two.example", 8443)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.7e9 + self.now


class Fake:
    """A connection."""

    tls: Any = None

    def __init__(self) -> None:
        self.alive, self.closed, self.unread = True, False, False

    def is_open(self) -> bool:
        return self.alive

    def has_unread(self) -> bool:
        return self.unread

    def close(self) -> None:
        self.alive, self.closed = False, True

    def hand_over(self) -> Any:
        raise AssertionError("nothing here reads")


class Place:
    """A pool, and the backends that it opens connections to."""

    def __init__(self, setup: Config) -> None:
        self.clock = Clock()
        self.opened: list[Fake] = []
        self.asked: list[tuple[Any, float]] = []
        self.failure: Exception | None = None
        self.barred = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.pool: OpenedAhead[Fake] = OpenedAhead(self.clock.monotonic, lambda: self.barred)
        self.pool.open = self._open
        self.pool.adopt(setup)

    async def _open(self, address: Any, seconds: float) -> Fake:
        self.asked.append((address, seconds))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.opened.append(Fake())
        return self.opened[-1]

    async def need(self, address: Any = ONE, times: int = 1) -> None:
        """Have calls need connections, and let what is opened for the next ones be there."""
        for _ in range(times):
            self.pool.needed(address)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def setup(*endpoints: tuple[str, int | None]) -> Config:
    """Endpoints by URL, and how many connections may be opened ahead there (None: nothing is said)."""
    parts = []
    for number, (url, most) in enumerate(endpoints):
        connections: dict[str, Any] = {"timeouts": {"connect": 3}}
        if most is not None:
            connections["opened_ahead"] = most
        parts.append({"name": f"e{number}", "url": url, "key": "k", "connections": connections})
    return Config.model_validate({"aoai": {"endpoints": parts}})


DEFAULT = setup(("https://one.example/", None), ("https://two.example:8443/prefix", 2))


def story(run: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(run, 60))


def test_nothing_is_opened_before_a_call_needs_a_connection() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        place.pool.look()
        await settle()
        assert place.pool.take(ONE) is None
        assert place.asked == []

    story(run())


def test_the_next_call_finds_one() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need()
        assert place.asked == [(ONE, 3)]
        assert place.pool.take(TWO) is None
        assert place.pool.take(ONE) is place.opened[0]
        assert place.pool.take(ONE) is None, "it is given away once"

    story(run())


def test_as_many_are_held_as_were_needed_of_late() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need(times=3)
        assert place.pool.held(ONE) == 3
        await place.need(times=50)
        assert place.pool.held(ONE) == 8, "the bound, where nothing is written"
        await place.need(TWO, times=50)
        assert place.pool.held(TWO) == 2, "the bound that is written"
        for _ in range(8):
            assert place.pool.take(ONE)
        place.clock.now += RECENT_SECONDS + 1
        await place.need()
        assert place.pool.held(ONE) == 1, "the crowd is gone"

    story(run())


def test_one_that_is_being_opened_counts() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        place.gate.clear()
        await place.need(TWO, times=10)
        assert len(place.asked) == 2
        place.gate.set()
        await settle()
        assert place.pool.held(TWO) == 2

    story(run())


def test_the_oldest_goes_first_and_none_is_held_for_long() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need()
        place.clock.now += 5
        await place.need()
        first, second = place.opened
        place.clock.now += HELD_SECONDS - 5
        place.pool.look()
        assert (first.closed, second.closed) == (True, False)
        assert place.pool.take(ONE) is second
        place.clock.now += HELD_SECONDS
        await settle()
        assert len(place.asked) == 2, "no connection replaces one that no call needed"

    story(run())


def test_one_that_the_backend_has_closed_is_not_given() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need(times=3)
        place.opened[0].alive = place.opened[1].alive = False
        assert place.pool.take(ONE) is place.opened[2]
        place.pool.look()
        assert place.opened[0].closed
        assert place.opened[1].closed
        assert place.pool.held(ONE) == 0

    story(run())


def test_one_on_which_something_came_waits_until_it_is_known_what() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need()
        place.opened[0].unread = True
        assert place.pool.take(ONE) is None
        place.pool.look()
        place.opened[0].unread = False
        assert place.pool.take(ONE) is place.opened[0]

    story(run())


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), RuntimeError("a bug")])
def test_a_backend_that_takes_none_is_asked_once_for_each_need(error: Exception) -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        place.failure = error
        await place.need()
        place.pool.look()
        await settle()
        assert len(place.asked) == 1
        assert place.pool.take(ONE) is None
        place.failure = None
        place.clock.now += RECENT_SECONDS + 1
        await place.need()
        assert place.pool.take(ONE) is place.opened[0]

    story(run())


def test_only_https_endpoints_in_use_that_allow_it_have_any() -> None:
    async def run() -> None:
        found = setup(("http://one.example:443/", None), ("https://two.example:8443/", 0))
        place = Place(found)
        await place.need(ONE)
        await place.need(TWO)
        assert place.asked == []

    story(run())


def test_two_endpoints_at_one_address_share_what_the_larger_number_allows() -> None:
    async def run() -> None:
        place = Place(setup(("https://one.example/a", 1), ("https://one.example/b", 3)))
        await place.need(times=9)
        assert place.pool.held(ONE) == 3

    story(run())


def test_there_is_a_bound_for_all_backends() -> None:
    async def run() -> None:
        urls = [(f"https://h{number}.example/", 32) for number in range(3)]
        place = Place(setup(*urls))
        for number in range(3):
            await place.need((f"h{number}.example", 443), times=40)
        assert len(place.opened) == MOST_IN_ALL

    story(run())


def test_another_configuration_begins_with_nothing() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need(times=2)
        place.gate.clear()
        await place.need(TWO)
        place.pool.adopt(DEFAULT)
        place.gate.set()
        await settle()
        assert all(each.closed for each in place.opened)
        assert len(place.opened) == 2, "what was being opened was given up"
        assert place.pool.take(ONE) is None
        await place.need()
        assert place.pool.held(ONE) == 1

    story(run())


def test_where_a_plugin_has_a_say_none_is_opened_or_taken() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need()
        place.barred = True
        assert place.pool.take(ONE) is None
        await place.need()
        assert len(place.asked) == 1
        place.clock.now += HELD_SECONDS
        place.pool.look()
        assert place.opened[0].closed

    story(run())


def test_at_the_end_all_are_closed_and_no_more_are_opened() -> None:
    async def run() -> None:
        place = Place(DEFAULT)
        await place.need()
        place.gate.clear()
        await place.need(TWO)
        before = asyncio.all_tasks()
        await place.pool.close()
        assert len(asyncio.all_tasks()) == len(before) - 1
        assert place.opened[0].closed
        await place.need()
        assert len(place.asked) == 2

    story(run())
