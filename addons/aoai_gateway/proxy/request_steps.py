"""The steps of a stream by which a request comes in, until the engine has it.

A stream has these beside its own (:data:`~aoai_gateway.proxy.stream_states.STEPS` names them
``request.receive_head`` and so on). What a request says is for
:class:`~aoai_gateway.proxy.downstream_request.DownstreamRequest`; here, what comes of it leads the stream on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    HttpRequestHeadersHook,
    HttpRequestHook,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseHeaders,
)

from aoai_gateway.engine.call import Outcome
from aoai_gateway.proxy import models
from aoai_gateway.proxy.downstream_request import SWALLOW_SECONDS, DownstreamRequest
from aoai_gateway.proxy.messages import DeadlinePassed, WholeRequest
from aoai_gateway.proxy.request_head import address_of
from aoai_gateway.proxy.stream_context import Led, StreamPart
from aoai_gateway.proxy.stream_states import State
from aoai_gateway.usage.early import EarlyAnswer
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.operations import MODELS

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.downstream_response import DownstreamResponse
    from aoai_gateway.proxy.engine_driver import EngineDriver
    from aoai_gateway.proxy.session_steps import SessionSteps
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.wire.targets import Target


class RequestSteps(StreamPart):
    """The part of a stream that is about its request."""

    def __init__(
        self,
        here: StreamContext,
        response: DownstreamResponse,
        driver: EngineDriver,
        sessions: SessionSteps,
        stream: Led,
    ) -> None:
        super().__init__(stream)
        self._here = here
        self._request = DownstreamRequest(here)
        self._response = response
        self._driver = driver
        self._sessions = sessions

    def receive_head(self, event: RequestHeaders) -> CommandGenerator[None]:
        """The request's head has come."""
        here = self._here
        answer = self._request.answer_for_machines(event)
        if answer is not None:
            here.flow.response = answer
            yield from self._answer_early(end_stream=event.end_stream, visible=False)
            return
        try:
            yield from self._request.identify(replayed=event.replay_flow is not None)
        except GatewayError as error:
            self._request.clean()
            yield from self._refuse_early(error, end_stream=event.end_stream)
            return
        yield from here.tell(HttpRequestHeadersHook)
        if (yield from here.is_cut_by_others(tell=True)):
            yield from self._stream.vanish()
            return
        if self._request.expects_continue():
            go_ahead = http.Response.make(100)
            go_ahead.headers.clear()
            yield here.send(ResponseHeaders(here.id, go_ahead))
        self._here.state = State.REQUEST_BODY
        if not event.end_stream and not isinstance(event, WholeRequest):
            yield from self._request.expect_body()

    def receive_whole(self, event: WholeRequest) -> CommandGenerator[None]:
        """All of the request has come."""
        yield from self.receive_head(event)
        if self._here.state is State.REQUEST_BODY:
            yield from self.receive_body(event)
        if self._here.state is State.REQUEST_BODY:
            yield from self.receive_end(event)
        elif self._here.state is State.SWALLOWING:
            yield from self._stream.vanish()

    def body_overdue(self, _: DeadlinePassed) -> CommandGenerator[None]:
        """The request's body has not come yet."""
        try:
            yield from self._request.overdue()
        except GatewayError as error:
            yield from self._refuse_early(error, end_stream=False, shown=True)

    def receive_body(self, event: RequestData | WholeRequest) -> CommandGenerator[None]:
        """A part of the request's body has come."""
        try:
            self._request.receive(event.data)
        except GatewayError as error:
            yield from self._refuse_early(error, end_stream=False, shown=True)

    def receive_end(self, _: RequestEndOfMessage | WholeRequest) -> CommandGenerator[None]:
        """All of the request is there: other addons may hold and edit it, and the engine gets it."""
        here = self._here
        self._request.complete()
        self._here.state = State.DECIDING
        yield from here.tell(HttpRequestHook)
        if (yield from here.is_cut_by_others(tell=True)):
            yield from self._stream.vanish()
        elif here.flow.response is not None:
            # Another addon answers; the engine has no part in it.
            here.flow.response.timestamp_start = here.clock.time()
            yield from self._stream.respond()
        else:
            yield from self._begin()

    def _begin(self) -> CommandGenerator[None]:
        here = self._here
        try:
            target = self._request.target()
        except GatewayError as error:
            here.refused(error)
            here.flow.response = here.error_response(error)
            yield from self._stream.respond()
            return
        if target.operation.family == MODELS.name:
            assert here.accepted is not None
            client = here.accepted.client
            listed = EarlyAnswer(200, None, Outcome.OK, client.name, address_of(here.client), MODELS.name)
            here.gateway.answered_early(listed)
            here.flow.response = models.answer(here.accepted.setup, client, target)
            yield from self._stream.respond()
            return
        yield from self._begin_call(target)

    def _begin_call(self, target: Target) -> CommandGenerator[None]:
        here = self._here
        assert here.accepted is not None
        if here.accepted.unproven:
            address = address_of(here.client) or ""
            try:
                here.trial = yield from here.wait_for(here.gateway.token_trials.begin(address))
            except GatewayError as error:
                here.refused(error)
                here.flow.response = here.error_response(error)
                yield from self._stream.respond()
                return
            if (yield from here.is_cut_by_others(tell=True)):
                yield from self._stream.vanish()
                return
        if target.operation.opened_by:
            yield from self._sessions.open(target)
            return
        self._driver.begin(target)
        yield from self._stream.advance(None)

    # --- answers before the body was read --------------------------------------------------------------

    def _refuse_early(
        self, error: GatewayError, *, end_stream: bool, shown: bool = False
    ) -> CommandGenerator[None]:
        self._here.refused(error)
        self._request.forget()
        self._here.flow.response = self._here.error_response(error)
        yield from self._answer_early(end_stream=end_stream, shown=shown)

    def _answer_early(
        self, *, end_stream: bool, visible: bool = True, shown: bool = False
    ) -> CommandGenerator[None]:
        """Answer at once, before the body was read, and swallow what is left of it.

        ``visible``: whether other addons, and so the UIs, are to see the flow; ``shown``: they already do.
        """
        here, response = self._here, self._here.flow.response
        assert response is not None
        if not end_stream or here.gateway.connections.is_reserve(here.client.id):
            response.headers["connection"] = "close"
        self._here.state = State.SWALLOWING
        yield from self._response.send_whole()
        if not end_stream:
            yield from here.set_deadline(here.now() + SWALLOW_SECONDS)
        if visible:
            if not shown:
                yield from here.tell(HttpRequestHeadersHook)
            yield from self._response.tell()
        here.flow.live = False

    def swallow(self, event: RequestData) -> CommandGenerator[None]:
        """More has come of a request that was answered early."""
        if self._request.swallow(event.data):
            yield from self.stop_swallowing(event)

    def stop_swallowing(self, _: events.Event) -> CommandGenerator[None]:
        """Close the connection: too much has come, or for too long."""
        yield commands.CloseConnection(self._here.client)
        yield from self._stream.vanish()
