"""What is closed when a process ends, and when; real processes: tests/e2e/test_open_connections.py."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy.connection import ConnectionState
from mitmproxy.test import tflow

from aoai_gateway.app import drain
from aoai_gateway.app.drain import IDLE_SECONDS, UNUSED_SECONDS, Drain
from aoai_gateway.proxy.http1 import Rest
from aoai_gateway.runtime.gateway import Gateway

UNUSED = Rest(-math.inf, unused=True)
LIMIT = 100.0


class Clock:
    """Turned by hand."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Writer(asyncio.StreamWriter):
    """Of a socket that no event loop reads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __del__(self, *_: object) -> None:
        """Close nothing."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._sock if name == "socket" else default


class Place:
    """A process with connections, and its drain."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gateway = Gateway(self.clock)
        self.open: dict[Any, Any] = {}
        self.rests: dict[str, Rest | None] = {}
        self._sockets: list[socket.socket] = []
        self._drain = Drain(self.gateway, self.open, lambda name: self.rests[name])

    def connect(self, name: str, rest: Rest | None) -> socket.socket:
        """Have a connection. Returns the client's socket; what comes from it is read by the test alone."""
        ours, theirs = socket.socketpair()
        self._sockets += ours, theirs
        client = tflow.tclient_conn()
        client.id, client.state = name, ConnectionState.OPEN

        def ended(_: str) -> None:
            del self.open[name]

        io = SimpleNamespace(writer=Writer(ours), handler=SimpleNamespace(cancel=ended))
        self.open[name] = SimpleNamespace(client=client, transports={client: io})
        self.rests[name] = rest
        return theirs

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def ours(self, number: int = 0) -> socket.socket:
        return self._sockets[2 * number]

    def story(self, told: Callable[[], Awaitable[None]], limit: float = LIMIT) -> None:
        """Drain while something is told; then the drain must be over."""

        async def main() -> None:
            draining = asyncio.create_task(self._drain.wait(limit))
            await looks()
            await told()
            await looks()
            assert draining.done()
            await draining

        asyncio.run(main())


async def looks() -> None:
    """Let it look several times."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(drain, "LOOK_SECONDS", 0)
    made = Place()
    yield made
    made.close()


def test_connections_that_rest_are_closed_in_their_time(place: Place) -> None:
    place.connect("unused", UNUSED)
    place.connect("idle", Rest(place.clock.now - 50, unused=False))
    place.connect("busy", None)

    async def told() -> None:
        assert set(place.open) == {"unused", "idle", "busy"}
        place.clock.now += IDLE_SECONDS
        await looks()
        assert set(place.open) == {"unused", "busy"}
        place.clock.now += UNUSED_SECONDS - IDLE_SECONDS
        await looks()
        assert set(place.open) == {"busy"}
        # It has been answered, without a word that this was the last answer.
        place.rests["busy"] = Rest(place.clock.now, unused=False)
        await looks()
        assert set(place.open) == {"busy"}
        place.clock.now += IDLE_SECONDS

    place.story(told)


def test_a_request_that_came_while_the_process_stood_still_is_read_first(place: Place) -> None:
    client = place.connect("late", Rest(place.clock.now, unused=False))

    async def told() -> None:
        client.send(b"POST")
        place.clock.now += 60
        await looks()
        assert set(place.open) == {"late"}
        assert place.ours().recv(100) == b"POST"
        place.rests["late"] = None
        await looks()
        assert set(place.open) == {"late"}
        del place.open["late"]

    place.story(told)


def test_where_there_is_a_successor_connections_rest_until_the_last_second(place: Place) -> None:
    place.gateway.has_successor = True
    place.connect("unused", UNUSED)
    place.connect("idle", Rest(place.clock.now, unused=False))

    async def told() -> None:
        place.clock.now += LIMIT - 2 * IDLE_SECONDS
        await looks()
        assert set(place.open) == {"unused", "idle"}
        place.clock.now += IDLE_SECONDS

    place.story(told)


def test_a_successor_that_ends_too_changes_that(place: Place) -> None:
    place.gateway.has_successor = True
    place.connect("idle", Rest(place.clock.now, unused=False))

    async def told() -> None:
        place.clock.now += 2 * IDLE_SECONDS
        await looks()
        assert set(place.open) == {"idle"}
        place.gateway.has_successor = False

    place.story(told)


def test_the_limit_ends_it(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.connect("busy", None)

    async def told() -> None:
        place.clock.now += LIMIT

    place.story(told)
    assert set(place.open) == {"busy"}
    assert "1 call was cut off after 100 s." in caplog.text


@pytest.mark.parametrize(("connections", "calls"), [(1, "1 call"), (2, "2 calls")])
def test_a_wait_is_announced_for_requests_that_are_no_calls_yet(
    place: Place, caplog: pytest.LogCaptureFixture, connections: int, calls: str
) -> None:
    caplog.set_level("INFO")
    for number in range(connections):
        place.connect(f"held-{number}", None)

    async def told() -> None:
        place.open.clear()

    place.story(told)
    assert [record.getMessage() for record in caplog.records] == [
        f"Waiting for {calls} to finish, 100 s at most."
    ]


def test_no_connection_no_wait(place: Place) -> None:
    async def told() -> None:
        """Nothing happens."""

    place.story(told)


def test_a_limit_of_nothing_closes_nothing_in_haste(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.connect("idle", Rest(place.clock.now, unused=False))

    async def told() -> None:
        """Nothing happens."""

    place.story(told, limit=0)
    assert "cut off" not in caplog.text
