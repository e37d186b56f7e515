"""One resource's port: connections, the calls in flight, and going off and on the air."""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Iterator

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters, HTTP1ServerConnection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
)
from tornado.iostream import IOStream
from tornado.tcpserver import TCPServer

from aoai_simulator.blackhole import BlackHole, bound_socket
from aoai_simulator.connection import Connection, Entry
from aoai_simulator.exchange import Exchange
from aoai_simulator.fault_injection import strike
from aoai_simulator.faults import FaultQueue
from aoai_simulator.resource import Resource
from aoai_simulator.settings import Settings

MAX_BODY_BYTES = 512 * 1024 * 1024
_BACKLOG = 1024


class Numbers:
    """Counts connections and requests over all endpoints of a simulator."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0


class Listener(TCPServer, HTTPServerConnectionDelegate):
    """Serves one resource on one port."""

    def __init__(
        self,
        resource: Resource,
        faults: FaultQueue,
        log: deque[Entry],
        settings: Settings,
        numbers: Numbers,
        *,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(ssl_options=tls, max_buffer_size=MAX_BODY_BYTES, read_chunk_size=65536)
        self.resource = resource
        self.faults = faults
        self.settings = settings
        self._log = log
        self._numbers = numbers
        self._parameters = HTTP1ConnectionParameters(
            chunk_size=65536, max_header_size=1024 * 1024, max_body_size=MAX_BODY_BYTES
        )
        self._connections: dict[HTTP1ServerConnection, Connection] = {}
        self._in_flight: set[Exchange] = set()
        self._address = ("", 0)
        self._socket: socket.socket | None = None
        self._placeholder: socket.socket | BlackHole | None = None

    # On and off the air

    def open(self, host: str, port: int) -> int:
        """Listen on a port (0 for any free one) and return it."""
        self._go_on(bound_socket(host, port))
        return self._address[1]

    @property
    def listening(self) -> bool:
        """Whether connections are accepted."""
        return self._socket is not None

    def go_off(self, *, silently: bool = False, close_connections: bool = True) -> None:
        """Refuse connections, or do not even answer them (`silently`).

        The port stays taken, so that no other program can get it meanwhile.
        """
        if self._socket is not None:
            self._handlers.pop(self._socket.fileno())()
            del self._sockets[self._socket.fileno()]
            self._socket.close()
            self._socket = None
            placeholder = bound_socket(*self._address)
            self._placeholder = BlackHole(placeholder) if silently else placeholder
        if close_connections:
            self.close_connections()

    def go_on(self) -> None:
        """Accept connections again, on the same port."""
        placeholder, self._placeholder = self._placeholder, None
        if placeholder is not None:
            self._go_on(placeholder.release() if isinstance(placeholder, BlackHole) else placeholder)

    def _go_on(self, bound: socket.socket) -> None:
        bound.listen(_BACKLOG)
        self._socket = bound
        self._address = bound.getsockname()[:2]
        self.add_sockets([bound])

    def close_connections(self) -> None:
        """End all calls in flight and close all connections."""
        for exchange in list(self._in_flight):
            exchange.stop()
        for connection in list(self._connections.values()):
            connection.stream.close()

    async def shut_down(self) -> None:
        """Stop for good."""
        self.close_connections()
        for server in list(self._connections):
            await server.close()
        if self._placeholder is not None:
            self._placeholder.close()
        self.stop()

    # What tornado calls

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """A connection was accepted."""
        self._numbers.connections += 1
        server = HTTP1ServerConnection(stream, self._parameters)
        self._connections[server] = Connection(self._numbers.connections, stream)
        server.start_serving(self)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """A connection waits for its next request."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        assert isinstance(request_conn, HTTP1Connection)
        return Exchange(self, self._connections[server_conn], request_conn, strike)

    def on_close(self, server_conn: object) -> None:
        """A connection is closed."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        del self._connections[server_conn]

    # What exchanges call

    def opened(
        self, exchange: Exchange, connection: Connection, start: RequestStartLine, headers: HTTPHeaders
    ) -> Entry:
        """A request has begun; returns its log entry."""
        self._in_flight.add(exchange)
        self._numbers.requests += 1
        logging = self.settings.log_requests
        entry = Entry(
            self._numbers.requests,
            self.resource.name,
            connection.number,
            start.method,
            start.path,
            {name.lower(): value for name, value in headers.items()} if logging else {},
            time.time(),
        )
        if logging:
            self._log.append(entry)
        return entry

    def closed(self, exchange: Exchange) -> None:
        """A call has ended."""
        self._in_flight.discard(exchange)

    # What the control plane shows

    @property
    def in_flight(self) -> int:
        """How many calls have begun and not ended."""
        return len(self._in_flight)

    @property
    def connections(self) -> Iterator[Connection]:
        """The open connections."""
        return iter(self._connections.values())

    @property
    def connection_count(self) -> int:
        """How many connections are open."""
        return len(self._connections)
