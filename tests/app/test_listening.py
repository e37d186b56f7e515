"""The port of a process that ends: no connection is lost that came to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy.proxy import mode_servers

from aoai_gateway.app import listening

CLIENTS = 30


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that the supervisor has opened."""
    (opened,) = listening.open_sockets("127.0.0.1", 0, 1)[0]
    yield opened
    opened.close()


async def instance(sock: socket.socket, begun: list[Any]) -> Any:
    """A server of mitmproxy's that listens on a copy of a socket, and counts the connections that begin."""

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(writer)

    made = mode_servers.ServerInstance.make("reverse:http://nowhere.invalid", None)  # type: ignore[arg-type]
    assert isinstance(made, mode_servers.AsyncioServerInstance)
    # Calls it where a connection was accepted by hand.
    made.handle_stream = begin  # type: ignore[assignment, method-assign]
    made._servers = [await asyncio.start_server(begin, sock=sock.dup(), backlog=listening.BACKLOG)]
    return made


def connect(sock: socket.socket) -> list[socket.socket]:
    """Have clients connect while the event loop stands still."""
    return [socket.create_connection(sock.getsockname(), 10) for _ in range(CLIENTS)]


def refuses(address: Any) -> bool:
    try:
        socket.create_connection(address, 10).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("steps", range(5))
def test_the_last_one_takes_what_waits_and_closes_the_port(listener: socket.socket, steps: int) -> None:
    """After any number of steps of the event loop since they came."""

    async def story() -> None:
        begun: list[Any] = []
        address, server = listener.getsockname(), await instance(listener, begun)
        clients = connect(listener)
        for _ in range(steps):
            await asyncio.sleep(0)
        await listening.stop_accepting([server], [listener], empty_queues=True)
        assert len(begun) == CLIENTS
        assert refuses(address)
        for each in (*clients, *begun):
            each.close()

    asyncio.run(story())


@pytest.mark.parametrize("steps", range(5))
def test_none_is_lost_between_one_and_its_successor(listener: socket.socket, steps: int) -> None:
    async def story() -> None:
        begun: list[Any] = []
        old, own = await instance(listener, begun), listener.dup()
        clients = connect(listener)
        for _ in range(steps):
            await asyncio.sleep(0)
        await listening.stop_accepting([old], [own], empty_queues=False)
        new = await instance(listener, begun)
        async with asyncio.timeout(60):
            while len(begun) < CLIENTS:  # noqa: ASYNC110 - a server tells of nothing
                await asyncio.sleep(0)
        new._servers[0].close()
        for each in (*clients, *begun):
            each.close()

    asyncio.run(story())


def test_the_server_can_be_closed_again(listener: socket.socket) -> None:
    """mitmproxy does so when it is told not to listen any more."""

    async def story() -> None:
        server = await instance(listener, [])
        await listening.stop_accepting([server], empty_queues=True)
        assert server.listen_addrs == ()
        await server.stop()

    asyncio.run(story())
