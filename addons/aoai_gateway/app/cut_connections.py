"""Close the sockets of connections that mitmproxy forgets (version 12).

- When the layer closes a connection while more of what came on it waits for the layer's lock, the
  cancellation arrives in that wait, and leaves `ConnectionHandler.handle_connection` before it closes the
  socket. The peer then sees neither an end nor an answer, and the descriptor is lost until a garbage
  collection.
- When a client is gone, `ConnectionHandler.handle_client` closes the connections to servers that there are at
  that moment. The layer may open another one: an addon that was asked about the call answers after that, or
  the end of one connection leads to the next. Nothing refers to the task of such a connection. It waits for
  its server's end, and is collected as garbage then, with its socket.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from weakref import WeakSet

from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.connection import Connection
    from mitmproxy.proxy.commands import OpenConnection

TOO_LATE = "the client has disconnected"

_handle_client = ConnectionHandler.handle_client
_handle_connection = ConnectionHandler.handle_connection
_open_connection = ConnectionHandler.open_connection

_ended: WeakSet[ConnectionHandler] = WeakSet()
"""Those whose client is gone."""


async def _client_to_its_end(self: ConnectionHandler) -> None:
    try:
        await _handle_client(self)
    finally:
        _ended.add(self)
        left = [io.handler for io in self.transports.values() if io.handler and not io.handler.done()]
        for handler in left:
            handler.cancel(TOO_LATE)
        if left:
            await asyncio.wait(left)


async def _open_in_time(self: ConnectionHandler, command: OpenConnection) -> None:
    if self not in _ended:
        await _open_connection(self, command)
        return
    command.connection.error = TOO_LATE
    await self.server_event(events.OpenConnectionCompleted(command, TOO_LATE))


def install(
    opened: Callable[[ConnectionHandler, Connection], None] = lambda handler, connection: None,
) -> None:
    """Have all connections from now on closed; ``opened`` is told of each of them before it is read."""

    async def connection_to_its_end(self: ConnectionHandler, connection: Connection) -> None:
        try:
            opened(self, connection)
            await _handle_connection(self, connection)
        finally:
            forgotten = self.transports.pop(connection, None)
            if forgotten is not None and forgotten.writer is not None:
                forgotten.writer.close()

    # mitmproxy makes its handlers itself, so the class is changed.
    ConnectionHandler.handle_connection = connection_to_its_end  # type: ignore[method-assign]
    ConnectionHandler.handle_client = _client_to_its_end  # type: ignore[method-assign]
    ConnectionHandler.open_connection = _open_in_time  # type: ignore[method-assign]
