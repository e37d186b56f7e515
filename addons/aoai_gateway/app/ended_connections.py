"""Connections that have ended leave nothing that only a garbage collection would find (mitmproxy 12).

A connection's handler and its layers refer to themselves and to each other (see `proxy.remains`). So do the
exceptions that end it: each has the frames that it came through, and these have what has the exception.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aoai_gateway.app.relay import WatchedReader
from aoai_gateway.proxy.remains import take_apart

if TYPE_CHECKING:
    from mitmproxy.proxy import events
    from mitmproxy.proxy.layer import CommandGenerator, Layer
    from mitmproxy.proxy.server import ConnectionHandler, ConnectionIO


class Ended:
    """Stands in the place of the layers of a connection that has ended, until nothing of it is under way.

    An addon may still be asked about a call, or a record be written: its stream goes on when that is done.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer: Layer | None = layer

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Pass an event on to the layers, if they still wait for one."""
        if self._layer is not None:
            yield from self._layer.handle_event(event)
            self.look()

    def look(self) -> None:
        """Take the layers apart, if nothing is under way any more."""
        if self._layer is not None and take_apart(self._layer):
            self._layer = None


def let_go(handler: ConnectionHandler) -> None:
    """Break the circles in what is left of a client's connection, and of those to backends behind it."""
    handler.timeout_watchdog.callback = _too_late
    # Those that could not be opened are still there.
    handler.transports.clear()
    ended = Ended(handler.layer)
    handler.layer = ended  # type: ignore[assignment]  # of a layer, `handle_event` alone is called
    ended.look()


def without_frames[E: BaseException](error: E) -> E:
    """Return an exception that ends a connection, to be raised again: a frame that it came through has it."""
    return error.with_traceback(None)


def let_go_of(io: ConnectionIO) -> None:
    """Break the circles in what is left of one connection."""
    io.handler = None
    if isinstance(io.reader, asyncio.StreamReader | WatchedReader):
        error = io.reader.exception()
        if error is not None:
            error.__traceback__ = None


async def _too_late() -> None:
    """Do nothing: the connection is closed."""
