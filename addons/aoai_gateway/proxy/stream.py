"""One request of a client, from its headers to the end of its answer.

The stream is a state machine. Its state and the kind of an event say which step comes next
(:data:`~aoai_gateway.proxy.stream_states.STEPS`); an event that its state does not expect is dropped. Its
parts do the work: the request that comes in, the answer that goes out, the attempt under way, the delivery of
its stream, and the driver of the engine. The engine decides; its effects become the parts' work, and what
comes of that is the engine's next result.

Two traps of mitmproxy's layers shape the code. A blocking command pauses the stream and queues what comes
meanwhile, so after each one the queue is searched for the client's hang-up. And a connection must not be
used again inside the event that ends its response (its layer resets itself after that), so the engine goes
on in a turn of its own then (`State.DELAYED`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from mitmproxy import http
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import (
    DropStream,
    ErrorCode,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpStream,
    RequestData,
    RequestEndOfMessage,
    RequestHeaders,
    RequestProtocolError,
    ResponseData,
    ResponseEndOfMessage,
    ResponseHeaders,
    ResponseProtocolError,
    ResponseTrailers,
)
from mitmproxy.proxy.layers.http._http1 import Http1Connection

from aoai_gateway.engine.call import Outcome
from aoai_gateway.engine.effects import (
    Announce,
    ClientGone,
    Deliver,
    Done,
    Drain,
    Drained,
    Ended,
    Failed,
    Reject,
    Result,
    Return,
    Send,
    WaitInQueue,
    WaitUntil,
)
from aoai_gateway.proxy import models
from aoai_gateway.proxy.delivery import Delivery
from aoai_gateway.proxy.downstream_request import SWALLOW_SECONDS, DownstreamRequest
from aoai_gateway.proxy.downstream_response import DownstreamResponse, Progress
from aoai_gateway.proxy.engine_driver import EngineDriver
from aoai_gateway.proxy.lane import Lane
from aoai_gateway.proxy.messages import Crashed, DeadlinePassed, WholeRequest, WholeResponse
from aoai_gateway.proxy.request_head import address_of
from aoai_gateway.proxy.session_steps import SessionSteps
from aoai_gateway.proxy.stream_context import StreamContext
from aoai_gateway.proxy.stream_states import STEPS, State
from aoai_gateway.proxy.upstream_attempt import UpstreamAttempt
from aoai_gateway.proxy.upstream_response import SLACK
from aoai_gateway.runtime.exception_log import log_exception
from aoai_gateway.runtime.stream_hooks import GatewayAttemptFailedHook
from aoai_gateway.usage.early import EarlyAnswer
from aoai_gateway.wire import errors
from aoai_gateway.wire.content_coding import NotDecodedError
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.operations import MODELS

if TYPE_CHECKING:
    from mitmproxy.connection import Server
    from mitmproxy.proxy.context import Context
    from mitmproxy.proxy.layer import CommandGenerator

    from aoai_gateway.proxy.messages import StreamLayer
    from aoai_gateway.proxy.unfolding import Unfolding
    from aoai_gateway.proxy.upstream_response import UpstreamResponse
    from aoai_gateway.runtime.gateway import Gateway
    from aoai_gateway.wire.targets import Target


STALLED = "The client did not read its answer."


class GatewayStream(HttpStream):
    """One request; see the module's docstring."""

    def __init__(self, context: Context, stream_id: int, gateway: Gateway, layer: StreamLayer) -> None:
        # Of mitmproxy's stream, only the way in which a layer waits is used, and its state. The rest of it
        # refers to the stream itself, which would so stay, with its flow, until a garbage collection.
        self.context, self.stream_id = context, stream_id
        self._paused, self._paused_event_queue = None, deque()
        self.state = State.REQUEST_HEAD
        self._here = here = StreamContext(stream_id, context, gateway, layer, self._paused_event_queue)
        self._request = DownstreamRequest(here)
        self._response = DownstreamResponse(here)
        self._driver = EngineDriver(here)
        self.sessions = SessionSteps(here, self._response, self._driver, self)
        self._attempt: UpstreamAttempt | None = None
        self._delivery: Delivery | None = None
        self.lane: Lane | None = None
        """The short way of chunks, once a stream has begun."""
        self._delayed: tuple[commands.RequestWakeup, Result] | None = None
        """What ends `State.DELAYED`, and the result to go on with."""

    def __repr__(self) -> str:
        return f"GatewayStream(id={self.stream_id}, {self.state.name})"

    @property
    def upstream(self) -> Server | None:
        """The connection of the attempt under way; events from any other are not for this stream."""
        return self._attempt.server if self._attempt is not None else None

    @property
    def _received(self) -> UpstreamResponse:
        assert self._attempt is not None and self._attempt.received is not None
        return self._attempt.received

    def handle_event(self, event: events.Event) -> CommandGenerator[None]:
        """Take an event, or queue it while the stream is paused: of a session's client, within a bound."""
        if isinstance(event, RequestData) and self.sessions.is_any:
            if self.sessions.is_flooded:
                return
            if self.sessions.comes(event):
                yield from self._flooded()
                return
        unfolding = self._unfolding if self._paused else None
        if unfolding is not None and isinstance(event, ResponseData) and not unfolding.waits(len(event.data)):
            return
        yield from super().handle_event(event)

    def _handle_event(self, event: events.Event) -> CommandGenerator[None]:
        self.sessions.taken(event)
        if isinstance(event, ResponseData | ResponseEndOfMessage) and self._unfolding is not None:
            yield from self._unfold(event, self._unfolding)
        else:
            yield from self._step(event)

    def _step(self, event: events.Event) -> CommandGenerator[None]:
        step = STEPS.get((self.state, type(event)))
        if step is not None:
            yield from attrgetter(step)(self)(event)

    def client_left(self) -> None:
        """Hear at once that the client hung up; the event itself waits as long as the stream is paused."""
        if self.state is State.QUEUED and self._here.call is not None:
            self._here.gateway.waiting.left(self._here.call.id)

    def _flooded(self) -> CommandGenerator[None]:
        """Treat a session's client as gone, once what it has sent before is done with: it sends too much."""
        yield from self.sessions.refuse_flood()
        self.client_left()
        gone = RequestProtocolError(self.stream_id, "sent too much", ErrorCode.CLIENT_DISCONNECTED)
        yield from super().handle_event(gone)

    # --- the request -----------------------------------------------------------------------------------

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
            yield from self.vanish()
            return
        if self._request.expects_continue():
            go_ahead = http.Response.make(100)
            go_ahead.headers.clear()
            yield here.send(ResponseHeaders(here.id, go_ahead))
        self.state = State.REQUEST_BODY
        if not event.end_stream and not isinstance(event, WholeRequest):
            yield from self._request.expect_body()

    def receive_whole(self, event: WholeRequest) -> CommandGenerator[None]:
        """All of the request has come."""
        yield from self.receive_head(event)
        if self.state is State.REQUEST_BODY:
            yield from self.receive_body(event)
        if self.state is State.REQUEST_BODY:
            yield from self.receive_end(event)
        elif self.state is State.SWALLOWING:
            yield from self.vanish()

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
        self.state = State.DECIDING
        yield from here.tell(HttpRequestHook)
        if (yield from here.is_cut_by_others(tell=True)):
            yield from self.vanish()
        elif here.flow.response is not None:
            # Another addon answers; the engine has no part in it.
            here.flow.response.timestamp_start = here.clock.time()
            yield from self._respond()
        else:
            yield from self._begin()

    def _begin(self) -> CommandGenerator[None]:
        here = self._here
        try:
            target = self._request.target()
        except GatewayError as error:
            here.refused(error)
            here.flow.response = here.error_response(error)
            yield from self._respond()
            return
        if target.operation.family == MODELS.name:
            assert here.admitted is not None
            client = here.admitted.client
            listed = EarlyAnswer(200, None, Outcome.OK, client.name, address_of(here.client), MODELS.name)
            here.gateway.answered_early(listed)
            here.flow.response = models.answer(here.admitted.setup, client, target)
            yield from self._respond()
            return
        yield from self._begin_call(target)

    def _begin_call(self, target: Target) -> CommandGenerator[None]:
        here = self._here
        assert here.admitted is not None
        if here.admitted.unproven:
            address = address_of(here.client) or ""
            try:
                here.trial = yield from here.wait_for(here.gateway.token_trials.begin(address))
            except GatewayError as error:
                here.refused(error)
                here.flow.response = here.error_response(error)
                yield from self._respond()
                return
            if (yield from here.is_cut_by_others(tell=True)):
                yield from self.vanish()
                return
        if target.operation.opened_by:
            yield from self.sessions.open(target)
            return
        self._driver.begin(target)
        yield from self.advance(None)

    # --- driving the engine ----------------------------------------------------------------------------

    def advance(self, result: Result | None) -> CommandGenerator[None]:
        """Tell the engine what came of its last effect, and carry out the next ones."""
        here = self._here
        self.state = State.DECIDING
        while True:
            effect = yield from self._driver.advance(result)
            match effect:
                case None:
                    yield from self._end()
                    return
                case Send():
                    result = yield from self._send(effect)
                case Drain():
                    assert self._attempt is not None
                    self.state = State.ATTEMPT
                    self._received.drain(here.now())
                    yield from self._attempt.watch()
                    result = None
                case Deliver():
                    result = yield from self._deliver()
                case WaitInQueue():
                    result = yield from self._wait_in_queue(effect)
                case WaitUntil():
                    result = yield from self._wait_until(effect)
                case Announce():
                    assert self._attempt is not None
                    yield GatewayAttemptFailedHook(self._attempt.announcement(effect))
                    result = Done(here.now())
                case Return():
                    assert self._attempt is not None
                    here.flow.response = self._attempt.failed_answer()
                    result = Done(here.now())
                case Reject():
                    here.flow.response = here.error_response(effect.error)
                    result = Done(here.now())
            if result is None:
                return  # an event will bring it

    def _wait_in_queue(self, effect: WaitInQueue) -> CommandGenerator[Result]:
        here = self._here
        assert here.call is not None
        if here.client_has_gone():
            return ClientGone(here.now())
        self.state = State.QUEUED
        yield from here.wait_for(here.gateway.waiting.stand(here.call.id, effect.until))
        self.state = State.DECIDING
        return ClientGone(here.now()) if here.client_has_gone() or here.is_killed() else Done(here.now())

    def _wait_until(self, effect: WaitUntil) -> CommandGenerator[Result | None]:
        here = self._here
        if here.client_has_gone():
            return ClientGone(here.now())
        yield from self._delay(Done(effect.at), max(0.0, effect.at - here.now()))
        return None

    def _delay(self, result: Result, seconds: float = 0.0) -> CommandGenerator[None]:
        """Go on with a result later: after a time, or only after the present event."""
        wakeup = commands.RequestWakeup(seconds)
        self._delayed = (wakeup, result)
        self.state = State.DELAYED
        yield wakeup

    def resume(self, event: events.Wakeup) -> CommandGenerator[None]:
        """Go on with the result that was known already."""
        if self._delayed is not None and event.command is self._delayed[0]:
            _, result = self._delayed
            self._delayed = None
            yield from self.advance(result)

    # --- the attempt -----------------------------------------------------------------------------------

    def _send(self, effect: Send) -> CommandGenerator[Result | None]:
        self._attempt = UpstreamAttempt(self._here, effect)
        result = yield from self._attempt.start()
        if result is None:
            self.state = State.ATTEMPT
        return result

    def attempt_whole(self, event: WholeResponse) -> CommandGenerator[None]:
        """All of an answer has come."""
        assert self._attempt is not None
        result = self._attempt.receive(event)
        if result is None and self._received.is_plain:
            yield from self._conclude(self._attempt.receive_body(event.data), ended=True)
            return
        if result is not None:
            yield from self._conclude(result, ended=False)
        for part in event.rest():
            yield from self._handle_event(part)

    def attempt_end(self, event: ResponseEndOfMessage | ResponseProtocolError) -> CommandGenerator[None]:
        """An answer has ended, before it is known what becomes of the attempt."""
        assert self._attempt is not None
        if rest := self._attempt.screened_rest():
            result = self._received.receive(ResponseData(event.stream_id, rest), self._here.now())
            if result is not None:
                yield from self._conclude(result, ended=False)
        if self.state is State.ATTEMPT:
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
        result = None if received.due > now + SLACK else received.deadline_passed(now)
        if result is None:
            yield from self._attempt.watch()
        else:
            yield from self._conclude(result, ended=False)

    def _conclude(self, result: Result, *, ended: bool) -> CommandGenerator[None]:
        """Go on with what has become of the attempt. ``ended``: its connection has nothing more to say."""
        attempt = self._attempt
        assert attempt is not None
        self._here.clear_deadline()
        result = attempt.without_known_secrets(result)
        if isinstance(result, Failed | Drained):
            if not ended or attempt.is_unfinished:
                yield from attempt.abandon()
            attempt.server = None
            # The connection's layer is still about to reset itself; in a turn of its own, go on.
            yield from self._delay(result)
        elif ended:
            if attempt.is_unfinished:
                yield from attempt.abandon()
            yield from self._finish_with(result)
        else:
            yield from self.advance(result)

    def _finish_with(self, result: Result) -> CommandGenerator[None]:
        """Go on at the end of an answer, in this event if no request can use the connection too early."""
        client = self._here.layer.connections.get(self._here.client)
        if isinstance(client, Http1Connection) and client.buf:
            # A pipelined request would be read, and sent, before the backend's connection is reset.
            yield from self._delay(result)
        else:
            yield from self.advance(result)

    # --- streams in a coding ---------------------------------------------------------------------------

    @property
    def _unfolding(self) -> Unfolding | None:
        received = self._attempt.received if self._attempt is not None else None
        return received.unfolding if received is not None else None

    def _unfold(
        self, event: ResponseData | ResponseEndOfMessage, unfolding: Unfolding
    ) -> CommandGenerator[None]:
        """Take what a part of a coded stream says, or its end; one that is broken ends as if it were cut."""
        if isinstance(event, ResponseEndOfMessage):
            yield from self._step(event if unfolding.is_whole else self._not_in_coding())
            return
        pieces = unfolding.pieces(event.data)
        has_had_turn = True
        while self.state in (State.ATTEMPT, State.DELIVERING):
            try:
                piece = next(pieces, None)
            except NotDecodedError:
                assert self._attempt is not None
                yield from self._attempt.abandon()
                yield from self._step(self._not_in_coding())
                return
            if piece is None:
                return
            if not has_had_turn:
                yield from self._here.wait_for(asyncio.sleep(0))
                if self._here.client_has_gone():
                    return
            has_had_turn = False
            if piece:
                yield from self._step(ResponseData(event.stream_id, piece))

    def _not_in_coding(self) -> ResponseProtocolError:
        return ResponseProtocolError(self.stream_id, "not in its coding", ErrorCode.GENERIC_SERVER_ERROR)

    # --- delivery --------------------------------------------------------------------------------------

    def _deliver(self) -> CommandGenerator[Result | None]:
        attempt, received = self._attempt, self._received
        assert attempt is not None
        self._here.flow.response = received.response
        if received.response is not None and received.response.status_code == 101:
            return (yield from self.sessions.begin(attempt))
        if not received.streaming:
            return (yield from attempt.whole_answer())
        self._delivery = Delivery(self._here, attempt, received, self._response)
        result = yield from self._delivery.begin()
        if result is None:
            self.state = State.DELIVERING
            self.lane = Lane.of(
                self._here.layer.connections, self.upstream, self._delivery, self._is_delivering
            )
            yield from attempt.watch()
        return result

    def _is_delivering(self) -> bool:
        return self.state is State.DELIVERING and not self._paused

    def deliver_body(self, event: ResponseData) -> CommandGenerator[None]:
        """More of a stream has come that goes to the client."""
        assert self._delivery is not None
        yield from self._delivery.feed(event.data)

    def deliver_end(self, _: ResponseEndOfMessage) -> CommandGenerator[None]:
        """The stream has ended as HTTP has it."""
        assert self._delivery is not None and self._attempt is not None
        self.state = State.DECIDING
        if self._attempt.is_unfinished:
            yield from self._attempt.abandon()  # its connection waits for the rest of an upload
        result = yield from self._delivery.end()
        yield from self._finish_with(result)

    def deliver_cut(self, _: ResponseProtocolError) -> CommandGenerator[None]:
        """The backend broke the connection off in the middle of a stream."""
        assert self._delivery is not None
        result = yield from self._delivery.break_off("broke off its stream")
        yield from self._delay(result)

    def delivery_overdue(self, event: DeadlinePassed) -> CommandGenerator[None]:
        """No more of a stream came in time."""
        assert self._attempt is not None and self._delivery is not None
        here, output, received = self._here, self._here.layer.output, self._received
        waits = here.gateway.slow_readers.is_waited_for(output, here.now())
        # Meanwhile nothing more was read from the backend.
        received.client_read_at(output.waited)
        if received.due > here.now() + SLACK:
            yield from self._attempt.watch()
            return
        if waits:
            # Its time for the whole answer is over, too.
            output.is_cut = True
            yield commands.CloseConnection(here.client)
            yield from self.client_gone(event)
            return
        yield from self._attempt.abandon()
        result = yield from self._delivery.break_off("nothing came for too long")
        yield from self._delay(result)

    # --- the end ---------------------------------------------------------------------------------------

    def _end(self) -> CommandGenerator[None]:
        """The engine is done with the call: write it down, and finish the answer."""
        here, progress = self._here, self._response.progress
        here.clear_deadline()
        self._response.note_times()
        yield from self._driver.write_down(self._response.chunk_gaps)
        assert here.call is not None
        if self.sessions.has_begun:
            yield from self.sessions.tell_end()
            yield from self.vanish()
        elif here.call.outcome is not None and here.call.outcome.is_the_clients:
            stalled = here.call.outcome is Outcome.CLIENT_STALLED
            yield from self._hang_up(STALLED if stalled else "The client disconnected.")
        elif progress is Progress.BEGUN and self._received.reader is None and not self._response.is_whole:
            # No error can be told inside a body that cannot be read: only a cut tells it.
            yield from self._hang_up("The backend broke off its answer.")
        elif self.sessions.is_any:
            yield from self.sessions.end_opening()
        elif progress is Progress.NOTHING:
            self._response.mark(here.call)
            yield from self._respond()
        else:
            self._response.show_kept()
            yield from self._finish()

    def _respond(self) -> CommandGenerator[None]:
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
        self.state = State.OVER
        yield DropStream(here.id)
        if self._response.progress is Progress.BEGUN:
            yield from self._response.end()
        else:
            yield from self._response.send_whole()
        self._count_out()

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
        self.state = State.SWALLOWING
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
        yield from self.vanish()

    # --- ends before the end ---------------------------------------------------------------------------

    def client_gone(self, _: events.Event) -> CommandGenerator[None]:
        """The client hung up: whatever is under way for it stops."""
        here, ended = self._here, self._all_sent()
        stalled = here.layer.output.is_cut
        self._delayed = None
        if self._attempt is not None:
            yield from self._attempt.abandon()
        if self._driver.is_running:
            yield from self.advance(ended or ClientGone(here.now(), self._so_far(), stalled))
        else:
            yield from self._hang_up("The client disconnected.")

    def _so_far(self) -> Ended | None:
        """Say what there is of an answer that goes to the client as it comes."""
        if self._response.progress not in (Progress.BEGUN, Progress.HELD) or self._delivery is None:
            return None
        try:
            return self._received.stream_ended(self._here.now())
        except Exception as error:
            # Perhaps it is what reads the answer that has a bug: the call ends all the same.
            log_exception("while the end of an answer was read.", error)
            return None

    def _all_sent(self) -> Ended | None:
        """Give the end of an answer that the client has all of, if it has."""
        if self._delayed is not None and isinstance(self._delayed[1], Ended):
            return self._delayed[1]
        if self.state is State.DELIVERING and self._delivery is not None:
            return self._delivery.all_sent()
        return None

    def _hang_up(self, why: str) -> CommandGenerator[None]:
        if self.state is State.OVER:
            return
        self.state = State.OVER
        yield from self._here.hang_up(why, tell=True)
        yield from self.vanish()

    def vanish(self, _: events.Event | None = None) -> CommandGenerator[None]:
        """Forget the stream: there is no client for its answer, or it has the answer already."""
        here = self._here
        if self._driver.is_running:
            self._driver.note_hang_up()
            yield from self._driver.write_down(self._response.chunk_gaps, self._so_far())
        self.state = State.OVER
        here.clear_deadline()
        here.flow.live = False
        self._count_out()
        yield DropStream(here.id)

    def _count_out(self) -> None:
        self._here.release_body()
        self._here.end_trial()
        self._attempt = self._delivery = self.lane = None
        self.sessions.count_out()
        if self._here.call is not None:
            self._here.gateway.over(self._here.call.id)

    # --- bugs ------------------------------------------------------------------------------------------

    def crashed(self, error: Exception) -> Crashed:
        """Make the event that tells the stream of an exception of its own."""
        self._paused = None
        self._paused_event_queue.clear()
        self.sessions.forget_ahead()
        return Crashed(self.stream_id, error)

    def fail_closed(self, event: Crashed) -> CommandGenerator[None]:
        """A bug of ours: nothing is forwarded, and the client gets to know."""
        log_exception("in the gateway; its call was ended.", event.error)
        here = self._here
        if self.state is State.OVER:
            # It happened on the last few steps: take the rest of them.
            yield commands.CloseConnection(here.client)
            yield from self.vanish()
            return
        incomplete = self.state in (State.REQUEST_HEAD, State.REQUEST_BODY)
        self.state, so_far = State.OVER, self._so_far()
        if not hasattr(here, "flow"):
            here.flow = http.HTTPFlow(here.client, here.proxy.server)
            here.flow.request = http.Request.make("GET", "http://unknown.invalid/")
        here.clear_deadline()
        if self._attempt is not None:
            yield from self._attempt.abandon()
        if here.call is not None:
            here.call.outcome, here.call.ended = Outcome.ERROR, here.now()
            here.call.status = here.call.status or 500
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
