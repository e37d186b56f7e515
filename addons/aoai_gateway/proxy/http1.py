"""The client's side of HTTP/1.

Heads that are too large or not exactly HTTP get their answer in JSON: mitmproxy answers them in HTML before
any hook is called, takes heads of any size, and logs the raw bytes of a head that was cut off; those can
hold a key. And it sends a backend's framing on, where each client needs its own.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from h11._receivebuffer import ReceiveBuffer
from mitmproxy.connection import ConnectionState
from mitmproxy.net.http import http1
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    Http1Server,
    ReceiveHttp,
    RequestData,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._http1 import make_body_reader

from aoai_gateway.config.models import Cors
from aoai_gateway.proxy import cors, heads
from aoai_gateway.proxy.bodies import BodyReader
from aoai_gateway.proxy.half_close import HalfClose
from aoai_gateway.proxy.own_responses import error_response
from aoai_gateway.proxy.stream_events import TIMER_SLACK, WholeRequest, WholeResponse
from aoai_gateway.wire import errors
from aoai_gateway.wire.dialects import OPENAI
from aoai_gateway.wire.targets import dialect_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy import http
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.config.models import Limits
    from aoai_gateway.runtime.gateway import Clock
    from aoai_gateway.wire.gateway_error import GatewayError

MOST_PIPELINED = 1024 * 1024
"""Bytes of further requests that a client may send while one is under way."""

FIRST_STREAM = 1
"""The id of a connection's first request; mitmproxy counts on by two."""

MOST_EMPTY_LINES = 8
"""Empty lines before a request that are ignored (RFC 9112 §2.2 wants one at least)."""

LAST_WORD_SECONDS = 0.5
"""The time that a client has to read the error event of a stream that is then cut."""

BROKEN_OFF = ErrorCode.GENERIC_SERVER_ERROR
"""Says of an answer that its backend broke it off, so that the connection must not end in good order."""

BAD_HEAD = "A client sent an incomplete or malformed request head."

HEAD_ENDS = (b"\n\r\n", b"\n\n")
"""An empty line, after a line that ends with CR LF or with LF alone."""


class Rest(NamedTuple):
    """How long a client's connection has been idle: no request has begun."""

    since: float
    """Monotonic seconds."""
    unused: bool
    """Whether there was none before, either."""


class GatewayHttp1Server(Http1Server):
    """An HTTP/1 server that reads heads strictly and frames answers as the client can read them.

    ``limits``: of a request's head in bytes and seconds, and of the time between two requests; ``refused`` is
    told of what is refused here, before there is a request; ``cors`` gives the configuration in force for
    pages of other origins; ``leaving`` says whether the process is about to end, so that each connection had
    better end with its next answer; ``is_reset`` whether nothing can be sent to the client any more.
    """

    def __init__(
        self,
        context: Context,
        limits: Limits,
        refused: Callable[[GatewayError], None] | None = None,
        cors: Callable[[], Cors] = Cors,
        leaving: Callable[[], bool] = lambda: False,
        clock: Clock = time,
        is_reset: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(context)
        self._limits = limits
        self._max_head = limits.header_kb * 1024
        self._clock = clock
        self._rests_since = clock.monotonic()
        self._due = math.inf
        """When the head that is waited for must be there."""
        self._head_begun = False
        self._timer: tuple[commands.RequestWakeup, float] | None = None
        """What fires next, and when."""
        self._refused = refused
        self._cors = cors
        self._leaving = leaving
        self._empty_lines = 0
        self._chunked = False
        self._left: int | None = None
        """Bytes of the answer that its content-length still promises."""
        self._closes = False
        """Whether the connection ends with the answer."""
        self._is_reset = is_reset
        self._half_close: HalfClose | None = None
        """Set once the client has sent its last byte."""
        self._next_look: commands.RequestWakeup | None = None
        self._last_word: commands.RequestWakeup | None = None
        """Fires when the client has had time to read why its answer is broken off."""
        self._reads_on = self._has_more = False
        """Whether `_read_on` is at work, and whether another request is over since."""
        self._tail = b""
        """The last bytes of the answer's body that have gone out, since the last look for a reset."""

    # --- time ------------------------------------------------------------------------------------------

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Handle an event. Nothing here waits for an answer, so nothing has to be kept for later."""
        return self.send(event) if isinstance(event, HttpEvent) else self._handle_event(event)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if not isinstance(event, events.Wakeup):
            yield from super()._handle_event(event)
            if isinstance(event, events.Start):
                yield from self._expect_head(self._limits.head_seconds)
        elif self._timer is not None and event.command is self._timer[0]:
            self._timer = None
            yield from self._time_is_up()
        elif event.command is self._next_look:
            yield from self._look()
        elif event.command is self._last_word:
            yield from self.state(event)
        # Any other timer was replaced by an earlier one.

    def _expect_head(self, seconds: float) -> CommandGenerator[None]:
        """Have a head within so many seconds from now."""
        self._due = self._clock.monotonic() + seconds
        if self._timer is None or self._timer[1] > self._due:
            self._timer = (commands.RequestWakeup(seconds), self._due)
            yield self._timer[0]

    def _time_is_up(self) -> CommandGenerator[None]:
        if self.state != self.read_headers:
            return  # a request is under way; when it has ended, the next one is expected
        left = self._due - self._clock.monotonic()
        if left > TIMER_SLACK:
            yield from self._expect_head(left)
        elif self._head_begun:
            yield from self._refuse(errors.too_slow("head"))
        else:
            self.state = self.done
            yield commands.CloseConnection(self.conn)

    @property
    def rest(self) -> Rest | None:
        """The connection's rest; None: a request has begun."""
        if self.state != self.read_headers or self.buf:
            return None
        return Rest(self._rests_since, unused=self.stream_id == FIRST_STREAM)

    # --- requests --------------------------------------------------------------------------------------

    def read_headers(self, event: events.ConnectionEvent) -> CommandGenerator[None]:
        """Read a request's head, or refuse it."""
        if isinstance(event, events.Wakeup):
            return  # of something that is over
        if not isinstance(event, events.DataReceived):
            if bytes(self.buf).strip():
                yield commands.Log(BAD_HEAD)
            yield commands.CloseConnection(self.conn)
            return
        if len(self.buf) > self._max_head:
            # A body may follow in the same buffer; only the head counts.
            begin = bytes(self.buf)[: self._max_head]
            if not any(end in begin for end in HEAD_ENDS):
                yield from self._refuse(errors.head_too_large(self._max_head))
                return
        lines = self.buf.maybe_extract_lines()
        while lines == [] and self._empty_lines < MOST_EMPTY_LINES:
            self._empty_lines += 1
            lines = self.buf.maybe_extract_lines()
        if lines is None:
            if not self._head_begun and len(self.buf) > 0:
                self._head_begun = True
                yield from self._expect_head(self._limits.head_seconds)
            return
        if len(lines) > heads.MAX_LINES:
            yield from self._refuse(errors.head_too_large(self._max_head))
            return
        try:
            request, size = heads.read_request([bytes(line) for line in lines])
        except ValueError:
            yield commands.Log(BAD_HEAD)
            yield from self._refuse(errors.head_malformed())
            return
        self.request = request
        if size is not None and len(self.buf) >= size:
            self.state = self.wait
            body = bytes(self.buf.maybe_extract_at_most(size) or b"")
            yield ReceiveHttp(WholeRequest(self.stream_id, request, not body, data=body))
            yield from self.mark_done(request=True)
            return
        self.body_reader = BodyReader(make_body_reader(size))  # type: ignore[assignment]  # one more
        self.state = self.read_body
        yield ReceiveHttp(RequestHeaders(self.stream_id, request, False))
        yield from self.state(event)

    def read_body(self, event: events.Event) -> CommandGenerator[None]:
        """Read a request's body; one that is malformed, or ends early, is answered, too."""
        for command in super().read_body(event):
            unanswered = not self.request_done and self.response is None
            if isinstance(command, commands.CloseConnection) and unanswered:
                yield from self._answer(errors.body_malformed())
            yield command

    def wait(self, event: events.Event) -> CommandGenerator[None]:
        """Wait until the request is answered; what is pipelined meanwhile is kept, within a bound.

        A client that will send no more may wait, too, or have left (:mod:`~aoai_gateway.proxy.half_close`).
        """
        if isinstance(event, events.DataReceived) and len(self.buf) > MOST_PIPELINED:
            yield commands.Log("A client sent too much before its request was answered; it was closed.")
            yield commands.CloseConnection(self.conn)
        elif isinstance(event, events.ConnectionClosed) and self._may_read_on():
            self._half_close = HalfClose(self._clock.monotonic(), in_stream=self.response is not None)
            yield from self._look()
        else:
            yield from super().wait(event)

    # --- clients that will send no more ----------------------------------------------------------------

    def _may_read_on(self) -> bool:
        """Whether a client whose last byte has come may still read.

        In TLS, that byte is the end of what protects the answer, too; and a session is no use to it.
        """
        assert self.request is not None
        is_open = self._half_close is None and bool(self.conn.state & ConnectionState.CAN_WRITE)
        is_session = self.request.headers.get("upgrade", "").lower() == "websocket"
        return is_open and not self.conn.tls and not is_session and not self._is_reset()

    def _look(self) -> CommandGenerator[None]:
        """End the request if its client has left, or ask for a sign of that, and look again later."""
        if self.state != self.wait:
            return  # the connection is about to end
        if self._is_reset():
            yield from super().wait(events.ConnectionClosed(self.conn))
            return
        assert self._half_close is not None
        now, is_promised = self._clock.monotonic(), self._left is not None
        tail, self._tail = self._tail, b""
        question = self._half_close.question(now, self.response, tail, is_promised=is_promised)
        if question is not None:
            begun = self.response is not None
            yield commands.SendData(self.conn, self.framed(question) if begun else question)
        self._next_look = commands.RequestWakeup(self._half_close.next_look())
        yield self._next_look

    # --- answers ---------------------------------------------------------------------------------------

    def send(self, event: HttpEvent) -> CommandGenerator[None]:
        """Send a part of an answer."""
        assert event.stream_id == self.stream_id
        if isinstance(event, WholeResponse):
            assert self.request is not None
            head = self._begin(self.request, event.response)
            end = b"0\r\n\r\n" if self._chunked else b""
            yield commands.SendData(self.conn, head + self.framed(event.data) + end)
            self._closes = self._closes or bool(self._left)
            yield from self.mark_done(response=True)
        elif isinstance(event, ResponseData):
            if event.data:
                yield commands.SendData(self.conn, self.framed(event.data))
        elif isinstance(event, ResponseHeaders):
            yield from self._send_head(event.response)
        elif isinstance(event, ResponseEndOfMessage):
            if self._chunked:
                yield commands.SendData(self.conn, b"0\r\n\r\n")
            self._closes = self._closes or bool(self._left)
            yield from self.mark_done(response=True)
        elif isinstance(event, ResponseProtocolError):
            yield from self._cut(event)

    def framed(self, data: bytes) -> bytes:
        """Return a part of an answer's body as it goes on the wire."""
        if not data:
            return b""
        if self._left is not None:
            self._left -= len(data)
        self._tail = data[-4:]
        return b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data

    def _send_head(self, response: http.Response) -> CommandGenerator[None]:
        """Send an answer's head."""
        assert self.request is not None
        if response.status_code == 101:
            yield from self._switch(response)
        elif response.status_code >= 200:
            yield commands.SendData(self.conn, self._begin(self.request, response))
        elif self.request.data.http_version != b"HTTP/1.0":
            yield commands.SendData(self.conn, self._unsent(http1.assemble_response_head(response)))

    def _begin(self, request: http.Request, response: http.Response) -> bytes:
        """Begin with a final answer; returns its head."""
        stays = not self._leaving() and not self._is_last
        head = heads.answer_head(request, response, self._cors(), stays=stays)
        self.response = response
        self._chunked, self._left, self._closes = head.chunked, head.length, head.closes
        self._tail = b""
        return self._unsent(head.data)

    def _unsent(self, head: bytes) -> bytes:
        """Return what is left to be sent of an answer's head: its client may have got the beginning."""
        return head if self._half_close is None else self._half_close.rest_of(head)

    def _switch(self, response: http.Response) -> CommandGenerator[None]:
        """Accept a WebSocket's handshake."""
        self.response, self._chunked, self._left = response, False, None
        yield commands.SendData(self.conn, heads.switching_head(response))
        yield from self.make_pipe()

    def passthrough(self, event: events.Event) -> CommandGenerator[None]:
        """Hand on what comes in a session; its end without a close is the client's hang-up."""
        if isinstance(event, events.ConnectionClosed):
            gone = RequestProtocolError(self.stream_id, "client disconnected", ErrorCode.CLIENT_DISCONNECTED)
            yield ReceiveHttp(gone)
        elif isinstance(event, events.DataReceived):
            yield ReceiveHttp(RequestData(self.stream_id, event.data))

    def mark_done(self, *, request: bool = False, response: bool = False) -> CommandGenerator[None]:
        """Note that the request, or its answer, is complete; with both, the next request may come."""
        self.request_done = self.request_done or request
        self.response_done = self.response_done or response
        if self.state == self.passthrough:
            return
        if not self.request_done:
            return
        if not self.response_done:
            self.state = self.wait
            return
        if self._closes or self._is_last:
            yield commands.CloseConnection(self.conn)
            self.state = self.done
            return
        self.request_done = self.response_done = False
        self.request = self.response = None
        self.stream_id += 2
        self._empty_lines = 0
        self._head_begun = False
        self.state = self.read_headers
        self._rests_since = self._clock.monotonic()
        yield from self._expect_head(self._limits.keep_alive_seconds)
        if self._reads_on:
            self._has_more = True
        else:
            yield from self._read_on()

    def _read_on(self) -> CommandGenerator[None]:
        """Read the requests that have come already: in a loop, since hundreds may be answered at once."""
        self._reads_on = self._has_more = True
        try:
            while self._has_more and self.buf:
                self._has_more = False
                yield from self.state(events.DataReceived(self.conn, b""))
        finally:
            self._reads_on = False
        if self._half_close is not None and self.state in (self.read_headers, self.read_body):
            unfinished, self.state = self.state, self.done
            yield from unfinished(events.ConnectionClosed(self.conn))

    @property
    def _is_last(self) -> bool:
        """Whether no other request can follow."""
        return self._half_close is not None and not self.buf

    def _cut(self, event: ResponseProtocolError) -> CommandGenerator[None]:
        """End the connection without the end of the answer.

        After a last word, an error event, the client gets time to read it: some SDKs drop what they have
        not read as soon as they see the end of the connection.
        """
        if not self.conn.state & ConnectionState.CAN_WRITE or self.state == self.last_word:
            return
        if event.code is BROKEN_OFF and self.response is not None:
            self.state = self.last_word
            self._last_word = commands.RequestWakeup(LAST_WORD_SECONDS)
            yield self._last_word
            return
        self.state = self.done
        yield commands.CloseConnection(self.conn)

    def last_word(self, event: events.Event) -> CommandGenerator[None]:
        """The answer has been broken off; the client reads why."""
        if isinstance(event, events.Wakeup | events.ConnectionClosed):
            self.state = self.done
            yield commands.CloseConnection(self.conn)
        elif isinstance(event, events.DataReceived):
            self.buf = ReceiveBuffer()

    def _refuse(self, error: GatewayError) -> CommandGenerator[None]:
        if self._refused is not None:
            self._refused(error)
        yield from self._answer(error)
        yield commands.CloseConnection(self.conn)
        self.state = self.done

    def _answer(self, error: GatewayError) -> CommandGenerator[None]:
        if self.conn.state & ConnectionState.CAN_WRITE:
            dialect = OPENAI if self.request is None else dialect_of(self.request.path)
            response = error_response(error, dialect)
            if self.request is not None:
                added = cors.fields(self._cors(), self.request, response.headers.fields)
                response.headers.fields += tuple(added)
            yield commands.SendData(self.conn, self._unsent(http1.assemble_response(response)))
