"""What the parts of one stream share.

The parts are the request that comes in (:mod:`~aoai_gateway.proxy.downstream_request`), the answer that goes
out (:mod:`~aoai_gateway.proxy.downstream_response`), the attempt under way
(:mod:`~aoai_gateway.proxy.upstream_attempt`), the delivery from that to the answer
(:mod:`~aoai_gateway.proxy.delivery`) and the driver of the engine
(:mod:`~aoai_gateway.proxy.engine_driver`). Common to them are the flow, the call, the clock, and the ways
out of a stream: to the client, to other addons, and to the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from mitmproxy import flow as mflow
from mitmproxy import http
from mitmproxy.proxy.layers.http import (
    ErrorCode,
    HttpErrorHook,
    RequestProtocolError,
    ResponseHeaders,
    ResponseProtocolError,
    SendHttp,
)

from aoai_gateway.proxy.heads import NO_HEAD, HeaderIndex
from aoai_gateway.proxy.own_responses import error_response
from aoai_gateway.proxy.request_head import address_of
from aoai_gateway.proxy.stream_events import DeadlinePassed, State
from aoai_gateway.runtime.stream_hooks import Ask, Awaited, GatewayAskHook, Resume
from aoai_gateway.usage.early import EarlyAnswer
from aoai_gateway.wire.targets import dialect_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from mitmproxy import hooks
    from mitmproxy.proxy.commands import StartHook
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.events import Event
    from mitmproxy.proxy.layer import CommandGenerator
    from mitmproxy.proxy.layers.http import HttpEvent

    from aoai_gateway.engine.call import Call
    from aoai_gateway.engine.effects import Result
    from aoai_gateway.proxy.request_head import AcceptedRequest
    from aoai_gateway.proxy.stream_events import StreamLayer
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.runtime.held_bytes import Held
    from aoai_gateway.runtime.spool import Spool
    from aoai_gateway.runtime.token_trials import Trial
    from aoai_gateway.wire.gateway_error import GatewayError
    from aoai_gateway.wire.masking import KnownSecrets
    from aoai_gateway.wire.targets import Target


class Led(Protocol):
    """The stream, as far as its parts lead it on."""

    def advance(self, result: Result | None) -> CommandGenerator[None]:
        """Tell the engine what came of its last effect, and carry out the next ones."""

    def delay(self, result: Result) -> CommandGenerator[None]:
        """Go on with a result in a turn of its own."""

    def finish_with(self, result: Result) -> CommandGenerator[None]:
        """Go on at the end of an answer."""

    def respond(self) -> CommandGenerator[None]:
        """Send the flow's response, which is all there."""

    def vanish(self) -> CommandGenerator[None]:
        """Forget the stream."""

    def client_gone(self, event: Event) -> CommandGenerator[None]:
        """Stop all that is under way for the client."""

    def open_session(self, target: Target) -> CommandGenerator[None]:
        """Accept a handshake, and wait for the message that says what is asked for."""


class StreamPart:
    """A part of a stream that has steps of its own."""

    def __init__(self, stream: Led) -> None:
        # The stream has this part; were each to refer to the other, only a garbage collection would end them.
        self._stream_ref = ref(stream)

    @property
    def _stream(self) -> Led:
        stream = self._stream_ref()
        assert stream is not None  # this is a step of it
        return stream


class StreamContext:
    """One request's state, as far as more than one part of the stream needs it.

    ``queued``: the events that have come while the stream was paused.
    """

    flow: http.HTTPFlow
    """Set once the request's head is there."""

    def __init__(
        self,
        stream_id: int,
        context: Context,
        gateway: Gateway,
        layer: StreamLayer,
        queued: Collection[Event],
    ) -> None:
        self.id = stream_id
        self.state = State.REQUEST_HEAD
        """What the stream waits for."""
        self.proxy = context
        self.client = context.client
        self.gateway = gateway
        self.layer = layer
        self.clock = gateway.clock
        self._queued = queued
        self.accepted: AcceptedRequest | None = None
        """Set once the client is known."""
        self.call: Call | None = None
        """Set once all of the request is there and the engine has it."""
        self.secrets: tuple[KnownSecrets, ...] = ()
        """What is masked in answers to this call."""
        self.held: Held | None = None
        """The bytes of its body in memory, or on disk; set once the client is known."""
        self.upload: Spool | None = None
        """Its body, if that is on disk."""
        self.concealed: tuple[bytes, bytes] | None = None
        """What stands on the flow in the place of a secret in the answer, and the secret."""
        self.request_began = 0.0
        """When the request's head had come."""
        self.trial: Trial | None = None
        """That of its token, as long as no backend has accepted it."""
        self._deadline = DeadlinePassed(stream_id)
        self._head = NO_HEAD

    @property
    def head(self) -> HeaderIndex:
        """The fields of the flow's request, as they are now: other addons may edit them."""
        fields = self.flow.request.data.headers.fields
        if self._head.fields is not fields:
            self._head = HeaderIndex(fields)
        return self._head

    def see_that_there_is_a_flow(self) -> None:
        """Make a flow up, if what went wrong did so before there was one."""
        if not hasattr(self, "flow"):
            self.flow = http.HTTPFlow(self.client, self.proxy.server)
            self.flow.request = http.Request.make("GET", "http://unknown.invalid/")

    # --- time ------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the monotonic time in seconds."""
        return self.clock.monotonic()

    def set_deadline(self, at: float) -> CommandGenerator[None]:
        """Have the stream get a `DeadlinePassed` at a time; there is one deadline at a time."""
        yield from self.layer.set_deadline(self._deadline, at)

    def clear_deadline(self) -> None:
        """Forget the deadline."""
        self.layer.clear_deadline(self._deadline)

    def release_body(self) -> None:
        """Count the body as in memory no more; delete one on disk."""
        if self.upload is not None and not self.upload.is_closed:
            self.upload.close()
            self.gateway.connections.files -= 1
        if self.held is not None:
            self.held.release()
        if not self.gateway.heard.requests_are_wanted and hasattr(self, "flow"):
            # Nothing has the flow but layers, which are garbage that may wait for long.
            self.flow.request.data.content = None
        if self.call is not None and not self.gateway.heard.calls_are_wanted:
            # Its prompt and header fields are read once more, when it is written down.
            self.call.delivered = None

    def end_trial(self) -> None:
        """Make room for the trial of another token."""
        if self.trial is not None:
            self.trial.end()

    # --- the client ------------------------------------------------------------------------------------

    def client_has_gone(self) -> bool:
        """Whether the client hung up while the stream was paused; that event is still in the queue then."""
        queued = self._queued
        return bool(queued) and any(isinstance(event, RequestProtocolError) for event in queued)

    def answer_has_begun(self) -> bool:
        """Whether a backend has answered, or hung up, while the stream was paused."""
        return any(isinstance(event, ResponseHeaders | ResponseProtocolError) for event in self._queued)

    def send(self, event: HttpEvent) -> SendHttp:
        """Make the command that sends an event of the response to the client."""
        return SendHttp(event, self.client)

    def is_killed(self) -> bool:
        """Whether a user killed the flow."""
        return self.flow.error is not None and self.flow.error.msg == mflow.Error.KILLED_MESSAGE

    def is_cut_by_others(self, *, tell: bool) -> CommandGenerator[bool]:
        """Whether a user killed the flow, or the client left, while another addon had it.

        The client's connection is closed then. ``tell``: other addons get an error event of the flow.
        """
        if not self.is_killed() and not self.client_has_gone():
            return False
        yield from self.hang_up("The client disconnected.", tell=tell)
        return True

    def hang_up(self, why: str, *, tell: bool) -> CommandGenerator[None]:
        """Close the client's connection without an answer. ``why``: shown as the flow's error."""
        if self.flow.error is None:
            self.flow.error = mflow.Error(why)
        if tell:
            yield from self.tell(HttpErrorHook)
        yield self.send(ResponseProtocolError(self.id, "killed", ErrorCode.KILL))

    # --- other addons, and the event loop --------------------------------------------------------------

    def tell(self, kind: type[StartHook]) -> CommandGenerator[None]:
        """Let mitmproxy's addons have an event of the flow; waits if one of them holds the flow."""
        heard = self.gateway.heard
        if kind.name not in heard.events:
            return
        if self.flow.is_replay or not heard.can_be_called(kind.name):
            # mitmproxy's replay waits for the events themselves.
            yield kind(self.flow)
            return
        if (rest := heard.call(kind.name, self.flow)) is not None:
            yield from self.wait_for(rest)
        if self.flow.intercepted:
            yield GatewayAskHook(Resume(self.flow))

    def ask(self, hook: hooks.Hook) -> CommandGenerator[None]:
        """Give an event to plugins that decide something. Raises what they raise."""
        yield from self._perform(Ask(hook))

    def wait_for(self, answer: Any) -> CommandGenerator[Any]:
        """Return an answer that may still be on its way. Raises what goes wrong with it."""
        if not isinstance(answer, Awaitable):
            return answer
        awaited = Awaited(answer)
        yield from self._perform(awaited)
        return awaited.result

    def _perform(self, ask: Ask) -> CommandGenerator[None]:
        yield GatewayAskHook(ask)
        if ask.error is not None:
            raise ask.error
        if not ask.performed:
            raise RuntimeError(f"no addon performed {type(ask).__name__}")

    def error_response(self, error: GatewayError) -> http.Response:
        """Make a response of an error of the gateway's own, as this client's SDK reads it."""
        call_id = self.call.id if self.call is not None else None
        return error_response(error, dialect_of(self.flow.request.path), call_id)

    def refused(self, error: GatewayError) -> None:
        """Write down that the request is refused before it became a call."""
        if self.gateway.observer is not None:
            self.gateway.observer.refused(self.flow, error)
        client = self.accepted.client.name if self.accepted is not None else None
        path = self.flow.request.path
        self.gateway.answered_early(EarlyAnswer.refused(error, client, address_of(self.client), path))
