"""One attempt on the wire: a connection, the request, and the wait for what becomes of it.

An :class:`~aoai_gateway.proxy.upstream_response.UpstreamResponse` says what the answer means; here its events
come in, its deadline is kept, and the engine is told what was decided.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.proxy.layers.http import (
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpEvent

from aoai_gateway.engine.call import FailureKind
from aoai_gateway.engine.effects import ClientGone, Drained, Failed, Result, Send
from aoai_gateway.proxy.downstream_response import DownstreamResponse
from aoai_gateway.proxy.masks import mask_decoded, mask_head
from aoai_gateway.proxy.messages import Connect
from aoai_gateway.proxy.request import build_request
from aoai_gateway.proxy.upstream_response import SLACK, UpstreamResponse
from aoai_gateway.wire.masking import Screen

if TYPE_CHECKING:
    from mitmproxy.proxy import events
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.messages import StreamLayer
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)


class UpstreamAttempt(DownstreamResponse):
    """The stream as seen from an attempt; which one is made, and when, is for a subclass to say."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: StreamLayer) -> None:
        super().__init__(context, stream_id, gateway, layer)
        self._sent: http.Request | None = None
        """The last request that was sent, or was to be; it holds a credential."""
        self._content = b""
        self._screen = Screen()
        """Masks known secrets in the body of the answer under way."""

    def _send(self, effect: Send) -> CommandGenerator[Result | None]:
        assert self._call is not None and self._admitted is not None
        call, backend = self._call, effect.attempt.backend
        endpoint = backend.endpoint
        self.upstream = self._received = None
        tls = endpoint.scheme == "https"
        connect = Connect((endpoint.host, endpoint.port), tls, effect.deadlines.connect, effect.fresh)
        server, error = yield connect
        now = time.monotonic()
        if self._client_has_gone():
            return ClientGone(now)
        request, content = build_request(call, backend, self.flow.request, self._admitted.token)
        self._sent, self._content = request, content
        if error:
            if isinstance(connect.opening, Server):
                self.flow.server_conn = connect.opening
            return self._not_connected(connect, error, now)
        # The flow list shows where the call went; the Host header stays the client's.
        shown = self.flow.request.data
        shown.host, shown.port, shown.scheme = endpoint.host, endpoint.port, endpoint.scheme.encode()
        self.upstream = self.context.server = self.flow.server_conn = server
        self._received = UpstreamResponse(
            call,
            effect.attempt,
            server,
            reused=connect.opening is None,
            deadlines=effect.deadlines,
            remove_usage=call.adds_usage(backend),
            now=now,
        )
        self._screen = Screen(*self._secrets)
        self.server_state = self.state_exchange
        yield SendHttp(RequestHeaders(self.stream_id, request, not content), server)
        if content:
            yield SendHttp(RequestData(self.stream_id, content), server)
        yield SendHttp(RequestEndOfMessage(self.stream_id), server)
        yield from self._watch()
        return None

    def _not_connected(self, connect: Connect, error: str, now: float) -> Failed:
        if connect.timed_out:
            return Failed(now, FailureKind.CONNECT, f"no connection within {connect.seconds:.3g} s")
        logger.warning("No connection to %s: %s", connect.address[0], error)
        opening = connect.opening
        if connect.tls and isinstance(opening, Server) and opening.timestamp_tcp_setup:
            return Failed(now, FailureKind.TLS, "no TLS connection")
        refused = "refused" in error.lower() or "Errno 111" in error
        return Failed(now, FailureKind.CONNECT, "connection refused" if refused else "no connection")

    def _received_other(self, event: HttpEvent) -> CommandGenerator[None]:
        """The head of an answer has come, or its end."""
        if isinstance(event, ResponseHeaders):
            mask_head(event.response, self._secrets)
        elif isinstance(event, ResponseEndOfMessage | ResponseProtocolError):
            rest = self._screen.finish()
            if rest:
                yield from self.server_state(ResponseData(event.stream_id, rest))
        yield from self.server_state(event)

    def state_exchange(self, event: events.Event) -> CommandGenerator[None]:
        """An event of the response, before it is known what becomes of the attempt."""
        assert isinstance(event, HttpEvent) and self._received is not None
        result = self._received.receive(event, time.monotonic())
        if result is None:
            yield from self._watch()
        else:
            ended = isinstance(event, ResponseEndOfMessage | ResponseProtocolError)
            yield from self._settle(result, ended)

    def _settle(self, result: Result, ended: bool) -> CommandGenerator[None]:
        """Go on with what has become of the attempt. ``ended``: its connection has nothing more to say."""
        self._layer.deadlines.clear(self._deadline)
        if isinstance(result, Drained) and result.body and self._received and self._received.response:
            result = replace(result, body=mask_decoded(self._received.response, result.body, self._secrets))
        if isinstance(result, Failed | Drained):
            if not ended:
                yield from self._abandon()
            self.upstream = None
            # The connection's layer is still about to reset itself; in a turn of its own, go on.
            yield from self._continue_later(result)
        elif ended:
            yield from self._finish_with(result)
        else:
            yield from self._advance(result)

    def state_deadline_passed(self) -> CommandGenerator[None]:
        """Nothing came in time."""
        now, received = time.monotonic(), self._received
        if self.client_state == self.state_swallow:
            yield from self._stop_swallowing()
        elif received is None or self.upstream is None:
            pass
        elif received.due > now + SLACK:
            yield from self._watch()
        elif self.server_state == self.state_exchange:
            result = received.deadline_passed(now)
            if result is None:
                yield from self._watch()
            else:
                yield from self._settle(result, ended=False)
        elif self.server_state == self.state_deliver:
            yield from self._abandon()
            yield from self._broken_off("nothing came for too long")
