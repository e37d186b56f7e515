"""How a connection to a backend is opened ahead of the call that needs it, and given to mitmproxy then.

TLS is set up as mitmproxy does it for a call: by its `TlsConfig`, so with the same trusted authorities, name
to verify, client certificate and versions. When a call takes the connection, its TLS state goes into the
TLS layer (:class:`~aoai_gateway.proxy.upstream.BackendTls`) and its socket into the place of one that
`ConnectionHandler.open_connection` has opened. From there on it is like any other.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mitmproxy import ctx, tls
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.proxy import context, events, server_hooks
from mitmproxy.proxy.layers.tls import TlsStartServerHook
from mitmproxy.proxy.server import ConnectionIO
from OpenSSL import SSL

from aoai_gateway.app.listening import is_readable

if TYPE_CHECKING:
    from mitmproxy.proxy.commands import OpenConnection
    from mitmproxy.proxy.server import ConnectionHandler

    from aoai_gateway.runtime.opened_ahead import Address

TLS_OPTIONS = frozenset(
    {
        *("ssl_insecure", "ssl_verify_upstream_trusted_ca", "ssl_verify_upstream_trusted_confdir"),
        *("client_certs", "ciphers_server", "tls_ecdh_curve_server"),
        *("tls_version_server_min", "tls_version_server_max"),
    }
)
"""mitmproxy's options by which a connection to a backend is secured."""

GIVEN_UP = "connection cancelled"

_PROBES = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""Seconds until an idle connection is probed, between two probes, and how many may be lost. A firewall that
has forgotten the connection is noticed so, not by a call that gets no answer."""

_MOST_RECORD = 64 * 1024


class AheadConnection(asyncio.Protocol):
    """A connection that has carried nothing but its TLS handshake."""

    def __init__(self, tls_state: SSL.Connection) -> None:
        self.tls = tls_state
        self.began = time.time()
        self.connected: float | None = None
        """When its TCP connection was there (since the epoch), as `began` is."""
        self.ready: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        """Done when the handshake is, or has failed: then with the reason."""
        self._transport: asyncio.Transport | None = None
        self._has_shaken_hands = False

    # --- the handshake, and what may come after it -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.connected = transport, time.time()
        _have_probed(transport.get_extra_info("socket"))
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Take records of TLS."""
        self.tls.bio_write(data)
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take in that it is over."""
        self._fail(exc if isinstance(exc, OSError) else ConnectionError("closed by the backend"))

    def _go_on(self) -> None:
        try:
            if not self._has_shaken_hands:
                self.tls.do_handshake()
                self._has_shaken_hands = True
            # Session tickets are read by this, and nothing else may come: nothing was asked.
            self.tls.recv(1)
            self._fail(ConnectionError("the backend sent something without a request"))
        except SSL.WantReadError:
            self._send()
            if self._has_shaken_hands and not self.ready.done():
                self.ready.set_result(None)
        except SSL.Error as error:
            self._send()
            self._fail(ConnectionError(f"TLS: {error!r}"))

    def _send(self) -> None:
        assert self._transport is not None
        with suppress(SSL.WantReadError):
            while True:
                self._transport.write(self.tls.bio_read(_MOST_RECORD))

    def _fail(self, error: OSError) -> None:
        if not self.ready.done():
            self.ready.set_result(error)
        self.close()

    # --- as the pool sees it -----------------------------------------------------------------------------

    def is_open(self) -> bool:
        """Whether the backend has neither closed it nor sent anything on it, as far as was read."""
        return self._transport is not None and not self._transport.is_closing()

    def has_unread(self) -> bool:
        """Whether there is more to read, be it the end."""
        assert self._transport is not None
        return is_readable(self._transport.get_extra_info("socket"))

    def close(self) -> None:
        """Close it at once: nothing is under way in it."""
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Give it away, in the form in which `asyncio.open_connection` gives one."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._transport.is_closing():
            reader.feed_eof()  # the protocol before may have been told
        return reader, asyncio.StreamWriter(self._transport, protocol, reader, loop)


def _have_probed(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def open_ahead(address: Address, seconds: float) -> AheadConnection:
    """Open a connection to a backend that speaks https, within so many seconds. Raises OSError."""
    connection = AheadConnection(await _tls_state(address))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().create_connection(lambda: connection, *address)
            error = await connection.ready
        if error is not None:
            raise error
    except BaseException:
        connection.close()
        raise
    return connection


async def _tls_state(address: Address) -> SSL.Connection:
    """Have mitmproxy prepare TLS with a backend, as it does when its layer is about to shake hands."""
    server = Server(address=address)
    server.sni = address[0]
    client = Client(peername=("127.0.0.1", 0), sockname=("127.0.0.1", 0))
    start = tls.TlsData(server, context.Context(client, ctx.options), is_dtls=False)
    await ctx.master.addons.trigger_event(TlsStartServerHook(start))
    if start.ssl_conn is None:
        raise ConnectionError("mitmproxy has not prepared TLS")
    return start.ssl_conn


async def carry(handler: ConnectionHandler, command: OpenConnection, ahead: AheadConnection) -> None:
    """Do what `ConnectionHandler.open_connection` does, with a connection that is open already.

    There is no `server_connect`, by which addons may have another one opened: with an addon that listens to
    it, none is opened ahead.
    """
    connection = command.connection
    assert isinstance(connection, Server)
    hook_data = server_hooks.ServerConnectionHookData(client=handler.client, server=connection)
    try:
        # mitmproxy's tasks run at once; that this one is the connection's is written down after its first
        # pause only, and would replace what is written down here.
        await asyncio.sleep(0)
        reader, writer = ahead.hand_over()
        connection.timestamp_start, connection.timestamp_tcp_setup = ahead.began, ahead.connected
        connection.state = ConnectionState.OPEN
        connection.peername = writer.get_extra_info("peername")
        connection.sockname = writer.get_extra_info("sockname")
        handler.transports[connection] = ConnectionIO(asyncio.current_task(), reader, writer)
        await handler.handle_hook(server_hooks.ServerConnectedHook(hook_data))
        await handler.server_event(events.OpenConnectionCompleted(command, None))
    except asyncio.CancelledError:
        # The layer waits for an answer, even if it is the one that closes the connection.
        ahead.close()
        handler.transports.pop(connection, None)
        connection.state, connection.error = ConnectionState.CLOSED, GIVEN_UP
        await handler.server_event(events.OpenConnectionCompleted(command, GIVEN_UP))
        raise
    try:
        await handler.handle_connection(connection)
    finally:
        connection.timestamp_end = time.time()
        await handler.handle_hook(server_hooks.ServerDisconnectedHook(hook_data))
