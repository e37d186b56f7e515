"""One request of a client, from its headers to the end of its answer.

The stream collects the request, then drives the engine's generator: every effect becomes commands of
mitmproxy, every event that decides something becomes the engine's next outcome.

- *Headers.* The client is identified before anybody sees the request, and its credential is taken out of
  the flow. Who may not come in gets the answer at once; the rest of the body is swallowed.
- *Request complete.* mitmproxy's ``request`` hook first, so that a user may edit it; then the engine.
- *Attempts.* An :class:`~aoai_gateway.proxy.exchange.Exchange` follows each one on the wire.
- *Delivery.* An event stream goes out as it comes, anything else when it is complete.

Two traps of mitmproxy's layers shape the code. A blocking command pauses the stream and queues what comes
meanwhile, so after each one the queue is searched for the client's hang-up. And a connection must not be
used again inside the event that ends its response (its layer resets itself after that), so the engine goes
on in a turn of its own then.
"""

from __future__ import annotations

import logging
import re
import time
import traceback
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.connection import Server
from mitmproxy.net.http.http1 import expected_http_body_size
from mitmproxy.net.http.validate import validate_headers
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    DropStream,
    ErrorCode,
    GetHttpConnection,
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
    HttpStream,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    RequestTrailers,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)
from mitmproxy.proxy.layers.http._base import HttpEvent
from mitmproxy.proxy.layers.http._http1 import Http1Connection

from aoai_gateway.call import (
    Announce,
    Call,
    Choose,
    Chosen,
    ClientGone,
    Deliver,
    Done,
    Drain,
    Drained,
    Effect,
    Ended,
    Failed,
    FailureKind,
    Outcome,
    Reject,
    Result,
    Return,
    Send,
    Setup,
)
from aoai_gateway.proxy import health, models
from aoai_gateway.proxy.events import (
    BackendChoice,
    ClientIdentified,
    GatewayBackendChosenHook,
    GatewayClientIdentifiedHook,
)
from aoai_gateway.proxy.exchange import Exchange
from aoai_gateway.proxy.hooks import (
    Ask,
    AttemptFailed,
    CallEnded,
    GatewayAskHook,
    GatewayAttemptFailedHook,
    GatewayCallEndedHook,
)
from aoai_gateway.proxy.http1 import error_response
from aoai_gateway.proxy.request import adds_usage, build_request, strip_secrets, without_secrets
from aoai_gateway.wire import errors
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.operations import MODELS, parse_target
from aoai_gateway.wire.secrets import client_credential, redact_target, strip_secret_query
from aoai_gateway.wire.usage import read_answer

if TYPE_CHECKING:
    from collections.abc import Generator

    from mitmproxy import hooks
    from mitmproxy.connection import Connection
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.config.models import Client
    from aoai_gateway.proxy.gateway import Gateway
    from aoai_gateway.proxy.layer import GatewayLayer
    from aoai_gateway.wire.operations import Target

logger = logging.getLogger(__name__)

SWALLOW_SECONDS = 10.0
"""For how long the rest of a body is read whose answer has already been given."""

HOST = re.compile(r"[A-Za-z0-9._~:%\[\]-]{1,255}")


class Connect(GetHttpConnection):
    """Ask for a connection to a backend.

    ``seconds``: how long it may take to open; ``fresh``: not one that was used before. ``opening`` and
    ``timed_out`` are filled in by the layer.
    """

    def __init__(self, address: tuple[str, int], tls: bool, seconds: float, fresh: bool) -> None:
        super().__init__(address, tls, None)
        self.seconds = seconds
        self.fresh = fresh
        self.opening: Connection | None = None
        self.timed_out = False

    __hash__ = GetHttpConnection.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(eq=False)
class DeadlinePassed(HttpEvent):
    """A stream's deadline has passed."""

    __hash__ = object.__hash__


@dataclass(eq=False)
class Crashed(HttpEvent):
    """An exception escaped from a stream."""

    error: Exception


class GatewayStream(HttpStream):
    """One request; see the module's docstring."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: GatewayLayer) -> None:
        super().__init__(context, stream_id)
        self._gateway = gateway
        self._layer = layer
        self._setup: Setup | None = None
        self._client: Client | None = None
        self._token: str | None = None
        self._target: Target | None = None
        self._call: Call | None = None
        self._run: Generator[Effect, Result] | None = None
        self._exchange: Exchange | None = None
        self._sent: http.Request | None = None
        self._content = b""
        self._deadline = DeadlinePassed(stream_id)
        self._continuation: tuple[commands.RequestWakeup, Result] | None = None
        self._begun = False
        """Whether the response's head has gone to the client."""
        self._over = False
        """Whether everything is done, well or not; nothing more is to happen."""
        self._written_down = False
        self._names_a_host = False
        self._swallowed = 0
        self._store = False
        self.upstream: Server | None = None
        """The connection of the attempt under way; events from any other are not for us."""

    def __repr__(self) -> str:
        return f"GatewayStream(id={self.stream_id}, client: {self._name(self.client_state)})"

    @staticmethod
    def _name(state: object) -> str:
        return getattr(state, "__name__", "?").removeprefix("state_")

    def crashed(self, error: Exception) -> Crashed:
        """Make the event that tells the stream of an exception of its own."""
        self._paused = None
        self._paused_event_queue.clear()
        return Crashed(self.stream_id, error)

    # --- events ----------------------------------------------------------------------------------------

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if isinstance(event, Crashed):
            yield from self.state_crashed(event)
        elif self._over:
            pass
        elif isinstance(event, events.Start):
            self.client_state = self.state_request_headers
        elif isinstance(event, RequestHeaders | RequestData | RequestTrailers | RequestEndOfMessage):
            yield from self.client_state(event)
        elif isinstance(event, RequestProtocolError):
            yield from self.state_client_gone()
        elif isinstance(event, DeadlinePassed):
            yield from self.state_deadline_passed()
        elif isinstance(event, events.Wakeup):
            if self._continuation is not None and event.command is self._continuation[0]:
                result = self._continuation[1]
                self._continuation = None
                yield from self._advance(result)
        elif isinstance(event, HttpEvent):
            yield from self.server_state(event)

    # --- the request -----------------------------------------------------------------------------------

    def state_request_headers(self, event: events.Event) -> CommandGenerator[None]:
        """The request's head has come."""
        assert isinstance(event, RequestHeaders)
        request = event.request
        probe = None if event.replay_flow else health.answer(self._gateway, request.method, request.path)
        flow = self.flow = event.replay_flow or http.HTTPFlow(self.context.client, self.context.server)
        flow.request = request
        flow.live = True
        if event.replay_flow is None:
            self._place(request)
        if probe is not None:
            flow.response = probe
            yield from self._refuse(event.end_stream, visible=False)
            return
        try:
            self._admit_head(request, event.replay_flow)
        except GatewayError as error:
            strip_secrets(request)
            request.path = redact_target(request.path)
            flow.response = error_response(error)
            yield from self._refuse(event.end_stream)
            return
        assert self._client is not None
        flow.metadata["gateway_client"] = self._client.name
        if "gateway_client_identified" in self._gateway.heard:
            hook = GatewayClientIdentifiedHook(ClientIdentified(flow, self._client))
            try:
                yield from self._ask(hook)
            except GatewayError as error:
                flow.response = error_response(error)
                yield from self._refuse(event.end_stream)
                return
        if "requestheaders" in self._gateway.heard:
            yield HttpRequestHeadersHook(flow)
        if (yield from self.check_killed(True)):
            yield from self._vanish()
            return
        if request.headers.pop("expect", "").lower() == "100-continue":
            goahead = http.Response.make(100)
            goahead.headers.clear()
            yield SendHttp(ResponseHeaders(self.stream_id, goahead), self.context.client)
        self.client_state = self.state_request_body

    def _place(self, request: http.Request) -> None:
        """Give the request the address at which it came in, as long as it has not gone anywhere."""
        self._names_a_host = bool(request.data.scheme or request.data.authority)
        address = self.context.client.sockname
        if address is not None:
            request.data.host, request.data.port = address[0], address[1]
        request.data.scheme = b"https" if self.context.client.tls else b"http"
        request.data.authority = b""

    def _admit_head(self, request: http.Request, replayed: http.HTTPFlow | None) -> None:
        """Identify the client and look at the head; takes the credential out. Raises GatewayError."""
        gateway = self._gateway
        config = gateway.config
        self._setup = gateway.setup
        if replayed is None:
            self._check_form(request)
        if replayed is not None:
            # Only our own replay handler gets here with a flow; its metadata was written by us.
            self._client = config.client_named(str(replayed.metadata.get("gateway_client", "")))
            if self._client is None:
                raise errors.unauthorized()
            if self._client.uses_entra_id_auth:
                raise errors.invalid_token(
                    "a call made with a token cannot be replayed, the token is not kept"
                )
        else:
            query = request.path.partition("?")[2]
            credential = client_credential(request.headers, query)
            self._client, passed_on = gateway.identify(credential)
            if passed_on and credential is not None:
                self._token = credential.value
            strip_secrets(request)
            request.path = strip_secret_query(request.path)
        if gateway.draining:
            raise errors.unavailable("The gateway is shutting down.")
        self._target = parse_target(request.method, request.path)
        limit = config.limits.body_mb * 1024 * 1024
        if (expected_http_body_size(request) or 0) > limit:
            raise errors.body_too_large(limit)

    def _check_form(self, request: http.Request) -> None:
        try:
            validate_headers(request)
        except ValueError:
            raise errors.head_malformed() from None
        if self._names_a_host:
            # Absolute form, and CONNECT: a target that names a host is for a forward proxy.
            raise errors.invalid_target(
                "This is a gateway, not a forward proxy: send a path, without a host."
            )
        host = request.headers.get_all("host")
        if len(host) != 1 or not HOST.fullmatch(host[0]):
            raise errors.invalid_target("The request needs one valid Host header.")
        if "upgrade" in request.headers:
            raise errors.invalid_target("This path cannot be upgraded to another protocol.")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise errors.invalid_body(
                "Send the request's body without content-encoding.", code="unsupported_media_type"
            )
        listen = self._gateway.config.listen
        if listen.certificate is not None and not self.context.client.tls:
            raise errors.invalid_target("This gateway speaks https only. Begin its address with https://.")

    def state_request_body(self, event: events.Event) -> CommandGenerator[None]:
        """The request's body comes."""
        assert self._setup is not None
        if isinstance(event, RequestData):
            self.request_body_buf += event.data
            limit = self._setup.config.limits.body_mb * 1024 * 1024
            if len(self.request_body_buf) > limit:
                self.request_body_buf.clear()
                self.flow.response = error_response(errors.body_too_large(limit))
                yield from self._refuse(end_stream=False, shown=True)
        elif isinstance(event, RequestEndOfMessage):
            yield from self.state_request_complete()

    def state_request_complete(self) -> CommandGenerator[None]:
        """All of the request is there: hooks first, then the engine."""
        flow = self.flow
        flow.request.data.content = bytes(self.request_body_buf)
        self.request_body_buf.clear()
        flow.request.timestamp_end = time.time()
        self.client_state = self.state_done
        if "request" in self._gateway.heard:
            yield HttpRequestHook(flow)
        if (yield from self.check_killed(True)):
            yield from self._vanish()
            return
        if flow.response is not None:
            # Another addon answers; it is none of the engine's business.
            flow.response.timestamp_start = time.time()
            yield from self._respond()
            return
        yield from self._begin()

    def _begin(self) -> CommandGenerator[None]:
        assert self._setup is not None and self._client is not None and self._target is not None
        request = self.flow.request
        try:
            # An addon or a user may have edited the request.
            target = parse_target(request.method, request.path)
        except GatewayError as error:
            yield from self._reject(error)
            return
        if target.operation is MODELS:
            self.flow.response = models.answer(self._setup, self._client, target)
            yield from self._respond()
            return
        call = self._call = Call(
            id=str(uuid.uuid4()),
            client=self._client,
            target=target,
            setup=self._setup,
            started=time.monotonic(),
            wall=self._gateway.wall,
            headers=request.headers,
            brings_own_token=self._token is not None,
            consult="gateway_backend_chosen" in self._gateway.heard,
        )
        self._gateway.begun(call.id)
        content_type = request.headers.get("content-type")
        raw = request.raw_content or b""
        self._run = self._gateway.engine.run(call, content_type, raw, call.started)
        yield from self._advance(None)

    # --- driving the engine ----------------------------------------------------------------------------

    def _advance(self, result: Result | None) -> CommandGenerator[None]:
        """Tell the engine what came of its last effect, and carry out the next ones."""
        assert self._run is not None
        while True:
            try:
                effect = next(self._run) if result is None else self._run.send(result)
            except StopIteration:
                yield from self._end(result)
                return
            match effect:
                case Send():
                    result = yield from self._send(effect)
                case Drain():
                    assert self._exchange is not None
                    self._exchange.drain(time.monotonic())
                    yield from self._watch()
                    result = None
                case Choose():
                    result = yield from self._choose(effect)
                case Announce():
                    yield self._announcement(effect)
                    result = Done(time.monotonic())
                case Deliver():
                    result = yield from self._deliver()
                case Return():
                    assert self._exchange is not None and self._exchange.response is not None
                    self.flow.response = self._exchange.response
                    self.flow.response.data.content = effect.body
                    result = Done(time.monotonic())
                case Reject():
                    self.flow.response = error_response(effect.error)
                    result = Done(time.monotonic())
            if result is None:
                return  # an event will bring it

    def _end(self, last: Result | None) -> CommandGenerator[None]:
        """The engine is done with the call: write it down, and finish the answer."""
        self._layer.deadlines.clear(self._deadline)
        yield from self._write_down()
        if isinstance(last, ClientGone) or self._is_cut_off():
            yield from self._hang_up_on_client()
        elif self._begun:
            yield from self.send_response(already_streamed=True)
        else:
            assert self.flow.response is not None
            self._mark(self.flow.response)
            yield from self._respond()

    def _is_cut_off(self) -> bool:
        """Whether the client has part of an answer in which no error can be told: only a cut can tell it."""
        truncated = self._call is not None and self._call.outcome is Outcome.TRUNCATED
        return truncated and self._begun and self._exchange is not None and self._exchange.reader is None

    def _write_down(self) -> CommandGenerator[None]:
        call, self._run = self._call, None
        if call is None or self._written_down:
            return
        self._written_down = True
        ended = CallEnded(self.flow, call)
        ended.annotate()
        yield GatewayCallEndedHook(ended)

    def _ask(self, hook: hooks.Hook) -> CommandGenerator[None]:
        """Have an event's listeners say what they have to. Raises what they raise."""
        ask = Ask(hook)
        yield GatewayAskHook(ask)
        if ask.error is not None:
            raise ask.error

    def _choose(self, effect: Choose) -> CommandGenerator[Result]:
        assert self._call is not None
        choice = BackendChoice(self.flow, self._call, list(effect.candidates))
        refusal = None
        try:
            yield from self._ask(GatewayBackendChosenHook(choice))
        except GatewayError as error:
            refusal = error
        now = time.monotonic()
        return ClientGone(now) if self._client_has_gone() else Chosen(now, choice.candidates, refusal)

    def _client_has_gone(self) -> bool:
        return any(isinstance(e, RequestProtocolError) for e in self._paused_event_queue)

    # --- one attempt -----------------------------------------------------------------------------------

    def _send(self, effect: Send) -> CommandGenerator[Result | None]:
        assert self._call is not None
        call, backend = self._call, effect.attempt.backend
        self.upstream = self._exchange = None
        endpoint = backend.endpoint
        tls = endpoint.scheme == "https"
        connect = Connect((endpoint.host, endpoint.port), tls, effect.deadlines.connect, effect.fresh)
        server, error = yield connect
        now = time.monotonic()
        if self._client_has_gone():
            return ClientGone(now)
        if error:
            self._sent, self._content = build_request(call, backend, self.flow.request, None)
            if isinstance(connect.opening, Server):
                self.flow.server_conn = connect.opening
            return self._not_connected(connect, error, now)
        request, content = build_request(call, backend, self.flow.request, self._token)
        self._sent, self._content = request, content
        # The flow list shows where the call went; the Host header stays the client's.
        shown = self.flow.request.data
        shown.host, shown.port, shown.scheme = endpoint.host, endpoint.port, endpoint.scheme.encode()
        self.upstream = self.context.server = self.flow.server_conn = server
        self._exchange = Exchange(
            call,
            server,
            reused=connect.opening is None,
            deadlines=effect.deadlines,
            remove_usage=adds_usage(call),
            now=now,
        )
        self.server_state = self.state_exchange
        yield SendHttp(RequestHeaders(self.stream_id, request, not content), server)
        if content:
            yield SendHttp(RequestData(self.stream_id, content), server)
        yield SendHttp(RequestEndOfMessage(self.stream_id), server)
        yield from self._watch()
        return None

    def _not_connected(self, connect: Connect, error: str, now: float) -> Failed:
        opening = connect.opening
        if connect.timed_out:
            return Failed(now, FailureKind.CONNECT, f"no connection within {connect.seconds:.3g} s")
        logger.warning("No connection to %s: %s", connect.address[0], error)
        if connect.tls and isinstance(opening, Server) and opening.timestamp_tcp_setup:
            return Failed(now, FailureKind.TLS, "no TLS connection")
        refused = "refused" in error.lower() or "Errno 111" in error
        return Failed(now, FailureKind.CONNECT, "connection refused" if refused else "no connection")

    def state_exchange(self, event: events.Event) -> CommandGenerator[None]:
        """An event of the response, before it is known what becomes of the attempt."""
        assert isinstance(event, HttpEvent) and self._exchange is not None
        now = time.monotonic()
        result = self._exchange.receive(event, now)
        if result is None:
            yield from self._watch()
            return
        yield from self._settle(result, ended=isinstance(event, ResponseEndOfMessage | ResponseProtocolError))

    def _settle(self, result: Result, ended: bool) -> CommandGenerator[None]:
        """Go on with what has become of the attempt. ``ended``: its connection has nothing more to say."""
        self._layer.deadlines.clear(self._deadline)
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

    def _continue_later(self, result: Result) -> CommandGenerator[None]:
        wakeup = commands.RequestWakeup(0)
        self._continuation = (wakeup, result)
        yield wakeup

    def _abandon(self) -> CommandGenerator[None]:
        """Close the connection of the attempt under way: the backend is to stop working on it."""
        server, self.upstream = self.upstream, None
        if server is not None and server in self._layer.connections:
            message = RequestProtocolError(self.stream_id, "abandoned", ErrorCode.CLIENT_DISCONNECTED)
            yield SendHttp(message, server)

    def _watch(self) -> CommandGenerator[None]:
        """Have the layer tell us when the exchange's time has come."""
        assert self._exchange is not None
        yield from self._layer.set_deadline(self._deadline, self._exchange.due)

    def state_deadline_passed(self) -> CommandGenerator[None]:
        """Nothing came in time."""
        now = time.monotonic()
        if self.client_state == self.state_swallow:
            yield commands.CloseConnection(self.context.client)
            yield from self._vanish()
        elif self.server_state == self.state_exchange and self._exchange is not None:
            if self._exchange.due > now + 0.01:
                yield from self._watch()
            else:
                yield from self._settle(self._exchange.deadline_passed(now), ended=False)
        elif self.server_state == self.state_deliver and self._exchange is not None:
            if self._exchange.due > now + 0.01:
                yield from self._watch()
            else:
                yield from self._abandon()
                yield from self._broken_off("nothing came for too long")

    def _announcement(self, effect: Announce) -> commands.StartHook:
        assert self._call is not None and self._sent is not None
        response = self._exchange.response if self._exchange is not None else None
        failed = AttemptFailed(
            flow=self.flow,
            call=self._call,
            attempt=effect.attempt,
            request=without_secrets(self._sent, self._content),
            response=response,
            body=effect.body,
            server=self.flow.server_conn,
        )
        return GatewayAttemptFailedHook(failed)

    # --- the answer ------------------------------------------------------------------------------------

    def _deliver(self) -> CommandGenerator[Result | None]:
        exchange, flow = self._exchange, self.flow
        assert exchange is not None and exchange.response is not None and self._call is not None
        response = flow.response = exchange.response
        if not exchange.streaming:
            return self._whole_answer(exchange)
        self._mark(response)
        if adds_usage(self._call) and "content-length" in response.headers:
            del response.headers["content-length"]
            response.headers["transfer-encoding"] = "chunked"
        if "responseheaders" in self._gateway.heard:
            yield HttpResponseHeadersHook(flow)
            if self._client_has_gone() or self._killed():
                yield from self._abandon()
                return ClientGone(time.monotonic())
        self._store = bool(self.context.options.store_streamed_bodies)
        self._begun = True
        self.server_state = self.state_deliver
        exchange.due = time.monotonic() + self._setup_seconds()
        yield SendHttp(ResponseHeaders(self.stream_id, response, False), self.context.client)
        yield from self._to_client(exchange.take_body())
        yield from self._watch()
        if exchange.ended:
            return self._stream_ended(time.monotonic())
        return None

    def _setup_seconds(self) -> float:
        assert self._setup is not None
        return self._setup.config.replay.idle_seconds

    def _killed(self) -> bool:
        return self.flow.error is not None and self.flow.error.msg == mflow.Error.KILLED_MESSAGE

    def _whole_answer(self, exchange: Exchange) -> Ended:
        assert exchange.response is not None
        response = exchange.response
        response.data.content = exchange.take_body()
        facts = read_answer(response.get_content(strict=False) or b"")
        return Ended(
            time.monotonic(),
            complete=True,
            usage=facts.usage,
            model=facts.model,
            response_id=facts.response_id,
            finish_reason=", ".join(facts.finish_reasons) or None,
        )

    def state_deliver(self, event: events.Event) -> CommandGenerator[None]:
        """More of a stream that goes to the client as it comes."""
        exchange = self._exchange
        assert exchange is not None
        if isinstance(event, ResponseData):
            now = time.monotonic()
            exchange.due = now + self._setup_seconds()
            if exchange.first_content is None:
                exchange.first_content = now
            reader = exchange.reader
            yield from self._to_client(event.data if reader is None else reader.feed(event.data))
        elif isinstance(event, ResponseEndOfMessage):
            self.upstream = None
            exchange.ended = True
            result = self._stream_ended(time.monotonic())
            if not result.complete:
                yield from self._say_broken_off()
            elif exchange.reader is not None:
                yield from self._to_client(exchange.reader.flush())
            self.server_state = self.state_done
            yield from self._finish_with(result)
        elif isinstance(event, ResponseProtocolError):
            self.upstream = None
            yield from self._broken_off("broke off its stream")

    def _finish_with(self, result: Result) -> CommandGenerator[None]:
        """Go on at the end of an answer, in this very event if nobody can use the connection too early."""
        client = self._layer.connections.get(self.context.client)
        if isinstance(client, Http1Connection) and client.buf:
            # A pipelined request would be read, and sent, before the backend's connection is reset.
            yield from self._continue_later(result)
        else:
            yield from self._advance(result)

    def _to_client(self, data: bytes) -> CommandGenerator[None]:
        response = self.flow.response
        assert response is not None
        if callable(response.stream):
            # Another addon wants to see or change what passes.
            changed = response.stream(data)
            data = changed if isinstance(changed, bytes) else b"".join(changed)
        if data:
            if self._store:
                self.response_body_buf += data
            yield SendHttp(ResponseData(self.stream_id, data), self.context.client)

    def _stream_ended(self, now: float) -> Ended:
        exchange = self._exchange
        assert exchange is not None
        reader = exchange.reader
        if reader is None:
            return Ended(now, complete=True, first_content=exchange.first_content)
        return Ended(
            now,
            complete=reader.terminal_seen,
            reason="" if reader.terminal_seen else "ended its stream without saying so",
            first_content=exchange.first_content,
            usage=reader.usage,
            model=reader.model,
            response_id=reader.response_id,
            finish_reason=", ".join(reader.finish_reasons) or None,
        )

    def _broken_off(self, reason: str) -> CommandGenerator[None]:
        """The backend broke its stream off after the client had begun to get it."""
        self.server_state = self.state_done
        result = self._stream_ended(time.monotonic())
        if not result.complete:
            yield from self._say_broken_off()
        yield from self._continue_later(
            Ended(
                result.now,
                complete=result.complete,
                reason=reason,
                first_content=result.first_content,
                usage=result.usage,
                model=result.model,
                response_id=result.response_id,
                finish_reason=result.finish_reason,
            )
        )

    def _say_broken_off(self) -> CommandGenerator[None]:
        reader = self._exchange.reader if self._exchange is not None else None
        if reader is not None:
            yield from self._to_client(reader.break_off(errors.upstream_disconnected()))

    def _mark(self, response: http.Response) -> None:
        """Say in the response's headers what the gateway did."""
        call = self._call
        assert call is not None
        for name in [
            n for n in response.headers if n.lower() in ("connection", "keep-alive", "proxy-connection")
        ]:
            response.headers.pop(name, None)
        attempt = call.attempt
        if attempt is not None:
            response.headers["x-gateway-backend"] = attempt.backend.name
            response.headers["x-gateway-attempts"] = str(len(call.attempts))
            if attempt.backend.endpoint.simulated is not None:
                response.headers["x-gateway-simulated"] = "true"
        response.headers["x-gateway-call"] = call.id

    def _reject(self, error: GatewayError) -> CommandGenerator[None]:
        self.flow.response = error_response(error)
        yield from self._respond()

    def _respond(self) -> CommandGenerator[None]:
        """Send a response that is all there."""
        assert self.flow.response is not None
        if "responseheaders" in self._gateway.heard:
            yield HttpResponseHeadersHook(self.flow)
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
        if "response" in self._gateway.heard:
            yield HttpResponseHook(flow)
        self.server_state = self.state_done
        if (yield from self.check_killed(False)):
            yield from self._vanish()
            return
        if not already_streamed:
            content = response.raw_content
            head_only = flow.request.method == "HEAD"
            if content is not None and not head_only:
                response.headers.pop("transfer-encoding", None)
                response.headers["content-length"] = str(len(content))
            yield SendHttp(ResponseHeaders(self.stream_id, response, not content), self.context.client)
            if content and not head_only:
                yield SendHttp(ResponseData(self.stream_id, content), self.context.client)
        flow.live = False
        self._over = True
        yield DropStream(self.stream_id)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        self._count_out()

    # --- early answers ---------------------------------------------------------------------------------

    def _refuse(
        self, end_stream: bool, *, visible: bool = True, shown: bool = False
    ) -> CommandGenerator[None]:
        """Answer at once, before the body was read, and swallow what is left of it.

        ``visible``: whether other addons, and so the UIs, are to see the flow; ``shown``: they already do.
        """
        flow, client = self.flow, self.context.client
        response = flow.response
        assert response is not None
        if not end_stream:
            response.headers["connection"] = "close"
        self.client_state = self.state_swallow
        yield SendHttp(ResponseHeaders(self.stream_id, response, False), client)
        if response.raw_content and flow.request.method != "HEAD":
            yield SendHttp(ResponseData(self.stream_id, response.raw_content), client)
        yield SendHttp(ResponseEndOfMessage(self.stream_id), client)
        if not end_stream:
            yield from self._layer.set_deadline(self._deadline, time.monotonic() + SWALLOW_SECONDS)
        response.timestamp_end = time.time()
        if visible:
            if not shown and "requestheaders" in self._gateway.heard:
                yield HttpRequestHeadersHook(flow)
            if "response" in self._gateway.heard:
                yield HttpResponseHook(flow)
        flow.live = False

    def state_swallow(self, event: events.Event) -> CommandGenerator[None]:
        """The request has been answered; what is left of its body is thrown away."""
        if isinstance(event, RequestData):
            self._swallowed += len(event.data)
            limit = self._setup.config.limits.body_mb if self._setup else 100
            if self._swallowed > limit * 1024 * 1024:
                yield commands.CloseConnection(self.context.client)
                yield from self._vanish()
        elif isinstance(event, RequestEndOfMessage):
            yield from self._vanish()

    # --- ends that are none ----------------------------------------------------------------------------

    def state_client_gone(self) -> CommandGenerator[None]:
        """The client hung up: whatever is under way for it stops."""
        if self.client_state == self.state_swallow:
            yield from self._vanish()
            return
        self._continuation = None
        yield from self._abandon()
        if self._run is not None:
            yield from self._advance(ClientGone(time.monotonic()))
        else:
            yield from self._hang_up_on_client()

    def _hang_up_on_client(self) -> CommandGenerator[None]:
        if self._over:
            return
        self._over = True
        if self.flow.error is None:
            self.flow.error = mflow.Error("The client disconnected.")
        if "error" in self._gateway.heard:
            yield HttpErrorHook(self.flow)
        killed = ResponseProtocolError(self.stream_id, "killed", ErrorCode.KILL)
        yield SendHttp(killed, self.context.client)
        yield from self._vanish()

    def _vanish(self) -> CommandGenerator[None]:
        """Forget the stream."""
        self._over = True
        self._layer.deadlines.clear(self._deadline)
        if self.flow is not None:
            self.flow.live = False
        if self._run is not None and self._call is not None:
            self._run.close()
            self._call.outcome = self._call.outcome or Outcome.CLIENT_GONE
            self._call.ended = self._call.ended or time.monotonic()
            yield from self._write_down()
        self._count_out()
        yield DropStream(self.stream_id)

    def _count_out(self) -> None:
        if self._call is not None:
            self._gateway.over(self._call.id)

    def state_crashed(self, event: Crashed) -> CommandGenerator[None]:
        """A bug of ours: nothing is forwarded, and the client gets to know."""
        error = event.error
        # The message of an exception can quote what it failed on; the frames cannot.
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s in the gateway; the call was not forwarded.\n%s", type(error).__name__, frames)
        if self._over:
            yield commands.CloseConnection(self.context.client)
            return
        self._over = True
        self._layer.deadlines.clear(self._deadline)
        yield from self._abandon()
        answer = error_response(error if isinstance(error, GatewayError) else errors.internal())
        answer.headers["connection"] = "close"
        if not self._begun:
            if hasattr(self, "flow"):
                self.flow.response = answer
            yield SendHttp(ResponseHeaders(self.stream_id, answer, False), self.context.client)
            yield SendHttp(ResponseData(self.stream_id, answer.raw_content or b""), self.context.client)
            yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
        else:
            reader = self._exchange.reader if self._exchange is not None else None
            if reader is not None:
                event_bytes = reader.break_off(errors.internal())
                yield SendHttp(ResponseData(self.stream_id, event_bytes), self.context.client)
                yield SendHttp(ResponseEndOfMessage(self.stream_id), self.context.client)
            yield commands.CloseConnection(self.context.client)
        if self._call is not None:
            self._call.outcome, self._call.ended = Outcome.ERROR, time.monotonic()
            self._call.status = self._call.status or 500
            yield from self._write_down()
        if hasattr(self, "flow"):
            self.flow.live = False
        self._count_out()
        yield DropStream(self.stream_id)
