"""A short way for streams that have begun, from the backend's socket to the client's.

A `Relay` stands between a backend's socket and the reader that mitmproxy reads from. While that reader has
nothing left and mitmproxy waits for more, it shows each read to the layer of the client first; a stream that
is under delivery may take it (:mod:`~aoai_gateway.proxy.lane`). Whatever is not taken goes to the reader, as
if there were no relay.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mitmproxy.proxy import events
from mitmproxy.utils import asyncio_utils

from aoai_gateway.runtime.exception_log import log_exception

if TYPE_CHECKING:
    from mitmproxy.connection import Server
    from mitmproxy.proxy.server import ConnectionHandler

    from aoai_gateway.proxy.layer import GatewayLayer

MOST_UNSENT = 64 * 1024
"""Bytes that may wait for the client's socket; with more, mitmproxy has to wait for it before it reads on."""

_buffer = bytearray(64 * 1024)
"""For a read of any relay; a read is taken out of it before the next one."""
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


class Relay(asyncio.BufferedProtocol):
    """Stands before the protocol of a backend's connection."""

    def __init__(
        self,
        handler: ConnectionHandler,
        connection: Server,
        layer: GatewayLayer,
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
        """Pass on a read, by the short way or the usual one."""
        data = bytes(_view[:nbytes])
        if not self._takes(data):
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
        """Send a read by the short way, if there is one at this moment."""
        if not self._reader.is_waited_on:
            return False
        io = self._handler.transports.get(self._handler.client)
        if io is None or not isinstance(io.writer, asyncio.StreamWriter):
            return False
        client = io.writer.transport
        if client.is_closing() or client.get_write_buffer_size() > MOST_UNSENT:
            return False
        try:
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
            asyncio_utils.create_task(
                self._read_on(),
                name="read what a relay has left",
                keep_ref=True,
                client=self._handler.client.peername,
            )
        return True

    async def _read_on(self) -> None:
        """Have the layers read what is left in the TLS layer."""
        await self._handler.server_event(events.DataReceived(self._connection, b""))
        await self._handler.drain_writers()


def put_before(handler: ConnectionHandler, connection: Server, layer: GatewayLayer) -> None:
    """Put a relay before the reader of a backend's connection. ``layer``: that of the client."""
    io = handler.transports[connection]
    if not isinstance(io.reader, asyncio.StreamReader) or not isinstance(io.writer, asyncio.StreamWriter):
        return
    transport = io.writer.transport
    before = transport.get_protocol()
    if isinstance(before, asyncio.Protocol):
        reader = WatchedReader(io.reader)
        io.reader = reader  # type: ignore[assignment]  # all that is called of it
        transport.set_protocol(Relay(handler, connection, layer, transport, before, reader))
