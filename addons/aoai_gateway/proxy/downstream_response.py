"""The answer to a client, as it goes out.

An event stream goes out as it comes; any other answer when it is complete. From the first byte on nothing can
be replayed: the client is told by an error event that a backend has broken off, and the connection is cut.
Clients that ignore unknown events, and those that look at the framing only, would take an answer that ends in
good order for a complete one.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import (
    HttpResponseHook,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
)

from aoai_gateway.proxy.heads import FRAMING, HOP_BY_HOP, connection_options, set_fields
from aoai_gateway.proxy.http1 import BROKEN_OFF
from aoai_gateway.proxy.stream_events import WholeResponse
from aoai_gateway.usage.chunk_gaps import ChunkGaps
from aoai_gateway.wire import errors
from aoai_gateway.wire.hints import LIMIT_HEADERS, LIMITS_BEGIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.engine.call import Call
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.wire.stream import StreamReader

OF_CONNECTION = HOP_BY_HOP | {
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-status",
    b"alt-svc",
}
"""Fields of a backend's connection; ``alt-svc`` says where else it could be reached."""

OURS = (b"x-gateway-", b"access-control-")
"""How the names of fields begin that only the gateway itself says."""

NOT_PASSED_ON = (*OURS, *(name.encode() for name in LIMITS_BEGIN))
"""How the names of fields begin that a backend's answer loses."""

NOT_THE_CLIENTS = OF_CONNECTION | {name.encode() for name in LIMIT_HEADERS}
"""Fields that concern only the gateway: of its connection to the backend, and of its quota there."""


class Progress(Enum):
    """How much of an answer the client has."""

    NOTHING = auto()
    HELD = auto()
    """A stream is collected, since a user wants to see it, and may edit it, before the client gets any."""
    BEGUN = auto()
    """The head of a stream, and what came of it until now."""
    WHOLE = auto()
    """An answer that was all there when it was sent."""


class DownstreamResponse:
    """Sends one answer; the flow's response is what is sent."""

    def __init__(self, here: StreamContext) -> None:
        self._here = here
        self.progress = Progress.NOTHING
        self._held = bytearray()
        self._kept = bytearray()
        """What has gone out of a stream, if the UI is to show it."""
        self._keeps = False
        self._gaps: ChunkGaps | None = None
        """Of a stream that has begun."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer is all that it should be, and may end on the wire as if it were."""
        call = self._here.call
        return call is None or call.is_whole

    @property
    def chunk_gaps(self) -> tuple[float, float] | None:
        """Of a stream, the median and the longest time between two chunks, in seconds."""
        return self._gaps.summary() if self._gaps is not None else None

    def note_times(self) -> None:
        """Note on the flow of a stream that is stored, to be looked at, when its chunks came."""
        here = self._here
        if self._keeps and self._gaps is not None and (times := self._gaps.times()):
            here.flow.metadata["gateway_chunk_times_ms"] = times

    def begin(self, *, hold: bool) -> CommandGenerator[None]:
        """Begin to send a stream, or to collect it (`hold`)."""
        here = self._here
        assert here.flow.response is not None
        self._gaps = ChunkGaps()
        self._keeps = bool(here.proxy.options.store_streamed_bodies)
        if not hold:
            yield here.send(ResponseHeaders(here.id, here.flow.response, False))
        self.progress = Progress.HELD if hold else Progress.BEGUN

    def feed(self, data: bytes) -> CommandGenerator[None]:
        """Send a part of a stream, by way of an addon that wants to see or change what passes."""
        response = self._here.flow.response
        assert response is not None
        if data and callable(response.stream):
            data = _passed(response.stream(data))
        if data:
            yield from self._pass_on(data)

    def feed_end(self) -> CommandGenerator[None]:
        """Tell an addon that looks at a stream that it is over, as mitmproxy does."""
        response = self._here.flow.response
        if response is not None and callable(response.stream):
            rest = _passed(response.stream(b""))
            if rest:
                yield from self._pass_on(rest)

    def _pass_on(self, data: bytes) -> CommandGenerator[None]:
        self.note(data)
        if self.progress is not Progress.HELD:
            yield self._here.send(ResponseData(self._here.id, data))

    @property
    def goes_straight(self) -> bool:
        """Whether parts of a stream go to the client as they are, past every addon."""
        response = self._here.flow.response
        return self.progress is Progress.BEGUN and response is not None and not callable(response.stream)

    def note(self, data: bytes) -> None:
        """Note a part of a stream that goes out, or is held."""
        if not data or self._gaps is None:
            return
        self._gaps.note(self._here.now())
        if self.progress is Progress.HELD:
            self._held += data
        elif self._keeps:
            self._kept += data

    def show_kept(self) -> None:
        """Put what has gone out, or was collected, on the flow's response, where a user sees it."""
        response = self._here.flow.response
        assert response is not None
        if self.progress is Progress.HELD:
            response.data.content = bytes(self._held)
        elif self._keeps:
            response.data.content = bytes(self._kept)
            self._kept.clear()

    def tell(self) -> CommandGenerator[None]:
        """Let other addons see the complete answer."""
        response = self._here.flow.response
        assert response is not None
        response.timestamp_end = self._here.clock.time()
        yield from self._here.tell(HttpResponseHook)

    def send_whole(self) -> CommandGenerator[None]:
        """Send an answer that is all there; one that is not whole is cut before its end."""
        here, response = self._here, self._here.flow.response
        assert response is not None
        content, is_whole = response.raw_content, self.is_whole
        if content is not None and here.concealed is not None:
            content = content.replace(*here.concealed)
        head_only = here.flow.request.method == "HEAD"
        if content is not None and not head_only:
            length = [(b"content-length", b"%d" % len(content))] if is_whole else []
            set_fields(response, FRAMING, length)
        self.progress = Progress.WHOLE
        body = b"" if head_only or content is None else content
        if is_whole:
            yield here.send(WholeResponse(here.id, response, data=body))
            return
        yield here.send(ResponseHeaders(here.id, response, not body))
        yield here.send(ResponseData(here.id, body))
        yield from self.cut()

    def end(self) -> CommandGenerator[None]:
        """End the answer: in good order if it is whole, else by cutting the connection."""
        if self.is_whole:
            yield self._here.send(ResponseEndOfMessage(self._here.id))
        else:
            yield from self.cut()

    def cut(self) -> CommandGenerator[None]:
        """Cut the connection, so that no client takes the answer for a complete one."""
        yield self._here.send(ResponseProtocolError(self._here.id, "broken off", BROKEN_OFF))

    def accept(self, call: Call) -> None:
        """Say in a handshake's answer what the gateway did, and leave the rest to the session."""
        response = self._here.flow.response
        assert response is not None
        self.mark(call)
        # None was offered to the backend, so the client is not to hear of one.
        set_fields(response, FRAMING | {b"sec-websocket-extensions"}, ())
        self.progress = Progress.WHOLE

    def tell_of_bug(self, reader: StreamReader | None) -> CommandGenerator[None]:
        """End the answer because of an exception of ours. ``reader``: of a stream that has begun."""
        here, error = self._here, errors.internal()
        if self.progress is Progress.BEGUN:
            if reader is not None:
                yield here.send(ResponseData(here.id, reader.break_off(error)))
            yield from self.cut()
        elif self.progress is Progress.WHOLE:
            yield commands.CloseConnection(here.client)
        else:
            here.flow.response = here.error_response(error)
            here.flow.response.headers["connection"] = "close"
            yield from self.send_whole()

    def mark(self, call: Call) -> None:
        """Say in the response's headers what the gateway did; take out what is not the client's business."""
        response = self._here.flow.response
        assert response is not None
        added = [(b"x-gateway-call", call.id.encode())]
        attempt = call.attempt
        if attempt is not None:
            added.append((b"x-gateway-backend", attempt.backend.name.encode()))
            added.append((b"x-gateway-attempts", b"%d" % len(call.attempts)))
            if attempt.backend.endpoint.simulated is not None:
                added.append((b"x-gateway-simulated", b"true"))
        added += [(f"x-gateway-{notice}".encode(), words.encode()) for notice, words in call.notices.items()]
        # A backend's own limits are none of the client's business, and not what it may use.
        added += [(name.encode(), value.encode()) for name, value in call.quota_headers]
        received = response.data.headers.fields
        unwanted = NOT_THE_CLIENTS | connection_options(received)
        unwanted |= {low for name, _ in received if (low := name.lower()).startswith(NOT_PASSED_ON)}
        set_fields(response, unwanted, added)


def _passed(changed: bytes | Iterable[bytes]) -> bytes:
    return changed if isinstance(changed, bytes) else b"".join(changed)
