"""A backend's side of HTTP/1: connections to it, and what its answers are framed like.

mitmproxy takes an interim answer for the answer, refuses heads that a recipient may repair, takes heads of
any size, and ends in an exception on trailers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.connection import Server
from mitmproxy.proxy import commands, events, tunnel
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    Http1Client,
    HttpClient,
    HttpEvent,
    ReceiveHttp,
    RegisterHttpConnection,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._http1 import make_body_reader
from mitmproxy.proxy.layers.tls import ServerTLSLayer

from aoai_gateway.proxy import heads
from aoai_gateway.proxy.bodies import BodyReader
from aoai_gateway.proxy.stream_events import WholeRequest, WholeResponse

if TYPE_CHECKING:
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator, Layer
    from OpenSSL import SSL

BEGIN = b"HTTP/"
"""How an answer begins."""

MAX_HEAD = 256 * 1024
"""Bytes of an answer's head, interim answers not counted."""

MAX_INTERIM = 32
"""Interim answers (1xx) before the answer; a backend that sends more never comes to it."""


def connection_layers(context: Context, address: tuple[str, int], tls: bool, *, fresh: bool) -> Layer:
    """Make the layers of a new connection to a backend; ``context.server`` becomes that connection.

    ``fresh``: it has to be opened now, not to have been opened ahead.
    """
    context.server = Server(address=address)
    stack = tunnel.LayerStack()
    if tls:
        context.server.sni = address[0]
        stack /= BackendTls(context, fresh=fresh)
    stack /= BackendClient(context)
    return stack[0]


def http1_of(layer: Layer) -> BackendHttp1Client | None:
    """Return the HTTP/1 client among the layers of a connection, once it is open."""
    if isinstance(layer, ServerTLSLayer):
        layer = layer.child_layer
    inner = layer.child_layer if isinstance(layer, BackendClient) else None
    return inner if isinstance(inner, BackendHttp1Client) else None


def was_opened_ahead(layer: Layer | None) -> bool:
    """Whether a connection with these layers was there before the call that it was opened for."""
    return isinstance(layer, BackendTls) and layer.established is not None


class BackendTls(ServerTLSLayer):
    """TLS with a backend; the handshake may have been done ahead."""

    def __init__(self, context: Context, *, fresh: bool) -> None:
        super().__init__(context)
        self.fresh = fresh
        self.established: SSL.Connection | None = None
        """The TLS state of the connection, if that was opened ahead; set before it is said to be open."""

    def start_handshake(self) -> CommandGenerator[None]:
        """Shake hands, or take over what came of it."""
        if self.established is None:
            yield from super().start_handshake()
            return
        self.tls = self.established
        _, error = yield from self.receive_handshake_data(b"")
        if error:
            yield from self.on_handshake_error(error)
        yield from self._handshake_finished(error)


class BackendClient(HttpClient):
    """Opens a connection to a backend, and speaks HTTP/1 on it."""

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        assert isinstance(event, events.Start)
        error = yield commands.OpenConnection(self.context.server)
        if not error:
            self.child_layer = BackendHttp1Client(self.context)
            # From here on it would only hand events on, as its base does.
            child = self.child_layer.handle_event
            self._handle_event = self.handle_event = child  # type: ignore[method-assign]  # spares two calls
            yield from self.child_layer.handle_event(event)
        yield RegisterHttpConnection(self.context.server, error)


class BackendHttp1Client(Http1Client):
    """An HTTP/1 client of a backend."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._interim = 0
        self._reusable = True
        self.body_reader: BodyReader  # type: ignore[assignment]  # one more

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Handle an event. Nothing here waits for an answer, so nothing has to be kept for later."""
        return self.send(event) if isinstance(event, HttpEvent) else self._handle_event(event)

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """Send a request, or a part of it."""
        if not isinstance(event, WholeRequest):
            yield from super().send(event)
            return
        assert self.stream_id is None  # nothing is under way
        self.stream_id, self.request = event.stream_id, event.request
        yield commands.SendData(self.conn, heads.request_head(event.request) + event.data)
        yield from self.mark_done(request=True)

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Read an answer's head; interim answers before it are skipped (RFC 9110 §15.2)."""
        if not isinstance(event, events.DataReceived):
            yield from super().read_headers(event)
            return
        if self.request is None:
            yield commands.Log("A backend sent data without a request.")
            yield commands.CloseConnection(self.conn)
            return
        while (lines := self.buf.maybe_extract_lines()) is not None:
            if len(lines) > heads.MAX_LINES or sum(map(len, lines)) > MAX_HEAD:
                yield from self._give_up("head too large")
                return
            try:
                head = heads.read_response([bytes(line) for line in lines], self.request.method)
            except (ValueError, IndexError):
                yield from self._give_up("malformed head")
                return
            if head.response.status_code >= 200:
                yield from self._answered(head, event)
                return
            if head.response.status_code == 101 and self._asked_to_switch:
                yield from self._switched(head)
                return
            self._interim += 1
            if head.response.status_code == 101 or self._interim > MAX_INTERIM:
                yield from self._give_up("unexpected interim answer")
                return
        if len(self.buf) > MAX_HEAD:
            yield from self._give_up("head too large")
        elif not BEGIN.startswith(bytes(self.buf)[: len(BEGIN)]):
            # Another protocol: mail, SSH, or TLS, whose server waits for more than it will ever get.
            yield from self._give_up("malformed head")

    @property
    def _asked_to_switch(self) -> bool:
        return self.request is not None and self.request.headers.get("upgrade", "").lower() == "websocket"

    def _switched(self, head: heads.ResponseHead) -> CommandGenerator[None]:
        """Take in that the connection is a WebSocket from here on."""
        assert self.stream_id is not None
        self.response, self._reusable = head.response, False
        yield ReceiveHttp(ResponseHeaders(self.stream_id, head.response, False))
        yield from self.make_pipe()

    def _answered(self, head: heads.ResponseHead, event: events.DataReceived) -> CommandGenerator[None]:
        assert self.stream_id is not None
        self.response, self._reusable = head.response, head.reusable
        size = head.size
        if size is not None and 0 <= size <= len(self.buf):
            body = bytes(self.buf.maybe_extract_at_most(size) or b"")
            yield ReceiveHttp(WholeResponse(self.stream_id, head.response, data=body))
            if not self.request_done:
                self.state = self.done  # until the rest of an upload has been sent, or never is
            yield from self.mark_done(response=True)
            return
        self.body_reader = BodyReader(make_body_reader(size))
        self.state = self.read_body
        yield ReceiveHttp(ResponseHeaders(self.stream_id, head.response, False))
        yield from self.state(event)

    def _give_up(self, why: str) -> CommandGenerator[None]:
        assert self.stream_id is not None
        self.state = self.done
        yield commands.CloseConnection(self.conn)
        error = ResponseProtocolError(self.stream_id, why, ErrorCode.GENERIC_SERVER_ERROR)
        yield ReceiveHttp(error)

    @property
    def is_between_chunks(self) -> bool:
        """Whether a chunk may begin with the next byte, and nothing waits to be read."""
        return self.state == self.read_body and not self.buf and self.body_reader.is_between_chunks

    def mark_done(self, *, request: bool = False, response: bool = False) -> CommandGenerator[None]:
        """Note that the request, or its answer, is complete; with both, the connection may be used again."""
        self.request_done = self.request_done or request
        self.response_done = self.response_done or response
        if not (self.request_done and self.response_done):
            return
        if not self._reusable:
            yield commands.CloseConnection(self.conn)
            self.state = self.done
            return
        self.request_done = self.response_done = False
        self.request = self.response = self.stream_id = None
        self._interim = 0
        self.state = self.read_headers
        if self.buf:
            yield from self.state(events.DataReceived(self.conn, b""))
