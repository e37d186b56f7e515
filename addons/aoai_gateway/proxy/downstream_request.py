"""The client's side of a request: how it comes in, and how an answer that is all there goes out.

The client is identified before anybody sees the request, and its credential is taken out of the flow. Who
may not come in gets the answer at once; the rest of the body is swallowed, since a connection that is closed
with unread data in it would take the answer with it. When all of the request is there, mitmproxy's
``request`` hook comes first, so that a user may edit it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mitmproxy import ctx, http
from mitmproxy import flow as mflow
from mitmproxy.proxy import commands
from mitmproxy.proxy.layers.http import (
    DropStream,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
    HttpStream,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)

from aoai_gateway.proxy import cors, health
from aoai_gateway.proxy.header_index import set_fields
from aoai_gateway.proxy.http1 import BROKEN_OFF, FRAMING, error_response
from aoai_gateway.proxy.masks import secrets_of, strip_known
from aoai_gateway.proxy.messages import DeadlinePassed
from aoai_gateway.proxy.request import strip_secrets
from aoai_gateway.proxy.request_head import Admitted, address_of, admit, admit_replayed, check_request, place
from aoai_gateway.runtime.plugin_events import ClientIdentified, GatewayClientIdentifiedHook
from aoai_gateway.runtime.stream_hooks import Ask, GatewayAskHook, Resume
from aoai_gateway.usage.early import EarlyAnswer
from aoai_gateway.wire import errors
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.secrets import redact_target

if TYPE_CHECKING:
    from mitmproxy import hooks
    from mitmproxy.proxy import events
    from mitmproxy.proxy.commands import StartHook
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.messages import StreamLayer
    from aoai_gateway.runtime.gateway import Gateway

SWALLOW_SECONDS = 10.0
"""For how long the rest of a body is read whose answer has already been given."""

SWALLOW_BYTES = 256 * 1024 * 1024
"""And how much of it."""


class DownstreamRequest(HttpStream):
    """The stream as seen from the client; who answers, when all is there, is for a subclass to say."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: StreamLayer) -> None:
        super().__init__(context, stream_id)
        self._gateway = gateway
        self._layer = layer
        self._admitted: Admitted | None = None
        self._deadline = DeadlinePassed(stream_id)
        self._swallowed = 0
        self._store = False
        """Whether what is streamed is kept for the UI."""
        self._answered = False
        """Whether an answer that is all there has been sent, or begun to be."""
        self._over = False
        """Whether everything is done, well or not; nothing more is to happen."""

    # --- the request -----------------------------------------------------------------------------------

    def state_request_headers(self, event: events.Event) -> CommandGenerator[None]:
        """The request's head has come."""
        assert isinstance(event, RequestHeaders)
        request, gateway = event.request, self._gateway
        gateway.look_for_listeners(ctx.master.addons)
        flow = self.flow = event.replay_flow or http.HTTPFlow(self.context.client, self.context.server)
        flow.request = request
        flow.live = True
        if event.replay_flow is None:
            flow.response = cors.preflight(gateway.cors(), request)
            if flow.response is None:
                flow.response = health.answer(gateway, request.method, request.path)
            if flow.response is not None:
                yield from self._refuse(event.end_stream, visible=False)
                return
        try:
            if event.replay_flow is not None:
                # Only our own replay handler gets here with a flow; its metadata was written by us.
                self._admitted = admit_replayed(gateway, request, flow.metadata)
            else:
                self._admitted = admit(gateway, request, self.context.client)
                place(request, self.context.client)
            flow.metadata["gateway_client"] = self._admitted.client.name
            check_request(gateway, self._admitted.setup, request)
            if "gateway_client_identified" in gateway.heard:
                identified = ClientIdentified(flow, self._admitted.client)
                yield from self._ask(GatewayClientIdentifiedHook(identified))
        except GatewayError as error:
            strip_secrets(request)
            place(request, self.context.client)
            request.path = redact_target(request.path)
            if gateway.setup is not None:
                strip_known(request, secrets_of(gateway.setup.config, None))
            self._refused(error)
            flow.response = error_response(error)
            yield from self._refuse(event.end_stream)
            return
        yield from self._tell(HttpRequestHeadersHook(flow))
        if (yield from self.check_killed(True)):
            yield from self._vanish()
            return
        if request.headers.pop("expect", "").lower() == "100-continue":
            goahead = http.Response.make(100)
            goahead.headers.clear()
            yield SendHttp(ResponseHeaders(self.stream_id, goahead), self.context.client)
        self.client_state = self.state_request_body

    def state_request_body(self, event: events.Event) -> CommandGenerator[None]:
        """The request's body comes."""
        assert self._admitted is not None
        if isinstance(event, RequestData):
            self.request_body_buf += event.data
            limit = self._admitted.setup.config.limits.body_mb * 1024 * 1024
            if len(self.request_body_buf) > limit:
                self.request_body_buf.clear()
                too_large = errors.body_too_large(limit)
                self._refused(too_large)
                self.flow.response = error_response(too_large)
                yield from self._refuse(end_stream=False, shown=True)
        elif isinstance(event, RequestEndOfMessage):
            yield from self.state_request_complete()

    def state_request_complete(self) -> CommandGenerator[None]:
        """All of the request is there."""
        flow = self.flow
        flow.request.data.content = bytes(self.request_body_buf)
        self.request_body_buf.clear()
        flow.request.timestamp_end = time.time()
        self.client_state = self.state_done
        yield from self._tell(HttpRequestHook(flow))
        if (yield from self.check_killed(True)):
            yield from self._vanish()
        elif flow.response is not None:
            # Another addon answers; the engine has no part in it.
            flow.response.timestamp_start = time.time()
            yield from self._respond()
        else:
            yield from self.begin(self._admitted)

    def begin(self, admitted: Admitted | None) -> CommandGenerator[None]:
        """Answer the request."""
        raise NotImplementedError

    def _tell(self, hook: StartHook) -> CommandGenerator[None]:
        """Let mitmproxy's addons have an event of the flow; waits if one of them holds the flow."""
        heard = self._gateway.heard
        if hook.name not in heard:
            return
        if self.flow.is_replay or not heard.can_be_called(hook.name):
            # mitmproxy's replay waits for the events themselves.
            yield hook
            return
        heard.call(hook, self.flow)
        if self.flow.intercepted:
            yield GatewayAskHook(Resume(self.flow))

    def _ask(self, hook: hooks.Hook) -> CommandGenerator[None]:
        """Have an event's listeners say what they have to. Raises what they raise."""
        ask = Ask(hook)
        yield GatewayAskHook(ask)
        if ask.error is not None:
            raise ask.error
        if not ask.performed:
            raise RuntimeError("nobody was asked")

    def _client_has_gone(self) -> bool:
        """Whether the client hung up while the stream was paused; that event is still in the queue then."""
        return any(isinstance(e, RequestProtocolError) for e in self._paused_event_queue)

    def _killed(self) -> bool:
        return self.flow.error is not None and self.flow.error.msg == mflow.Error.KILLED_MESSAGE

    def _refused(self, error: GatewayError) -> None:
        """Write down that the request is refused before it became a call."""
        self._gateway.observer.refused(self.flow, error)
        client = self._admitted.client.name if self._admitted is not None else None
        address = address_of(self.context.client)
        self._gateway.answered_early(EarlyAnswer.refused(error, client, address))

    # --- the answer ------------------------------------------------------------------------------------

    def _reject(self, error: GatewayError) -> CommandGenerator[None]:
        self.flow.response = error_response(error)
        yield from self._respond()

    def _respond(self) -> CommandGenerator[None]:
        """Send the flow's response, which is all there."""
        yield from self._tell(HttpResponseHeadersHook(self.flow))
        yield from self.send_response()

    def send_response(self, already_streamed: bool = False) -> CommandGenerator[None]:
        """Finish the answer: the hook, what of it was not sent yet, its end."""
        flow = self.flow
        response = flow.response
        assert response is not None
        response.timestamp_end = time.time()
        if already_streamed and self._store:
            response.data.content = bytes(self.response_body_buf)
            self.response_body_buf.clear()
        yield from self._tell(HttpResponseHook(flow))
        self.server_state = self.state_done
        if (yield from self.check_killed(False)):
            yield from self._vanish()
            return
        if not already_streamed:
            yield from self._send_whole(response)
        flow.live = False
        self._over = True
        yield DropStream(self.stream_id)
        if self._is_whole():
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        else:
            broken_off = ResponseProtocolError(self.stream_id, "broken off", BROKEN_OFF)
            yield SendHttp(broken_off, self.context.client)
        self._count_out()

    def _is_whole(self) -> bool:
        """Whether the answer is all that it should be, and may end on the wire as if it were."""
        return True

    def _send_whole(self, response: http.Response) -> CommandGenerator[None]:
        content = response.raw_content
        head_only = self.flow.request.method == "HEAD"
        if content is not None and not head_only:
            length = [(b"content-length", b"%d" % len(content))] if self._is_whole() else []
            set_fields(response, FRAMING, length)
        self._answered = True
        yield SendHttp(ResponseHeaders(self.stream_id, response, not content), self.context.client)
        if content and not head_only:
            yield SendHttp(ResponseData(self.stream_id, content), self.context.client)

    def _count_out(self) -> None:
        """The client has all that it will get."""

    # --- early answers ---------------------------------------------------------------------------------

    def _refuse(
        self, end_stream: bool, *, visible: bool = True, shown: bool = False
    ) -> CommandGenerator[None]:
        """Answer at once, before the body was read, and swallow what is left of it.

        ``visible``: whether other addons, and so the UIs, are to see the flow; ``shown``: they already do.
        """
        flow = self.flow
        response = flow.response
        assert response is not None
        if not end_stream:
            response.headers["connection"] = "close"
        self.client_state = self.state_swallow
        yield from self._send_whole(response)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        if not end_stream:
            yield from self._layer.set_deadline(self._deadline, time.monotonic() + SWALLOW_SECONDS)
        response.timestamp_end = time.time()
        if visible:
            if not shown:
                yield from self._tell(HttpRequestHeadersHook(flow))
            yield from self._tell(HttpResponseHook(flow))
        flow.live = False

    def state_swallow(self, event: events.Event) -> CommandGenerator[None]:
        """The request has been answered; what is left of its body is thrown away."""
        if isinstance(event, RequestData):
            self._swallowed += len(event.data)
            if self._swallowed > SWALLOW_BYTES:
                yield from self._stop_swallowing()
        elif isinstance(event, RequestEndOfMessage):
            yield from self._vanish()

    def _stop_swallowing(self) -> CommandGenerator[None]:
        yield commands.CloseConnection(self.context.client)
        yield from self._vanish()

    def _vanish(self) -> CommandGenerator[None]:
        """Forget the stream."""
        self._over = True
        self._layer.deadlines.clear(self._deadline)
        self.flow.live = False
        self._count_out()
        yield DropStream(self.stream_id)
