"""Close the sockets of connections that mitmproxy forgets.

When the layer closes a connection while more of what came on it waits for the layer's lock, the cancellation
arrives in that wait, and leaves `ConnectionHandler.handle_connection` before it closes the socket (mitmproxy
12). The peer then sees neither an end nor an answer, and the descriptor is lost until a garbage collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.proxy.server import ConnectionHandler

if TYPE_CHECKING:
    from mitmproxy.connection import Connection

_handle = ConnectionHandler.handle_connection


async def _handle_to_its_end(self: ConnectionHandler, connection: Connection) -> None:
    try:
        await _handle(self, connection)
    finally:
        forgotten = self.transports.pop(connection, None)
        if forgotten is not None and forgotten.writer is not None:
            forgotten.writer.close()


def install() -> None:
    """Have all connections from now on closed; once is enough."""
    # mitmproxy makes its handlers itself, so the class is changed.
    ConnectionHandler.handle_connection = _handle_to_its_end  # type: ignore[method-assign]
