"""The ends of connections, where mitmproxy forgets a socket or waits for a peer for ever (mitmproxy 12).

- When the layer closes a connection while more of what came on it waits for the layer's lock, the
  cancellation arrives in that wait, and leaves `ConnectionHandler.handle_connection` before it closes the
  socket. The peer then sees neither an end nor an answer, and the descriptor is lost until a garbage
  collection.
- When a client is gone, `ConnectionHandler.handle_client` closes the connections to servers that there are at
  that moment. The layer may open another one: an addon that was asked about the call answers after that, or
  the end of one connection leads to the next. Nothing refers to the task of such a connection. It waits for
  its server's end, and is collected as garbage then, with its socket.
- A client's connection on which nothing more can come is kept for what is still to be sent. When that fails,
  or takes too long, its task is cancelled; the layer hears nothing of that, and takes the ends of the
  backends' connections, which follow, for theirs.
- A socket that is closed with unread data in it is reset, and its peer may lose the last answer (RFC 9112
  §9.6). So clients are told that nothing more comes, and what they still send is read until they have ended.
- A socket that is closed stays open until its peer has read all that was written to it: one that does not
  read keeps it, with its buffers. Clients have time to read the rest; backends, to which the rest of a
  request is of no use, have none.
- A connection's handler and its layers refer to themselves and to each other (see `proxy.remains`). So do the
  exceptions that end it: each has the frames that it came through, and these have what has the exception.
  Only a garbage collection would find them, so these circles are broken here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from mitmproxy import ctx
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.proxy import events
from mitmproxy.proxy.server import ConnectionHandler

from aoai_gateway.app import ahead
from aoai_gateway.app.descriptors import Rarely
from aoai_gateway.app.relay import WatchedReader
from aoai_gateway.proxy.remains import take_apart
from aoai_gateway.runtime.slow_readers import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mitmproxy.connection import Connection
    from mitmproxy.proxy.commands import OpenConnection
    from mitmproxy.proxy.layer import CommandGenerator, Layer
    from mitmproxy.proxy.server import ConnectionIO

    from aoai_gateway.app.ahead import AheadConnection

RESET = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT})
"""A socket's errors that say that its peer has left. Others may pass, as that its host is not to be found."""

TOO_LATE = "the client has disconnected"

LOOK_SECONDS = 0.5
"""Seconds between two looks whether a client has read the rest, at most; the first ones come sooner."""

FIRST_LOOK_SECONDS = 0.01

LINGER_SECONDS = 2.0
"""Seconds that a client has to end its connection, once it was told that nothing more comes …"""

LINGER_BYTES = 256 * 1024
"""… and how much of what it had under way is thrown away meanwhile. One that sends without end is cut off."""

UNREAD_SECONDS = 60.0
"""Seconds for which a client may read nothing of the rest of its answer, without another limit."""

_handle_client = ConnectionHandler.handle_client
_handle_connection = ConnectionHandler.handle_connection
_open_connection = ConnectionHandler.open_connection

_ended: WeakSet[ConnectionHandler] = WeakSet()
"""Those whose client is gone."""

_lingering: set[asyncio.Task[Any]] = set()
"""The tasks of connections whose clients are waited for."""

_slow = Rarely(logging.WARNING)


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
        let_go(self)


async def _read_by_its_client(transport: asyncio.WriteTransport, seconds: Callable[[], float]) -> bool:
    """Wait until the system has all that was written to a client. Whether it has."""
    loop, progress, sent = asyncio.get_running_loop(), Progress(), transport.get_write_buffer_size()
    pause = FIRST_LOOK_SECONDS
    while unread := transport.get_write_buffer_size():
        if progress.is_too_slow(sent, unread, seconds(), loop.time()):
            tell_of_slow_reader()
            transport.abort()
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, LOOK_SECONDS)
    return True


def _kept_open(io: ConnectionIO) -> socket.socket | None:
    """Return a client's socket, to be closed later than asyncio closes it; None: its client has ended it."""
    reader, writer = io.reader, io.writer
    if not isinstance(reader, asyncio.StreamReader | WatchedReader):
        return None
    if not isinstance(writer, asyncio.StreamWriter):
        return None
    if reader.at_eof() or reader.exception() is not None or sys.platform == "win32":
        return None
    # Its closing has begun, and is done in the event loop's next step.
    try:
        kept: socket.socket = writer.get_extra_info("socket").dup()
    except OSError:
        return None  # it was aborted, or there are no descriptors
    return kept


async def _linger(sock: socket.socket) -> None:
    """Tell a client that nothing more comes, and throw away what it still sends."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    _lingering.add(task)
    try:
        with contextlib.suppress(OSError, TimeoutError):
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_SECONDS):
                left = LINGER_BYTES
                while left > 0 and (data := await loop.sock_recv(sock, 65_536)):
                    left -= len(data)
    finally:
        _lingering.discard(task)


def stop_lingering() -> None:
    """Wait for no client any more."""
    for task in list(_lingering):
        task.cancel("the gateway is shutting down")


async def _to_the_last_byte(io: ConnectionIO, seconds: Callable[[], float]) -> None:
    """See a client's connection to its end, after the layer has closed it."""
    assert isinstance(io.writer, asyncio.StreamWriter)
    kept = _kept_open(io)
    try:
        if await _read_by_its_client(io.writer.transport, seconds) and kept is not None:
            await _linger(kept)
    finally:
        if kept is not None:
            kept.close()


def tell_of_slow_reader() -> None:
    """Say in the log, once a minute at most, that a client was cut off."""
    _slow.tell("A client did not read its answer; its connection was closed. See limits.unread_seconds.")


def unread(connection: str) -> int:
    """Return the bytes for a client, by its connection's id, that the system has not taken yet."""
    writer = _writer(_io_of(connection))
    return writer.transport.get_write_buffer_size() if writer is not None else 0


def is_reset(connection: str) -> bool:
    """Whether a client, by its connection's id, can be sent nothing any more.

    asyncio does not read a connection on which no more can come, so it does not report a reset there.
    """
    writer = _writer(_io_of(connection))
    if writer is None or writer.transport.is_closing():
        return True
    client = writer.transport.get_extra_info("socket")
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in RESET


async def written_out(connection: str, backend: Connection) -> None:
    """Wait until the system has taken enough of what was written to a backend.

    ``connection``: the id of the client's; one of the two may be gone, which is an end of the wait.
    """
    writer = _writer(_io_of(connection, backend))
    if writer is not None:
        with contextlib.suppress(OSError):
            await writer.drain()


def hang_up(handler: ConnectionHandler, why: str) -> None:
    """Close a client's connection."""
    transport = handler.transports.get(handler.client)
    if transport is not None and transport.handler is not None:
        transport.handler.cancel(why)


def cut(connections: Iterable[str], why: str) -> None:
    """Close clients' connections, by their ids, without another word."""
    for connection in connections:
        io = _io_of(connection)
        writer = _writer(io)
        if writer is not None and writer.transport.get_write_buffer_size():
            writer.transport.abort()
        if io is not None and io.handler is not None:
            io.handler.cancel(why)


def _io_of(client: str, backend: Connection | None = None) -> ConnectionIO | None:
    """Return mitmproxy's end of a client's connection, by its id, or of one of its backends' connections."""
    handler: ConnectionHandler | None = ctx.master.addons.get("proxyserver").connections.get(client)
    return None if handler is None else handler.transports.get(backend or handler.client)


def _writer(io: ConnectionIO | None) -> asyncio.StreamWriter | None:
    return io.writer if io is not None and isinstance(io.writer, asyncio.StreamWriter) else None


# --- what is left behind ---------------------------------------------------------------------------------


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


# --- in mitmproxy's handlers -----------------------------------------------------------------------------


def install(
    seconds: Callable[[], float] = lambda: UNREAD_SECONDS,
    opened: Callable[[ConnectionHandler, Connection], None] = lambda handler, connection: None,
    take: Callable[[ConnectionHandler, Connection], AheadConnection | None] = lambda handler, server: None,
) -> None:
    """Have all connections from now on closed; once is enough.

    ``seconds``: for which a client may read nothing of what is left of its answer; ``opened`` is told of each
    connection before it is read; ``take`` gives one that was opened ahead, if there is one.
    """

    async def open_in_time(self: ConnectionHandler, command: OpenConnection) -> None:
        if self in _ended:
            command.connection.error = TOO_LATE
            await self.server_event(events.OpenConnectionCompleted(command, TOO_LATE))
        elif (taken := take(self, command.connection)) is not None:
            await ahead.carry(self, command, taken)
        else:
            await _open_connection(self, command)

    async def connection_to_its_end(self: ConnectionHandler, connection: Connection) -> None:
        io = self.transports[connection]
        writer = io.writer
        try:
            opened(self, connection)
            await _handle_connection(self, connection)
        except asyncio.CancelledError as error:
            raise without_frames(error) from None
        finally:
            let_go_of(io)
            if self.transports.pop(connection, None) is not None and writer is not None:
                writer.close()
            if isinstance(connection, Client) and connection.state is not ConnectionState.CLOSED:
                connection.state = ConnectionState.CLOSED
                await self.server_event(events.ConnectionClosed(connection))
            if not isinstance(writer, asyncio.StreamWriter):
                pass  # of another mode of mitmproxy's
            elif isinstance(connection, Client):
                await _to_the_last_byte(io, seconds)
            elif writer.transport.get_write_buffer_size():
                writer.transport.abort()

    # mitmproxy makes its handlers itself, so the class is changed.
    ConnectionHandler.handle_connection = connection_to_its_end  # type: ignore[method-assign]  # see above
    ConnectionHandler.handle_client = _client_to_its_end  # type: ignore[method-assign]  # see above
    ConnectionHandler.open_connection = open_in_time  # type: ignore[method-assign]  # see above
