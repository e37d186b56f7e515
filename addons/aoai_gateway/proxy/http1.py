"""The client's side of HTTP/1: heads that are too large or no HTTP get their answer in JSON.

mitmproxy answers them in HTML before any hook is called, takes heads of any size, and logs the raw bytes
of a head that was cut off; those can hold a key. And it knows no trailers: they end in an exception there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from mitmproxy import http
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layer import Layer
from mitmproxy.proxy.layers.http import Http1Server, ReceiveHttp, ResponseData, ResponseHeaders

from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from h11._receivebuffer import ReceiveBuffer
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http._base import HttpEvent
    from mitmproxy.proxy.layers.http._http1 import TBodyReader

    from aoai_gateway.wire.errors import GatewayError

MOST_PIPELINED = 1024 * 1024
"""Bytes of further requests that a client may send while one is under way."""

HEAD_ENDS = (b"\n\r\n", b"\n\n")
"""An empty line, after a line that ends in whichever way."""


class GatewayHttp1Server(Http1Server):
    """An HTTP/1 server whose request heads are bounded. ``max_head``: in bytes.

    ``refused`` is told of what is refused here, before there is a request.
    """

    def __init__(
        self, context: Context, max_head: int, refused: Callable[[GatewayError], None] | None = None
    ) -> None:
        super().__init__(context)
        self._max_head = max_head
        self._refused = refused
        self._chunked = False

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Read a request's head, or refuse it."""
        if isinstance(event, events.DataReceived) and len(self.buf) > self._max_head:
            # A body may follow in the same buffer; only the head counts.
            begin = bytes(self.buf)[: self._max_head]
            if not any(end in begin for end in HEAD_ENDS):
                yield from self._refuse(errors.head_too_large(self._max_head))
                return
        refused = False
        for command in super().read_headers(event):
            if isinstance(command, commands.SendData) and not refused:
                # The one thing that is sent in this state is the answer to a malformed head.
                refused = True
                yield from self._refuse(errors.head_malformed())
            elif isinstance(command, commands.Log):
                yield commands.Log("A client sent an incomplete or malformed request head.", command.level)
            elif refused and isinstance(command, ReceiveHttp):
                pass  # it has been answered; no stream is to begin
            else:
                yield command

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """Send a part of an answer; how it is framed is looked up once, not for every chunk of a stream."""
        if isinstance(event, ResponseData):
            assert event.stream_id == self.stream_id
            if event.data:
                framed = b"%x\r\n%s\r\n" % (len(event.data), event.data) if self._chunked else event.data
                yield commands.SendData(self.conn, framed)
            return
        if isinstance(event, ResponseHeaders):
            self._chunked = "chunked" in event.response.headers.get("transfer-encoding", "").lower()
        yield from super().send(event)

    def wait(self, event: events.Event) -> CommandGenerator[None]:
        """Wait until the request is answered; what is pipelined meanwhile is kept, within a bound."""
        if isinstance(event, events.DataReceived) and len(self.buf) > MOST_PIPELINED:
            yield commands.Log("A client sent too much before its request was answered; it was closed.")
            yield commands.CloseConnection(self.conn)
            return
        yield from super().wait(event)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """Read a request's body."""
        if not isinstance(self.body_reader, WithoutTrailers):
            self.body_reader = WithoutTrailers(self.body_reader)  # type: ignore[assignment]  # one more
        yield from super().read_body(event)

    def _refuse(self, error: GatewayError) -> CommandGenerator[None]:
        if self._refused is not None:
            self._refused(error)
        yield commands.SendData(self.conn, http1.assemble_response(error_response(error)))
        yield commands.CloseConnection(self.conn)
        self.state = self.done


class Refusal(Layer):
    """Answers whatever comes on a connection with an error, and ends it."""

    def __init__(self, context: Context, error: GatewayError) -> None:
        super().__init__(context)
        self._error = error

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, events.Start):
            client = self.context.client
            yield commands.SendData(client, http1.assemble_response(error_response(self._error)))
            yield commands.CloseConnection(client)


class WithoutTrailers:
    """Reads a body and drops the trailers, which a recipient may always do (RFC 9110 §6.5.1)."""

    def __init__(self, reader: TBodyReader) -> None:
        self._reader = reader

    def __call__(self, buffer: ReceiveBuffer) -> h11.Event | None:
        """Give the next part of the body, or its end."""
        event = self._reader(buffer)
        return h11.EndOfMessage() if isinstance(event, h11.EndOfMessage) else event

    def read_eof(self) -> h11.Event | None:
        """Say what it means that the connection ended here. Raises h11.ProtocolError."""
        return self._reader.read_eof()


def error_response(error: GatewayError) -> http.Response:
    """Make a response of an error of the gateway's own."""
    body = error.body()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers),
    ]
    return http.Response.make(error.status, body, http.Headers(fields))
