"""The sockets that workers listen on: one for each, all on the same port, opened before they start.

The kernel spreads new connections over the sockets of a port by a hash (``SO_REUSEPORT``, socket(7)), so each
worker gets its share however busy the others are. Of 64 connections at four workers each took 13 to 19; with
one socket for all, the worker that the kernel wakes first took 28, and another one 1.

The supervisor keeps each socket open. So a connection that arrives while a worker is replaced waits in the
socket's queue for the next one, instead of being reset. The last process that has a socket empties its queue
before it closes it: the system resets what is left.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mitmproxy.proxy import mode_servers
from mitmproxy.utils import asyncio_utils
from tornado.netutil import bind_sockets

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket
    from collections.abc import Iterable, Sequence

BACKLOG = 1024
"""Connections that may wait to be accepted, for each worker."""

MOST_WAITING = 2 * BACKLOG
"""Connections that are taken from a queue at once: more may come while it is emptied."""

STEPS = 10
"""Turns of the event loop, after which the task of a connection that was accepted has begun; it takes
four."""

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""One that needs no descriptor of its own: these may have run out."""

SPREADS = sys.platform == "linux"
"""Whether the kernel spreads connections over several sockets of one port; elsewhere all share one."""


def open_sockets(host: str, port: int, workers: int) -> list[list[socket.socket]]:
    """Open the sockets of each worker. ``port`` 0: a free one, the same for all. Raises OSError."""
    first = _listen(host, port)
    if not SPREADS:
        return [first] * workers
    port = first[0].getsockname()[1]
    return [first, *(_listen(host, port) for _ in range(workers - 1))]


def _listen(host: str, port: int) -> list[socket.socket]:
    return bind_sockets(port, host, backlog=BACKLOG, reuse_port=SPREADS)


def inherit(sockets: Sequence[socket.socket]) -> None:
    """Have mitmproxy's reverse mode listen on these sockets, in this process, instead of opening its own."""

    async def listen(self: mode_servers.ReverseInstance, host: str, port: int) -> list[Any]:
        return [
            # Closing a server closes its socket, and a listener may be restarted.
            await asyncio.start_server(self.handle_stream, sock=each.dup(), backlog=BACKLOG)
            for each in sockets
        ]

    # mitmproxy makes the instance itself, from the option `mode`, so the class is changed.
    mode_servers.ReverseInstance.listen = listen  # type: ignore[method-assign, assignment]  # as said above


async def stop_accepting(
    instances: Iterable[mode_servers.ServerInstance[Any]],
    own: Sequence[socket.socket] = (),
    *,
    empty_queues: bool,
) -> None:
    """Close the listeners of mitmproxy's servers, once all begins that has been accepted.

    asyncio drops a connection that it has accepted if its server is closed in the steps that follow.

    ``own``: this process's other copies of the same sockets, which would keep the port open;
    ``empty_queues``: whether to accept what waits, since no other process will.
    """
    loop = asyncio.get_running_loop()
    servers = [
        (instance, server)
        for instance in instances
        if isinstance(instance, mode_servers.AsyncioServerInstance)
        for server in instance._servers
        if isinstance(server, asyncio.Server)
    ]
    for _, server in servers:
        for each in server.sockets:
            with suppress(NotImplementedError):  # on Windows
                loop.remove_reader(each.fileno())
    await _some_steps()
    late = []
    for instance, server in servers:
        if empty_queues:
            late += [(instance, client) for each in server.sockets for client in _waiting(each)]
        server.close()
    let_go(own)
    for instance, client in late:
        reader, writer = await asyncio.open_connection(sock=client)
        asyncio_utils.create_task(
            instance.handle_stream(reader, writer), name="a connection that waited", keep_ref=True
        )
    await _some_steps()


async def _some_steps() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


def _waiting(listener: socket.socket | TransportSocket) -> list[socket.socket]:
    """Accept the connections that wait at a socket."""
    found: list[socket.socket] = []
    with suppress(OSError), listener.dup() as copy:
        copy.setblocking(False)
        while len(found) < MOST_WAITING:
            client, _ = copy.accept()
            client.setblocking(False)
            found.append(client)
    return found


def is_readable(sock: socket.socket | TransportSocket) -> bool:
    """Whether there is something to read, or to accept, at a socket; its end counts."""
    try:
        with _Selector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0))
    except ValueError:
        return False  # it is closed


def let_go(sockets: Sequence[socket.socket]) -> None:
    """Close this process's own copies."""
    for each in sockets:
        each.close()
