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
from aoai_gateway.proxy import cors, health
from aoai_gateway.proxy.own_responses import models_response
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
    secrets_of,
    strip_known,
    strip_secrets,
    target_of,
)
from aoai_gateway.proxy.stream_context import Led, StreamPart
from aoai_gateway.proxy.stream_events import DeadlinePassed, State, WholeRequest
from aoai_gateway.runtime.held_bytes import Held
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


SLOWEST = 1024.0
"""Bytes per second with which a body must come on average, after its first seconds."""

SWALLOW_SECONDS, SWALLOW_BYTES = 10.0, 256 * 1024 * 1024
"""For how long the rest of a body is read whose answer has already been given, and how much of it."""

type Head = tuple[bytes, tuple[tuple[bytes, bytes], ...], bytes]
"""A request's method, fields and path."""


class RequestSteps(StreamPart):
    """The part of a stream that is about its request, until the engine has it.

    A stream has these steps beside its own (:data:`~aoai_gateway.proxy.stream_events.STEPS` names them
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
        self._response = response
        self._driver = driver
        self._body = bytearray()
        self._limit = 0
        """Bytes that the body may have."""
        self._checked: tuple[Head, Target] | None = None
        """The head that was looked at, in which there is no secret, and what it asks for."""
        self._begun = 0.0
        """When the gateway began to wait for the body."""
        self._received = 0
        """Bytes that had come when it was last looked whether more does."""
        self._swallowed = 0

    # --- the head --------------------------------------------------------------------------------------

    def receive_head(self, event: RequestHeaders) -> CommandGenerator[None]:
        """The request's head has come."""
        here = self._here
        here.request_began = here.now()
        answer = self._answer_for_machines(event)
        if answer is not None:
            here.flow.response = answer
            yield from self._answer_early(end_stream=event.end_stream, visible=False)
            return
        try:
            yield from self._identify(replayed=event.replay_flow is not None)
        except GatewayError as error:
            self._clean()
            yield from self._refuse_early(error, end_stream=event.end_stream)
            return
        yield from here.tell(HttpRequestHeadersHook)
        if (yield from here.is_cut_by_others(tell=True)):
            yield from self._stream.vanish()
            return
        if self._expects_continue():
            go_ahead = http.Response.make(100)
            go_ahead.headers.clear()
            yield here.send(ResponseHeaders(here.id, go_ahead))
        self._here.state = State.REQUEST_BODY
        if not event.end_stream and not isinstance(event, WholeRequest):
            self._begun = here.now()
            yield from here.set_deadline(self._begun + self._body_seconds)

    def _answer_for_machines(self, event: RequestHeaders) -> http.Response | None:
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

    def _identify(self, *, replayed: bool) -> CommandGenerator[None]:
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
            here.held = Held(gateway.spooled, name, limits.spooled_bytes)
        else:
            here.held = Held(gateway.held, name, limits.held_bytes)
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

    def _clean(self) -> None:
        """Take everything out of a refused request that may be a secret."""
        here, request = self._here, self._here.flow.request
        strip_secrets(request)
        place(request, here.client)
        request.path = redact_target(request.path)
        gateway = here.gateway
        if gateway.setup is not None:
            strip_known(request, secrets_of(gateway.setup.config, gateway.credentials.masks))

    def _expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends its body; its header is taken out."""
        if b"expect" not in self._here.head:
            return False
        expected: str = self._here.flow.request.headers.pop("expect", "")
        return expected.lower() == "100-continue"

    # --- the body --------------------------------------------------------------------------------------

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
        """The request's body is not all there: it is waited for as long as more comes, and fast enough."""
        here, now, seconds, came = self._here, self._here.now(), self._body_seconds, self._came
        if came == self._received or now - self._begun > seconds + came / SLOWEST:
            yield from self._refuse_early(errors.too_slow("body"), end_stream=False, shown=True)
            return
        self._received = came
        yield from here.set_deadline(now + seconds)

    @property
    def _body_seconds(self) -> float:
        accepted = self._here.accepted
        assert accepted is not None
        return accepted.setup.config.limits.body_seconds

    def receive_body(self, event: RequestData | WholeRequest) -> CommandGenerator[None]:
        """A part of the request's body has come."""
        here, data = self._here, event.data
        try:
            if self._came + len(data) > self._limit:
                raise errors.body_too_large(self._limit)
            if here.held is not None:
                here.held.grow(len(data))
            if here.upload is not None:
                here.upload.write(data)
            else:
                self._body += data
        except GatewayError as error:
            yield from self._refuse_early(error, end_stream=False, shown=True)

    @property
    def _came(self) -> int:
        """Bytes of the body that have come."""
        return len(self._body if self._here.upload is None else self._here.upload)

    def receive_end(self, _: RequestEndOfMessage | WholeRequest) -> CommandGenerator[None]:
        """All of the request is there: other addons may hold and edit it, and the engine gets it."""
        here, request = self._here, self._here.flow.request
        here.clear_deadline()
        request.data.content = bytes(self._body)
        self._body.clear()
        request.data.timestamp_end = here.clock.time()
        here.state = State.DECIDING
        yield from here.tell(HttpRequestHook)
        if (yield from here.is_cut_by_others(tell=True)):
            yield from self._stream.vanish()
        elif here.flow.response is not None:
            # Another addon answers; the engine has no part in it.
            here.flow.response.timestamp_start = here.clock.time()
            yield from self._stream.respond()
        else:
            yield from self._begin()

    def _target(self) -> Target:
        """Return what is asked for, now that a user may have edited the request. Raises GatewayError."""
        here, request = self._here, self._here.flow.request
        assert here.accepted is not None
        if self._checked is not None and all(map(is_, _parts_of(request), self._checked[0])):
            return self._checked[1]
        # The edit may have brought a credential in.
        strip_secrets(request)
        strip_known(request, here.accepted.secrets)
        return target_of(request, here.head)

    def _begin(self) -> CommandGenerator[None]:
        here = self._here
        try:
            target = self._target()
        except GatewayError as error:
            return self._refuse(error)
        if target.operation.family != MODELS.name:
            return self._begin_call(target)
        assert here.accepted is not None
        client = here.accepted.client
        listed = EarlyAnswer(200, None, Outcome.OK, client.name, address_of(here.client), MODELS.name)
        here.gateway.answered_early(listed)
        here.flow.response = models_response(here.accepted.setup, client, target)
        return self._stream.respond()

    def _begin_call(self, target: Target) -> CommandGenerator[None]:
        here = self._here
        assert here.accepted is not None
        if here.accepted.unproven:
            address = address_of(here.client) or ""
            try:
                here.trial = yield from here.wait_for(here.gateway.token_trials.begin(address))
            except GatewayError as error:
                yield from self._refuse(error)
                return
            if (yield from here.is_cut_by_others(tell=True)):
                yield from self._stream.vanish()
                return
        if target.operation.opened_by:
            yield from self._stream.open_session(target)
            return
        self._driver.begin(target)
        yield from self._stream.advance(None)

    def _refuse(self, error: GatewayError) -> CommandGenerator[None]:
        self._here.refused(error)
        self._here.flow.response = self._here.error_response(error)
        yield from self._stream.respond()

    # --- answers before the body was read --------------------------------------------------------------

    def _refuse_early(
        self, error: GatewayError, *, end_stream: bool, shown: bool = False
    ) -> CommandGenerator[None]:
        self._here.refused(error)
        self._body.clear()
        self._here.release_body()
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
        self._swallowed += len(event.data)
        if self._swallowed > SWALLOW_BYTES:
            yield from self.stop_swallowing(event)

    def stop_swallowing(self, _: events.Event) -> CommandGenerator[None]:
        """Close the connection: too much has come, or for too long."""
        yield commands.CloseConnection(self._here.client)
        yield from self._stream.vanish()


def _parts_of(request: http.Request) -> Head:
    """Return the parts of a request's head that say what it asks for, and may hold a secret."""
    return request.data.method, request.data.headers.fields, request.data.path
