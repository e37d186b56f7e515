"""Short ways for what is read from a connection.

A `Relay` stands between a socket and the reader that mitmproxy reads from. While that reader has nothing left
and mitmproxy waits for more, a read need not wait for its task to be woken:

- What a backend sends is shown to the layer of the client; a stream that is under delivery may take it, past
  all layers, to the client's socket (`Lane` in :mod:`~aoai_gateway.proxy.delivery`).
- Anything else is given to the layers at once, in the turn of the event loop in which it came.

As long as a peer does not read what it is sent, and where a connection is about to end, reads go to the
reader, as if there were no relay: mitmproxy waits for the peer then, and hears of the end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy import events
from mitmproxy.utils import asyncio_utils

from aoai_gateway.runtime.log_records import log_exception

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mitmproxy.connection import Connection
    from mitmproxy.proxy.server import ConnectionHandler

    from aoai_gateway.proxy.layer import GatewayLayer

MOST_UNSENT = 64 * 1024
"""Bytes that may wait for a socket; with more, mitmproxy has to wait for it before it reads on."""

_buffer = bytearray(64 * 1024)
"""The buffer for a read of any relay; its bytes are taken out before the next read."""
_view = memoryview(_buffer)


class WatchedReader:
    """A connection's reader that shows whether mitmproxy waits for more, and has taken all there was."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.is_waited_on = False

    async def read(self, most: int = -1) -> bytes:
        """Read up to ``most`` bytes; empty at the end."""
        self.is_waited_on = True
        try:
            return await self._reader.read(most)
        finally:
            self.is_waited_on = False

    def at_eof(self) -> bool:
        """Whether all has been read until the end."""
        return self._reader.at_eof()

    def exception(self) -> Exception | None:
        """Return what went wrong with the connection, if anything did."""
        return self._reader.exception()


class Relay(asyncio.BufferedProtocol):
    """Stands before the protocol of a connection. ``layer``: the client's, if it is a backend's."""

    def __init__(
        self,
        handler: ConnectionHandler,
        connection: Connection,
        layer: GatewayLayer | None,
        transport: asyncio.WriteTransport,
        before: asyncio.Protocol,
        reader: WatchedReader,
    ) -> None:
        self._handler = handler
        self._connection = connection
        self._layer = layer
        self._transport = transport
        self._before = before
        self._reader = reader

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where a read goes."""
        return _view

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on a read, by a short way or the usual one."""
        data = bytes(_view[:nbytes])
        if not (self._reader.is_waited_on and (self._takes(data) or self._hands_over(data))):
            self._reader.is_waited_on = False
            self._before.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on the end of what the backend sends."""
        return self._before.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end of the connection."""
        self._before.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on that the backend does not read."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the backend reads again."""
        self._before.resume_writing()

    def _takes(self, data: bytes) -> bool:
        """Send a read past the layers, if a stream takes it at this moment."""
        if self._layer is None or not self._layer.has_lane:
            return False
        io = self._handler.transports.get(self._handler.client)
        if io is None or not isinstance(io.writer, asyncio.StreamWriter):
            return False
        client = io.writer.transport
        if client.is_closing() or client.get_write_buffer_size() > MOST_UNSENT:
            return False
        try:
            assert isinstance(self._connection, Server)
            taken = self._layer.take(data, self._connection)
        except Exception as error:
            log_exception("in the short way of a stream; the backend's connection was closed.", error)
            self._transport.abort()
            return True
        if taken is None:
            return False
        self._handler.timeout_watchdog.register_activity()
        if taken.sent:
            client.write(taken.sent)
        if taken.left:
            self._in_background(self._read_on())
        return True

    def _hands_over(self, data: bytes) -> bool:
        """Give a read to the layers, if mitmproxy would read on after it without waiting for a peer."""
        handler = self._handler
        if not self._connection.state & ConnectionState.CAN_READ or not self._is_all_sent():
            return False
        step = handler.server_event(events.DataReceived(self._connection, data))
        try:
            step.send(None)
        except StopIteration:
            pass
        else:
            # Another event is under way, and nothing of this one has happened. It goes the reader's way, and
            # so does what comes after it: else a stream that begins meanwhile would take that first.
            step.close()
            return False
        if not self._is_all_sent():
            self._in_background(handler.drain_writers())
        return True

    def _is_all_sent(self) -> bool:
        """Whether no connection's peer has to be waited for, and none is about to end."""
        for io in self._handler.transports.values():
            if isinstance(io.writer, asyncio.StreamWriter):
                transport = io.writer.transport
                if transport.is_closing() or transport.get_write_buffer_size() > MOST_UNSENT:
                    return False
        return True

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio_utils.create_task(work, name="a read", keep_ref=True, client=self._handler.client.peername)

    async def _read_on(self) -> None:
        """Have the layers read what is left in the TLS layer."""
        await self._handler.server_event(events.DataReceived(self._connection, b""))
        await self._handler.drain_writers()


def put_before(handler: ConnectionHandler, connection: Connection, layer: GatewayLayer | None) -> None:
    """Put a relay before the reader of a connection. ``layer``: the client's, if it is a backend's."""
    io = handler.transports[connection]
    if not isinstance(io.reader, asyncio.StreamReader) or not isinstance(io.writer, asyncio.StreamWriter):
        return
    transport = io.writer.transport
    before = transport.get_protocol()
    if isinstance(before, asyncio.Protocol):
        reader = WatchedReader(io.reader)
        io.reader = reader  # type: ignore[assignment]  # all that is called of it
        transport.set_protocol(Relay(handler, connection, layer, transport, before, reader))
