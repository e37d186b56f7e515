"""A stream on its way from a backend to the client.

What comes is masked, read and passed on. A stream that ends without its proper end is told to the client as
an error event; where no event can be told, only the cut of the connection tells it.

On the usual way each chunk makes some forty steps through mitmproxy's layers and its event loop. A `Lane`
does the same in one call, for whole plain chunks only. All that means more (the last chunk, a chunk's
extension, half a chunk, the end of the connection) goes the usual way, and so does everything while a layer
waits for something. So a lane never changes the layers' own state: they go on as if the chunks had not been.

Backends speak TLS; then the chunks are read out of the connection's TLS layer, a record at a time. A record
that is not for the lane is left there, where the layer will read it.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, NamedTuple

from mitmproxy.connection import ConnectionState
from mitmproxy.proxy.commands import CloseConnection
from mitmproxy.proxy.layers.http import HttpResponseHeadersHook
from mitmproxy.proxy.layers.tls import ServerTLSLayer
from mitmproxy.proxy.tunnel import TunnelState
from OpenSSL import SSL

from aoai_gateway.engine.effects import ClientGone, Ended, Result
from aoai_gateway.proxy.downstream_response import Progress
from aoai_gateway.proxy.http1 import GatewayHttp1Server
from aoai_gateway.proxy.stream_context import Led, StreamPart
from aoai_gateway.proxy.stream_events import DEADLINE_SLACK, State
from aoai_gateway.proxy.upstream import http1_of
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mitmproxy.connection import Client, Connection
    from mitmproxy.proxy.layer import CommandGenerator, Layer
    from mitmproxy.proxy.layers.http import ResponseData, ResponseEndOfMessage, ResponseProtocolError

    from aoai_gateway.proxy.downstream_response import DownstreamResponse
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.proxy.stream_events import DeadlinePassed
    from aoai_gateway.proxy.upstream import BackendHttp1Client
    from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt
    from aoai_gateway.proxy.upstream_response import UpstreamResponse

MOST_CHUNKS = 1_000
"""Chunks of one read that are taken; more of them are tiny, and have a better way."""

_MOST_RECORD = 64 * 1024
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,7})\r\n")


class Delivery(StreamPart):
    """One stream, from its first content to its end. Its steps are those of `State.DELIVERING`."""

    def __init__(
        self,
        here: StreamContext,
        attempt: UpstreamAttempt,
        received: UpstreamResponse,
        response: DownstreamResponse,
        stream: Led,
    ) -> None:
        super().__init__(stream)
        self._here = here
        self._attempt = attempt
        self._received = received
        self._response = response

    def begin(self) -> CommandGenerator[Result | None]:
        """Send the head, and what was held back. Returns the result if there will be no more."""
        here, received = self._here, self._received
        call, response = here.call, here.flow.response
        assert call is not None and response is not None
        self._response.mark(call)
        reader = received.reader
        if reader is not None and "content-length" in response.headers and not reader.keeps_size():
            # The usage that the gateway asked for is taken out, the standin's name replaced.
            del response.headers["content-length"]
            response.headers["transfer-encoding"] = "chunked"
        yield from here.tell(HttpResponseHeadersHook)
        if here.client_has_gone() or here.is_killed():
            yield from self._attempt.abandon()
            return ClientGone(here.now())
        received.came(here.now())
        hold = received.reader is not None and here.gateway.is_held(here.flow)
        yield from self._response.begin(hold=hold)
        yield from self._response.feed(received.take_body())
        if not received.ended:
            return None
        yield from self._response.feed_end()
        return received.stream_ended(here.now())

    # --- steps -----------------------------------------------------------------------------------------

    def body(self, event: ResponseData) -> CommandGenerator[None]:
        """More has come of the stream."""
        yield from self._response.feed(self._read(self._attempt.screen(event.data)))

    def ended(self, _: ResponseEndOfMessage) -> CommandGenerator[None]:
        """The stream has ended as HTTP has it."""
        self._here.state = State.DECIDING
        if self._attempt.is_unfinished:
            yield from self._attempt.abandon()  # its connection waits for the rest of an upload
        result = yield from self.end()
        yield from self._stream.finish_with(result)

    def cut(self, _: ResponseProtocolError) -> CommandGenerator[None]:
        """The backend broke the connection off in the middle of the stream."""
        result = yield from self.break_off("broke off its stream")
        yield from self._stream.delay(result)

    def overdue(self, event: DeadlinePassed) -> CommandGenerator[None]:
        """No more of the stream came in time."""
        here, output, received = self._here, self._here.layer.output, self._received
        waits = here.gateway.slow_readers.is_waited_for(output, here.now())
        # Meanwhile nothing more was read from the backend.
        received.client_read_at(output.waited)
        if received.due > here.now() + DEADLINE_SLACK:
            yield from self._attempt.watch()
            return
        if waits:
            # Its time for the whole answer is over, too.
            output.is_cut = True
            yield CloseConnection(here.client)
            yield from self._stream.client_gone(event)
            return
        yield from self._attempt.abandon()
        result = yield from self.break_off("nothing came for too long")
        yield from self._stream.delay(result)

    # --- the short way ---------------------------------------------------------------------------------

    @property
    def can_take(self) -> bool:
        """Whether `take` does the same as `body`: the stream goes straight to its client."""
        is_plain = self._received.unfolding is None
        return is_plain and self._response.goes_straight and self._attempt.server is not None

    def take(self, data: bytes) -> bytes:
        """Return what the client gets of a part of the stream, instead of sending it."""
        passed = self._read(self._attempt.screen(data))
        self._response.note(passed)
        return passed

    # --- the end ---------------------------------------------------------------------------------------

    def end(self) -> CommandGenerator[Ended]:
        """Pass on the rest of a stream that has ended as HTTP has it, or tell that it is not complete."""
        received = self._received
        yield from self._last_part()
        rest = b"" if received.reader is None else received.reader.flush()
        result = received.stream_ended(self._here.now())
        if result.complete:
            yield from self._response.feed(rest)
        else:
            yield from self._tell_client()
        yield from self._response.feed_end()
        return result

    def break_off(self, reason: str) -> CommandGenerator[Ended]:
        """Tell the client that the backend has broken the stream off, unless it was complete."""
        yield from self._last_part()
        result = self._received.stream_broken_off(self._here.now(), reason)
        if not result.complete:
            yield from self._tell_client()
        yield from self._response.feed_end()
        return result

    def all_sent(self) -> Ended | None:
        """Return the end of a stream whose client has all of it; SDKs hang up at ``[DONE]``."""
        reader = self._received.reader
        if self._response.progress is Progress.BEGUN and reader is not None and reader.terminal_seen:
            return self._received.stream_ended(self._here.now())
        return None

    def so_far(self) -> Ended | None:
        """Return what there is of an answer that goes to the client as it comes; None: it has got nothing."""
        if self._response.progress not in (Progress.BEGUN, Progress.HELD):
            return None
        try:
            return self._received.stream_ended(self._here.now())
        except Exception as error:
            # Perhaps it is what reads the answer that has a bug: the call ends all the same.
            log_exception("while the end of an answer was read.", error)
            return None

    def _read(self, data: bytes) -> bytes:
        """Read a part of the stream; returns what goes on of it."""
        if not data:
            return b""
        received = self._received
        passed = data if received.reader is None else received.reader.feed(data)
        received.came(self._here.now())
        return passed

    def _last_part(self) -> CommandGenerator[None]:
        """Pass on what was held back for masking; the connection is no longer this attempt's."""
        yield from self._response.feed(self._read(self._attempt.screened_rest()))
        self._attempt.server = None

    def _tell_client(self) -> CommandGenerator[None]:
        if (reader := self._received.reader) is not None:
            yield from self._response.feed(reader.break_off(errors.upstream_disconnected()))


class Taken(NamedTuple):
    """What came of a read that a lane has taken."""

    sent: bytes
    """The bytes for the client's connection, framed."""
    left: bool = False
    """Whether the TLS layer has more, which the layers must read."""


class Lane:
    """The short way of one stream, as long as it is delivered."""

    def __init__(
        self,
        delivery: Delivery,
        backend: BackendHttp1Client,
        tls: ServerTLSLayer | None,
        is_delivering: Callable[[], bool],
    ) -> None:
        self._delivery = delivery
        self._backend = backend
        self._tls = tls
        self._is_delivering = is_delivering

    @classmethod
    def of(
        cls,
        connections: Mapping[Connection, Layer],
        backend: Connection | None,
        delivery: Delivery,
        is_delivering: Callable[[], bool],
    ) -> Lane | None:
        """Make the short way of a stream that comes on a backend's connection, if it can have one.

        ``connections``: the layers of all connections; ``is_delivering``: whether the stream can go on now.
        """
        layer = connections.get(backend) if backend is not None else None
        http1 = http1_of(layer) if layer is not None else None
        if http1 is None:
            return None
        return cls(delivery, http1, layer if isinstance(layer, ServerTLSLayer) else None, is_delivering)

    def take(self, data: bytes, client: Client, server: Layer | None) -> Taken | None:
        """Take a read of the backend's socket. None: the layers have to take it, and nothing was touched."""
        if not isinstance(server, GatewayHttp1Server) or not self._is_open(client):
            return None
        if self._tls is not None:
            return self._take_records(data, server)
        content = whole_chunks(data)
        return None if content is None else Taken(server.framed(self._delivery.take(content)))

    def _is_open(self, client: Client) -> bool:
        """Whether nothing is under way that a chunk could overtake."""
        return (
            self._is_delivering()
            and self._delivery.can_take
            and self._backend.is_between_chunks
            and bool(client.state & ConnectionState.CAN_WRITE)
            # The records that go to a client with TLS are made by its layer.
            and not client.tls
            and (self._tls is None or self._tls.tunnel_state is TunnelState.OPEN)
        )

    def _take_records(self, data: bytes, server: GatewayHttp1Server) -> Taken:
        assert self._tls is not None and self._tls.tls is not None
        tls = self._tls.tls
        sent: list[bytes] = []
        tls.bio_write(data)
        while True:
            try:
                record = tls.recv(_MOST_RECORD, socket.MSG_PEEK)
            except SSL.WantReadError:
                return Taken(b"".join(sent))
            except SSL.Error:
                return Taken(b"".join(sent), left=True)  # its layer gets the same, and knows what it means
            content = whole_chunks(record)
            if content is None:
                return Taken(b"".join(sent), left=True)
            tls.recv(len(record))
            sent.append(server.framed(self._delivery.take(content)))


def whole_chunks(data: bytes) -> bytes | None:
    """Return the content of chunks (RFC 9112 §7.1), if the data is nothing but whole and plain ones."""
    at, size = 0, len(data)
    parts: list[bytes] = []
    while at < size:
        head = _SIZE.match(data, at)
        if head is None or len(parts) >= MOST_CHUNKS:
            return None
        begin = head.end()
        end = begin + int(head[1], 16)
        if end == begin or data[end : end + 2] != b"\r\n":
            return None
        parts.append(data[begin:end])
        at = end + 2
    return b"".join(parts)
