"""The way of an answer from a backend to the client.

An event stream goes out as it comes, through a reader that knows what it means; anything else goes out when
it is complete. From the first byte on nothing can be replayed: a backend that breaks off now is told to the
client as an error event, and the connection is cut: clients that ignore unknown events, and those that look
at the framing only, would take an answer that ends in good order for a complete one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mitmproxy import http
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    HttpResponseHeadersHook,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)
from mitmproxy.proxy.layers.http._http1 import Http1Connection

from aoai_gateway.engine.call import Call, Outcome
from aoai_gateway.engine.effects import ClientGone, Ended, Result
from aoai_gateway.proxy import heads
from aoai_gateway.proxy.downstream_request import DownstreamRequest
from aoai_gateway.proxy.header_index import set_fields
from aoai_gateway.proxy.masks import mask_decoded
from aoai_gateway.proxy.upstream_response import UpstreamResponse
from aoai_gateway.usage.chunk_gaps import ChunkGaps
from aoai_gateway.wire import errors
from aoai_gateway.wire.content_coding import MOST_READ, NotDecodedError, decode
from aoai_gateway.wire.delivered import Delivered
from aoai_gateway.wire.operations import RESPONSES
from aoai_gateway.wire.references import references_in
from aoai_gateway.wire.usage import AnswerFacts, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mitmproxy.connection import Server
    from mitmproxy.proxy import events
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.messages import StreamLayer
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.wire.masking import KnownSecrets


HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-status",
        # Where else the backend could be reached:
        b"alt-svc",
    }
)

OURS = (b"x-gateway-", b"access-control-")
"""How the names of fields begin that only the gateway itself says."""

NOT_THE_CLIENTS = HOP_BY_HOP | frozenset(
    {
        f"x-ratelimit-{what}-{of}".encode()
        for what in ("limit", "remaining", "reset", "renewalperiod")
        for of in ("requests", "tokens")
    }
    | {b"x-ratelimit-key", b"x-ratelimit-type", b"azure-openai-deployment-utilization"}
)
"""Fields that concern only the gateway: of its connection to the backend, and of its quota there."""


class DownstreamResponse(DownstreamRequest):
    """The stream as seen from a backend's answer; what to make of its end is for a subclass to say."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: StreamLayer) -> None:
        super().__init__(context, stream_id, gateway, layer)
        self.upstream: Server | None = None
        """The connection of the attempt under way; events from any other are not for us."""
        self._call: Call | None = None
        self._received: UpstreamResponse | None = None
        self._continuation: tuple[commands.RequestWakeup, Result] | None = None
        self._chunk_gaps: ChunkGaps | None = None
        """Only where bodies of streams are stored, as they are for somebody to look at."""
        self._secrets: tuple[KnownSecrets, ...] = ()
        """What is masked in answers to this call."""
        self._begun = False
        """Whether the response's head has gone to the client, and more is to follow."""
        self._held_back: bytearray | None = None
        """What came of a stream that a user wants to see, and may edit, before the client gets any of it."""

    def _advance(self, result: Result | None) -> CommandGenerator[None]:
        """Tell the engine what came of its last effect."""
        raise NotImplementedError

    def _deliver(self) -> CommandGenerator[Result | None]:
        received, flow = self._received, self.flow
        assert received is not None and received.response is not None and self._call is not None
        response = flow.response = received.response
        if not received.streaming:
            return (yield from self._whole_answer(received, response))
        self._mark(response)
        if self._asked_for_usage() and "content-length" in response.headers:
            # Less will go out than comes in.
            del response.headers["content-length"]
            response.headers["transfer-encoding"] = "chunked"
        yield from self._tell(HttpResponseHeadersHook(flow))
        if self._client_has_gone() or self._killed():
            yield from self._abandon()
            return ClientGone(time.monotonic())
        self._store = bool(self.context.options.store_streamed_bodies)
        self._chunk_gaps = ChunkGaps() if self._store else None
        self.server_state = self.state_deliver
        received.came(time.monotonic())
        if received.reader is not None and self._gateway.is_held(flow):
            self._held_back = bytearray()
        else:
            self._begun = True
            yield SendHttp(ResponseHeaders(self.stream_id, response, False), self.context.client)
        yield from self._to_client(received.take_body())
        if received.ended:
            self.server_state = self.state_done
            yield from self._last_word()
            return self._stream_ended()
        yield from self._watch()
        return None

    def _asked_for_usage(self) -> bool:
        """Whether the backend that answers was asked for the usage by us."""
        attempt = self._call.attempt if self._call is not None else None
        return attempt is not None and self._call is not None and self._call.adds_usage(attempt.backend)

    def _wait_for(self, answer: Any) -> CommandGenerator[Any]:
        """Give an answer that may still be on its way."""
        raise NotImplementedError

    def _whole_answer(self, received: UpstreamResponse, response: http.Response) -> CommandGenerator[Ended]:
        assert self._call is not None
        response.data.content = received.take_body()
        facts, decoded = received.facts, received.decoded
        if decoded is None:
            decoded, facts = yield from self._wait_for(asyncio.to_thread(self._read_large, response))
        else:
            decoded = mask_decoded(response, decoded, self._secrets)
        delivered = None
        if facts.usage is None and response.status_code == 200:
            delivered = Delivered.of_answer(self._call.target.operation.name, decoded)
        return Ended(
            time.monotonic(),
            complete=True,
            usage=facts.usage,
            model=facts.model,
            response_id=facts.response_id,
            made=references_in(decoded) if self._call.target.operation is RESPONSES else (),
            finish_reason=", ".join(facts.finish_reasons) or None,
            delivered=delivered,
        )

    def _read_large(self, response: http.Response) -> tuple[bytes, AnswerFacts]:
        """Decode an answer that takes longer than a moment; in a thread, while the stream waits for it.

        One that is larger than any real answer is passed on unread.
        """
        try:
            decoded = decode(response.raw_content or b"", response.headers.get("content-encoding"), MOST_READ)
        except NotDecodedError:
            return b"", AnswerFacts()
        decoded = mask_decoded(response, decoded, self._secrets)
        return decoded, read_answer(decoded)

    def state_deliver(self, event: events.Event) -> CommandGenerator[None]:
        """More of a stream that goes to the client as it comes."""
        received = self._received
        assert received is not None
        reader = received.reader
        if isinstance(event, ResponseData):
            received.came(time.monotonic())
            yield from self._to_client(event.data if reader is None else reader.feed(event.data))
        elif isinstance(event, ResponseEndOfMessage):
            self.upstream = None
            self.server_state = self.state_done
            rest = b"" if reader is None else reader.flush()
            result = self._stream_ended()
            if result.complete:
                yield from self._to_client(rest)
            else:
                yield from self._say_broken_off()
            yield from self._last_word()
            yield from self._finish_with(result)
        elif isinstance(event, ResponseProtocolError):
            self.upstream = None
            yield from self._broken_off("broke off its stream")

    def _to_client(self, data: bytes) -> CommandGenerator[None]:
        response = self.flow.response
        assert response is not None
        if data and callable(response.stream):
            # Another addon wants to see or change what passes.
            data = _passed(response.stream(data))
        if data:
            yield from self._pass_on(data)

    def _pass_on(self, data: bytes) -> CommandGenerator[None]:
        if self._chunk_gaps is not None:
            self._chunk_gaps.note(time.monotonic())
        if self._held_back is not None:
            self._held_back += data
            return
        if self._chunk_gaps is not None:
            self.response_body_buf += data
        yield SendHttp(ResponseData(self.stream_id, data), self.context.client)

    def _show_held(self) -> CommandGenerator[None]:
        """A stream that is held has come to its end: it goes out as a whole, once it is let go."""
        assert self.flow.response is not None and self._held_back is not None
        self.flow.response.data.content = bytes(self._held_back)
        yield from self.send_response()

    def _last_word(self) -> CommandGenerator[None]:
        """Tell an addon that looks at the stream that it is over, as mitmproxy does."""
        response = self.flow.response
        if response is not None and callable(response.stream):
            rest = _passed(response.stream(b""))
            if rest:
                yield from self._pass_on(rest)

    def _stream_ended(self) -> Ended:
        received = self._received
        assert received is not None
        now, reader = time.monotonic(), received.reader
        if reader is None:
            return Ended(now, complete=True, first_content=received.first_content)
        complete = reader.is_complete(cut_short=received.cut_short)
        return Ended(
            now,
            complete=complete,
            reason="" if complete else "ended its stream without saying so",
            first_content=received.first_content,
            usage=reader.usage,
            model=reader.model,
            response_id=reader.response_id,
            made=tuple(reader.made),
            finish_reason=", ".join(reader.finish_reasons) or None,
            delivered=reader.delivered,
        )

    def _all_sent(self) -> Ended | None:
        """Give the end of an answer that the client has all of, if it has.

        SDKs hang up at ``[DONE]``, without waiting for the end of the body.
        """
        if self._continuation is not None and isinstance(self._continuation[1], Ended):
            return self._continuation[1]
        reader = self._received.reader if self._received is not None else None
        if self._begun and self.server_state == self.state_deliver and reader and reader.terminal_seen:
            return self._stream_ended()
        return None

    def _broken_off(self, reason: str) -> CommandGenerator[None]:
        """The backend broke its stream off after the client had begun to get it."""
        self.server_state = self.state_done
        if self._received is not None:
            self._received.cut_short = True
        result = self._stream_ended()
        if self._received is not None and self._received.reader is None:
            result = replace(result, complete=False)
        if not result.complete:
            result = replace(result, reason=reason)
            yield from self._say_broken_off()
        yield from self._last_word()
        yield from self._continue_later(result)

    def _say_broken_off(self) -> CommandGenerator[None]:
        reader = self._received.reader if self._received is not None else None
        if reader is not None:
            yield from self._to_client(reader.break_off(errors.upstream_disconnected()))

    def _is_whole(self) -> bool:
        return self._call is None or self._call.outcome is not Outcome.TRUNCATED

    def _is_cut_off(self) -> bool:
        """Whether the client has part of an answer in which no error can be told: only a cut can tell it."""
        untold = self._received is not None and self._received.reader is None
        return self._begun and untold and not self._is_whole()

    def _mark(self, response: http.Response) -> None:
        """Say in the response's headers what the gateway did."""
        call = self._call
        assert call is not None
        added = [(b"x-gateway-call", call.id.encode())]
        attempt = call.attempt
        if attempt is not None:
            added.append((b"x-gateway-backend", attempt.backend.name.encode()))
            added.append((b"x-gateway-attempts", b"%d" % len(call.attempts)))
            if attempt.backend.endpoint.simulated is not None:
                added.append((b"x-gateway-simulated", b"true"))
        added += [(name.encode(), value.encode()) for name, value in call.told.items()]
        # A backend's own limits are none of the client's business, and not what it may use.
        added += [(name.encode(), value.encode()) for name, value in call.quota_headers]
        received = response.data.headers.fields
        unwanted = NOT_THE_CLIENTS | heads.connection_options(received)
        unwanted |= {low for name, _ in received if (low := name.lower()).startswith(OURS)}
        set_fields(response, unwanted, added)

    # --- turns and time --------------------------------------------------------------------------------

    def _continue_later(self, result: Result) -> CommandGenerator[None]:
        wakeup = commands.RequestWakeup(0)
        self._continuation = (wakeup, result)
        yield wakeup

    def _finish_with(self, result: Result) -> CommandGenerator[None]:
        """Go on at the end of an answer, in this very event if nobody can use the connection too early."""
        client = self._layer.connections.get(self.context.client)
        if isinstance(client, Http1Connection) and client.buf:
            # A pipelined request would be read, and sent, before the backend's connection is reset.
            yield from self._continue_later(result)
        else:
            yield from self._advance(result)

    def _abandon(self) -> CommandGenerator[None]:
        """Close the connection of the attempt under way: the backend is to stop working on it."""
        server, self.upstream = self.upstream, None
        if server is not None and server in self._layer.connections:
            message = RequestProtocolError(self.stream_id, "abandoned", ErrorCode.CLIENT_DISCONNECTED)
            yield SendHttp(message, server)

    def _watch(self) -> CommandGenerator[None]:
        """Have the layer tell us when the exchange's time has come."""
        assert self._received is not None
        yield from self._layer.set_deadline(self._deadline, self._received.due)


def _passed(changed: bytes | Iterable[bytes]) -> bytes:
    return changed if isinstance(changed, bytes) else b"".join(changed)
