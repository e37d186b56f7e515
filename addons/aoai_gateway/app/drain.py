"""The end of a process's connections: no request is cut off, and each client is told of its last answer.

A connection is busy or at rest. A busy one ends by itself: its answer says ``Connection: close`` (RFC 9112
§9.6). At one that rests, a request may be on its way, and HTTP has no word to stop it; so it is closed late,
and only when nothing has come on it:

- Where a successor listens already, no client waits for this process. Its connections may rest until the
  drain's time is over, and most have their last answer before.
- Where the gateway ends, a new connection has `UNUSED_SECONDS` for its first request, and one that has had
  answers has `IDLE_SECONDS` for its next.

A process may stand still, on a busy machine for instance. So time alone says nothing: bytes that have come
are read before a connection is closed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING

from aoai_gateway.app.connection_ends import hang_up, stop_lingering
from aoai_gateway.app.listening import is_readable
from aoai_gateway.proxy.stream_events import GatewayLeaves

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mitmproxy.proxy.server import ConnectionHandler

    from aoai_gateway.proxy.http1 import Rest
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger("aoai_gateway.app.lifecycle")

UNUSED_SECONDS = 5.0
"""Seconds for the first request of a connection, since the listener ended: its client has just connected."""

IDLE_SECONDS = 1.0
"""Seconds for the next request of a connection that has had answers."""

LOOK_SECONDS = 0.1

HANG_UP_SECONDS = 1.0
"""The time that connections have to close, when the drain is over."""

WHY = "the gateway is shutting down"


class Drain:
    """Ends the connections of one process.

    ``connections``: those of clients, by id; ``rest`` says by a connection's id since when it rests, None: it
    is busy.
    """

    def __init__(
        self,
        gateway: Gateway,
        connections: Mapping[tuple[str, ...] | str, ConnectionHandler],
        rest: Callable[[str], Rest | None],
    ) -> None:
        self._gateway = gateway
        self._connections = connections
        self._rest = rest
        self._begun = self._end = 0.0
        self._due: set[str] = set()
        """Connections whose time was over at the last look."""

    async def end_sessions(self, *, at_once: bool) -> None:
        """Have sessions end with the close code 1001: those that are idle, or all of them (`at_once`)."""
        self._gateway.sessions_end = True
        for handler in list(self._connections.values()):
            if handler.client.id in self._gateway.sessions:
                await handler.server_event(GatewayLeaves(at_once))

    async def hang_up(self) -> None:
        """Close the connections that clients still have, so that calls which were cut off are written down.

        What is left to the event loop's end is cancelled in a way that prints a traceback for each.
        """
        for handler in list(self._connections.values()):
            hang_up(handler, WHY)
        for end_of_patience in (stop_lingering, None):
            end = time.monotonic() + HANG_UP_SECONDS
            while self._connections and time.monotonic() < end:  # noqa: ASYNC110 - mitmproxy has no event for it
                await asyncio.sleep(0.01)
            if end_of_patience is not None:
                end_of_patience()

    async def wait(self, limit: float) -> None:
        """Wait until all connections have ended, for so many seconds at most."""
        gateway = self._gateway
        self._begun = gateway.clock.monotonic()
        self._end = self._begun + limit
        told = False
        while True:
            now = gateway.clock.monotonic()
            # A request that waits for an addon, or whose body has not come yet, is no call so far.
            running = max(self._look(now), len(gateway.calls))
            calls, were = ("1 call", "was") if running == 1 else (f"{running} calls", "were")
            if not self._connections and not gateway.calls:
                return
            if now >= self._end:
                if running:
                    logger.warning("%s cut off after %.0f s.", f"{calls} {were}", limit)
                return
            if running and not told:
                logger.info("Waiting for %s to finish, %.0f s at most.", calls, limit)
                told = True
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self, now: float) -> int:
        """Close the connections whose time is over. Returns the number of busy ones."""
        busy = 0
        due, self._due = self._due, set()
        for handler in list(self._connections.values()):
            client = handler.client
            if not client.connected:
                continue  # it is being closed
            rest = self._rest(client.id)
            if rest is None:
                busy += 1
            elif now >= self._time_of(rest):
                # What was read from the socket at the last look has come to its layer by now.
                if client.id in due and not _has_unread(handler):
                    hang_up(handler, WHY)
                else:
                    self._due.add(client.id)
        return busy

    def _time_of(self, rest: Rest) -> float:
        """Say when a connection at rest is closed (monotonic seconds)."""
        if self._gateway.has_successor:
            seconds = math.inf
        else:
            seconds = UNUSED_SECONDS if rest.unused else IDLE_SECONDS
        # The last second is for them, also where the limit is short.
        return min(max(rest.since, self._begun) + seconds, self._end - IDLE_SECONDS)


def _has_unread(handler: ConnectionHandler) -> bool:
    """Whether something has come from a client that was not read yet; its end counts."""
    transport = handler.transports.get(handler.client)
    writer = transport.writer if transport is not None else None
    sock = writer.get_extra_info("socket") if isinstance(writer, asyncio.StreamWriter) else None
    return sock is not None and is_readable(sock)
