"""One request of a client, from its headers to the end of its answer.

The stream is a state machine. Its state and the kind of an event say which step comes next
(:data:`~aoai_gateway.proxy.stream_events.STEPS`); an event that its state does not expect is dropped. Its
parts do the work: the request that comes in, the answer that goes out, the attempt under way, the delivery of
its stream, and the driver of the engine. The engine decides; its effects become the parts' work, and what
comes of that is the engine's next result.

Two traps of mitmproxy's layers shape the code. A blocking command pauses the stream and queues what comes
meanwhile, so after each one the queue is searched for the client's hang-up. And a connection must not be
used again inside the event that ends its response (its layer resets itself after that), so the engine goes
on in a turn of its own then (`State.DELAYED`).
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    DropStream,
    ErrorCode,
    HttpResponseHeadersHook,
    HttpStream,
    RequestData,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._http1 import Http1Connection

from aoai_gateway.engine import effects
from aoai_gateway.engine.call import Outcome
from aoai_gateway.proxy.delivery import Delivery, Lane
from aoai_gateway.proxy.downstream_request import RequestSteps
from aoai_gateway.proxy.downstream_response import DownstreamResponse, Progress
from aoai_gateway.proxy.engine_driver import EngineDriver
from aoai_gateway.proxy.session_steps import SessionSteps
from aoai_gateway.proxy.stream_context import StreamContext
from aoai_gateway.proxy.stream_events import (
    DEADLINE_SLACK,
    STEPS,
    Crashed,
    DeadlinePassed,
    State,
    WholeResponse,
)
from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.stream_hooks import GatewayAttemptFailedHook
from aoai_gateway.wire import errors

if TYPE_CHECKING:
    from mitmproxy.connection import Server
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.stream_events import StreamLayer
    from aoai_gateway.proxy.unfolding import Unfolding
    from aoai_gateway.proxy.upstream_response import UpstreamResponse
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.wire.targets import Target


STALLED = "The client did not read its answer."

TOO_LARGE = 413
"""The status of the gateway's own error about a body."""


class GatewayStream(HttpStream):
    """One request; see the module's docstring."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: StreamLayer) -> None:
        # Of mitmproxy's stream, only the way in which a layer waits is used, and its state. The rest of it
        # refers to the stream itself, which would so stay, with its flow, until a garbage collection.
        self.context, self.stream_id = context, stream_id
        self._paused, self._paused_event_queue = None, deque()
        self._here = here = StreamContext(stream_id, context, gateway, layer, self._paused_event_queue)
        self._response = DownstreamResponse(here)
        self._driver = EngineDriver(here)
        self.request = RequestSteps(here, self._response, self._driver, self)
        self._sessions: SessionSteps | None = None
        self._attempt: UpstreamAttempt | None = None
        self.delivery: Delivery | None = None
        """Set once a stream has begun to go to the client."""
        self.lane: Lane | None = None
        """The short way of chunks, once a stream has begun."""
        self._delayed: tuple[commands.RequestWakeup, effects.Result] | None = None
        """What ends `State.DELAYED`, and the result to go on with."""

    def __repr__(self) -> str:
        return f"GatewayStream(id={self.stream_id}, {self._here.state.name})"

    @property
    def sessions(self) -> SessionSteps:
        """The steps of a session; a stream that never is one has none."""
        if self._sessions is None:
            self._sessions = SessionSteps(self._here, self._response, self._driver, self)
        return self._sessions

    @property
    def upstream(self) -> Server | None:
        """The connection of the attempt under way; events from any other are not for this stream."""
        return self._attempt.server if self._attempt is not None else None

    @property
    def _received(self) -> UpstreamResponse:
        assert self._attempt is not None and self._attempt.received is not None
        return self._attempt.received

    @property
    def _unfolding(self) -> Unfolding | None:
        received = self._attempt.received if self._attempt is not None else None
        return received.unfolding if received is not None else None

    # These three return a generator instead of being one, through which each command would pass.

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Take an event, or queue it while the stream is paused: of a session's client, within a bound."""
        sessions = self._sessions
        if sessions is not None and isinstance(event, RequestData) and sessions.is_any:
            if sessions.is_flooded:
                return _nothing()
            if sessions.comes(event):
                return self._flooded()
        unfolding = self._unfolding if self._paused else None
        if unfolding is not None and isinstance(event, ResponseData) and not unfolding.waits(len(event.data)):
            return _nothing()
        return super().handle_event(event)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        if self._sessions is not None and self._sessions.ahead and isinstance(event, RequestData):
            self._sessions.taken(event)
        unfolding = self._unfolding
        if unfolding is not None and isinstance(event, ResponseData | ResponseEndOfMessage):
            assert self._attempt is not None
            return unfolding.take(event, self._here, self._step, self._attempt.abandon)
        return self._step(event)

    def _step(self, event: events.Event) -> CommandGenerator[None]:
        step = STEPS.get((self._here.state, type(event)))
        if step is None:
            return _nothing()
        taken: CommandGenerator[None] = attrgetter(step)(self)(event)
        return taken

    def client_left(self) -> None:
        """Hear at once that the client hung up; the event itself waits as long as the stream is paused."""
        if self._here.state is State.QUEUED and self._here.call is not None:
            self._here.gateway.waiting.left(self._here.call.id)

    def _flooded(self) -> CommandGenerator[None]:
        """Treat a session's client as gone, once what it has sent before is done with: it sends too much."""
        yield from self.sessions.refuse_flood()
        self.client_left()
        gone = RequestProtocolError(self.stream_id, "sent too much", ErrorCode.CLIENT_DISCONNECTED)
        yield from super().handle_event(gone)

    # --- driving the engine ----------------------------------------------------------------------------

    def advance(self, result: effects.Result | None) -> CommandGenerator[None]:
        """Tell the engine what came of its last effect, and carry out the next ones."""
        here = self._here
        self._here.state = State.DECIDING
        while True:
            effect = yield from self._driver.advance(result)
            match effect:
                case None:
                    yield from self._end()
                    return
                case effects.Send():
                    result = yield from self._send(effect)
                case effects.Drain():
                    assert self._attempt is not None
                    self._here.state = State.ATTEMPT
                    self._received.drain(here.now())
                    yield from self._attempt.watch()
                    result = None
                case effects.Deliver():
                    result = yield from self._deliver()
                case effects.WaitUntil():
                    result = yield from self._wait_until(effect)
                case effects.Announce():
                    assert self._attempt is not None
                    yield GatewayAttemptFailedHook(self._attempt.announcement(effect))
                    result = effects.Done(here.now())
                case effects.Return():
                    assert self._attempt is not None
                    here.flow.response = self._attempt.failed_answer()
                    result = effects.Done(here.now())
                case effects.Reject():
                    if effect.error.status == TOO_LARGE:
                        # mitmproxy's views decode all of a body, however large it becomes.
                        here.flow.request.data.content = None
                    here.flow.response = here.error_response(effect.error)
                    result = effects.Done(here.now())
            if result is None:
                return  # an event will bring it

    def _wait_until(self, effect: effects.WaitUntil) -> CommandGenerator[effects.Result | None]:
        here = self._here
        if here.client_has_gone():
            return effects.ClientGone(here.now())
        yield from self.delay(effects.Done(effect.at), max(0.0, effect.at - here.now()))
        return None

    def delay(self, result: effects.Result, seconds: float = 0.0) -> CommandGenerator[None]:
        """Go on with a result later: after a time, or only after the present event."""
        wakeup = commands.RequestWakeup(seconds)
        self._delayed = (wakeup, result)
        self._here.state = State.DELAYED
        yield wakeup

    def resume(self, event: events.Wakeup) -> CommandGenerator[None]:
        """Go on with the result that was known already."""
        if self._delayed is not None and event.command is self._delayed[0]:
            _, result = self._delayed
            self._delayed = None
            yield from self.advance(result)

    def open_session(self, target: Target) -> CommandGenerator[None]:
        """Accept a handshake, and wait for the message that says what is asked for."""
        yield from self.sessions.open(target)

    # --- the attempt -----------------------------------------------------------------------------------

    def _send(self, effect: effects.Send) -> CommandGenerator[effects.Result | None]:
        self._attempt = UpstreamAttempt(self._here, effect)
        result = yield from self._attempt.start()
        if result is None:
            self._here.state = State.ATTEMPT
        return result

    def attempt_whole(self, event: WholeResponse) -> CommandGenerator[None]:
        """All of an answer has come."""
        attempt = self._attempt
        assert attempt is not None
        result = attempt.receive(event)
        if result is None and self._received.is_plain:
            yield from self._conclude(attempt.receive_body(event.data), ended=True)
            return
        if result is not None:
            yield from self._conclude(result, ended=False)
        for part in event.rest():
            if self._attempt is attempt:
                yield from self._handle_event(part)

    def attempt_end(self, event: ResponseEndOfMessage | ResponseProtocolError) -> CommandGenerator[None]:
        """An answer has ended, before it is known what becomes of the attempt."""
        assert self._attempt is not None
        if rest := self._attempt.screened_rest():
            result = self._received.receive(ResponseData(event.stream_id, rest), self._here.now())
            if result is not None:
                yield from self._conclude(result, ended=False)
        if self._here.state is State.ATTEMPT:
            yield from self.attempt_event(event)
        else:
            # That has decided it, and this is perhaps the end of a stream under delivery.
            yield from self._handle_event(event)

    def attempt_event(
        self,
        event: ResponseHeaders
        | ResponseData
        | ResponseTrailers
        | ResponseEndOfMessage
        | ResponseProtocolError,
    ) -> CommandGenerator[None]:
        """Take in an event of the answer, and go on once it is known what becomes of the attempt."""
        assert self._attempt is not None
        result = self._attempt.receive(event)
        if result is None:
            if isinstance(event, ResponseHeaders):
                yield from self._attempt.open_session()
            yield from self._attempt.watch()
        else:
            ended = isinstance(event, ResponseEndOfMessage | ResponseProtocolError)
            yield from self._conclude(result, ended=ended)

    def attempt_overdue(self, _: DeadlinePassed) -> CommandGenerator[None]:
        """Nothing of an answer came in time."""
        assert self._attempt is not None
        now, received = self._here.now(), self._received
        result = None if received.due > now + DEADLINE_SLACK else received.deadline_passed(now)
        if result is None:
            yield from self._attempt.watch()
        else:
            yield from self._conclude(result, ended=False)

    def _conclude(self, result: effects.Result, *, ended: bool) -> CommandGenerator[None]:
        """Go on with what has become of the attempt. ``ended``: its connection has nothing more to say."""
        attempt = self._attempt
        assert attempt is not None
        self._here.clear_deadline()
        result = attempt.without_known_secrets(result)
        if isinstance(result, effects.Failed | effects.Drained):
            if not ended or attempt.is_unfinished:
                yield from attempt.abandon()
            attempt.server = None
            # The connection's layer is still about to reset itself; in a turn of its own, go on.
            yield from self.delay(result)
        elif ended:
            if attempt.is_unfinished:
                yield from attempt.abandon()
            yield from self.finish_with(result)
        else:
            yield from self.advance(result)

    def finish_with(self, result: effects.Result) -> CommandGenerator[None]:
        """Go on at the end of an answer, in this event if no request can use the connection too early."""
        client = self._here.layer.connections.get(self._here.client)
        # A pipelined request would be read, and sent, before the backend's connection is reset.
        is_too_early = isinstance(client, Http1Connection) and client.buf
        return self.delay(result) if is_too_early else self.advance(result)

    # --- delivery --------------------------------------------------------------------------------------

    def _deliver(self) -> CommandGenerator[effects.Result | None]:
        attempt, received = self._attempt, self._received
        assert attempt is not None
        self._here.flow.response = received.response
        if received.response is not None and received.response.status_code == 101:
            return (yield from self.sessions.begin(attempt))
        if not received.streaming:
            return (yield from attempt.whole_answer())
        self.delivery = Delivery(self._here, attempt, received, self._response, self)
        result = yield from self.delivery.begin()
        if result is None:
            self._here.state = State.DELIVERING
            self.lane = Lane.of(
                self._here.layer.connections, self.upstream, self.delivery, self._is_delivering
            )
            yield from attempt.watch()
        return result

    def _is_delivering(self) -> bool:
        return self._here.state is State.DELIVERING and not self._paused

    # --- the end ---------------------------------------------------------------------------------------

    def _end(self) -> CommandGenerator[None]:
        """The engine is done with the call: write it down, and finish the answer."""
        here, progress, sessions = self._here, self._response.progress, self._sessions
        here.clear_deadline()
        self._response.note_times()
        yield from self._driver.write_down(self._response.chunk_gaps)
        assert here.call is not None
        if sessions is not None and sessions.has_begun:
            yield from sessions.tell_end()
            yield from self.vanish()
        elif here.call.outcome is not None and here.call.outcome.is_the_clients:
            stalled = here.call.outcome is Outcome.CLIENT_STALLED
            yield from self._hang_up(STALLED if stalled else "The client disconnected.")
        elif progress is Progress.BEGUN and self._received.reader is None and not self._response.is_whole:
            # No error can be told inside a body that cannot be read: only a cut tells it.
            yield from self._hang_up("The backend broke off its answer.")
        elif sessions is not None and sessions.is_any:
            yield from sessions.end_opening()
        elif progress is Progress.NOTHING:
            self._response.mark(here.call)
            yield from self.respond()
        else:
            self._response.show_kept()
            yield from self._finish()

    def respond(self) -> CommandGenerator[None]:
        """Send the flow's response, which is all there."""
        yield from self._here.tell(HttpResponseHeadersHook)
        yield from self._finish()

    def _finish(self) -> CommandGenerator[None]:
        """Let other addons see the answer, send what of it was not sent yet, and its end."""
        here = self._here
        yield from self._response.tell()
        if (yield from here.is_cut_by_others(tell=False)):
            yield from self.vanish()
            return
        here.flow.live = False
        self._here.state = State.OVER
        yield DropStream(here.id)
        if self._response.progress is Progress.BEGUN:
            yield from self._response.end()
        else:
            yield from self._response.send_whole()
        self._count_out()

    # --- ends before the end ---------------------------------------------------------------------------

    def client_gone(self, _: events.Event) -> CommandGenerator[None]:
        """The client hung up: stop all that is under way for it."""
        here, ended = self._here, self._all_sent()
        stalled = here.layer.output.is_cut
        self._delayed = None
        if self._attempt is not None:
            yield from self._attempt.abandon()
        if self._driver.is_running:
            yield from self.advance(ended or effects.ClientGone(here.now(), self._so_far(), stalled))
        else:
            yield from self._hang_up("The client disconnected.")

    def _so_far(self) -> effects.Ended | None:
        return self.delivery.so_far() if self.delivery is not None else None

    def _all_sent(self) -> effects.Ended | None:
        """Return the end of an answer that the client has all of, if it has."""
        if self._delayed is not None and isinstance(self._delayed[1], effects.Ended):
            return self._delayed[1]
        if self._here.state is State.DELIVERING and self.delivery is not None:
            return self.delivery.all_sent()
        return None

    def _hang_up(self, why: str) -> CommandGenerator[None]:
        if self._here.state is State.OVER:
            return
        self._here.state = State.OVER
        yield from self._here.hang_up(why, tell=True)
        yield from self.vanish()

    def vanish(self, _: events.Event | None = None) -> CommandGenerator[None]:
        """Forget the stream: there is no client for its answer, or it has the answer already."""
        here = self._here
        if self._driver.is_running:
            self._driver.note_hang_up()
            yield from self._driver.write_down(self._response.chunk_gaps, self._so_far())
        self._here.state = State.OVER
        here.clear_deadline()
        here.flow.live = False
        self._count_out()
        yield DropStream(here.id)

    def _count_out(self) -> None:
        self._here.release_body()
        self._here.end_trial()
        self._attempt = self.delivery = self.lane = None
        if self._sessions is not None:
            self._sessions.count_out()
        if self._here.call is not None:
            self._here.gateway.calls.pop(self._here.call.id, None)

    # --- bugs ------------------------------------------------------------------------------------------

    def crashed(self, error: Exception) -> Crashed:
        """Make the event that tells the stream of an exception of its own."""
        self._paused = None
        self._paused_event_queue.clear()
        if self._sessions is not None:
            self._sessions.forget_ahead()
        return Crashed(self.stream_id, error)

    def fail_closed(self, event: Crashed) -> CommandGenerator[None]:
        """A bug of ours: nothing is forwarded, and the client gets to know."""
        log_exception("in the gateway; its call was ended.", event.error)
        here = self._here
        if self._here.state is State.OVER:
            # The answer was being ended: its client cannot be told in it, so its connection is closed.
            yield commands.CloseConnection(here.client)
            yield from self.vanish()
            return
        incomplete = self._here.state in (State.REQUEST_HEAD, State.REQUEST_BODY)
        self._here.state, so_far = State.OVER, self._so_far()
        here.clear_deadline()
        here.see_that_there_is_a_flow()
        if self._attempt is not None:
            yield from self._attempt.abandon()
        if here.call is not None:
            self._driver.note_bug(here.call)
        elif self._response.progress is not Progress.WHOLE:
            here.refused(errors.internal())
        reader = self._received.reader if self._response.progress is Progress.BEGUN else None
        yield from self._response.tell_of_bug(reader)
        if incomplete:
            # Without the stream, there is no bound on the time that the rest of the request takes.
            yield commands.CloseConnection(here.client)
        yield from self._driver.write_down(self._response.chunk_gaps, so_far)
        here.flow.live = False
        self._count_out()
        yield DropStream(here.id)


def _nothing() -> CommandGenerator[None]:
    yield from ()
