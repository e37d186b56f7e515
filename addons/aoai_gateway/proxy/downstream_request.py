"""The request of a client, as it comes in.

The client is identified before any other addon sees the request, and its credential is taken out of the
flow. A request that is refused gets its answer at once; the rest of its body is swallowed, since a connection
that is closed with unread data in it would take the answer with it.
"""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING

from mitmproxy import ctx, http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    HttpRequestHeadersHook,
    HttpRequestHook,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    ResponseHeaders,
)

from aoai_gateway.engine.ahead import check_fits, check_rights
from aoai_gateway.engine.call import Outcome
from aoai_gateway.proxy import cors, health, models
from aoai_gateway.proxy.masks import secrets_of, strip_known
from aoai_gateway.proxy.messages import DeadlinePassed, WholeRequest
from aoai_gateway.proxy.request import strip_secrets
from aoai_gateway.proxy.request_head import (
    AcceptedRequest,
    accept_replayed,
    accept_request,
    address_of,
    body_limit,
    check_request,
    credential_in,
    is_spooled,
    may_be_large,
    place,
    target_of,
)
from aoai_gateway.proxy.stream_context import Led, StreamPart
from aoai_gateway.proxy.stream_states import State
from aoai_gateway.runtime.plugin_events import ClientIdentified, GatewayClientIdentifiedHook
from aoai_gateway.runtime.spool import COME_BACK_SECONDS, Spool
from aoai_gateway.usage.early import EarlyAnswer
from aoai_gateway.wire import errors
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.operations import MODELS
from aoai_gateway.wire.secrets import redact_target

if TYPE_CHECKING:
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.downstream_response import DownstreamResponse
    from aoai_gateway.proxy.engine_driver import EngineDriver
    from aoai_gateway.proxy.stream_context import StreamContext
    from aoai_gateway.wire.targets import Target


SWALLOW_SECONDS = 10.0
"""For how long the rest of a body is read whose answer has already been given."""

SLOWEST = 1024.0
"""Bytes per second with which a body must come on average, after its first seconds."""

SWALLOW_BYTES = 256 * 1024 * 1024
"""And how much of it."""


type Head = tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]
"""A request's method, fields and path."""


class DownstreamRequest:
    """Reads one request: its head, its body, and what is left of it when it was answered early."""

    def __init__(self, here: StreamContext) -> None:
        self._here = here
        self._body = bytearray()
        self._swallowed = 0
        self._limit = 0
        """Bytes that the body may have."""
        self._checked: tuple[Head, Target] | None = None
        """The head that was looked at, in which there is no secret, and what it asks for."""
        self._begun = 0.0
        self._received = 0
        """Bytes that had come when it was last looked whether more does."""

    def answer_for_machines(self, event: RequestHeaders) -> http.Response | None:
        """Take in the head. Returns the answer to a browser's preflight, and to a probe of an orchestrator or
        of a program that asks whether the gateway is reachable.

        These requests need no key, and are not shown to other addons.
        """
        here, request = self._here, event.request
        here.gateway.look_for_listeners(ctx.master.addons)
        flow = here.flow = event.replay_flow or http.HTTPFlow(here.client, here.proxy.server)
        flow.request = request
        flow.live = True
        if event.replay_flow is not None:
            return None
        if request.data.method == b"OPTIONS":
            preflight = cors.preflight(here.gateway.cors(), request)
            if preflight is not None:
                return preflight
        if request.data.method == b"HEAD" and not request.data.scheme:
            # With a scheme it is a question to a forward proxy, about another server.
            reached = health.answer_reached(request.path)
            if reached is not None:
                return reached
        if request.data.path.startswith(health.PATHS):
            return health.answer(here.gateway, request.method, request.path)
        return None

    def identify(self, *, replayed: bool) -> CommandGenerator[None]:
        """Say whose request it is, and whether its head is in order. Raises GatewayError."""
        here, flow = self._here, self._here.flow
        gateway, request = here.gateway, flow.request
        if here.client.id in gateway.connections.reserve:
            raise errors.unavailable("The gateway has too many open connections.")
        if replayed:
            # Only our own replay handler gets here with a flow; its metadata was written by us.
            here.accepted = accept_replayed(gateway, request, flow.metadata)
        else:
            setup = gateway.in_force()
            credential = credential_in(setup, request, here.client)
            identified = yield from here.wait_for(gateway.identify(setup.config, credential))
            here.accepted = accept_request(gateway, setup, request, identified)
            place(request, here.client)
        flow.metadata["gateway_client"] = here.accepted.client.name
        accepted = here.accepted
        target = check_request(gateway, accepted.setup, request, accepted.granted, here.head)
        if not replayed:
            self._checked = (_parts_of(request), target)
        yield from self._make_room(accepted, target)
        if "gateway_client_identified" in gateway.heard.events:
            identified = ClientIdentified(flow, here.accepted.client)
            yield from here.ask(GatewayClientIdentifiedHook(identified))

    def _make_room(self, accepted: AcceptedRequest, target: Target) -> CommandGenerator[None]:
        """Check that there is room for the body, in memory or on disk. Raises GatewayError."""
        here, gateway, head = self._here, self._here.gateway, self._here.head
        limits, name = accepted.setup.config.limits, accepted.share
        spooled = is_spooled(gateway, head, target)
        self._limit = body_limit(accepted.setup, head, spooled=spooled)
        if spooled:
            here.held = gateway.spooled.open(name, limits.spooled_bytes)
        else:
            here.held = gateway.held.open(name, limits.held_bytes)
        here.held.expect(head.length or 0)
        if may_be_large(head):
            yield from self._look_ahead(accepted, target)
        if spooled:
            if not gateway.connections.has_room_for_file:
                raise errors.unavailable("The gateway has too many uploads.", COME_BACK_SECONDS)
            here.upload = Spool()
            gateway.connections.files += 1

    def _look_ahead(self, accepted: AcceptedRequest, target: Target) -> CommandGenerator[None]:
        """Check that a large request would not be refused with any body."""
        least = check_rights(accepted.setup, accepted.client, target)
        if least is not None:
            gateway = self._here.gateway
            decision = yield from self._here.wait_for(gateway.state.peek(least, gateway.unix_time()))
            check_fits(decision)

    def clean(self) -> None:
        """Take everything out of a refused request that may be a secret."""
        here, request = self._here, self._here.flow.request
        strip_secrets(request)
        place(request, here.client)
        request.path = redact_target(request.path)
        gateway = here.gateway
        if gateway.setup is not None:
            strip_known(request, secrets_of(gateway.setup.config, gateway.credentials.masks))

    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body; its header is taken out."""
        if b"expect" not in self._here.head:
            return False
        expected: str = self._here.flow.request.headers.pop("expect", "")
        return expected.lower() == "100-continue"

    def receive(self, data: bytes) -> None:
        """Take in a part of the body. Raises GatewayError: 413 when it is too large, 503 without room."""
        if self._came + len(data) > self._limit:
            raise errors.body_too_large(self._limit)
        self._here.hold(len(data))
        if self._here.upload is not None:
            self._here.upload.write(data)
        else:
            self._body += data

    @property
    def _came(self) -> int:
        """Bytes of the body that have come."""
        return len(self._body if self._here.upload is None else self._here.upload)

    def forget(self) -> None:
        """Forget what has come of the body of a request that is refused."""
        self._body.clear()
        self._here.release_body()

    def expect_body(self) -> CommandGenerator[None]:
        """Look after a while whether the body has come, or comes."""
        self._begun = self._here.now()
        yield from self._here.set_deadline(self._begun + self._body_seconds())

    def overdue(self) -> CommandGenerator[None]:
        """Look again whether more of the body comes, and fast enough. Raises GatewayError (408) if not."""
        here, now, seconds = self._here, self._here.now(), self._body_seconds()
        came = self._came
        if came == self._received or now - self._begun > seconds + came / SLOWEST:
            raise errors.too_slow("body")
        self._received = came
        yield from here.set_deadline(now + seconds)

    def _body_seconds(self) -> float:
        accepted = self._here.accepted
        assert accepted is not None
        return accepted.setup.config.limits.body_seconds

    def complete(self) -> None:
        """Put the body, which is all there, on the flow."""
        self._here.clear_deadline()
        request = self._here.flow.request
        request.data.content = bytes(self._body)
        self._body.clear()
        request.data.timestamp_end = self._here.clock.time()

    def target(self) -> Target:
        """Return what is asked for, now that a user may have edited the request. Raises GatewayError."""
        here, request = self._here, self._here.flow.request
        assert here.accepted is not None
        if self._checked is not None and all(map(is_, _parts_of(request), self._checked[0])):
            return self._checked[1]
        # The edit may have brought a credential in.
        strip_secrets(request)
        strip_known(request, here.accepted.secrets)
        return target_of(request, here.head)

    def swallow(self, data: bytes) -> bool:
        """Throw a part of the body away. Whether that was too much."""
        self._swallowed += len(data)
        return self._swallowed > SWALLOW_BYTES


def _parts_of(request: http.Request) -> Head:
    """Return the parts of a request's head that say what it asks for, and may hold a secret."""
    return request.data.method, request.data.headers.fields, request.data.path


class RequestSteps(StreamPart):
    """The part of a stream that is about its request, until the engine has it.

    A stream has these steps beside its own (:data:`~aoai_gateway.proxy.stream_states.STEPS` names them
    ``request.receive_head`` and so on).
    """

    def __init__(
        self,
        here: StreamContext,
        response: DownstreamResponse,
        driver: EngineDriver,
        stream: Led,
    ) -> None:
        super().__init__(stream)
        self._here = here
        self._request = DownstreamRequest(here)
        self._response = response
        self._driver = driver

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
            yield from self._stream.open_session(target)
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
        if not end_stream or here.client.id in here.gateway.connections.reserve:
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
